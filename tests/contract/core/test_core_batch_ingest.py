"""BatchIngest, the facade's call: each request judged alone, in the documented order."""

import asyncio
from datetime import timedelta
from typing import Any

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
    failure,
    failure_of,
    queue_rows,
    until,
)
from google.type.money_pb2 import Money
from polylect.v1 import error_reason_pb2 as reasons
from polylect.v1 import event_pb2, ingest_pb2, source_pb2
from polylect.v1.error_reason_pb2 import ErrorReason, Rejection
from polylect.v1.event_pb2 import Event, Page, Revenue
from polylect.v1.ingest_pb2 import (
    BatchIngestRequest,
    BatchIngestStreamRequest,
    ClientItem,
    ClientOutcome,
    Quota,
)

from core_service.commit import FLUSHES_IN_FLIGHT

PUBLIC, SECRET = ingest_pb2.KEY_KIND_PULSORA_PUBLIC, ingest_pb2.KEY_KIND_PULSORA_SECRET
PULSE = ingest_pb2.KEY_KIND_PULSE


def refusal(outcome: ClientOutcome) -> str:
    assert not outcome.results
    return ErrorReason.Name(outcome.refusal.reason).removeprefix("ERROR_REASON_")


def verdicts(outcome: ClientOutcome) -> list[str]:
    """The reason for each item, "" for an accepted one."""
    assert not outcome.HasField("refusal"), outcome.refusal
    given = []
    for result in outcome.results:
        assert bool(result.event_id) != result.HasField("rejection")
        name = ErrorReason.Name(result.rejection.reason).removeprefix("ERROR_REASON_")
        given.append("" if result.event_id else name)
    return given


def a_sale(**fields: Any) -> Event:
    amount = Money(currency_code="USD", units=79)
    revenue = Revenue(**{"amount": amount, "transaction_id": "t1", "event_type": "purchase", **fields})
    return Event(kind=event_pb2.EVENT_KIND_REVENUE, revenue=revenue)


async def test_an_accepted_event_is_stamped_and_in_the_queue(core: Caller, queued: Any) -> None:
    source = await core.make_source()
    key = await core.make_key()
    sent = an_event(event_id="mine", source_id="mine", properties_json='{"price":79.990}', message_id="m1")
    sent.page.CopyFrom(Page(url="https://shop.example.com/"))
    (outcome,) = await core.send(a_request(key.secret, sent))
    assert verdicts(outcome) == [""]
    (stored,) = queued().events
    expected = Event()
    expected.CopyFrom(sent)
    expected.event_id = outcome.results[0].event_id
    expected.source_id = source.source_id
    expected.received_at.FromDatetime(NOW)
    expected.occurred_at.FromDatetime(NOW)
    expected.client_ip = "203.0.113.7"
    expected.provenance.dialect = "pulsora"
    assert stored == expected
    assert stored.event_id[14] == "7"


async def test_what_the_client_said_of_time_and_address_stays(core: Caller, queued: Any) -> None:
    await core.make_source()
    key = await core.make_key()
    event = an_event(client_ip="198.51.100.1")
    event.occurred_at.FromDatetime(NOW - timedelta(hours=3))
    await core.send(a_request(key.secret, event))
    (stored,) = queued().events
    assert stored.client_ip == "198.51.100.1"
    assert stored.occurred_at == event.occurred_at


@pytest.mark.parametrize(
    ("secret", "kinds", "reason"),
    [
        ("", [PUBLIC, SECRET], "CREDENTIAL_MISSING"),
        ("pub_nobody", [PUBLIC, SECRET], "CREDENTIAL_INVALID"),
        (None, [SECRET, PULSE], "CREDENTIAL_INVALID"),
    ],
)
async def test_a_bad_credential(
    core: Caller, queued: Any, secret: str | None, kinds: list[int], reason: str
) -> None:
    await core.make_source()
    key = await core.make_key()
    broken = ClientItem(rejection=Rejection(reason=reasons.ERROR_REASON_FIELD_MISSING))
    credential = key.secret if secret is None else secret
    (outcome,) = await core.send(a_request(credential, broken, accepted_kinds=kinds))
    assert refusal(outcome) == reason
    assert not queued().quarantined


