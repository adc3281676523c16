"""The one gRPC channel of a worker and the calls made over it.

Made when the worker's event loop runs: a grpc.aio channel made before the fork hangs the child for ever.
"""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Mapping
from pathlib import Path
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from polylect.v1 import error_reason_pb2 as reasons
from polylect.v1.ingest_pb2 import BatchIngestStreamResponse
from polylect.v1.ingest_pb2_grpc import IngestServiceStub
from polylect.v1.query_pb2 import GetStatsRequest, GetStatsResponse, TailEventsRequest, TailEventsResponse
from polylect.v1.query_pb2_grpc import QueryServiceStub
from polylect.v1.source_pb2 import CheckOriginRequest
from polylect.v1.source_pb2_grpc import SourceServiceStub
from polylect.v1.trail_pb2 import ReportRefusalsRequest

from rest_facade.core_refusal import CoreRefusal, own_refusal_of, refusal_of
from rest_facade.resumed import begun

_OPTIONS = (
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    # Back soon after a restart of the core.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
    # For one attempt: a core that is busy greets late.
    ("grpc.min_reconnect_backoff_ms", 2000),
    # A batch that may have been stored is the client's to repeat.
    ("grpc.enable_retries", 0),
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.use_local_subchannel_pool", 1),
)
# Of a call to follow: how often, and how far apart, it is looked whether it was refused.
_LOOKS_FOR_STATUS = 5
_LOOK_SECONDS = 0.01
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
    """Calls the core. Errors are raised as CoreRefusal."""

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
        self._open_stream: Any = self._channel.stream_stream(
            "/polylect.v1.IngestService/BatchIngestStream",
            request_serializer=None,
            response_deserializer=BatchIngestStreamResponse.FromString,
        )
        self._idle_streams: list[Any] = []
        self._ingest = IngestServiceStub(self._channel)
        self._sources = SourceServiceStub(self._channel)
        self._queries = QueryServiceStub(self._channel)
        self._health = health_pb2_grpc.HealthStub(self._channel)

    def batch_ingest(self, serialized: bytes) -> Awaitable[BatchIngestStreamResponse]:
        """Send a serialized BatchIngestStreamRequest at once.

        What is awaited raises CoreRefusal, or TimeoutError.
        """
        return self._in_time(begun(self._exchange(serialized)))

    async def _in_time(self, exchange: Awaitable[BatchIngestStreamResponse]) -> BatchIngestStreamResponse:
        async with asyncio.timeout(self._timeout_seconds):
            return await exchange

    async def _exchange(self, serialized: bytes) -> BatchIngestStreamResponse:
        """Send a message and read its answer.

        Each has a stream to itself; streams stay open, for opening one costs more than a message (measured:
        77 and 108 µs at the two ends for a call, 37 and 40 for a message).
        """
        stream = self._idle_stream() or self._open_stream(metadata=self._metadata)
        try:
            await stream.write(serialized)
            response = await stream.read()
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.INTERNAL:
                # gRPC's own word for a message that met the end of its stream, whatever had ended it.
                await self._check_known()
            raise own_refusal_of(error) from error
        except BaseException:
            # It may be answered yet, and the answer taken for the next one's.
            stream.cancel()
            raise
        if not isinstance(response, BatchIngestStreamResponse):
            raise CoreRefusal(reasons.ERROR_REASON_STORAGE_UNAVAILABLE, "The core ended a stream")
        self._idle_streams.append(stream)
        return response

    def _idle_stream(self) -> Any:
        while self._idle_streams:
            stream = self._idle_streams.pop()
            # It ends with the core, unnoticed.
            if not stream.done():
                return stream
        return None

    async def report_refusals(self, request: ReportRefusalsRequest) -> None:
        """Tell what was refused here."""
        try:
            await self._ingest.ReportRefusals(
                request, metadata=self._metadata, timeout=_CHECK_TIMEOUT_SECONDS
            )
        except grpc.aio.AioRpcError as error:
            raise own_refusal_of(error) from error

    async def _check_known(self) -> None:
        """Raise CoreRefusal unless the core takes what this facade says."""
        await self.report_refusals(ReportRefusalsRequest())

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
        self, request: GetStatsRequest, credential: str, request_id: str
    ) -> tuple[GetStatsResponse, Mapping[str, str]]:
        """Ask with the client's own key; gives the trailing metadata too."""
        metadata = (("authorization", f"Bearer {credential}"), ("x-request-id", request_id))
        call = self._queries.GetStats(request, metadata=metadata, timeout=self._timeout_seconds)
        try:
            response = await call
        except grpc.aio.AioRpcError as error:
            raise refusal_of(error) from error
        return response, {
            key: value for key, value in await call.trailing_metadata() if isinstance(value, str)
        }

    async def follow(
        self, request: TailEventsRequest, credential: str
    ) -> AsyncGenerator[TailEventsResponse, None]:
        """Follow what happens, with a key that may read it; give it when the core has said yes.

        What is given raises CoreRefusal too; closing it ends the call.
        """
        call = self._queries.TailEvents(request, metadata=(("authorization", f"Bearer {credential}"),))
        try:
            async with asyncio.timeout(self._timeout_seconds):
                await call.initial_metadata()
                # A refusal has initial metadata as well, and its status a step behind them.
                for _ in range(_LOOKS_FOR_STATUS):
                    if call.done():
                        await call.read()
                    await asyncio.sleep(_LOOK_SECONDS)
        except BaseException as error:
            # Whatever the reason, who asked being gone too: a call that nobody reads is open for ever.
            call.cancel()
            if isinstance(error, grpc.aio.AioRpcError | TimeoutError):
                raise _refusal_to_follow(error) from error
            raise
        return _followed(call)

    async def serves(self) -> bool:
        """Tell whether core and database answer.

        Raises CoreRefusal when the core can't be reached; UnknownFacade when it would take nothing from here.
        """
        try:
            response = await self._health.Check(
                health_pb2.HealthCheckRequest(), metadata=self._metadata, timeout=_CHECK_TIMEOUT_SECONDS
            )
        except grpc.aio.AioRpcError as error:
            raise refusal_of(error) from error
        if response.status != health_pb2.HealthCheckResponse.SERVING:
            return False
        # Anyone may ask for its health.
        await self._check_known()
        return True

    async def close(self) -> None:
        """Close the channel."""
        await self._channel.close(grace=None)


async def _followed(call: Any) -> AsyncGenerator[TailEventsResponse, None]:
    try:
        async for answer in call:
            yield answer
    except grpc.aio.AioRpcError as error:
        raise refusal_of(error) from error
    finally:
        call.cancel()


def _refusal_to_follow(error: grpc.aio.AioRpcError | TimeoutError) -> CoreRefusal:
    if isinstance(error, grpc.aio.AioRpcError):
        return refusal_of(error)
    return CoreRefusal(reasons.ERROR_REASON_STORAGE_UNAVAILABLE, "The core does not answer")
