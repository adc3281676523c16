"""GetLedger, ExplainEvent and ReportRefusals: what came of everything, and only to whom it belongs."""

from datetime import timedelta
from typing import Any
from uuid import uuid4

import grpc
import psycopg
import pytest
import structlog
from core_calls import (
    ADMIN,
    FACADE,
    NOW,
    Caller,
    Clock,
    a_request,
    an_event,
    bearer,
    calling,
    failure,
    until,
)
from polylect.v1 import error_reason_pb2 as reasons
from polylect.v1 import event_pb2, ingest_pb2, source_pb2
from polylect.v1.error_reason_pb2 import ErrorReason, Rejection
from polylect.v1.event_pb2 import Provenance
from polylect.v1.ingest_pb2 import ClientItem, IngestRequest, IngestStreamRequest
from polylect.v1.trail_pb2 import (
    EventStory,
    ExplainEventRequest,
    GetLedgerRequest,
    LedgerEntry,
    Refusal,
    RefusedCount,
    ReportRefusalsRequest,
    Verdict,
)
from uuid_utils.compat import uuid7

from core_service.ports import NO_SOURCE
from core_service.refusals import MAX_REPORTED
from core_service.server import CoreOptions, open_stores, start_core

SECRET, SERVICE = ingest_pb2.KEY_KIND_PULSORA_SECRET, ingest_pb2.KEY_KIND_SERVICE
BROKEN = ClientItem(
    rejection=Rejection(reason=reasons.ERROR_REASON_FIELD_MISSING, message="no", field="type"), raw=b"{}"
)


def came_with(request_id: str, **fields: Any) -> Any:
    """An event as a dialect makes it."""
    return an_event(
        provenance=Provenance(dialect="pulsora", endpoint="/api/ingest", request_id=request_id), **fields
    )


async def explain(core: Caller, asked_id: str, metadata: Any = ADMIN, source: str = "") -> list[EventStory]:
    request = ExplainEventRequest(id=asked_id, source=source)
    return list((await core.query.ExplainEvent(request, metadata=metadata)).stories)


async def the_story(core: Caller, asked_id: str, metadata: Any = ADMIN, source: str = "") -> EventStory:
    """The one story of an id, which may take a moment."""
    found: list[EventStory] = []

    async def is_told() -> bool:
        found[:] = await explain(core, asked_id, metadata, source)
        return bool(found)

    await until(is_told)
    (story,) = found
    return story


async def ledger(core: Caller, metadata: Any = ADMIN, **bounds: Any) -> dict[tuple[str, str], list[int]]:
    answer = await core.query.GetLedger(GetLedgerRequest(**bounds), metadata=metadata)
    assert answer.unbalanced_entries == 0
    return {(entry.source_id, entry.dialect): _counts(entry) for entry in answer.entries}


def _counts(entry: LedgerEntry) -> list[int]:
    return [entry.received, entry.stored, entry.duplicate, entry.quarantined, entry.refused, entry.in_queue]


def reason(story: EventStory) -> str:
    return ErrorReason.Name(story.rejection.reason).removeprefix("ERROR_REASON_")


@pytest.fixture
async def key(core: Caller) -> str:
    await core.make_source("shop")
    await core.make_source("other")
    return (await core.make_key("shop", SECRET)).secret


