"""TailEvents: what is stored and refused, shown to those who follow."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import grpc
import psycopg
import pytest
from core_calls import ADMIN, Caller, Clock, a_request, an_event, bearer, failure_of, until
from polylect.v1 import event_pb2, ingest_pb2, query_pb2, source_pb2
from polylect.v1.error_reason_pb2 import ErrorReason
from polylect.v1.ingest_pb2 import IngestRequest
from polylect.v1.query_pb2 import TailEventsRequest, TailEventsResponse
from uuid_utils import uuid7

SERVICE = ingest_pb2.KEY_KIND_SERVICE

Settle = Callable[[], Awaitable[None]]


@pytest.fixture
def clock() -> Clock:
    """Ids are made by the machine's clock, so the core's must be near it."""
    clock = Clock()
    clock.now = clock.now.now(clock.now.tzinfo)
    return clock


@pytest.fixture
async def secret(core: Caller) -> str:
    await core.make_source()
    return (await core.make_key(kind=SERVICE)).secret


async def ingest(core: Caller, secret: str, *events: event_pb2.Event) -> list[str]:
    answer = await core.ingest.Ingest(IngestRequest(events=events), metadata=bearer(secret))
    return [result.event_id for result in answer.results]


@asynccontextmanager
async def following(core: Caller, secret: str = "", **request: Any) -> AsyncIterator[Any]:
    """Follow, and be sure that it has begun."""
    metadata = bearer(secret) if secret else ADMIN
    call = core.query.TailEvents(TailEventsRequest(**request), metadata=metadata)
    try:
        async with asyncio.timeout(10):
            await call.initial_metadata()
        yield call
    finally:
        call.cancel()


async def read(call: Any) -> TailEventsResponse:
    async with asyncio.timeout(30):
        answer = await call.read()
    assert isinstance(answer, TailEventsResponse)
    return answer


async def pass_by(event_id: str, clock: Clock) -> None:
    """Wait until it is later than an id, by the core's clock too."""

    async def is_a_millisecond_later() -> bool:
        return str(uuid7())[:13] > event_id[:13]

    await until(is_a_millisecond_later)
    clock.now = clock.now.now(clock.now.tzinfo)


async def read_all(call: Any) -> None:
    while True:
        await read(call)


async def test_what_is_stored_is_shown_once_and_in_order(core: Caller, secret: str, settle: Settle) -> None:
    async with following(core, secret) as mine, following(core) as all_sources:
        stored = await ingest(core, secret, *[an_event(name=f"n{number}") for number in range(3)])
        await settle()
        for call in (mine, all_sources):
            answers = [await read(call) for _ in stored]
            assert [answer.event.event_id for answer in answers] == stored
            assert [answer.event.name for answer in answers] == ["n0", "n1", "n2"]
            assert not any(answer.gap for answer in answers)
        later = await ingest(core, secret, an_event(name="later"))
        await settle()
        assert [(await read(call)).event.event_id for call in (mine, all_sources)] == later * 2


async def test_what_was_there_before_is_no_news(
    core: Caller, secret: str, clock: Clock, settle: Settle
) -> None:
    (before,) = await ingest(core, secret, an_event(name="before"))
    await settle()
    await pass_by(before, clock)
    async with following(core, secret) as call:
        await ingest(core, secret, an_event(name="after"))
        await settle()
        assert (await read(call)).event.name == "after"


async def test_what_is_refused_is_shown_with_its_reason(core: Caller, secret: str, settle: Settle) -> None:
    async with following(core, secret) as call:
        await ingest(core, secret, event_pb2.Event(kind=event_pb2.EVENT_KIND_TRACK))
        await settle()
        answer = await read(call)
    assert ErrorReason.Name(answer.quarantined.rejection.reason) == "ERROR_REASON_FIELD_MISSING"
    assert answer.quarantined.dialect == "grpc"
    assert answer.quarantined.request_id
    assert answer.resume_token


async def test_refused_requests_are_shown_to_whom_they_concern(core: Caller, secret: str) -> None:
    ours = a_request(secret, from_browser=True, origin="https://evil.example", request_id="ours")
    nobodys = a_request("nobody", request_id="nobodys")
    async with following(core, secret) as source, following(core) as admin:
        await core.send(ours, nobodys)
        seen = [(await read(admin)).refusal for _ in range(2)]
        assert [(one.request_id, ErrorReason.Name(one.rejection.reason)) for one in seen] == [
            ("ours", "ERROR_REASON_ORIGIN_NOT_ALLOWED"),
            ("nobodys", "ERROR_REASON_CREDENTIAL_INVALID"),
        ]
        assert (await read(source)).refusal.request_id == "ours"


