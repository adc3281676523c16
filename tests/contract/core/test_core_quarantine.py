"""QuarantineService: what was refused, only to whom it belongs, and stored after all, once."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import grpc
import psycopg
import pytest
from core_calls import ADMIN, FACADE, Caller, Clock, a_request, an_event, bearer, failure
from google.protobuf.timestamp_pb2 import Timestamp
from google.type.money_pb2 import Money
from polylect.v1 import error_reason_pb2 as reasons
from polylect.v1 import event_pb2, ingest_pb2, source_pb2
from polylect.v1.error_reason_pb2 import ErrorReason, Rejection
from polylect.v1.event_pb2 import Event, Revenue
from polylect.v1.ingest_pb2 import ClientItem, ClientRequest
from polylect.v1.quarantine_pb2 import (
    DiscardRequest,
    DiscardResponse,
    GetRequest,
    ListRequest,
    QuarantinedEvent,
    QuarantineFilter,
    ReplayRequest,
    ReplayResponse,
    SummarizeRequest,
)
from polylect.v1.query_pb2 import GetEventRequest, ListEventsRequest
from polylect.v1.queue_pb2 import EventBatch
from polylect.v1.trail_pb2 import ExplainEventRequest, Verdict

from core_service.server import Stores, open_stores
from rest_facade.decode import Arrival, Decoder
from rest_facade.dialects import DIALECTS

PULSE, SECRET, PUBLIC = (
    ingest_pb2.KEY_KIND_PULSE,
    ingest_pb2.KEY_KIND_PULSORA_SECRET,
    ingest_pb2.KEY_KIND_PULSORA_PUBLIC,
)
NO_SOURCE = "00000000-0000-0000-0000-000000000000"
DECODERS = {
    endpoint.path: (dialect, Decoder(dialect, endpoint))
    for dialect in DIALECTS
    for endpoint in dialect.endpoints
}
Settle = Callable[[], Awaitable[None]]


@pytest.fixture
def clock() -> Clock:
    """Near the ids' own time: they are made by the clock on the wall, and filters of time go by both."""
    clock = Clock()
    clock.now = datetime.now(UTC).replace(microsecond=250_000)
    return clock


def at(moment: datetime) -> Timestamp:
    timestamp = Timestamp()
    timestamp.FromDatetime(moment)
    return timestamp


def facade_request(
    secret: str, path: str, body: Any, clock: Clock, *, headers: dict[str, str] | None = None, **more: Any
) -> ClientRequest:
    """A request as the facade makes it of that body."""
    _, decoder = DECODERS[path]
    received_us = round(clock().timestamp() * 1_000_000)
    arrival = Arrival(headers or {}, {}, "203.0.113.7", "request-1", received_us, more.pop("cookie_id", ""))
    request = ClientRequest()
    decoder.decode(json.dumps(body).encode(), arrival, request)
    whole = ClientRequest.FromString(decoder.serialize(request))
    whole.credential = secret
    whole.ClearField("quota")
    whole.MergeFrom(ClientRequest(**more))
    return whole


async def listed(core: Caller, metadata: Any = ADMIN, **filters: Any) -> list[QuarantinedEvent]:
    return list((await core.quarantine.List(ListRequest(**filters), metadata=metadata)).events)


async def stored(core: Caller) -> list[Event]:
    answer = await core.query.ListEvents(ListEventsRequest(page_size=1_000), metadata=ADMIN)
    return list(answer.events)


async def replay(core: Caller, source: str = "shop", **fields: Any) -> ReplayResponse:
    return await core.quarantine.Replay(ReplayRequest(source=source, **fields), metadata=ADMIN)


def verdicts(answer: ReplayResponse) -> dict[str, int]:
    refused = {
        ErrorReason.Name(counted.reason).removeprefix("ERROR_REASON_"): counted.count
        for counted in answer.still_refused
    }
    return {"WOULD_STORE": answer.would_store, "STORED": answer.stored} | refused


async def set_sites(core: Caller, *sites: str) -> str:
    return (await core.make_key("shop", PULSE, sites=sites)).secret


def pulse_event(clock: Clock, **fields: Any) -> dict[str, Any]:
    now_ms = round(clock().timestamp() * 1000)
    return {"site_id": "a", "event_type": "x", "timestamp": now_ms - 60_000, "session_id": "s"} | fields