async def test_an_ended_key_and_a_disabled_source(core: Caller, clock: Clock) -> None:
    await core.make_source()
    key = await core.make_key()
    rotation = source_pb2.RotateKeyRequest(key_id=key.key.key_id)
    rotation.overlap.seconds = 60
    new = await core.sources.RotateKey(rotation, metadata=ADMIN)
    clock.advance(seconds=59.9)
    both = [a_request(key.secret), a_request(new.secret)]
    assert [verdicts(outcome) for outcome in await core.send(*both)] == [[""], [""]]
    clock.advance(seconds=0.2)
    old_outcome, new_outcome = await core.send(*both)
    assert refusal(old_outcome) == "CREDENTIAL_INVALID"
    assert verdicts(new_outcome) == [""]
    await core.sources.UpdateSource(
        source_pb2.UpdateSourceRequest(source="shop", enabled=False), metadata=ADMIN
    )
    assert refusal((await core.send(a_request(new.secret)))[0]) == "CREDENTIAL_INVALID"


async def test_origins(core: Caller) -> None:
    origins = source_pb2.StringList(values=["https://shop.example.com"])
    await core.make_source(origins=origins, cookie_domain="example.com")
    key = await core.make_key()
    good, bad, unknown, unchecked = await core.send(
        a_request(key.secret, origin="https://shop.example.com"),
        a_request(key.secret, origin="https://evil.example"),
        a_request("nobody", origin="https://shop.example.com"),
        a_request(key.secret),
    )
    assert verdicts(good) == [""]
    assert (good.origin_allowed, good.cookie_domain) == (True, "example.com")
    assert refusal(bad) == "ORIGIN_NOT_ALLOWED"
    assert (bad.origin_allowed, bad.cookie_domain) == (False, "example.com")
    assert refusal(unknown) == "CREDENTIAL_INVALID"
    assert (unknown.origin_allowed, unknown.cookie_domain) == (True, "")
    assert verdicts(unchecked) == [""]
    assert not unchecked.origin_allowed


@pytest.mark.parametrize(("mode", "allowed"), [("production", False), ("development", True), ("demo", True)])
async def test_local_origins_without_a_list(start: Any, mode: str, allowed: bool) -> None:
    core = await start(mode=mode)
    await core.make_source()
    key = await core.make_key()
    (outcome,) = await core.send(a_request(key.secret, origin="http://localhost:3000"))
    assert outcome.origin_allowed is allowed
    assert outcome.HasField("refusal") is not allowed


async def test_the_quota_of_the_dialect_by_address(core: Caller, clock: Clock) -> None:
    await core.make_source()
    key = await core.make_key()
    quota = Quota(limit=2, window_seconds=60, scope=ingest_pb2.QUOTA_SCOPE_CLIENT_IP, name="pulsora")
    broken = ClientItem(rejection=Rejection(reason=reasons.ERROR_REASON_FIELD_MISSING), raw=b"{}")
    first, second, third, other = await core.send(
        a_request(key.secret, quota=quota),
        a_request(key.secret, broken, quota=quota),
        a_request(key.secret, quota=quota),
        a_request(key.secret, quota=quota, client_ip="203.0.113.8"),
    )
    assert [verdicts(outcome) for outcome in (first, second, other)] == [[""], ["FIELD_MISSING"], [""]]
    assert refusal(third) == "RATE_LIMITED"
    assert first.rate_limit == ingest_pb2.RateLimit(limit=2, remaining=1, reset_seconds=60, window_seconds=60)
    assert third.rate_limit == ingest_pb2.RateLimit(
        limit=2, remaining=0, reset_seconds=60, retry_after_seconds=60, window_seconds=60
    )
    clock.advance(seconds=third.rate_limit.retry_after_seconds - 1)
    assert refusal((await core.send(a_request(key.secret, quota=quota)))[0]) == "RATE_LIMITED"
    clock.advance(seconds=1)
    assert verdicts((await core.send(a_request(key.secret, quota=quota)))[0]) == [""]