@pytest.mark.parametrize(
    ("wanted", "shown"),
    [
        ({"name": "b"}, ["b"]),
        ({"user_id": "u1"}, ["a"]),
        ({"kind": event_pb2.EVENT_KIND_PAGE}, ["c"]),
        ({"dialect": "grpc", "verdict": query_pb2.TAIL_VERDICT_ACCEPTED}, ["a", "b", "c"]),
        ({"dialect": "apex"}, []),
        ({"verdict": query_pb2.TAIL_VERDICT_REFUSED}, ["refused"]),
    ],
)
async def test_filters(
    core: Caller, secret: str, settle: Settle, wanted: dict[str, Any], shown: list[str]
) -> None:
    async with following(core, secret, **wanted) as call, following(core, secret) as everything:
        await ingest(
            core,
            secret,
            an_event(name="a", user_id="u1"),
            an_event(name="b"),
            an_event(name="c", kind=event_pb2.EVENT_KIND_PAGE),
            event_pb2.Event(kind=event_pb2.EVENT_KIND_TRACK),
        )
        await settle()
        for _ in range(4):
            await read(everything)
        names = [(await read(call)).event.name or "refused" for _ in shown]
        assert names == shown
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await call.read()


async def test_a_source_is_followed_by_its_own_keys_only(core: Caller, secret: str, settle: Settle) -> None:
    await core.make_source("other")
    other = (await core.make_key("other", kind=SERVICE)).secret
    async with following(core, secret) as call:
        await ingest(core, other, an_event(name="theirs"))
        await ingest(core, secret, an_event(name="ours"))
        await settle()
        assert (await read(call)).event.name == "ours"


async def test_a_resumed_reader_misses_nothing(
    core: Caller, secret: str, clock: Clock, settle: Settle
) -> None:
    async with following(core, secret) as call:
        first = await ingest(core, secret, an_event(name="first"))
        await settle()
        token = (await read(call)).resume_token
    missed = await ingest(core, secret, an_event(name="missed"))
    await settle()
    clock.now = clock.now.now(clock.now.tzinfo)
    async with following(core, secret, resume_token=token) as call:
        later = await ingest(core, secret, an_event(name="later"))
        await settle()
        shown = []
        while not shown or shown[-1] != later[0]:
            shown.append((await read(call)).event.event_id)
    # Of what came shortly before it some may come again, though never twice on one call.
    assert [one for one in shown if one not in first] == [*missed, *later]
    assert len(set(shown)) == len(shown)


async def test_a_past_may_be_asked_for(core: Caller, secret: str, clock: Clock, settle: Settle) -> None:
    stored = await ingest(core, secret, an_event(name="a"), an_event(name="b"))
    await settle()
    await pass_by(stored[-1], clock)
    a_minute_ago, in_a_minute = clock.now - timedelta(minutes=1), clock.now + timedelta(minutes=1)
    async with (
        following(core, secret, received_from=a_minute_ago) as call,
        following(core, secret, received_from=in_a_minute) as nothing_past,
    ):
        assert [(await read(call)).event.event_id for _ in stored] == stored
        later = await ingest(core, secret, an_event(name="later"))
        await settle()
        assert [(await read(each)).event.event_id for each in (call, nothing_past)] == later * 2


@pytest.mark.parametrize("by_token", [True, False])
async def test_what_is_on_its_way_when_one_resumes_is_shown(
    core: Caller, secret: str, clock: Clock, settle: Settle, by_token: bool
) -> None:
    resumed: dict[str, Any] = {"received_from": clock.now - timedelta(minutes=1)}
    if by_token:
        async with following(core, secret) as call:
            await ingest(core, secret, an_event(name="seen"))
            await settle()
            resumed = {"resume_token": (await read(call)).resume_token}
    (on_its_way,) = await ingest(core, secret, an_event(name="on its way"))

    await pass_by(on_its_way, clock)
    async with following(core, secret, **resumed) as call:
        # The look at what was missed is over, and found it not.
        if by_token:
            assert (await read(call)).event.name == "seen"
        else:
            await core.send(a_request(secret, from_browser=True, origin="https://evil.example"))
            assert (await read(call)).HasField("refusal")
        await settle()
        assert (await read(call)).event.event_id == on_its_way