async def refuse(core: Caller, secret: str, *requests: ClientRequest) -> None:
    for outcome in await core.send(*requests):
        assert not outcome.HasField("refusal"), outcome.refusal
        assert all(result.HasField("rejection") for result in outcome.results)


# -- reading


@pytest.fixture
async def shops(core: Caller, settle: Settle) -> tuple[str, str]:
    """Keys of `shop`, that may read, with two entries, and of `other` with one."""
    keys = []
    for name in ("shop", "other"):
        await core.make_source(name)
        keys.append((await core.make_key(name, SECRET)).secret)
    missing = Rejection(reason=reasons.ERROR_REASON_FIELD_MISSING, message="no", field="name")
    refused = ClientItem(rejection=missing, raw=b"{}")
    for key, request_id in ((keys[0], "r-1"), (keys[0], "r-2"), (keys[1], "r-3")):
        await refuse(core, key, a_request(key, refused, request_id=request_id))
    await settle()
    return keys[0], keys[1]


async def test_list(core: Caller, shops: tuple[str, str]) -> None:
    async def ids(metadata: Any, **filters: Any) -> list[str]:
        return [entry.request_id for entry in await listed(core, metadata, **filters)]

    mine, theirs = (bearer(key) for key in shops)
    assert await ids(mine) == ["r-2", "r-1"]
    assert await ids(theirs) == ["r-3"]
    assert await ids(ADMIN) == ["r-3", "r-2", "r-1"]
    assert await ids(ADMIN, source="other") == ["r-3"]
    assert await ids(ADMIN, source=NO_SOURCE) == []
    assert await ids(mine, request_id="r-1") == ["r-1"]
    assert await ids(mine, reason=reasons.ERROR_REASON_FIELD_MISSING, field="name", dialect="pulsora") == [
        "r-2",
        "r-1",
    ]
    assert await ids(mine, reason=reasons.ERROR_REASON_FIELD_INVALID) == []
    assert await ids(mine, received_until=at(datetime(2020, 1, 1))) == []
    assert await ids(mine, received_from={"seconds": -(2**62)}) == ["r-2", "r-1"]
    page = await core.quarantine.List(ListRequest(page_size=1), metadata=mine)
    assert await ids(mine, page_size=1, page_token=page.next_page_token) == ["r-1"]


@pytest.mark.parametrize(
    ("filters", "code", "field"),
    [
        ({"page_token": "nonsense"}, "INVALID_ARGUMENT", "page_token"),
        ({"reason": 999}, "INVALID_ARGUMENT", "reason"),
        ({"source": "other"}, "NOT_FOUND", "source"),
        ({"source": NO_SOURCE}, "NOT_FOUND", "source"),
        (
            {"received_from": {"seconds": 5}, "received_until": {"seconds": 5}},
            "INVALID_ARGUMENT",
            "received_until",
        ),
    ],
)
async def test_a_bad_filter(
    core: Caller, shops: tuple[str, str], filters: Any, code: str, field: str
) -> None:
    failed = await failure(core.quarantine.List(ListRequest(**filters), metadata=bearer(shops[0])))
    assert (failed.code.name, failed.field) == (code, field)


async def test_get(core: Caller, shops: tuple[str, str]) -> None:
    mine, theirs = (bearer(key) for key in shops)
    entry = (await listed(core, mine))[0]
    for metadata, source in ((mine, ""), (mine, "shop"), (ADMIN, ""), (ADMIN, "shop")):
        request = GetRequest(quarantine_id=entry.quarantine_id, source=source)
        assert (await core.quarantine.Get(request, metadata=metadata)).event == entry
    for quarantine_id, metadata in ((entry.quarantine_id, theirs), ("no\0id", ADMIN), ("", ADMIN)):
        failed = await failure(
            core.quarantine.Get(GetRequest(quarantine_id=quarantine_id), metadata=metadata)
        )
        assert (failed.code.name, failed.field) == ("NOT_FOUND", "quarantine_id")