async def test_a_quota_may_count_events_per_key(core: Caller) -> None:
    await core.make_source()
    key, other_key = await core.make_key(), await core.make_key()
    quota = Quota(
        limit=5, window_seconds=60, scope=ingest_pb2.QUOTA_SCOPE_KEY, counts_events=True, name="pulse"
    )
    three = [an_event()] * 3
    first, second, two, other, six = await core.send(
        a_request(key.secret, *three, quota=quota),
        a_request(key.secret, *three, quota=quota),
        a_request(key.secret, *three[:2], quota=quota),
        a_request(other_key.secret, *three, quota=quota),
        a_request(key.secret, *three, *three, quota=quota),
    )
    assert verdicts(first) == verdicts(other) == ["", "", ""]
    assert refusal(second) == "RATE_LIMITED"
    assert verdicts(two) == ["", ""]
    assert refusal(six) == "RATE_LIMITED"
    assert "never fits" in six.refusal.message
    assert six.rate_limit.retry_after_seconds == 60


async def test_the_sources_own_limit_replaces_the_dialects(core: Caller) -> None:
    await core.make_source(rate_limit=source_pb2.SourceRateLimit(limit=1, window_seconds=3600))
    key = await core.make_key()
    generous = Quota(limit=100, window_seconds=1, name="datafly")
    first, second = await core.send(
        a_request(key.secret, quota=generous), a_request(key.secret, quota=generous)
    )
    assert first.rate_limit.limit == 1
    assert refusal(second) == "RATE_LIMITED"
    off = source_pb2.UpdateSourceRequest(
        source="shop", rate_limit=source_pb2.SourceRateLimit(limit=0, window_seconds=1)
    )
    await core.sources.UpdateSource(off, metadata=ADMIN)
    strict = Quota(limit=1, window_seconds=60, name="datafly")
    outcomes = await core.send(*[a_request(key.secret, quota=strict)] * 3)
    assert [verdicts(outcome) for outcome in outcomes] == [[""]] * 3
    assert not any(outcome.HasField("rate_limit") for outcome in outcomes)


async def test_the_order_of_checks(core: Caller) -> None:
    """Origin before rate, rate before scope, scope before shape; what is refused early costs no quota."""
    await core.make_source(origins=source_pb2.StringList(values=["https://shop.example.com"]))
    reader = await core.make_key(scopes=["events:read"])
    quota = Quota(limit=1, window_seconds=60, name="q")
    broken = ClientItem(rejection=Rejection(reason=reasons.ERROR_REASON_FIELD_MISSING))
    outcomes = await core.send(
        a_request(reader.secret, broken, quota=quota, origin="https://evil.example"),
        a_request(reader.secret, broken, quota=quota),
        a_request(reader.secret, broken, quota=quota),
        a_request(reader.secret, broken, quota=quota, origin="https://evil.example"),
    )
    assert [refusal(outcome) for outcome in outcomes] == [
        "ORIGIN_NOT_ALLOWED",
        "SCOPE_MISSING",
        "RATE_LIMITED",
        "ORIGIN_NOT_ALLOWED",
    ]


async def test_revenue_needs_its_scope_whatever_its_shape(core: Caller, queued: Any) -> None:
    await core.make_source()
    public, secret = await core.make_key(), await core.make_key(kind=SECRET)
    event = a_sale()
    broken = ClientItem(
        rejection=Rejection(reason=reasons.ERROR_REASON_FIELD_MISSING, message="transaction_id is required."),
        kind=event_pb2.EVENT_KIND_REVENUE,
        raw=b'{"type":"revenue"}',
    )
    from_public, from_secret = await core.send(
        a_request(public.secret, event, broken), a_request(secret.secret, event, broken)
    )
    assert verdicts(from_public) == ["REVENUE_NOT_PERMITTED"] * 2
    assert from_public.results[1].rejection.message == "Revenue events require secret token"
    assert verdicts(from_secret) == ["", "FIELD_MISSING"]
    assert [refused.raw for refused in queued().quarantined] == [
        b"{}",
        b'{"type":"revenue"}',
        b'{"type":"revenue"}',
    ]


