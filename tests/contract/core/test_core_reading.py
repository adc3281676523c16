"""QueryService: what was stored, and only to whom it belongs."""

import asyncio
from datetime import timedelta
from typing import Any

import grpc
import psycopg
import pytest
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
)
from google.protobuf.timestamp_pb2 import Timestamp
from polylect.v1 import error_reason_pb2 as reasons
from polylect.v1 import event_pb2, ingest_pb2
from polylect.v1.error_reason_pb2 import Rejection
from polylect.v1.event_pb2 import Provenance
from polylect.v1.ingest_pb2 import ClientItem
from polylect.v1.quarantine_pb2 import ListRequest
from polylect.v1.query_pb2 import (
    STATS_GROUP_BY_DAY,
    STATS_GROUP_BY_HOUR,
    STATS_METRIC_CONVERSION_RATE,
    STATS_METRIC_EVENT_COUNT,
    STATS_METRIC_EVENT_COUNT_BY_TYPE,
    GetEventRequest,
    GetStatsRequest,
    GetStatsResponse,
    ListEventsRequest,
    ListEventsResponse,
    StatsGroup,
)

PULSE, SECRET = ingest_pb2.KEY_KIND_PULSE, ingest_pb2.KEY_KIND_PULSORA_SECRET


def at(moment: Any) -> Timestamp:
    timestamp = Timestamp()
    timestamp.FromDatetime(moment)
    return timestamp


def count_request(**fields: Any) -> GetStatsRequest:
    whole = {
        "metric": STATS_METRIC_EVENT_COUNT,
        "occurred_from": at(NOW - timedelta(days=1)),
        "occurred_until": at(NOW + timedelta(seconds=1)),
    }
    return GetStatsRequest(**{**whole, **fields})


class Shops:
    """Two sources, `shop` with three events and `other` with one, each with a key that may read."""

    def __init__(self, core: Caller) -> None:
        self.core = core
        self.ids: list[str] = []

    async def fill(self, settle: Any) -> None:
        await self.core.make_source("shop")
        await self.core.make_source("other")
        self.key = (await self.core.make_key("shop", SECRET)).secret
        self.other_key = (await self.core.make_key("other", SECRET)).secret
        events = [
            an_event(message_id="m1"),
            an_event(name="click", user_id="u1"),
            an_event(kind=event_pb2.EVENT_KIND_PAGE, name=""),
        ]
        refused = ClientItem(
            rejection=Rejection(reason=reasons.ERROR_REASON_FIELD_MISSING, message="no"), raw=b"{}"
        )
        shop, other = await self.core.send(
            a_request(self.key, *events, refused), a_request(self.other_key, an_event(message_id="m1"))
        )
        self.ids = [result.event_id for result in (*shop.results, *other.results) if result.event_id]
        await settle()


@pytest.fixture
async def shops(core: Caller, settle: Any) -> Shops:
    shops = Shops(core)
    await shops.fill(settle)
    return shops


async def test_get_event(core: Caller, shops: Shops) -> None:
    mine, theirs = shops.ids[0], shops.ids[3]
    for request, metadata in (
        (GetEventRequest(event_id=mine), bearer(shops.key)),
        (GetEventRequest(event_id=mine, source="shop"), bearer(shops.key)),
        (GetEventRequest(message_id="m1"), bearer(shops.key)),
        (GetEventRequest(event_id=mine), ADMIN),
        (GetEventRequest(message_id="m1", source="shop"), ADMIN),
    ):
        answer = await core.query.GetEvent(request, metadata=metadata)
        assert (answer.event.event_id, answer.event.message_id) == (mine, "m1")
    for request, metadata, code, reason in (
        (GetEventRequest(event_id=theirs), bearer(shops.key), "NOT_FOUND", "NOT_FOUND"),
        (GetEventRequest(event_id=mine, source="other"), bearer(shops.key), "NOT_FOUND", "NOT_FOUND"),
        (GetEventRequest(event_id=mine, source="nowhere"), ADMIN, "NOT_FOUND", "NOT_FOUND"),
        (GetEventRequest(event_id="not\0an id"), ADMIN, "NOT_FOUND", "NOT_FOUND"),
        (GetEventRequest(message_id="m2\0"), bearer(shops.key), "NOT_FOUND", "NOT_FOUND"),
        (GetEventRequest(message_id="m1"), ADMIN, "INVALID_ARGUMENT", "FIELD_MISSING"),
        (GetEventRequest(), ADMIN, "INVALID_ARGUMENT", "FIELD_MISSING"),
    ):
        failed = await failure(core.query.GetEvent(request, metadata=metadata))
        assert (failed.code.name, failed.reason) == (code, reason)


