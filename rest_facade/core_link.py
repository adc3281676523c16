"""The one gRPC channel of a worker and the calls made over it.

Made when the worker's event loop runs: a grpc.aio channel made before the fork hangs the child for ever.
"""

from collections.abc import Mapping
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from polylect.v1.ingest_pb2 import BatchIngestResponse
from polylect.v1.query_pb2 import GetStatsRequest, GetStatsResponse
from polylect.v1.query_pb2_grpc import QueryServiceStub
from polylect.v1.source_pb2 import CheckOriginRequest
from polylect.v1.source_pb2_grpc import SourceServiceStub

from rest_facade.core_refusal import refusal_of

_OPTIONS = (
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    # Back soon after a restart of the core.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
    # A batch that may have been stored is the client's to repeat.
    ("grpc.enable_retries", 0),
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.use_local_subchannel_pool", 1),
)
_CHECK_TIMEOUT_SECONDS = 2.0


def read_tls(ca: str | None, cert: str | None, key: str | None) -> grpc.ChannelCredentials | None:
    """Read PEM files; without `ca` there is no TLS. Raises OSError."""
    if ca is None:
        return None
    return grpc.ssl_channel_credentials(
        root_certificates=Path(ca).read_bytes(),
        private_key=Path(key).read_bytes() if key else None,
        certificate_chain=Path(cert).read_bytes() if cert else None,
    )


class CoreLink:
    """Calls the core. Errors are raised as CoreRefusal, but for `batch_ingest`, which raises grpc's own."""

    def __init__(
        self,
        address: str,
        facade_token: str,
        timeout_seconds: float,
        tls: grpc.ChannelCredentials | None = None,
    ) -> None:
        self._channel = (
            grpc.aio.secure_channel(address, tls, options=_OPTIONS)
            if tls
            else grpc.aio.insecure_channel(address, options=_OPTIONS)
        )
        self._metadata = (("authorization", f"Bearer {facade_token}"),)
        self._timeout_seconds = timeout_seconds
        # Bytes go as they are: the coalescer frames what is serialized already.
        self._batch_ingest = self._channel.unary_unary(
            "/polylect.v1.IngestService/BatchIngest",
            request_serializer=None,
            response_deserializer=BatchIngestResponse.FromString,
        )
        self._sources = SourceServiceStub(self._channel)
        self._queries = QueryServiceStub(self._channel)
        self._health = health_pb2_grpc.HealthStub(self._channel)

    async def batch_ingest(self, serialized: bytes) -> BatchIngestResponse:
        """Send a serialized BatchIngestRequest."""
        response: BatchIngestResponse = await self._batch_ingest(
            serialized, metadata=self._metadata, timeout=self._timeout_seconds
        )
        return response

    async def check_origin(self, origin: str) -> bool:
        """Tell whether any enabled source lists the origin."""
        try:
            response = await self._sources.CheckOrigin(
                CheckOriginRequest(origin=origin), metadata=self._metadata, timeout=_CHECK_TIMEOUT_SECONDS
            )
        except grpc.aio.AioRpcError as error:
            raise refusal_of(error) from error
        return bool(response.allowed)

    async def get_stats(
        self, request: GetStatsRequest, credential: str
    ) -> tuple[GetStatsResponse, Mapping[str, str]]:
        """Ask with the client's own key; gives the trailing metadata too."""
        call = self._queries.GetStats(
            request, metadata=(("authorization", f"Bearer {credential}"),), timeout=self._timeout_seconds
        )
        try:
            response = await call
        except grpc.aio.AioRpcError as error:
            raise refusal_of(error) from error
        return response, {
            key: value for key, value in await call.trailing_metadata() if isinstance(value, str)
        }

    async def serves(self) -> bool:
        """Tell whether core and database answer; raises CoreRefusal when the core can't be reached."""
        try:
            response = await self._health.Check(
                health_pb2.HealthCheckRequest(), metadata=self._metadata, timeout=_CHECK_TIMEOUT_SECONDS
            )
        except grpc.aio.AioRpcError as error:
            raise refusal_of(error) from error
        return bool(response.status == health_pb2.HealthCheckResponse.SERVING)

    async def close(self) -> None:
        """Close the channel."""
        await self._channel.close(grace=None)