async def test_summarize(core: Caller, shops: tuple[str, str]) -> None:
    async def counts(metadata: Any, source: str = "") -> list[int]:
        answer = await core.quarantine.Summarize(SummarizeRequest(source=source), metadata=metadata)
        return [sum(counted.count for counted in one.reasons) for one in answer.sources]

    assert await counts(bearer(shops[0])) == [2]
    assert await counts(ADMIN) == [2, 1]
    assert await counts(ADMIN, "other") == [1]
    assert await counts(ADMIN, NO_SOURCE) == []


async def test_who_may_what(core: Caller, shops: tuple[str, str]) -> None:
    writer = (await core.make_key("shop")).secret
    manager = (await core.make_key("shop", scopes=["admin"])).secret
    reading = (
        (core.quarantine.List, ListRequest()),
        (core.quarantine.Get, GetRequest(quarantine_id="x")),
        (core.quarantine.Summarize, SummarizeRequest()),
    )
    changing = (
        (core.quarantine.Replay, ReplayRequest(source="shop", dry_run=True)),
        (core.quarantine.Discard, DiscardRequest(source="shop", all=True)),
    )
    for call, request in (*reading, *changing):
        for metadata, code, reason in (
            ((), grpc.StatusCode.UNAUTHENTICATED, "CREDENTIAL_MISSING"),
            (bearer("nobody"), grpc.StatusCode.UNAUTHENTICATED, "CREDENTIAL_INVALID"),
            (bearer(writer), grpc.StatusCode.PERMISSION_DENIED, "SCOPE_MISSING"),
            (FACADE, grpc.StatusCode.PERMISSION_DENIED, "SCOPE_MISSING"),
        ):
            failed = await failure(call(request, metadata=metadata))
            assert (failed.code, failed.reason) == (code, reason)
    for call, request in changing:
        failed = await failure(call(request, metadata=bearer(manager)))
        assert failed.reason == "SCOPE_MISSING"
    await core.quarantine.List(ListRequest(), metadata=bearer(manager))
    assert len(await listed(core, source="shop")) == 2


# -- replaying


async def test_a_dry_run_stores_nothing_and_a_replay_what_it_told(
    core: Caller, clock: Clock, settle: Settle, queued: Callable[[], EventBatch]
) -> None:
    await core.make_source()
    old = await set_sites(core, "old")
    good, bad = pulse_event(clock), pulse_event(clock, site_id="b")
    requests = [facade_request(old, "/collect", body, clock) for body in (good, bad)]
    broken = facade_request(old, "/collect", {"site_id": "a"}, clock)
    await refuse(core, old, *requests, broken)
    await settle()
    assert verdicts(await replay(core)) == {
        "WOULD_STORE": 0,
        "STORED": 0,
        "SITE_UNKNOWN": 2,
        "FIELD_MISSING": 1,
    }
    await set_sites(core, "a")
    told = {"SITE_UNKNOWN": 1, "FIELD_MISSING": 1}
    assert verdicts(await replay(core, dry_run=True)) == {"WOULD_STORE": 1, "STORED": 0} | told
    assert not queued().ByteSize()
    assert verdicts(await replay(core)) == {"WOULD_STORE": 0, "STORED": 1} | told
    await settle()
    assert [event.provenance.site_id for event in await stored(core)] == ["a"]
    assert len(await listed(core)) == 2
    assert verdicts(await replay(core)) == {"WOULD_STORE": 0, "STORED": 0} | told


async def as_if_at_first(
    core: Caller, settle: Settle, clock: Clock, request: ClientRequest, fix: Callable[[], Awaitable[Any]]
) -> tuple[Event, Event]:
    """Give the event a replay stores after the fix, and the one the same request stores then.

    The request is made anew with the same time of receipt; both without what is of no account.
    """
    await refuse(core, request.credential, request)
    await settle()
    (entry,) = await listed(core)
    received_at = entry.received_at
    clock.advance(hours=20)
    request.credential = await fix() or request.credential
    assert (await replay(core)).stored == 1
    await settle()
    (replayed,) = await stored(core)
    assert await listed(core) == []
    assert (replayed.event_id, replayed.received_at) == (entry.quarantine_id, received_at)
    (outcome,) = await core.send(request)
    assert outcome.results[0].event_id
    await settle()
    fresh = next(event for event in await stored(core) if event.event_id != entry.quarantine_id)
    for event in (replayed, fresh):
        event.ClearField("event_id")
    return replayed, fresh


