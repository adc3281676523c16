"""A gRPC client that knows nothing but an address: messages and methods come by server reflection."""

from collections.abc import Iterable, Iterator
from typing import Any, Self

import grpc
from google.protobuf import json_format
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

DEADLINE_SECONDS = 10.0


class Rpc:
    """Calls by full method name, requests and answers as dicts with the proto's own field names."""

    def __init__(self, port: int, key: str = "") -> None:
        self._channel = grpc.insecure_channel(f"127.0.0.1:{port}")
        self._reflected = ProtoReflectionDescriptorDatabase(self._channel)
        self._pool = DescriptorPool(self._reflected)
        self._metadata = (("authorization", f"Bearer {key}"),) if key else ()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._channel.close()

    def services(self) -> list[str]:
        return list(self._reflected.get_services())

    def method(self, full_name: str) -> MethodDescriptor:
        service, _, name = full_name.rpartition("/")
        return self._pool.FindServiceByName(service).methods_by_name[name]

    def call(self, full_name: str, request: dict[str, Any] | None = None) -> Any:
        """Call a unary method. Raises grpc.RpcError."""
        method = self.method(full_name)
        ask = json_format.ParseDict(
            request or {}, GetMessageClass(method.input_type)(), descriptor_pool=self._pool
        )
        call = self._channel.unary_unary(
            f"/{full_name}",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=GetMessageClass(method.output_type).FromString,
        )
        answer = call(ask, metadata=self._metadata, timeout=DEADLINE_SECONDS)
        return json_format.MessageToDict(answer, preserving_proto_field_name=True, descriptor_pool=self._pool)

    def stream(self, full_name: str, requests: Iterable[dict[str, Any]]) -> Iterator[Any]:
        """Send a stream's messages, give the answers as they come. Raises grpc.RpcError."""
        method = self.method(full_name)
        ask, tell = GetMessageClass(method.input_type), GetMessageClass(method.output_type)
        call = self._channel.stream_stream(
            f"/{full_name}",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=tell.FromString,
        )
        messages = (json_format.ParseDict(each, ask(), descriptor_pool=self._pool) for each in requests)
        answers = call(messages, metadata=self._metadata, timeout=DEADLINE_SECONDS)
        for answer in answers:
            yield json_format.MessageToDict(answer, preserving_proto_field_name=True)