async def test_what_waits_for_the_worker_is_shown_after_a_refusal(
    core: Caller, secret: str, clock: Clock, settle: Settle, database_url: str
) -> None:
    async with following(core, secret) as call:
        stored = await ingest(core, secret, an_event(name="waits"))
        # A refusal is there at once, and later by more than rows overlap.
        later = str(uuid.UUID(int=(int(clock.now.timestamp() + 10) * 1000) << 80))
        with psycopg.connect(database_url) as connection:
            connection.execute(
                "INSERT INTO refusals (source_id, refusal_id, received_at, reason, message, event_count)"
                " VALUES ((SELECT source_id FROM sources), %s, now(), 'rate_limited', '', 1)",
                (later,),
            )
        first = await read(call)
        assert first.refusal.refusal_id == later
        await settle()
        assert (await read(call)).event.event_id == stored[0]
    async with following(core, secret, resume_token=first.resume_token) as resumed:
        assert stored[0] in [(await read(resumed)).event.event_id for _ in range(2)]


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        ({"resume_token": "x"}, "resume_token"),
        ({"resume_token": "AAAAAAAAAAAAAAAAAAAAAA=="}, "resume_token"),
        ({"resume_token": "_" * 64}, "resume_token"),
        ({"resume_token": "\u00e9"}, "resume_token"),
        ({"kind": 77}, "kind"),
        ({"verdict": 9}, "verdict"),
    ],
)
async def test_bad_questions(core: Caller, secret: str, request_: dict[str, Any], field: str) -> None:
    call = core.query.TailEvents(TailEventsRequest(**request_), metadata=bearer(secret))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await asyncio.wait_for(call.read(), 10)
    failed = failure_of(caught.value)
    assert (failed.code, failed.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "FIELD_INVALID")
    assert field in str(caught.value.details()) or failed.reason


async def test_who_may_follow(core: Caller, secret: str) -> None:
    public = (await core.make_key()).secret
    for metadata, source, reason in (
        (bearer(public), "", "SCOPE_MISSING"),
        (bearer("nobody"), "", "CREDENTIAL_INVALID"),
        (bearer(secret), "other", "NOT_FOUND"),
    ):
        call = core.query.TailEvents(TailEventsRequest(source=source), metadata=metadata)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await asyncio.wait_for(call.read(), 10)
        assert failure_of(caught.value).reason == reason


async def test_a_revoked_key_is_shown_nothing_more(core: Caller, secret: str, settle: Settle) -> None:
    created = await core.make_key(kind=SERVICE)
    async with following(core, created.secret) as call:
        revoke = source_pb2.RevokeKeyRequest(key_id=created.key.key_id)
        await core.sources.RevokeKey(revoke, metadata=ADMIN)
        await ingest(core, secret, an_event())
        await settle()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await asyncio.wait_for(call.read(), 10)
        assert failure_of(caught.value).reason == "CREDENTIAL_INVALID"


async def test_one_who_does_not_read_is_sent_away_and_others_are_not(
    core: Caller, secret: str, settle: Settle
) -> None:
    wide = '{"x":"' + "y" * 500_000 + '"}'
    async with following(core, secret) as slow, following(core, secret) as quick:
        read_ids: list[str] = []
        for _ in range(10):
            stored = await ingest(core, secret, *[an_event(properties_json=wide) for _ in range(5)])
            await settle()
            for _ in stored:
                read_ids.append((await read(quick)).event.event_id)
        assert len(set(read_ids)) == 50
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await read_all(slow)
        failed = failure_of(caught.value)
        assert (failed.code, failed.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "OVERLOADED")


async def test_more_than_can_be_shown_leaves_a_gap(core: Caller, secret: str, settle: Settle) -> None:
    async with following(core, secret) as call:
        stored = await ingest(core, secret, *[an_event() for _ in range(900)])
        await settle()
        answer = await read(call)
        assert answer.gap
        while answer.event.event_id != stored[-1]:
            answer = await read(call)
            assert answer.event.event_id in stored


async def test_a_feed_that_failed_is_not_joined(
    core: Caller, secret: str, database_url: str, settle: Settle
) -> None:
    async with following(core, secret) as first:
        with psycopg.connect(database_url, autocommit=True) as connection:
            connection.execute("ALTER TABLE refusals RENAME TO away")
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await asyncio.wait_for(first.read(), 10)
            assert failure_of(caught.value).reason == "STORAGE_UNAVAILABLE"
            connection.execute("ALTER TABLE away RENAME TO refusals")
    async with following(core, secret) as second:
        stored = await ingest(core, secret, an_event())
        await settle()
        assert (await read(second)).event.event_id == stored[0]


async def test_too_many_followers(core: Caller, secret: str) -> None:
    calls = [core.query.TailEvents(TailEventsRequest(), metadata=bearer(secret)) for _ in range(16)]
    for call in calls:
        await call.initial_metadata()
    one_more = core.query.TailEvents(TailEventsRequest(), metadata=bearer(secret))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await asyncio.wait_for(one_more.read(), 10)
    assert failure_of(caught.value).reason == "OVERLOADED"
    calls.pop().cancel()

    async with asyncio.timeout(10):
        while True:
            call = core.query.TailEvents(TailEventsRequest(), metadata=bearer(secret))
            if await call.initial_metadata() is not None and not call.done():
                break
    for one in (*calls, call):
        one.cancel()