async def test_after_its_sites_are_fixed(core: Caller, clock: Clock, settle: Settle) -> None:
    await core.make_source()
    key = await set_sites(core, "old")
    shared = {"site_id": "a", "session_id": "outer", "plan": 1.10}
    event = {"event_type": "buy", "properties": {"price": 79.990}, "url": "https://a.example/?utm_source=x"}
    body = {**shared, "events": [event]}
    request = facade_request(key, "/collect/batch", body, clock, headers={"user-agent": "Mozilla/5.0 (iPad)"})
    replayed, fresh = await as_if_at_first(core, settle, clock, request, lambda: set_sites(core, "a", "old"))
    assert replayed == fresh
    assert (replayed.session_id, replayed.device.type, replayed.client_ip) == (
        "outer",
        "tablet",
        "203.0.113.7",
    )
    assert replayed.campaign.source == "x"


async def test_the_only_site_of_the_keys_is_the_default(core: Caller, clock: Clock, settle: Settle) -> None:
    await core.make_source()
    key = (await core.make_key("shop", PULSE, sites=["a", "b"])).key
    secret = (await core.make_key("shop", PULSE, sites=["a", "b"])).secret
    request = facade_request(
        secret, "/collect/batch", {"events": [{"event_type": "x", "session_id": "s"}]}, clock
    )

    async def only_one() -> str:
        for known in (
            await core.sources.ListKeys(source_pb2.ListKeysRequest(source="shop"), metadata=ADMIN)
        ).keys:
            await core.sources.RevokeKey(source_pb2.RevokeKeyRequest(key_id=known.key_id), metadata=ADMIN)
        return await set_sites(core, "b")

    assert key.key_id
    replayed, fresh = await as_if_at_first(core, settle, clock, request, only_one)
    assert replayed == fresh
    assert replayed.provenance.site_id == "b"


async def test_revenue_is_granted_to_who_asks_for_it(core: Caller, clock: Clock, settle: Settle) -> None:
    await core.make_source()
    key = (await core.make_key("shop", PUBLIC)).secret
    data = {"visitor_fingerprint": "v", "session_id": "s", "customer_id": "c", "amount": 9.95}
    body = {"type": "revenue", "data": {**data, "transaction_id": "t"}}
    await refuse(core, key, facade_request(key, "/api/ingest", body, clock))
    await settle()
    assert verdicts(await replay(core)) == {"WOULD_STORE": 0, "STORED": 0, "REVENUE_NOT_PERMITTED": 1}
    (entry,) = await listed(core)
    assert verdicts(await replay(core, quarantine_ids=[entry.quarantine_id])) == {
        "WOULD_STORE": 0,
        "STORED": 1,
    }
    await settle()
    (event,) = await stored(core)
    assert (event.revenue.amount.units, event.revenue.amount.nanos) == (9, 950_000_000)


async def test_the_time_window_is_that_of_the_receipt(core: Caller, clock: Clock, settle: Settle) -> None:
    await core.make_source()
    key = await set_sites(core, "old")
    day_ms = 86_400_000
    now_ms = round(clock().timestamp() * 1000)
    ages = (29.5, 30.5)
    bodies = [pulse_event(clock, timestamp=now_ms - round(age * day_ms)) for age in ages]
    await refuse(core, key, *(facade_request(key, "/collect", body, clock) for body in bodies))
    await settle()
    await set_sites(core, "a")
    clock.advance(days=20)
    assert verdicts(await replay(core)) == {"WOULD_STORE": 0, "STORED": 1, "TIMESTAMP_TOO_OLD": 1}


def rewrite(database_url: str, body: Any) -> None:
    """Give all entries that body: as if a dialect now took what was sent."""
    with psycopg.connect(database_url) as connection:
        connection.execute("UPDATE quarantine SET raw = %b", (json.dumps(body).encode(),))