async def test_list_events(core: Caller, shops: Shops) -> None:
    async def listed(metadata: Any, **filters: Any) -> list[str]:
        answer = await core.query.ListEvents(ListEventsRequest(**filters), metadata=metadata)
        return [event.event_id for event in answer.events]

    first, second, third, fourth = shops.ids
    assert await listed(bearer(shops.key)) == [third, second, first]
    assert await listed(ADMIN) == [fourth, third, second, first]
    assert await listed(ADMIN, source="other") == [fourth]
    assert await listed(bearer(shops.key), name="click") == [second]
    assert await listed(bearer(shops.key), kind=event_pb2.EVENT_KIND_PAGE) == [third]
    assert await listed(bearer(shops.key), received_until=at(NOW)) == []
    assert await listed(bearer(shops.key), page_size=2_000_000_000) == [third, second, first]
    assert await listed(bearer(shops.key), received_from={"seconds": -(2**62)}) == [third, second, first]
    page = await core.query.ListEvents(ListEventsRequest(page_size=2), metadata=bearer(shops.key))
    assert await listed(bearer(shops.key), page_size=2, page_token=page.next_page_token) == [first]


@pytest.mark.parametrize(
    ("filters", "code", "field"),
    [
        ({"page_token": "nonsense"}, "INVALID_ARGUMENT", "page_token"),
        ({"kind": 99}, "INVALID_ARGUMENT", "kind"),
        ({"source": "other"}, "NOT_FOUND", "source"),
    ],
)
async def test_a_bad_filter(core: Caller, shops: Shops, filters: Any, code: str, field: str) -> None:
    failed = await failure(core.query.ListEvents(ListEventsRequest(**filters), metadata=bearer(shops.key)))
    assert (failed.code.name, failed.field) == (code, field)


async def test_readers_need_the_scope(core: Caller, shops: Shops) -> None:
    writer = (await core.make_key("shop")).secret
    manager = (await core.make_key("shop", scopes=["admin"])).secret
    calls = (
        (core.query.GetEvent, GetEventRequest(event_id=shops.ids[0])),
        (core.query.ListEvents, ListEventsRequest()),
        (core.query.GetStats, count_request()),
        (core.quarantine.List, ListRequest()),
    )
    for call, request in calls:
        for metadata, code, reason in (
            ((), grpc.StatusCode.UNAUTHENTICATED, "CREDENTIAL_MISSING"),
            (bearer("nobody"), grpc.StatusCode.UNAUTHENTICATED, "CREDENTIAL_INVALID"),
            (bearer(writer), grpc.StatusCode.PERMISSION_DENIED, "SCOPE_MISSING"),
            (FACADE, grpc.StatusCode.PERMISSION_DENIED, "SCOPE_MISSING"),
        ):
            failed = await failure(call(request, metadata=metadata))
            assert (failed.code, failed.reason) == (code, reason)
        await call(request, metadata=bearer(manager))


async def test_slow_queries_of_one_source_keep_no_other_waiting(
    core: Caller, shops: Shops, database_url: str
) -> None:
    with psycopg.connect(database_url) as lock:
        lock.execute("LOCK TABLE events")
        slow = [core.query.ListEvents(ListEventsRequest(), metadata=bearer(shops.key)) for _ in range(20)]
        refused = await failure(core.query.ListEvents(ListEventsRequest(), metadata=bearer(shops.key)))
        for metadata in (bearer(shops.other_key), ADMIN):
            await core.quarantine.List(ListRequest(), metadata=metadata, timeout=5)
        lock.commit()
    assert (refused.code, refused.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "OVERLOADED")
    assert refused.retry_seconds == 1
    answers = await asyncio.gather(*slow, return_exceptions=True)
    pages = [answer.events for answer in answers if isinstance(answer, ListEventsResponse)]
    assert [len(page) for page in pages] == [3] * 16
    # Nothing of the crowd is remembered.
    await core.query.ListEvents(ListEventsRequest(), metadata=bearer(shops.key))


async def test_who_gave_up_waiting_is_not_waited_for(core: Caller, shops: Shops, database_url: str) -> None:
    with psycopg.connect(database_url) as lock:
        lock.execute("LOCK TABLE events")
        calls = [core.query.ListEvents(ListEventsRequest(), metadata=bearer(shops.key)) for _ in range(3)]
        gave_up = core.query.ListEvents(ListEventsRequest(), metadata=bearer(shops.key), timeout=0.2)
        with pytest.raises(grpc.aio.AioRpcError):
            await gave_up
        calls[0].cancel()
        lock.commit()
    for call in calls[1:]:
        assert len((await call).events) == 3


@pytest.fixture
async def pulse(core: Caller, settle: Any) -> str:
    """A key for the sites a and b, with two events at a and one at b."""
    await core.make_source("shop")
    key = (await core.make_key("shop", PULSE, sites=["a", "b"])).secret
    events = [an_event(provenance=Provenance(site_id=site)) for site in "aab"]
    await core.send(a_request(key, *events))
    await settle()
    return key


async def test_stats(core: Caller, pulse: str) -> None:
    async def count(metadata: Any, **fields: Any) -> float:
        return (await core.query.GetStats(count_request(**fields), metadata=metadata)).value

    assert await count(bearer(pulse), site_id="a") == 2
    assert await count(bearer(pulse), site_id="b") == 1
    assert await count(bearer(pulse), site_id="a", occurred_until=at(NOW)) == 0
    assert await count(ADMIN, source="shop") == 3
    assert await count(ADMIN, source="shop", site_id="b") == 1
    unsited = (await core.make_key("shop", SECRET)).secret
    assert await count(bearer(unsited)) == 3
    everything = {"occurred_from": {"seconds": -(2**62)}, "occurred_until": {"seconds": 2**62}}
    assert await count(ADMIN, source="shop", **everything) == 3