@pytest.mark.parametrize(
    ("event", "reason", "field"),
    [
        (Event(), "KIND_UNKNOWN", "kind"),
        (Event(kind=event_pb2.EVENT_KIND_TRACK), "FIELD_MISSING", "name"),
        (Event(kind=event_pb2.EVENT_KIND_IDENTIFY), "FIELD_MISSING", "user_id"),
        (Event(kind=event_pb2.EVENT_KIND_GROUP), "FIELD_MISSING", "group_id"),
        (Event(kind=event_pb2.EVENT_KIND_REVENUE), "FIELD_MISSING", "revenue"),
        (an_event(revenue=Revenue(transaction_id="t")), "FIELD_INVALID", "revenue"),
        (a_sale(amount=Money(currency_code="USD")), "FIELD_INVALID", "revenue.amount"),
        (a_sale(event_type="gift"), "FIELD_INVALID", "revenue.event_type"),
        (an_event(name="n" * 1025), "FIELD_INVALID", "name"),
        (an_event(message_id="n" * 129), "FIELD_INVALID", "message_id"),
        (an_event(anonymous_id="n" * 1025), "FIELD_INVALID", "anonymous_id"),
        (an_event(user_id="é" * 513), "FIELD_INVALID", "user_id"),
        (an_event(group_id="n" * 1025), "FIELD_INVALID", "group_id"),
        (an_event(session_id="n" * 1025), "FIELD_INVALID", "session_id"),
        (an_event(cookie_id="n" * 1025), "FIELD_INVALID", "cookie_id"),
        (an_event(page=Page(url="u" * 8193)), "FIELD_INVALID", "page.url"),
        (an_event(provenance=event_pb2.Provenance(site_id="elsewhere")), "SITE_UNKNOWN", "site_id"),
    ],
)
async def test_an_event_of_wrong_shape_spoils_no_neighbour(
    core: Caller, queued: Any, event: Event, reason: str, field: str
) -> None:
    await core.make_source()
    key = await core.make_key(kind=SECRET)
    edge = an_event(name="n" * 1024, message_id="m" * 128, user_id="é" * 512, page=Page(url="u" * 8192))
    (outcome,) = await core.send(a_request(key.secret, edge, event, an_event()))
    assert verdicts(outcome) == ["", reason, ""]
    assert outcome.results[1].rejection.field == field
    batch = queued()
    assert len(batch.events) == 2
    (refused,) = batch.quarantined
    assert refused.rejection == outcome.results[1].rejection


@pytest.mark.parametrize(
    ("offset", "reason"),
    [
        (timedelta(days=1), ""),
        (timedelta(days=1, microseconds=1), "TIMESTAMP_OUT_OF_RANGE"),
        (-timedelta(days=30), ""),
        (-timedelta(days=30, microseconds=1), "TIMESTAMP_TOO_OLD"),
        (-timedelta(days=365 * 60), "TIMESTAMP_OUT_OF_RANGE"),
    ],
)
async def test_the_window_of_time(core: Caller, offset: timedelta, reason: str) -> None:
    await core.make_source()
    key = await core.make_key()
    event = an_event()
    event.occurred_at.FromDatetime(NOW + offset)
    (outcome,) = await core.send(a_request(key.secret, event, max_age_seconds=30 * 86_400))
    assert verdicts(outcome) == [reason]
    if reason == "TIMESTAMP_TOO_OLD":
        message = "Timestamp too old: events must be less than 30 days old"
        assert outcome.results[0].rejection.message == message