async def test_vendor_ids_and_the_visitors_cookie_are_kept(
    core: Caller, clock: Clock, settle: Settle, database_url: str
) -> None:
    await core.make_source(vendor_cookies=source_pb2.StringList(values=["_ga"]))
    key = (await core.make_key("shop", ingest_pb2.KEY_KIND_DATAFLY)).secret
    body = {"type": "track", "event": "buy", "timestamp": (clock() + timedelta(hours=30)).isoformat()}
    request = facade_request(
        key,
        "/v1/t",
        body,
        clock,
        cookie_id="visitor-1",
        headers={"user-agent": "Mozilla/5.0 (Windows NT 10.0)"},
        vendor_ids={"_ga": "GA1.1", "_fbp": "fb.1"},
    )
    await refuse(core, key, request)
    await settle()
    (entry,) = await listed(core)
    assert entry.circumstances.vendor_ids == {"_ga": "GA1.1"}
    assert entry.circumstances.cookie_id == "visitor-1"
    assert verdicts(await replay(core)) == {"WOULD_STORE": 0, "STORED": 0, "TIMESTAMP_OUT_OF_RANGE": 1}
    rewrite(database_url, {"type": "track", "event": "buy"})
    assert verdicts(await replay(core)) == {"WOULD_STORE": 0, "STORED": 1}
    await settle()
    (event,) = await stored(core)
    assert json.loads(event.context_json) == {"vendor_ids": {"_ga": "GA1.1"}}
    assert (event.cookie_id, event.anonymous_id, event.device.type) == ("visitor-1", "visitor-1", "desktop")
    assert event.message_id == entry.quarantine_id


VISIT = {"visitor_fingerprint": None, "session_id": "s", "event_name": "x"}


async def test_a_visitors_fingerprint_outlives_its_salt(
    core: Caller, clock: Clock, settle: Settle, database_url: str
) -> None:
    await core.make_source()
    key = (await core.make_key("shop", PUBLIC)).secret
    headers = {"user-agent": "Mozilla/5.0"}
    good = facade_request(key, "/api/ingest", {"type": "event", "data": VISIT}, clock, headers=headers)
    nameless = {"type": "event", "data": {"visitor_fingerprint": None, "session_id": "s"}}
    unpermitted = {"type": "revenue", "data": {"visitor_fingerprint": None}}
    assert (await core.send(good))[0].results[0].event_id
    for body in (nameless, unpermitted, {"type": "unheard_of"}):
        await refuse(core, key, facade_request(key, "/api/ingest", body, clock, headers=headers))
    clock.advance(days=3)
    await settle()
    assert {entry.rejection.reason for entry in await listed(core)} == {
        reasons.ERROR_REASON_FIELD_MISSING,
        reasons.ERROR_REASON_REVENUE_NOT_PERMITTED,
        reasons.ERROR_REASON_KIND_UNKNOWN,
    }
    rewrite(database_url, {"type": "event", "data": VISIT})
    # Whoever replays all does not book what a public key sent as revenue.
    assert verdicts(await replay(core)) == {"WOULD_STORE": 0, "STORED": 2, "REVENUE_NOT_PERMITTED": 1}
    chosen = QuarantineFilter(reason=reasons.ERROR_REASON_REVENUE_NOT_PERMITTED)
    assert (await replay(core, filter=chosen)).stored == 1
    await settle()
    visitors = {event.anonymous_id for event in await stored(core)}
    assert len(visitors) == 1
    assert len(visitors.pop()) == 64


async def test_a_visitor_nobody_can_tell_any_more(
    core: Caller, clock: Clock, settle: Settle, database_url: str
) -> None:
    """As of an entry written before fingerprints were kept."""
    await core.make_source()
    key = (await core.make_key("shop", PUBLIC)).secret
    body = {"type": "event", "data": {"visitor_fingerprint": None, "session_id": "s"}}
    await refuse(core, key, facade_request(key, "/api/ingest", body, clock))
    await settle()
    rewrite(database_url, {"type": "event", "data": VISIT})
    with psycopg.connect(database_url) as connection:
        connection.execute("UPDATE quarantine SET circumstances = NULL")
    assert (await replay(core, dry_run=True)).would_store == 1
    clock.advance(days=1)
    assert verdicts(await replay(core)) == {"WOULD_STORE": 0, "STORED": 0, "FIELD_MISSING": 1}
    with psycopg.connect(database_url) as connection:
        (days,) = connection.execute("SELECT count(*) FROM daily_salts").fetchone() or ()
    assert days == 1