async def test_stats_are_typed(core: Caller, settle: Any) -> None:
    await core.make_source("shop")
    key = (await core.make_key("shop", SECRET)).secret
    bought = an_event(name="purchase", session_id="s")
    await core.send(a_request(key, bought, an_event(name="click", session_id="t"), an_event(name="click")))
    await settle()
    request = count_request(metric=STATS_METRIC_EVENT_COUNT_BY_TYPE, group_by=STATS_GROUP_BY_DAY)
    answer = await core.query.GetStats(request, metadata=bearer(key))
    day = at(NOW.replace(hour=0, minute=0, second=0, microsecond=0))
    click = StatsGroup(start=day, kind=event_pb2.EVENT_KIND_TRACK, name="click", value=2)
    purchase = StatsGroup(start=day, kind=event_pb2.EVENT_KIND_TRACK, name="purchase", value=1)
    assert answer == GetStatsResponse(value=3, groups=[click, purchase])
    for named, rate in (("", 100 / 3), ("click", 200 / 3), ("refund", 0)):
        request = count_request(metric=STATS_METRIC_CONVERSION_RATE, conversion_event=named)
        assert (await core.query.GetStats(request, metadata=bearer(key))).value == pytest.approx(rate)


@pytest.mark.parametrize(
    ("fields", "code", "reason", "field"),
    [
        ({"site_id": "c"}, "NOT_FOUND", "SITE_UNKNOWN", "site_id"),
        ({}, "INVALID_ARGUMENT", "FIELD_MISSING", "site_id"),
        ({"site_id": "a", "metric": 0}, "INVALID_ARGUMENT", "METRIC_UNKNOWN", "metric"),
        ({"site_id": "a", "metric": 77}, "INVALID_ARGUMENT", "METRIC_UNKNOWN", "metric"),
        ({"site_id": "a", "group_by": 77}, "INVALID_ARGUMENT", "FIELD_INVALID", "group_by"),
        (
            {
                "site_id": "a",
                "group_by": STATS_GROUP_BY_HOUR,
                "occurred_from": at(NOW - timedelta(hours=800)),
            },
            "INVALID_ARGUMENT",
            "FIELD_INVALID",
            "group_by",
        ),
        (
            {"site_id": "a", "group_by": STATS_GROUP_BY_DAY, "occurred_from": {"seconds": -(2**62)}},
            "INVALID_ARGUMENT",
            "FIELD_INVALID",
            "group_by",
        ),
        ({"site_id": "a", "occurred_from": None}, "INVALID_ARGUMENT", "FIELD_MISSING", "occurred_from"),
        ({"site_id": "a", "occurred_until": None}, "INVALID_ARGUMENT", "FIELD_MISSING", "occurred_until"),
        (
            {"site_id": "a", "occurred_from": at(NOW), "occurred_until": at(NOW)},
            "INVALID_ARGUMENT",
            "FIELD_INVALID",
            "occurred_until",
        ),
        ({"site_id": "a", "source": "other"}, "NOT_FOUND", "NOT_FOUND", "source"),
    ],
)
async def test_bad_stats(core: Caller, pulse: str, fields: Any, code: str, reason: str, field: str) -> None:
    failed = await failure(core.query.GetStats(count_request(**fields), metadata=bearer(pulse)))
    assert (failed.code.name, failed.reason, failed.field) == (code, reason, field)
    assert failed.trailing["ratelimit-remaining"] == "999"


async def test_the_admin_names_a_source_for_stats(core: Caller) -> None:
    failed = await failure(core.query.GetStats(count_request(), metadata=ADMIN))
    assert (failed.reason, failed.field) == ("FIELD_MISSING", "source")


async def test_the_quota_of_stats(core: Caller, pulse: str, clock: Clock) -> None:
    request = count_request(site_id="a")
    call = core.query.GetStats(request, metadata=bearer(pulse))
    await call
    trailing = dict(await call.trailing_metadata())
    assert trailing["ratelimit-limit"] == "1000"
    assert trailing["ratelimit-remaining"] == "999"
    assert trailing["ratelimit-reset"] == "60"
    for _ in range(999):
        # Refused for its shape without a query, and counted all the same.
        await failure(core.query.GetStats(GetStatsRequest(), metadata=bearer(pulse)))
    failed = await failure(core.query.GetStats(request, metadata=bearer(pulse)))
    assert (failed.code, failed.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "RATE_LIMITED")
    assert (failed.retry_seconds, failed.trailing["ratelimit-remaining"]) == (60, "0")
    other = (await core.make_key("shop", PULSE, sites=["a"])).secret
    assert (await core.query.GetStats(request, metadata=bearer(other))).value == 2
    clock.advance(seconds=60)
    assert (await core.query.GetStats(request, metadata=bearer(pulse))).value == 2
