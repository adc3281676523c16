"""Reflection, so that a client needs no files; hides that it is spoken in two versions.

The packaged service is v1alpha. Clients ask for v1 first, and need not fall back; the messages are the
same.
"""

from collections.abc import Iterable
from typing import Any, cast

import grpc
from grpc_reflection.v1alpha import reflection
from grpc_reflection.v1alpha.reflection_pb2 import ServerReflectionRequest, ServerReflectionResponse

_V1 = "grpc.reflection.v1.ServerReflection"


def add_reflection(services: Iterable[str], server: grpc.aio.Server) -> None:
    """Have `server` describe `services`, and itself."""
    servicer = cast("Any", reflection).aio.ReflectionServicer((*services, reflection.SERVICE_NAME))
    handler = grpc.stream_stream_rpc_method_handler(
        servicer.ServerReflectionInfo,
        request_deserializer=ServerReflectionRequest.FromString,
        response_serializer=ServerReflectionResponse.SerializeToString,
    )
    for name in (reflection.SERVICE_NAME, _V1):
        cast("Any", server).add_registered_method_handlers(name, {"ServerReflectionInfo": handler})