async def test_of_grpc_the_event_is_judged_again(core: Caller, clock: Clock, settle: Settle) -> None:
    await core.make_source()
    key = (await core.make_key("shop", PUBLIC)).secret
    revenue = Revenue(amount=Money(currency_code="USD", units=79), transaction_id="t1", event_type="purchase")
    sale = Event(
        kind=event_pb2.EVENT_KIND_REVENUE, revenue=revenue, user_id="u\0", properties_json='{"a":1.10}'
    )
    nameless = an_event(name="")
    request = ingest_pb2.IngestRequest(events=[sale, nameless])
    await core.ingest.Ingest(request, metadata=(*bearer(key), ("x-request-id", "mine")))
    await settle()
    received_at = (await listed(core))[0].received_at
    clock.advance(days=2)
    ids = [entry.quarantine_id for entry in await listed(core)]
    told = verdicts(await replay(core, quarantine_ids=ids))
    assert told == {"WOULD_STORE": 0, "STORED": 1, "FIELD_MISSING": 1}
    await settle()
    (event,) = await stored(core)
    assert (event.user_id, event.sanitized, event.properties_json) == ("u", True, '{"a": 1.10}')
    assert (event.received_at, event.occurred_at) == (received_at, received_at)
    assert event.provenance == event_pb2.Provenance(
        dialect="grpc", endpoint="/polylect.v1.IngestService/Ingest", request_id="mine"
    )


async def test_what_could_not_be_written_is_stored_when_it_can(
    core: Caller, clock: Clock, settle: Settle, database_url: str
) -> None:
    await core.make_source()
    key = (await core.make_key("shop", SECRET)).secret
    with psycopg.connect(database_url) as connection:
        connection.execute("ALTER TABLE events ADD CONSTRAINT no_click CHECK (name <> 'click')")
    sent = [an_event(name=name, message_id=name) for name in ("click", "view")]
    (outcome,) = await core.send(a_request(key, *sent, received_at=at(clock())))
    await settle()
    (entry,) = await listed(core)
    assert entry.rejection.reason == reasons.ERROR_REASON_UNWRITABLE
    assert verdicts(await replay(core)) == {"WOULD_STORE": 0, "STORED": 1}
    await settle()
    assert [one.quarantine_id for one in await listed(core)] == [entry.quarantine_id]
    with psycopg.connect(database_url) as connection:
        connection.execute("ALTER TABLE events DROP CONSTRAINT no_click")
        # What nobody can read, and what is of another entry: neither is any event.
        for source_id, raw in ((NO_SOURCE, b"\xff"), (entry.source_id, entry.raw)):
            connection.execute(
                "INSERT INTO quarantine (source_id, quarantine_id, received_at, reason, message, raw)"
                " VALUES (%s, gen_random_uuid(), now(), 'unwritable', '', %b)",
                (source_id, raw),
            )
    assert verdicts(await replay(core)) == {"WOULD_STORE": 0, "STORED": 1, "UNWRITABLE": 1}
    assert verdicts(await replay(core, NO_SOURCE)) == {"WOULD_STORE": 0, "STORED": 0, "UNWRITABLE": 1}
    await settle()
    found = {event.name: event for event in await stored(core)}
    assert set(found) == {"click", "view"}
    assert found["click"].event_id == outcome.results[0].event_id
    for event in found.values():
        for name in ("event_id", "name", "message_id"):
            event.ClearField(name)
    assert found["click"] == found["view"]


async def several(core: Caller, clock: Clock, settle: Settle, count: int) -> list[str]:
    """Refuse some for their site, and mend that; give their ids, oldest first."""
    await core.make_source()
    key = await set_sites(core, "old")
    bodies = [pulse_event(clock, event_type=f"e{number}") for number in range(count)]
    events = {"events": [{**body, "timestamp": None} for body in bodies]}
    for event in events["events"]:
        del event["timestamp"]
    await refuse(core, key, facade_request(key, "/collect/batch", events, clock))
    await settle()
    await set_sites(core, "a")
    page = await listed(core, page_size=1_000)
    return [entry.quarantine_id for entry in page[::-1]]