async def test_the_clients_sending_time_is_held_to_the_same(core: Caller) -> None:
    await core.make_source()
    key = await core.make_key()
    events = [an_event(), an_event()]
    events[0].sent_at.FromDatetime(NOW - timedelta(days=3000))
    events[1].sent_at.seconds = 0
    (outcome,) = await core.send(a_request(key.secret, *events))
    assert verdicts(outcome) == ["", "TIMESTAMP_OUT_OF_RANGE"]


async def test_sites_of_a_pulse_key(core: Caller, queued: Any) -> None:
    source = await core.make_source()
    only = await core.make_key(kind=PULSE)
    several = await core.make_key(kind=PULSE, sites=["a", "b"])

    def at(site_id: str) -> Event:
        return an_event(provenance=event_pb2.Provenance(site_id=site_id))

    one, many = await core.send(
        a_request(only.secret, an_event(), at("shop"), at(source.source_id), at("a")),
        a_request(several.secret, an_event(), at("b"), at("shop")),
    )
    assert verdicts(one) == ["", "", "", "SITE_UNKNOWN"]
    assert verdicts(many) == ["FIELD_MISSING", "", "SITE_UNKNOWN"]
    assert many.results[0].rejection.message == "Missing required field: site_id"
    assert many.results[2].rejection.message == "Invalid site_id"
    assert [event.provenance.site_id for event in queued().events] == ["shop", "shop", "shop", "b"]


async def test_quarantine_keeps_everything(core: Caller, queued: Any) -> None:
    source = await core.make_source()
    key = await core.make_key()
    rejection = Rejection(
        reason=reasons.ERROR_REASON_FIELD_MISSING, message="bad \0 field", field="da\0ta.session_id"
    )
    item = ClientItem(rejection=rejection, raw=b'{"type":"event"}\xff\x00')
    (outcome,) = await core.send(a_request(key.secret, item))
    assert outcome.results[0].rejection == rejection
    (refused,) = queued().quarantined
    assert len(refused.quarantine_id) == 36
    refused.quarantine_id = ""
    expected = type(refused)(
        source_id=source.source_id,
        rejection=Rejection(reason=rejection.reason, message="bad  field", field="data.session_id"),
        raw=item.raw,
        dialect="pulsora",
        endpoint="/api/ingest",
        request_id="request-1",
        client_ip="203.0.113.7",
    )
    expected.received_at.FromDatetime(NOW)
    assert refused == expected


async def test_vendor_ids_the_source_lists(core: Caller, queued: Any) -> None:
    await core.make_source(vendor_cookies=source_pb2.StringList(values=["_ga", "_fbp"]))
    key = await core.make_key()
    contexts = [
        "",
        '{"a":1.10,"b":123456789012345678901234567890}',
        '{"vendor_ids":{"_x":1.0,"_ga":"theirs"}}',
    ]
    events = [an_event(context_json=context) for context in contexts]
    given = {"_ga": "GA1.1.1.2", "_ttp": "t"}
    (outcome,) = await core.send(a_request(key.secret, *events, vendor_ids=given))
    assert list(outcome.vendor_cookies) == ["_ga"]
    assert [event.context_json for event in queued().events] == [
        '{"vendor_ids":{"_ga":"GA1.1.1.2"}}',
        '{"a":1.10,"b":123456789012345678901234567890,"vendor_ids":{"_ga":"GA1.1.1.2"}}',
        '{"vendor_ids":{"_x":1.0,"_ga":"GA1.1.1.2"}}',
    ]


async def test_no_vendor_ids_for_a_source_without_them(core: Caller, queued: Any) -> None:
    await core.make_source()
    key = await core.make_key()
    (outcome,) = await core.send(a_request(key.secret, vendor_ids={"_ga": "GA1.1.1.2"}))
    assert not outcome.vendor_cookies
    assert queued().events[0].context_json == ""


