"""What callers may cost before they are believed, and that none leaves the facade without room."""

import asyncio
import gc
import sys
import weakref
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from itertools import product
from typing import Any

import grpc
import pytest
from core_calls import (
    ADMIN,
    FACADE,
    Caller,
    Clock,
    a_request,
    an_event,
    bearer,
    calling,
    failure,
    failure_of,
    until,
)
from grpc_health.v1 import health_pb2, health_pb2_grpc
from polylect.v1 import ingest_pb2, source_pb2
from polylect.v1.ingest_pb2 import IngestRequest, IngestStreamRequest
from polylect.v1.query_pb2 import ListEventsRequest

from core_service.callers import Callers
from core_service.counts import Counts
from core_service.entry import Entry
from core_service.errors import Overloaded
from core_service.keys import KeyRing
from core_service.listening import make_server
from core_service.refusals import Refusals
from core_service.server import CoreOptions, open_stores

INGEST = "/polylect.v1.IngestService/Ingest"
INGEST_STREAM = "/polylect.v1.IngestService/IngestStream"
BATCH_INGEST = "/polylect.v1.IngestService/BatchIngest"
BATCH_INGEST_STREAM = "/polylect.v1.IngestService/BatchIngestStream"
LIST_EVENTS = "/polylect.v1.QueryService/ListEvents"
CREATE_SOURCE = "/polylect.v1.SourceService/CreateSource"
WATCH = "/grpc.health.v1.Health/Watch"
CHECK = "/grpc.health.v1.Health/Check"
REFLECTION = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"


@pytest.fixture
async def secret(core: Caller) -> str:
    await core.make_source()
    return (await core.make_key(kind=ingest_pb2.KEY_KIND_SERVICE)).secret


def open_call(core: Caller, method: str, metadata: Any = ()) -> Any:
    """Begin a call, bytes both ways, and send nothing yet."""
    return core.channel.stream_stream(method)(metadata=metadata)


async def send_raw(core: Caller, method: str, raw: bytes, metadata: Any) -> bytes:
    answer: bytes = await core.channel.unary_unary(method)(raw, metadata=metadata, timeout=20)
    return answer


@pytest.mark.parametrize(
    "method", [INGEST, INGEST_STREAM, BATCH_INGEST, BATCH_INGEST_STREAM, LIST_EVENTS, CREATE_SOURCE]
)
@pytest.mark.parametrize(
    ("metadata", "reason"), [((), "CREDENTIAL_MISSING"), (bearer("svc_nobody"), "CREDENTIAL_INVALID")]
)
async def test_a_call_without_credential_is_refused_before_its_message(
    core: Caller, method: str, metadata: Any, reason: str
) -> None:
    call = open_call(core, method, metadata)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await asyncio.wait_for(call.read(), 10)
    failed = failure_of(caught.value)
    assert (failed.code, failed.reason) == (grpc.StatusCode.UNAUTHENTICATED, reason)


async def test_a_large_message_without_credential_gets_the_same_answer(core: Caller) -> None:
    raw = bytes(24 * 1024 * 1024)
    for failed in await asyncio.gather(*[failure(send_raw(core, INGEST, raw, ())) for _ in range(4)]):
        assert failed.reason == "CREDENTIAL_MISSING"


async def test_only_the_facade_has_its_batch_read(core: Caller, secret: str) -> None:
    for method, metadata in product((BATCH_INGEST, BATCH_INGEST_STREAM), (ADMIN, bearer(secret))):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await asyncio.wait_for(open_call(core, method, metadata).read(), 10)
        assert failure_of(caught.value).reason == "SCOPE_MISSING"
    raw = ingest_pb2.BatchIngestRequest(requests=[a_request(secret, client_ip="x" * 20_000_000)])
    await core.ingest.BatchIngest(raw, metadata=FACADE)