async def test_every_fate_of_a_request_is_told(core: Caller, key: str, settle: Any) -> None:
    request_id, other_id = str(uuid7()), str(uuid7())
    items = [came_with(request_id, message_id="m1"), came_with(request_id), BROKEN]
    (outcome,) = await core.send(a_request(key, *items, request_id=request_id))
    waiting = await explain(core, request_id)
    assert {story.verdict for story in waiting} == {Verdict.VERDICT_IN_QUEUE}
    assert len(waiting) == 3
    assert len(await explain(core, request_id, source="shop")) == 3
    assert await explain(core, request_id, source="other") == []
    await settle()
    await core.send(
        a_request(key, came_with(other_id, message_id="m1", client_ip="198.51.100.9"), request_id=other_id)
    )
    await settle()
    stored, plain, quarantined = await explain(core, request_id)
    first, second = (result.event_id for result in outcome.results[:2])
    assert [stored.event_id, plain.event_id] == [first, second]
    assert stored.verdict == plain.verdict == Verdict.VERDICT_STORED
    assert stored.event.name == "signup"
    assert (stored.client_ip, stored.dialect, stored.endpoint) == ("203.0.113.7", "pulsora", "/api/ingest")
    assert stored.received_at.ToDatetime() == NOW.replace(tzinfo=None)
    assert (quarantined.verdict, reason(quarantined)) == (Verdict.VERDICT_QUARANTINED, "FIELD_MISSING")
    duplicate = await the_story(core, other_id)
    assert (duplicate.verdict, duplicate.duplicate_of) == (Verdict.VERDICT_DUPLICATE, first)
    assert (duplicate.message_id, duplicate.client_ip) == ("m1", "198.51.100.9")
    # By every other id they have.
    for asked_id, verdict in (
        (first, Verdict.VERDICT_STORED),
        (first.upper(), Verdict.VERDICT_STORED),
        (duplicate.event_id, Verdict.VERDICT_DUPLICATE),
        (quarantined.quarantine_id, Verdict.VERDICT_QUARANTINED),
    ):
        own = [asked_id.lower(), verdict]
        for characters in (18, 23):
            short = await explain(core, own[0][:characters])
            assert own in [[story.event_id or story.quarantine_id, story.verdict] for story in short]
        assert (await the_story(core, asked_id)).verdict == verdict
    assert [story.verdict for story in await explain(core, "m1", source="shop")] == [
        Verdict.VERDICT_STORED,
        Verdict.VERDICT_DUPLICATE,
    ]
    shop = stored.source_id
    assert await ledger(core) == {(shop, "pulsora"): [4, 2, 1, 1, 0, 0]}


async def test_a_clients_own_request_id_is_found_among_the_latest(
    core: Caller, key: str, settle: Any
) -> None:
    await core.send(a_request(key, came_with("mine/1"), BROKEN, request_id="mine/1"))
    await settle()
    told = await explain(core, "mine/1", bearer(key))
    assert [story.verdict for story in told] == [Verdict.VERDICT_STORED, Verdict.VERDICT_QUARANTINED]
    assert {story.request_id for story in told} == {"mine/1"}


async def test_only_ones_own_is_told(core: Caller, key: str, settle: Any) -> None:
    other_key = (await core.make_key("other", SECRET)).secret
    request_id = str(uuid7())
    await core.send(a_request(key, came_with(request_id, message_id="m1"), BROKEN, request_id=request_id))
    assert await explain(core, request_id, bearer(other_key)) == []
    await settle()
    assert await explain(core, request_id, bearer(other_key)) == []
    assert await explain(core, "m1", bearer(other_key)) == []
    (own_id, _) = [story.event_id or story.quarantine_id for story in await explain(core, request_id)]
    assert await explain(core, own_id[:18], bearer(other_key)) == []
    assert own_id in [story.event_id for story in await explain(core, own_id[:18], bearer(key))]
    assert await ledger(core, bearer(other_key)) == {}
    assert len(await explain(core, request_id, bearer(key))) == 2
    assert len(await ledger(core, bearer(key))) == 1
    writer = (await core.make_key("shop")).secret
    for call in (
        core.query.ExplainEvent(ExplainEventRequest(id="x"), metadata=bearer(writer)),
        core.query.GetLedger(GetLedgerRequest(), metadata=bearer(writer)),
    ):
        assert (await failure(call)).reason == "SCOPE_MISSING"
    elsewhere = ExplainEventRequest(id="x", source="other")
    assert (await failure(core.query.ExplainEvent(elsewhere, metadata=bearer(key)))).code.name == "NOT_FOUND"