async def test_fingerprints_hold_for_a_day(core: Caller, queued: Any, start: Any) -> None:
    await core.make_source()
    key = await core.make_key()
    item = ClientItem(
        event=an_event(anonymous_id="", device={"user_agent": "Mozilla"}), fingerprint_visitor=True
    )
    tomorrow = a_request(key.secret, item)
    tomorrow.received_at.FromDatetime(NOW + timedelta(days=1))
    elsewhere = a_request(key.secret, item, client_ip="203.0.113.8")
    other_core = await start()
    for caller in (core, other_core):
        await caller.send(a_request(key.secret, item), tomorrow, elsewhere)
    first, next_day, other_address, *again = [event.anonymous_id for event in queued().events]
    assert len({first, next_day, other_address}) == 3
    assert {len(one) for one in (first, next_day, other_address)} == {64}
    assert again == [first, next_day, other_address]


async def test_a_request_without_items_is_let_in_and_commits_nothing(core: Caller, database_url: str) -> None:
    await core.make_source()
    key = await core.make_key()
    request = a_request(key.secret)
    del request.items[:]
    (outcome,) = await core.send(request)
    assert verdicts(outcome) == []
    assert queue_rows(database_url) == []


async def test_requests_of_one_call_are_one_row(core: Caller, database_url: str) -> None:
    await core.make_source()
    key = await core.make_key()
    outcomes = await core.send(*[a_request(key.secret)] * 20, a_request("nobody"))
    assert [verdicts(outcome) for outcome in outcomes[:20]] == [[""]] * 20
    assert refusal(outcomes[20]) == "CREDENTIAL_INVALID"
    (row,) = queue_rows(database_url)
    ids = [outcome.results[0].event_id for outcome in outcomes[:20]]
    assert [event.event_id for event in row.events] == ids


async def test_nothing_is_answered_before_its_commit(core: Caller, database_url: str) -> None:
    await core.make_source()
    key = await core.make_key()
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE 'INSERT%'"
    with psycopg.connect(database_url) as lock, psycopg.connect(database_url, autocommit=True) as watcher:
        lock.execute("LOCK TABLE queue IN ACCESS EXCLUSIVE MODE")
        calls = [asyncio.create_task(core.send(a_request(key.secret))) for _ in range(20)]

        async def all_flushes_wait() -> bool:
            return watcher.execute(waiting).fetchone() == (FLUSHES_IN_FLIGHT,)

        await until(all_flushes_wait)
        # What needs no commit is not held up.
        assert refusal((await core.send(a_request("nobody")))[0]) == "CREDENTIAL_INVALID"
        assert not any(call.done() for call in calls)
        lock.commit()
    outcomes = await asyncio.gather(*calls)
    answered = {outcome.results[0].event_id for (outcome,) in outcomes}
    assert {event.event_id for row in queue_rows(database_url) for event in row.events} == answered
    assert len(answered) == 20


async def test_a_call_too_large_for_one_row_is_cut(core: Caller, database_url: str) -> None:
    await core.make_source()
    key = await core.make_key()
    wide = [an_event(properties_json='{"x":"' + "y" * 1_000_000 + '"}') for _ in range(20)]
    many = [a_request(key.secret, *[an_event()] * 3_000) for _ in range(4)]
    outcomes = await core.send(a_request(key.secret, *wide), *many)
    accepted = [result.event_id for outcome in outcomes for result in outcome.results]
    rows = queue_rows(database_url)
    assert sorted(event.event_id for row in rows for event in row.events) == sorted(accepted)
    assert len(accepted) == 12_020
    assert all(len(row.events) <= 5_000 and row.ByteSize() <= 8 * 1024 * 1024 for row in rows)


async def test_only_the_facade_may_call(core: Caller) -> None:
    await core.make_source()
    key = await core.make_key(kind=SECRET)
    request = BatchIngestRequest(requests=[a_request(key.secret)])
    for metadata, code, reason in (
        ((), grpc.StatusCode.UNAUTHENTICATED, "CREDENTIAL_MISSING"),
        (bearer("nobody"), grpc.StatusCode.UNAUTHENTICATED, "CREDENTIAL_INVALID"),
        (bearer(key.secret), grpc.StatusCode.PERMISSION_DENIED, "SCOPE_MISSING"),
        (ADMIN, grpc.StatusCode.PERMISSION_DENIED, "SCOPE_MISSING"),
    ):
        failed = await failure(core.ingest.BatchIngest(request, metadata=metadata))
        assert (failed.code, failed.reason) == (code, reason)
    assert (await core.ingest.BatchIngest(request, metadata=FACADE)).outcomes[0].results[0].event_id


