"""What a caller needs to talk to a core: credentials, stubs, good requests, and errors taken apart."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import grpc
import psycopg
import pytest
from google.rpc import error_details_pb2
from google.rpc.status_pb2 import Status
from grpc_health.v1 import health_pb2, health_pb2_grpc
from polylect.v1 import event_pb2, ingest_pb2, source_pb2
from polylect.v1.event_pb2 import Event
from polylect.v1.identity_pb2_grpc import IdentityServiceStub
from polylect.v1.ingest_pb2 import BatchIngestRequest, ClientItem, ClientOutcome, ClientRequest
from polylect.v1.ingest_pb2_grpc import IngestServiceStub
from polylect.v1.quarantine_pb2_grpc import QuarantineServiceStub
from polylect.v1.query_pb2_grpc import QueryServiceStub
from polylect.v1.queue_pb2 import EventBatch
from polylect.v1.source_pb2_grpc import SourceServiceStub

from storage.queue import decode_batch

ADMIN = (("authorization", "Bearer admin-token"),)
FACADE = (("authorization", "Bearer facade-token"),)
NOW = datetime(2026, 11, 20, 12, 0, 0, 250_000, tzinfo=UTC)


class Clock:
    """A clock that stands until it is moved."""

    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> datetime:
        return self.now

    def advance(self, **delta: float) -> None:
        self.now += timedelta(**delta)


@dataclass
class Caller:
    """A channel to a core, and its services."""

    address: str
    channel: grpc.aio.Channel
    ingest: Any = field(init=False)
    query: Any = field(init=False)
    sources: Any = field(init=False)
    quarantine: Any = field(init=False)
    identity: Any = field(init=False)
    health: Any = field(init=False)

    def __post_init__(self) -> None:
        self.ingest = IngestServiceStub(self.channel)
        self.query = QueryServiceStub(self.channel)
        self.sources = SourceServiceStub(self.channel)
        self.quarantine = QuarantineServiceStub(self.channel)
        self.identity = IdentityServiceStub(self.channel)
        self.health = health_pb2_grpc.HealthStub(self.channel)

    async def send(self, *requests: ClientRequest) -> list[ClientOutcome]:
        """Send requests as the facade does."""
        answer = await self.ingest.BatchIngest(BatchIngestRequest(requests=requests), metadata=FACADE)
        assert len(answer.outcomes) == len(requests)
        return list(answer.outcomes)

    async def make_source(self, name: str = "shop", **settings: Any) -> source_pb2.Source:
        request = source_pb2.CreateSourceRequest(name=name)
        source = (await self.sources.CreateSource(request, metadata=ADMIN)).source
        if settings:
            change = source_pb2.UpdateSourceRequest(source=name, **settings)
            source = (await self.sources.UpdateSource(change, metadata=ADMIN)).source
        return source

    async def make_key(
        self, source: str = "shop", kind: int = ingest_pb2.KEY_KIND_PULSORA_PUBLIC, **more: Any
    ) -> source_pb2.CreateKeyResponse:
        request = source_pb2.CreateKeyRequest(source=source, kind=kind, **more)
        return await self.sources.CreateKey(request, metadata=ADMIN)

    async def is_serving(self, service: str = "") -> bool:
        answer = await self.health.Check(health_pb2.HealthCheckRequest(service=service))
        return answer.status == health_pb2.HealthCheckResponse.SERVING


@asynccontextmanager
async def calling(address: str) -> AsyncIterator[Caller]:
    options = (("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1))
    async with grpc.aio.insecure_channel(address, options=options) as channel:
        yield Caller(address, channel)


def queue_rows(database_url: str) -> list[EventBatch]:
    with psycopg.connect(database_url) as connection:
        rows = connection.execute("SELECT payload FROM queue ORDER BY queue_id").fetchall()
    return [decode_batch(payload) for (payload,) in rows]


def bearer(secret: str) -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer {secret}"),)


def an_event(**fields: Any) -> Event:
    """An event that is fine by itself."""
    return Event(**{"kind": event_pb2.EVENT_KIND_TRACK, "name": "signup", "anonymous_id": "v1", **fields})


def a_request(secret: str, *items: ClientItem | Event, **fields: Any) -> ClientRequest:
    """A request as the facade sends it, good unless `fields` say otherwise."""
    request = ClientRequest(
        **{
            "credential": secret,
            "accepted_kinds": ingest_pb2.KeyKind.values()[1:],
            "client_ip": "203.0.113.7",
            "request_id": "request-1",
            "dialect": "pulsora",
            "endpoint": "/api/ingest",
            **fields,
        }
    )
    if "received_at" not in fields:
        request.received_at.FromDatetime(NOW)
    for item in items or (an_event(),):
        request.items.append(ClientItem(event=item, raw=b"{}") if isinstance(item, Event) else item)
    for item in request.items:
        if item.HasField("event"):
            item.event.provenance.dialect = request.dialect
    return request


async def until(condition: Callable[[], Awaitable[bool]], seconds: float = 10.0) -> float:
    """Wait until it holds; give how long that took."""
    loop = asyncio.get_running_loop()
    start = loop.time()
    while not await condition():
        if loop.time() - start > seconds:
            raise AssertionError(f"not within {seconds} s")
        await asyncio.sleep(0.01)
    return loop.time() - start


@dataclass
class Failure:
    """What a call failed with."""

    code: grpc.StatusCode
    reason: str
    message: str
    field: str
    retry_seconds: int | None
    trailing: dict[str, str | bytes]


async def failure(call: Awaitable[Any]) -> Failure:
    """Await a call that must fail with a rich status of ours."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return failure_of(caught.value)


def failure_of(error: grpc.aio.AioRpcError) -> Failure:
    trailing = dict(error.trailing_metadata() or ())
    status = Status.FromString(trailing["grpc-status-details-bin"])
    assert status.code == error.code().value[0]
    assert status.message == error.details()
    info, violations, retry = error_details_pb2.ErrorInfo(), [], None
    for detail in status.details:
        bad_request, retry_info = error_details_pb2.BadRequest(), error_details_pb2.RetryInfo()
        if detail.Unpack(bad_request):
            violations = [violation.field for violation in bad_request.field_violations]
        elif detail.Unpack(retry_info):
            retry = retry_info.retry_delay.seconds
        else:
            assert detail.Unpack(info)
    assert info.domain == "polylect.v1"
    field_name = violations[0] if violations else ""
    return Failure(error.code(), info.reason, error.details() or "", field_name, retry, trailing)