@pytest.mark.parametrize("asked_id", ["", "x" * 129])
async def test_a_bad_id(core: Caller, asked_id: str) -> None:
    call = core.query.ExplainEvent(ExplainEventRequest(id=asked_id), metadata=ADMIN)
    failed = await failure(call)
    assert (failed.code.name, failed.field) == ("INVALID_ARGUMENT", "id")


@pytest.mark.parametrize(
    "asked_id",
    ["a\0b", "nothing", str(uuid4()), "ffffffff-ffff-7fff-bfff-ffffffffffff", "ffffffff-ffff-7fff"],
)
async def test_an_unknown_id_has_no_story(core: Caller, key: str, asked_id: str) -> None:
    assert await explain(core, asked_id) == []
    assert await explain(core, asked_id, bearer(key)) == []


async def test_a_bad_page_token_of_the_ledger(core: Caller) -> None:
    call = core.query.GetLedger(GetLedgerRequest(page_token="nonsense"), metadata=ADMIN)
    assert (await failure(call)).field == "page_token"
    far = GetLedgerRequest()
    far.received_from.seconds, far.received_until.seconds = -(2**62), 2**62
    assert not (await core.query.GetLedger(far, metadata=ADMIN)).entries


async def test_very_many_stories_are_cut(core: Caller, key: str, settle: Any) -> None:
    request_id = str(uuid7())
    events = [came_with(request_id) for _ in range(60)]
    await core.send(a_request(key, *events, request_id=request_id))
    await settle()
    answer = await core.query.ExplainEvent(ExplainEventRequest(id=request_id), metadata=ADMIN)
    assert (len(answer.stories), answer.truncated) == (50, True)
    large = [came_with("large", properties_json='{"x":"' + "y" * 900_000 + '"}') for _ in range(4)]
    await core.send(a_request(key, *large, request_id="large"))
    await settle()
    answer = await core.query.ExplainEvent(ExplainEventRequest(id="large", source="shop"), metadata=ADMIN)
    assert (len(answer.stories), answer.truncated) == (2, True)


async def test_links_that_gave_a_user(core: Caller, key: str, settle: Any) -> None:
    await core.send(a_request(key, came_with("r1", anonymous_id="v1", message_id="before")))
    identify = came_with("r2", kind=event_pb2.EVENT_KIND_IDENTIFY, name="", anonymous_id="v1", user_id="u1")
    (outcome,) = await core.send(a_request(key, identify))
    await settle()
    (story,) = await explain(core, "before", source="shop")
    assert story.event.user_id == "u1"
    (link,) = story.links
    assert (link.anonymous_id, link.user_id, link.event_id) == ("v1", "u1", outcome.results[0].event_id)
    # It said so itself.
    assert not (await the_story(core, outcome.results[0].event_id)).links


async def test_whole_requests_that_are_refused(core: Caller, key: str, clock: Clock) -> None:
    change = source_pb2.UpdateSourceRequest(source="shop", rate_limit={"limit": 2, "window_seconds": 60})
    shop = (await core.sources.UpdateSource(change, metadata=ADMIN)).source.source_id
    used, over, nobody, foreign = (str(uuid7()) for _ in range(4))
    await core.send(
        a_request(key, came_with(used), came_with(used), request_id=used),
        a_request(key, request_id=str(uuid7())),
        a_request(key, came_with(over), came_with(over), BROKEN, request_id=over),
        a_request("nobody", request_id=nobody),
        a_request(key, accepted_kinds=[SERVICE], request_id=foreign),
    )
    story = await the_story(core, over, source="shop")
    assert (story.verdict, reason(story)) == (Verdict.VERDICT_REFUSED, "RATE_LIMITED")
    assert (story.source_id, story.event_count, story.client_ip) == (shop, 3, "203.0.113.7")
    assert (await the_story(core, over, bearer(key))).event_count == 3
    for request_id in (nobody, foreign):
        story = await the_story(core, request_id, source="shop")
        assert (reason(story), story.source_id, story.event_count) == ("CREDENTIAL_INVALID", NO_SOURCE, 1)
        assert await explain(core, request_id, bearer(key)) == []
        assert await explain(core, request_id, source=NO_SOURCE) == [story]
    sourceless = {(NO_SOURCE, "pulsora"): [2, 0, 0, 0, 2, 0]}
    assert await ledger(core) == {(shop, "pulsora"): [6, 0, 0, 0, 3, 3], **sourceless}
    assert await ledger(core, source=NO_SOURCE) == sourceless
    for call in (
        core.query.GetLedger(GetLedgerRequest(source=NO_SOURCE), metadata=bearer(key)),
        core.query.ExplainEvent(ExplainEventRequest(id=nobody, source=NO_SOURCE), metadata=bearer(key)),
    ):
        assert (await failure(call)).code.name == "NOT_FOUND"


