"""Reflection, so that a client needs no files; hides that it is spoken in two versions.

The packaged service is v1alpha. Clients ask for v1 first, and need not fall back; the messages are the
same.
"""

from collections.abc import Iterable
from typing import Any, cast

import grpc
from grpc_reflection.v1alpha import reflection
from grpc_reflection.v1alpha.reflection_pb2 import ServerReflectionRequest, ServerReflectionResponse

from core_service.entry import Services

_NAMES = (reflection.SERVICE_NAME, "grpc.reflection.v1.ServerReflection")


def add_reflection(described: Iterable[str], services: Services) -> tuple[str, ...]:
    """Add to `services` one that describes them, and itself; give its names."""
    servicer = cast("Any", reflection).aio.ReflectionServicer((*described, reflection.SERVICE_NAME))
    handler = grpc.stream_stream_rpc_method_handler(
        servicer.ServerReflectionInfo,
        request_deserializer=ServerReflectionRequest.FromString,
        response_serializer=ServerReflectionResponse.SerializeToString,
    )
    for name in _NAMES:
        services.add_registered_method_handlers(name, {"ServerReflectionInfo": handler})
    return _NAMES