@pytest.mark.parametrize("method", [INGEST, INGEST_STREAM])
@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b"\x0a\x00" * 1_001, "BATCH_TOO_LARGE"),
        (b"\x0a\x00" * 1_500_000, "BATCH_TOO_LARGE"),
        (b"\x0a\x00" * 4_000_000, "PAYLOAD_TOO_LARGE"),
        (b"\x10\x01" * 1_001, "BATCH_TOO_LARGE"),
        (b"\x13\x14" * 501, "BATCH_TOO_LARGE"),
        (b"\x11" + bytes(8) + b"\x15" + bytes(4) + b"\x0a\x00" * 999, "BATCH_TOO_LARGE"),
        (b"\xff\xff\xff", "PAYLOAD_UNREADABLE"),
        (b"\xff" * 30, "PAYLOAD_UNREADABLE"),
        (b"\x0a\x7f", "PAYLOAD_UNREADABLE"),
        (b"\x0f", "PAYLOAD_UNREADABLE"),
    ],
)
async def test_what_is_too_much_or_no_message_is_told(
    core: Caller, secret: str, capfd: Any, method: str, raw: bytes, reason: str
) -> None:
    failed = await failure(send_raw(core, method, raw, bearer(secret)))
    assert (failed.code, failed.reason) == (grpc.StatusCode.INVALID_ARGUMENT, reason)
    out, err = capfd.readouterr()
    assert "Traceback" not in out + err
    assert "DecodeError" not in out + err


async def test_messages_within_the_limits_are_taken(core: Caller, secret: str) -> None:
    raw = b"\x0a\x00" * 1_000
    answer = ingest_pb2.IngestResponse.FromString(await send_raw(core, INGEST, raw, bearer(secret)))
    assert len(answer.results) == 1_000
    assert await send_raw(core, INGEST, b"", bearer(secret)) == b""


async def test_a_malformed_message_in_any_call(core: Caller, secret: str, capfd: Any) -> None:
    for method, metadata in ((BATCH_INGEST, FACADE), (LIST_EVENTS, bearer(secret)), (CHECK, ())):
        failed = await failure(send_raw(core, method, b"\xff\xff\xff", metadata))
        assert (failed.code, failed.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "PAYLOAD_UNREADABLE")
    for method in (CHECK, WATCH):
        failed = await failure(send_raw(core, method, b"\x0a\x80\x80\x40" + b"x" * 2**20, ()))
        assert failed.reason == "PAYLOAD_TOO_LARGE"
    assert "Traceback" not in "".join(capfd.readouterr())


async def test_a_call_that_ends_without_a_message(core: Caller, secret: str) -> None:
    for method, metadata in ((INGEST, bearer(secret)), (CHECK, ())):
        call = open_call(core, method, metadata)
        await call.done_writing()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call.read()
        assert failure_of(caught.value).reason == "PAYLOAD_UNREADABLE"


async def overloaded(call: Any) -> bool:
    """Tell whether a call was counted out, rather than waiting for what it is sent."""
    reading = asyncio.ensure_future(call.read())
    await asyncio.wait({reading}, timeout=5)
    failed = failure_of(reading.exception())  # type: ignore[arg-type]
    assert failed.retry_seconds == 1
    return (failed.code, failed.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "OVERLOADED")