async def test_calls_over_grpc_that_are_refused(core: Caller, key: str) -> None:
    event = an_event()
    whole = (await core.make_key("shop", SERVICE)).secret
    revocation = source_pb2.RevokeKeyRequest(key_id=(await core.make_key("shop", SERVICE)).key.key_id)
    await core.sources.RevokeKey(revocation, metadata=ADMIN)
    own_id = (("x-request-id", "mine"),)
    await failure(
        core.ingest.Ingest(IngestRequest(events=[event] * 5), metadata=(*bearer("svc_no"), *own_id))
    )
    many = IngestRequest(events=[event] * 1_001)
    call = core.ingest.Ingest(many, metadata=bearer(whole))
    assert (await failure(call)).reason == "BATCH_TOO_LARGE"
    told_id = dict(await call.trailing_metadata())["x-request-id"]
    story = await the_story(core, told_id)
    assert (reason(story), story.dialect) == ("BATCH_TOO_LARGE", "grpc")
    assert story.endpoint == "/polylect.v1.IngestService/Ingest"
    assert story.client_ip == "127.0.0.1"
    assert (await the_story(core, "mine")).source_id == NO_SOURCE
    change = source_pb2.UpdateSourceRequest(source="shop", rate_limit={"limit": 1, "window_seconds": 60})
    shop = (await core.sources.UpdateSource(change, metadata=ADMIN)).source.source_id

    async def messages() -> Any:
        for _ in range(2):
            yield IngestStreamRequest(events=[event] * 4)

    stream = core.ingest.IngestStream(messages(), metadata=(*bearer(whole), ("x-request-id", "stream")))
    with pytest.raises(grpc.aio.AioRpcError):
        async for _ in stream:
            pass

    async def is_refused() -> bool:
        told = await explain(core, "stream", source="shop")
        # Its first message has been taken.
        return [story.event_count for story in told if not story.event_id] == [4]

    await until(is_refused)
    assert await ledger(core) == {
        (shop, "grpc"): [9, 0, 0, 0, 5, 4],
        (NO_SOURCE, "grpc"): [1, 0, 0, 0, 1, 0],
    }


async def test_what_a_facade_reports(core: Caller, key: str) -> None:
    refusal = Refusal(
        source_id="mine", request_id="unread", dialect="apex", endpoint="/api/events", event_count=1
    )
    refusal.rejection.reason = reasons.ERROR_REASON_PAYLOAD_UNREADABLE
    refusal.received_at.FromDatetime(NOW)
    count = RefusedCount(dialect="apex", events=5)
    count.received_at.FromDatetime(NOW)
    report = ReportRefusalsRequest(counts=[count], samples=[refusal])
    await core.ingest.ReportRefusals(report, metadata=FACADE)
    story = await the_story(core, "unread")
    assert (reason(story), story.source_id, story.dialect) == ("PAYLOAD_UNREADABLE", NO_SOURCE, "apex")
    assert await ledger(core) == {(NO_SOURCE, "apex"): [5, 0, 0, 0, 5, 0]}
    for metadata in (ADMIN, bearer(key)):
        assert (
            await failure(core.ingest.ReportRefusals(report, metadata=metadata))
        ).reason == "SCOPE_MISSING"
    for bad in ({"counts": [count] * (MAX_REPORTED + 1)}, {"samples": [refusal] * (MAX_REPORTED + 1)}):
        call = core.ingest.ReportRefusals(ReportRefusalsRequest(**bad), metadata=FACADE)
        assert (await failure(call)).reason == "ARGUMENT_INVALID"