async def test_replays_in_parts(core: Caller, clock: Clock, settle: Settle) -> None:
    ids = await several(core, clock, settle, 7)
    for dry_run in (True, False):
        token, counts = "", []
        while not counts or token:
            answer = await replay(core, limit=3, page_token=token, dry_run=dry_run)
            counts.append(answer.would_store + answer.stored)
            token = answer.next_page_token
            await settle()
        assert counts == [3, 3, 1]
    assert [event.event_id for event in await stored(core)] == ids[::-1]
    assert await listed(core) == []


async def test_what_is_replayed_is_told_to_be_in_the_queue(
    core: Caller, clock: Clock, settle: Settle
) -> None:
    (entry_id,) = await several(core, clock, settle, 1)
    reader = bearer((await core.make_key("shop", SECRET)).secret)

    async def told(metadata: Any, source: str = "") -> set[str]:
        request = ExplainEventRequest(id=entry_id, source=source)
        answer = await core.query.ExplainEvent(request, metadata=metadata)
        return {Verdict.Name(story.verdict).removeprefix("VERDICT_") for story in answer.stories}

    await replay(core)
    for metadata, source in ((ADMIN, ""), (ADMIN, "shop"), (reader, "")):
        assert await told(metadata, source) == {"QUARANTINED", "IN_QUEUE"}
    await settle()
    assert await told(ADMIN, "shop") == {"STORED"}


async def test_chosen_ones_are_replayed(core: Caller, clock: Clock, settle: Settle) -> None:
    ids = await several(core, clock, settle, 4)
    assert (await replay(core, quarantine_ids=[ids[2], ids[0], "no id"])).stored == 2
    await settle()
    assert [entry.quarantine_id for entry in await listed(core)] == [ids[3], ids[1]]
    nothing = QuarantineFilter(reason=reasons.ERROR_REASON_FIELD_MISSING)
    assert (await replay(core, filter=nothing)).stored == 0
    assert (await replay(core, filter=QuarantineFilter(received_until=at(clock())))).stored == 0
    later = at(clock() + timedelta(seconds=1))
    assert (await replay(core, filter=QuarantineFilter(received_until=later))).stored == 2


async def test_replays_at_once_store_once(
    core: Caller, start: Any, clock: Clock, settle: Settle, database_url: str
) -> None:
    ids = await several(core, clock, settle, 300)
    other = await start()
    answers = await asyncio.gather(*(replay(one) for one in (core, other) for _ in range(4)))
    assert [answer.stored for answer in answers] == [300] * 8
    # All eight lie in the queue, and nobody has removed an entry yet.
    with psycopg.connect(database_url) as connection:
        (waiting,) = connection.execute("SELECT sum(item_count) FROM queue").fetchone() or ()
    assert waiting == 2_400
    await asyncio.gather(settle(), settle(), settle())
    await settle()
    assert sorted(event.event_id for event in await stored(core)) == ids
    assert await listed(core) == []
    assert verdicts(await replay(core)) == {"WOULD_STORE": 0, "STORED": 0}


@pytest.mark.parametrize(
    ("fields", "code", "field"),
    [
        ({"source": ""}, "INVALID_ARGUMENT", "source"),
        ({"source": "nowhere"}, "NOT_FOUND", "source"),
        ({"page_token": "nonsense"}, "INVALID_ARGUMENT", "page_token"),
        ({"quarantine_ids": ["x"] * 1_001}, "INVALID_ARGUMENT", "quarantine_ids"),
        ({"quarantine_ids": ["x"], "filter": {"field": "y"}}, "INVALID_ARGUMENT", "filter"),
        ({"filter": {"reason": 999}}, "INVALID_ARGUMENT", "filter.reason"),
        (
            {"filter": {"received_from": {"seconds": 9}, "received_until": {"seconds": 5}}},
            "INVALID_ARGUMENT",
            "filter.received_until",
        ),
    ],
)
async def test_a_bad_selection(
    core: Caller, shops: tuple[str, str], fields: Any, code: str, field: str
) -> None:
    requests = [(core.quarantine.Replay, ReplayRequest(**{"source": "shop", **fields}))]
    if "page_token" not in fields:
        narrowed = "filter" in fields or "quarantine_ids" in fields
        requests.append(
            (core.quarantine.Discard, DiscardRequest(**{"source": "shop", "all": not narrowed, **fields}))
        )
    for call, request in requests:
        failed = await failure(call(request, metadata=ADMIN))
        assert (failed.code.name, failed.field) == (code, field)
    assert len(await listed(core)) == 3