async def test_watchers_and_reflection_take_nobodys_room(core: Caller, secret: str) -> None:
    async with grpc.aio.insecure_channel(core.address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        watching = [stub.Watch(health_pb2.HealthCheckRequest()) for _ in range(16)]
        for call in watching:
            await call.read()
        assert await overloaded(stub.Watch(health_pb2.HealthCheckRequest()))
        reflecting = [open_call(Caller(core.address, channel), REFLECTION) for _ in range(16)]
        for call in reflecting:
            await call.write(b"\x3a\x00")
            await call.read()
        assert await overloaded(open_call(core, REFLECTION))
        assert await core.is_serving()
        assert (await core.send(a_request(secret)))[0].results[0].event_id
        for call in watching:
            call.cancel()

    async def has_room() -> bool:
        call = core.health.Watch(health_pb2.HealthCheckRequest())
        try:
            return bool((await call.read()).status)
        except grpc.aio.AioRpcError:
            return False
        finally:
            call.cancel()

    await until(has_room)


async def test_checks_that_never_ask_do_not_stop_the_facades(core: Caller) -> None:
    hanging = [open_call(core, CHECK) for _ in range(150)]
    for call in hanging:
        await call.wait_for_connection()
    answer = await core.health.Check(health_pb2.HealthCheckRequest(), metadata=FACADE, timeout=5)
    assert answer.status == health_pb2.HealthCheckResponse.SERVING
    for call in hanging:
        call.cancel()
    await until(lambda: _is_served(core))


async def _is_served(core: Caller) -> bool:
    try:
        return await core.is_serving()
    except grpc.aio.AioRpcError:
        return False


@pytest.fixture
async def held(core: Caller, secret: str) -> AsyncIterator[list[Any]]:
    """As many streams of a source as there may be."""
    calls = [open_call(core, INGEST_STREAM, bearer(secret)) for _ in range(500)]
    for call in calls:
        await call.write(b"")
        assert await call.read() == b""
    yield calls
    for call in calls:
        call.cancel()


async def test_clients_calls_do_not_count_the_facade_out(core: Caller, secret: str, held: list[Any]) -> None:
    assert await overloaded(open_call(core, INGEST, bearer(secret)))
    assert (await core.send(a_request(secret)))[0].results[0].event_id
    answer = await core.health.Check(health_pb2.HealthCheckRequest(), metadata=FACADE)
    assert answer.status == health_pb2.HealthCheckResponse.SERVING
    held[0].cancel()

    async def has_room() -> bool:
        try:
            return await send_raw(core, INGEST, b"", bearer(secret)) == b""
        except grpc.aio.AioRpcError:
            return False

    await until(has_room)


async def test_a_sources_calls_count_nobody_else_out(core: Caller, secret: str, held: list[Any]) -> None:
    assert await overloaded(open_call(core, INGEST, bearer(secret)))
    await core.make_source("other")
    other = await core.make_key("other", ingest_pb2.KEY_KIND_SERVICE)
    assert await send_raw(core, INGEST, b"", bearer(other.secret)) == b""
    request = source_pb2.RevokeKeyRequest(key_id=other.key.key_id)
    assert (await core.sources.RevokeKey(request, metadata=ADMIN)).key.HasField("revoked_at")


async def test_who_keeps_his_message_back_is_not_waited_for(
    core: Caller, secret: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("core_service.entry._READ_SECONDS", 0.2)
    call = open_call(core, INGEST, bearer(secret))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await asyncio.wait_for(call.read(), 10)
    assert failure_of(caught.value).reason == "PAYLOAD_UNREADABLE"


async def test_a_key_that_ends_before_the_message_comes_lets_nothing_in(core: Caller) -> None:
    await core.make_source()
    created = await core.make_key(kind=ingest_pb2.KEY_KIND_SERVICE)
    call = open_call(core, INGEST, bearer(created.secret))
    await call.wait_for_connection()
    await core.sources.RevokeKey(source_pb2.RevokeKeyRequest(key_id=created.key.key_id), metadata=ADMIN)

    async def has_ended() -> bool:
        try:
            await send_raw(core, INGEST, b"", bearer(created.secret))
        except grpc.aio.AioRpcError:
            return True
        return False

    await until(has_ended)
    await call.write(b"")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call.read()
    assert failure_of(caught.value).reason == "CREDENTIAL_INVALID"


class Message:
    """What a weak reference can follow, unlike a message of protobuf."""

    def __init__(self, raw: bytes, made: list[tuple[Any, bytes]]) -> None:
        made.append((weakref.ref(self), raw))


class Refusing:
    """A service of every kind of method, each of which fails with its message in hand."""

    def __init__(self, error: Callable[[], Exception]) -> None:
        self.made: list[tuple[Any, bytes]] = []
        self._error = error

    async def _fail(self, message: object) -> None:
        if not isinstance(message, Message):
            await anext(message)  # type: ignore[call-overload]
        raise self._error()

    async def unary(self, request: object, context: object) -> None:
        await self._fail(request)

    async def stream(self, request: object, context: object) -> AsyncIterator[None]:
        await self._fail(request)
        yield

    def add_to(self, server: Any) -> None:
        def read(raw: bytes) -> Message:
            return Message(raw, self.made)

        for service in ("polylect.v1.Test", "test.Open"):
            server.add_registered_method_handlers(
                service,
                {
                    "Unary": grpc.unary_unary_rpc_method_handler(self.unary, request_deserializer=read),
                    "Stream": grpc.stream_stream_rpc_method_handler(self.stream, request_deserializer=read),
                },
            )


@asynccontextmanager
async def stopping(server: grpc.aio.Server) -> AsyncIterator[None]:
    try:
        yield
    finally:
        await server.stop(0)


@pytest.fixture
def uncollected() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


# gRPC's loop keeps its latest calls.
LATEST = 2


def aborted() -> int:
    return sum(isinstance(one, grpc.aio.AbortError) for one in gc.get_objects())


@pytest.mark.parametrize(
    ("method", "metadata"),
    [
        ("/polylect.v1.Test/Unary", FACADE),
        ("/polylect.v1.Test/Unary", ADMIN),
        ("/polylect.v1.Test/Stream", ADMIN),
        ("/test.Open/Unary", ()),
        ("/test.Open/Stream", ()),
    ],
)
@pytest.mark.parametrize(
    "error", [Overloaded, lambda: ConnectionError("gone"), lambda: ValueError("a bug")], ids=str
)
async def test_of_a_refused_call_nothing_stays_in_memory(
    options: CoreOptions, uncollected: None, metadata: Any, method: str, error: Callable[[], Exception]
) -> None:
    refusing = Refusing(error)
    before = aborted()
    async with open_stores(options) as stores:
        counts = Counts()
        keys = KeyRing(stores.sources, localhost_origins=False)
        callers = Callers(keys, Clock(), admin_token="admin-token", facade_token="facade-token")
        entry = Entry(callers, Refusals(stores.refusals, Clock(), counts), counts)
        refusing.add_to(entry)
        server = make_server(entry)
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        async with calling(f"127.0.0.1:{port}") as caller, stopping(server):
            for number in range(8):
                call = open_call(caller, method, metadata)
                await call.write(b"%d" % number * 1_000)
                with pytest.raises(grpc.aio.AioRpcError):
                    await call.read()

            async def all_is_gone() -> bool:
                # The list's tuple, the loop's variable, and the argument.
                return aborted() <= before + LATEST and all(
                    message() is None and sys.getrefcount(raw) == 3 for message, raw in refusing.made
                )

            await until(all_is_gone)
    assert len(refusing.made) == 8


async def test_refused_calls_leave_the_collector_nothing(
    core: Caller, secret: str, uncollected: None
) -> None:
    before = aborted()
    event = an_event()
    for metadata, events in ((bearer(secret), [event] * 1_001), ((), [event]), (FACADE, [event])):
        await failure(core.ingest.Ingest(IngestRequest(events=events), metadata=metadata))
        call = core.ingest.IngestStream(metadata=metadata)
        # It may have been refused already.
        with suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
            await call.write(IngestStreamRequest(events=events))
        with pytest.raises(grpc.aio.AioRpcError):
            await call.read()
    with pytest.raises(grpc.aio.AioRpcError):
        await core.is_serving("none")
    await failure(core.query.ListEvents(ListEventsRequest(page_token="none"), metadata=ADMIN))

    async def all_is_gone() -> bool:
        return aborted() <= before + LATEST

    await until(all_is_gone)


def test_a_service_nobody_added_is_missed() -> None:
    entry = Entry(*[None] * 3)  # type: ignore[arg-type]
    Refusing(Overloaded).add_to(entry)
    entry.require(["test.Open"])
    with pytest.raises(LookupError, match=r"nothing answers for polylect\.v1\.Tes, test\.Other$"):
        entry.require(["test.Other", "polylect.v1.Test", "polylect.v1.Tes"])