async def test_a_refused_request_of_no_date_is_told_and_holds_up_no_other(core: Caller, key: str) -> None:
    for seconds in (2**60, -(2**60)):
        await core.send(a_request("nobody", request_id=f"at-{seconds}", received_at={"seconds": seconds}))
    for seconds in (2**60, -(2**60)):
        story = await the_story(core, f"at-{seconds}")
        assert story.received_at.ToDatetime() == NOW.replace(tzinfo=None)


async def test_a_sample_is_remembered_without_a_count(core: Caller) -> None:
    refusal = Refusal(request_id="alone", dialect="apex", event_count=1)
    await core.ingest.ReportRefusals(ReportRefusalsRequest(samples=[refusal]), metadata=FACADE)
    assert (await the_story(core, "alone")).dialect == "apex"


async def test_of_a_flood_some_are_remembered_and_all_are_counted(
    core: Caller, key: str, database_url: str
) -> None:
    for _ in range(3):
        await core.send(*[a_request("nobody", request_id=f"flood-{n}") for n in range(400)])
    await core.send(a_request(key, accepted_kinds=[SECRET], origin="https://evil.example", request_id="lone"))
    await the_story(core, "lone", source="shop")

    async def is_written() -> bool:
        return (await ledger(core)).get((NO_SOURCE, "pulsora")) == [1_200, 0, 0, 0, 1_200, 0]

    await until(is_written)
    with psycopg.connect(database_url) as connection:
        kept = connection.execute("SELECT count(*) FROM refusals").fetchone()
    assert kept is not None
    assert 500 < kept[0] <= 1_200


async def test_refusals_outlive_an_outage(core: Caller, database_url: str) -> None:
    """What could not be written is written later."""
    with structlog.testing.capture_logs() as lines, psycopg.connect(database_url) as lock:
        lock.execute("LOCK TABLE refusals IN ACCESS EXCLUSIVE MODE")
        await core.send(a_request("nobody", request_id="held"))

        async def is_unwritten() -> bool:
            return any(line["event"] == "refusals_unwritten" for line in lines)

        await until(is_unwritten)
        await core.send(a_request("nobody", request_id="later"))
    await the_story(core, "held")
    await the_story(core, "later")
    received = (await ledger(core))[NO_SOURCE, "pulsora"]
    assert received[0] == received[4] >= 2


async def test_a_stop_writes_the_last_refusals(options: CoreOptions, clock: Clock, database_url: str) -> None:
    async with open_stores(options) as stores:
        async with start_core(stores, options, clock) as port, calling(f"127.0.0.1:{port}") as core:
            await core.send(a_request("nobody"), a_request("", an_event(), an_event()))
        with psycopg.connect(database_url) as connection:
            assert connection.execute("SELECT received, refused FROM ledger").fetchall() == [(3, 3)]


async def test_an_hour_is_that_of_receipt(core: Caller, key: str, settle: Any) -> None:
    request = a_request(key, came_with("r"))
    request.received_at.FromDatetime(NOW - timedelta(hours=3))
    await core.send(request)
    await settle()
    answer = await core.query.GetLedger(GetLedgerRequest(), metadata=ADMIN)
    (entry,) = answer.entries
    assert entry.hour.ToDatetime() == (NOW - timedelta(hours=3)).replace(
        minute=0, second=0, microsecond=0, tzinfo=None
    )