async def test_a_queue_that_fails_has_stored_nothing(
    options: Any, start: Any, clock: Clock, settle: Settle
) -> None:
    class Broken:
        async def append(self, batch: bytes, item_count: int, received: Any = None) -> None:
            raise ConnectionError("gone")

    core = await start()
    ids = await several(core, clock, settle, 2)
    async with open_stores(options) as stores:
        broken: Stores = stores._replace(queue=Broken())
        other = await start(broken)
        failed = await failure(replay(other))
        assert (failed.code.name, failed.reason) == ("UNAVAILABLE", "STORAGE_UNAVAILABLE")
    assert len(await listed(core)) == 2
    assert (await replay(core)).stored == 2
    await settle()
    assert [event.event_id for event in await stored(core)] == ids[::-1]


async def test_a_fault_in_a_replay_is_no_bad_page_token(
    options: Any, start: Any, clock: Clock, settle: Settle
) -> None:
    class Broken:
        async def append(self, batch: bytes, item_count: int, received: Any = None) -> None:
            raise ValueError("a fault")

    core = await start()
    await several(core, clock, settle, 2)
    token = (await replay(core, limit=1, dry_run=True)).next_page_token
    async with open_stores(options) as stores:
        broken: Stores = stores._replace(queue=Broken())
        failed = await failure(replay(await start(broken), page_token=token))
    assert (failed.code.name, failed.reason, failed.field) == ("INTERNAL", "INTERNAL", "")


async def test_a_replayed_event_is_found_under_its_entrys_id(
    core: Caller, clock: Clock, settle: Settle
) -> None:
    (entry_id,) = await several(core, clock, settle, 1)
    await replay(core)
    await settle()
    found = await core.query.GetEvent(GetEventRequest(event_id=entry_id), metadata=ADMIN)
    assert found.event.name == "e0"


# -- discarding


async def discard(core: Caller, **fields: Any) -> DiscardResponse:
    return await core.quarantine.Discard(DiscardRequest(source="shop", **fields), metadata=ADMIN)


async def test_discard(core: Caller, shops: tuple[str, str]) -> None:
    wanted = QuarantineFilter(request_id="r-1")
    for nothing in ({}, {"all": True, "filter": wanted}, {"all": True, "quarantine_ids": ["x"]}):
        failed = await failure(discard(core, **nothing))  # type: ignore[arg-type]
        assert (failed.reason, failed.field) == ("ARGUMENT_INVALID", "all")
    assert await discard(core, filter=wanted, dry_run=True) == DiscardResponse(would_discard=1)
    assert len(await listed(core)) == 3
    assert await discard(core, filter=wanted) == DiscardResponse(discarded=1)
    assert [entry.request_id for entry in await listed(core)] == ["r-3", "r-2"]
    assert await discard(core, all=True) == DiscardResponse(discarded=1)
    assert await discard(core, all=True) == DiscardResponse()
    assert [entry.request_id for entry in await listed(core)] == ["r-3"]


async def test_what_has_no_source_is_discarded_by_its_zeros(core: Caller, database_url: str) -> None:
    with psycopg.connect(database_url) as connection:
        connection.execute(
            "INSERT INTO quarantine (source_id, quarantine_id, received_at, reason, message, raw)"
            " VALUES (%s, gen_random_uuid(), now(), 'unwritable', '', '')",
            (NO_SOURCE,),
        )
    request = DiscardRequest(source=NO_SOURCE, all=True)
    assert (await core.quarantine.Discard(request, metadata=ADMIN)).discarded == 1


async def test_a_replay_on_its_way_is_stored_though_its_entry_is_discarded(
    core: Caller, clock: Clock, settle: Settle
) -> None:
    ids = await several(core, clock, settle, 2)
    assert (await replay(core)).stored == 2
    assert (await discard(core, all=True)).discarded == 2
    await settle()
    assert [event.event_id for event in await stored(core)] == ids[::-1]