async def test_when_nothing_can_be_made_durable_the_call_fails(core: Caller, database_url: str) -> None:
    await core.make_source()
    key = await core.make_key()
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("ALTER TABLE queue RENAME TO away")
        call = BatchIngestRequest(requests=[a_request(key.secret)])
        failed = await failure(core.ingest.BatchIngest(call, metadata=FACADE))
        assert (failed.code, failed.reason) == (grpc.StatusCode.UNAVAILABLE, "STORAGE_UNAVAILABLE")
        assert failed.retry_seconds == 2
        unstored, unknown = await core.send(a_request(key.secret), a_request("nobody"))
        assert (refusal(unstored), refusal(unknown)) == ("STORAGE_UNAVAILABLE", "CREDENTIAL_INVALID")
        connection.execute("ALTER TABLE away RENAME TO queue")
    assert verdicts((await core.send(a_request(key.secret)))[0]) == [""]
    assert len(queue_rows(database_url)) == 1


async def test_a_stream_answers_message_after_message(core: Caller, database_url: str) -> None:
    await core.make_source()
    key = await core.make_key()
    stream = core.ingest.BatchIngestStream(metadata=FACADE)
    stored = []
    for number in range(3):
        good, bad = [a_request(secret) for secret in (key.secret, f"nobody-{number}")]
        await stream.write(BatchIngestStreamRequest(requests=[good, bad]))
        first, second = (await stream.read()).outcomes
        stored.append(first.results[0].event_id)
        assert refusal(second) == "CREDENTIAL_INVALID"
    await stream.done_writing()
    assert await stream.read() is grpc.aio.EOF
    assert [event.event_id for row in queue_rows(database_url) for event in row.events] == stored


async def test_what_would_fail_a_call_ends_a_stream(core: Caller, database_url: str) -> None:
    await core.make_source()
    key = await core.make_key()
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("ALTER TABLE queue RENAME TO away")
        stream = core.ingest.BatchIngestStream(metadata=FACADE)
        await stream.write(BatchIngestStreamRequest(requests=[a_request(key.secret)]))
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stream.read()
        failed = failure_of(caught.value)
        assert (failed.code, failed.reason) == (grpc.StatusCode.UNAVAILABLE, "STORAGE_UNAVAILABLE")
        connection.execute("ALTER TABLE away RENAME TO queue")
    unreadable = core.channel.stream_stream("/polylect.v1.IngestService/BatchIngestStream")(metadata=FACADE)
    await unreadable.write(b"\xff\xff\xff")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await unreadable.read()
    assert failure_of(caught.value).reason == "PAYLOAD_UNREADABLE"


async def test_a_secret_key_in_a_browser_is_warned_of_once_an_hour(core: Caller, clock: Clock) -> None:
    await core.make_source()
    secret, public = [await core.make_key(kind=kind) for kind in (SECRET, PUBLIC)]
    kinds = {"accepted_kinds": [SECRET, PUBLIC]}
    with structlog.testing.capture_logs() as lines:
        for key in (secret.secret, public.secret, secret.secret):
            assert verdicts((await core.send(a_request(key, from_browser=True, **kinds)))[0]) == [""]
        await core.send(a_request(secret.secret, **kinds))
        clock.advance(seconds=3_600)
        await core.send(a_request(secret.secret, from_browser=True, **kinds))
    warnings = [line for line in lines if line["event"] == "secret_key_in_browser"]
    assert [line["key_id"] for line in warnings] == [secret.key.key_id] * 2
    assert secret.secret not in str(lines)
