"""Reading back from real Postgres: newest first, in pages, by either id, counted by the clients' time."""

import asyncio
import base64
import sys
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import psycopg
import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from polylect.v1.event_pb2 import (
    EVENT_KIND_IDENTIFY,
    EVENT_KIND_PAGE,
    EVENT_KIND_REVENUE,
    EVENT_KIND_TRACK,
    Event,
    Provenance,
    Revenue,
)
from polylect.v1.query_pb2 import ListEventsRequest

from storage.database import Database
from storage.dedup import dedup_key
from storage.errors import StorageUnavailable
from storage.events import PostgresEvents
from storage.partitions import Partitions
from storage.rows import COLUMNS, COPY, row_of, write_rows
from storage.values import timestamp_of

NOW = datetime(2026, 2, 25, 14, 30, 0, 123456, tzinfo=UTC)
SHOP, BLOG = "01900000-0000-7000-8000-00000000000a", "01900000-0000-7000-8000-00000000000b"
DAY = timedelta(days=1)
NEVER_STORED = "0194f2aa-0000-7000-8000-00000000dead"
BAD_TOKENS = [
    "x",
    "!!!!",
    "é",
    "AAAAAAAAAAAAAAAAAAAAAAA",
    "e" * 10_000,
    # Right but for its length, its alphabet, or its bits to spare.
    base64.urlsafe_b64encode(b"e" + bytes(15)).decode().rstrip("="),
    base64.urlsafe_b64encode(b"e" + bytes(17)).decode().rstrip("="),
    base64.urlsafe_b64encode(b"e" + bytes(16)).decode(),
    base64.urlsafe_b64encode(b"e" + bytes(16)).decode().rstrip("=") + " ",
    base64.urlsafe_b64encode(b"e" + bytes(16)).decode().rstrip("=")[:-1] + "B",
    base64.urlsafe_b64encode(b"?" + bytes(16)).decode().rstrip("="),
]


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    database = Database(database_url)
    yield database
    await database.aclose()


@pytest.fixture
def store(database: Database, database_url: str) -> PostgresEvents:
    with psycopg.connect(database_url) as connection:
        for source_id, name in ((SHOP, "shop"), (BLOG, "blog")):
            connection.execute("INSERT INTO sources (source_id, name) VALUES (%s, %s)", (source_id, name))
    return PostgresEvents(database)


def uuid7_at(moment: datetime, number: int = 0) -> str:
    milliseconds = (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1)
    return str(UUID(int=milliseconds << 80 | 7 << 76 | 2 << 62 | number))


def make_event(
    number: int = 0, *, age: timedelta = timedelta(), source_id: str = SHOP, **fields: Any
) -> Event:
    received_at = NOW - age
    return Event(
        **{
            "source_id": source_id,
            "event_id": uuid7_at(received_at, number),
            "kind": EVENT_KIND_TRACK,
            "name": f"event {number}",
            "received_at": timestamp_of(received_at),
            "occurred_at": timestamp_of(received_at),
            "properties_json": '{"n": 1.10}',
            "traits_json": "{}",
            "context_json": "{}",
            "provenance": Provenance(dialect="datafly"),
        }
        | fields
    )


def store_events(url: str, events: Sequence[Event]) -> None:
    """Put them where the worker would, with the keys it would keep."""
    Partitions(lambda: psycopg.connect(url, autocommit=True)).ensure(
        {event.received_at.ToDatetime(UTC).date() for event in events}
    )
    with psycopg.connect(url) as connection, connection.cursor() as cursor:
        with cursor.copy(COPY) as copy:
            write_rows(copy, [row_of(event) for event in events])
        for event in events:
            if key := dedup_key(event):
                values = (event.source_id, key, event.event_id, event.received_at.ToDatetime(UTC))
                cursor.execute("INSERT INTO dedup_keys VALUES (%s, %s, %s, %s)", values)


async def all_pages(
    store: PostgresEvents, source_id: str | None, page_size: int, **filters: Any
) -> list[list[Event]]:
    pages, token = [], ""
    while True:
        events, token = await store.list_events(
            source_id, ListEventsRequest(page_token=token, **filters), page_size
        )
        pages.append(events)
        if not token:
            return pages


async def test_a_source_is_listed_newest_first_page_by_page_across_days(
    store: PostgresEvents, database_url: str
) -> None:
    mine = [make_event(number, age=number * timedelta(hours=9)) for number in range(10)]
    store_events(database_url, [*mine[::2], *mine[1::2], make_event(99, source_id=BLOG)])
    assert await all_pages(store, SHOP, 4) == [mine[0:4], mine[4:8], mine[8:10]]
    assert await all_pages(store, SHOP, 5) == [mine[0:5], mine[5:10]]
    assert await all_pages(store, SHOP, 50) == [mine]


async def test_all_sources_are_merged_newest_first(store: PostgresEvents, database_url: str) -> None:
    everything = [
        make_event(number, age=number * timedelta(hours=7), source_id=(SHOP, BLOG)[number % 3 == 0])
        for number in range(9)
    ]
    store_events(database_url, everything)
    assert await all_pages(store, None, 2) == [everything[n : n + 2] for n in range(0, 9, 2)]


async def test_events_that_arrive_between_pages_disturb_none(
    store: PostgresEvents, database_url: str
) -> None:
    old = [make_event(number, age=timedelta(seconds=1 + number)) for number in range(4)]
    store_events(database_url, old)
    first, token = await store.list_events(SHOP, ListEventsRequest(), 2)
    store_events(database_url, [make_event(50)])
    second, end = await store.list_events(SHOP, ListEventsRequest(page_token=token), 2)
    assert [*first, *second] == old
    assert end == ""


async def test_of_one_millisecond_none_is_lost_or_shown_twice(
    store: PostgresEvents, database_url: str
) -> None:
    together = [make_event(number) for number in range(7)]
    store_events(database_url, together)
    pages = await all_pages(store, SHOP, 3)
    assert [event for page in pages for event in page] == together[::-1]


def of_size(number: int, megabytes: float, **fields: Any) -> Event:
    properties = '{"a": "%s"}' % ("a" * int(megabytes * 2**20))
    return make_event(number, age=timedelta(seconds=number), properties_json=properties, **fields)


@pytest.mark.parametrize(
    ("megabytes", "pages"),
    [
        ([0.9] * 5, [[0, 1], [2, 3], [4]]),
        ([0, 0, 3, 0, 0], [[0, 1], [2], [3, 4]]),
        ([5], [[0]]),
        ([5, 5, 0], [[0], [1], [2]]),
        ([0, 1.9], [[0, 1]]),
    ],
)
async def test_a_page_ends_at_two_megabytes_but_has_one(
    store: PostgresEvents, database_url: str, megabytes: list[float], pages: list[list[int]]
) -> None:
    events = [of_size(number, size) for number, size in enumerate(megabytes)]
    store_events(database_url, events)
    for source_id in (SHOP, None):
        found = await all_pages(store, source_id, 1000)
        assert found == [[events[number] for number in page] for page in pages]


_LIST_IN_BOUNDS = """
import asyncio, resource, sys
from polylect.v1.query_pb2 import ListEventsRequest
from storage.database import Database
from storage.events import PostgresEvents

async def listed(page_size):
    database = Database(sys.argv[1])
    events, token = await PostgresEvents(database).list_events(sys.argv[2], ListEventsRequest(), page_size)
    await database.aclose()
    return len(events), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

(_, before), (count, after) = asyncio.run(listed(1)), asyncio.run(listed(1000))
print(count, after - before)
"""


async def test_a_listing_never_holds_much_more_than_its_page(database_url: str) -> None:
    # Other rows than the template are of the same content, so that it is quickly made.
    store_events(database_url, [of_size(0, 1)])
    with psycopg.connect(database_url) as connection:
        columns = ", ".join(column for column in COLUMNS if column != "event_id")
        connection.execute(
            f"INSERT INTO events (event_id, {columns})"
            f" SELECT gen_random_uuid(), {columns} FROM events, generate_series(1, 150)".encode()
        )
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", _LIST_IN_BOUNDS, database_url, SHOP, stdout=asyncio.subprocess.PIPE
    )
    output, _ = await process.communicate()
    count, kilobytes = map(int, output.split())
    assert count == 1
    assert kilobytes < 24 * 1024


async def test_a_page_cut_short_gives_its_connection_back(
    store: PostgresEvents, database: Database, database_url: str
) -> None:
    store_events(database_url, [of_size(number, 1.5) for number in range(20)])
    with psycopg.connect(database_url, autocommit=True) as connection:
        sessions = "SELECT array_agg(pid) FROM pg_stat_activity WHERE application_name = 'polylect'"
        await database.ping()
        (before,) = connection.execute(sessions).fetchall()
        for _ in range(5):
            assert len((await store.list_events(SHOP, ListEventsRequest(), 1000))[0]) == 1
        assert connection.execute(sessions).fetchall() == [before]


@pytest.mark.parametrize(
    ("filters", "fields"),
    [
        ({"kind": EVENT_KIND_PAGE}, {"kind": EVENT_KIND_PAGE}),
        ({"name": "Größe"}, {"name": "Größe"}),
        ({"user_id": "u"}, {"user_id": "u"}),
        ({"anonymous_id": "a"}, {"anonymous_id": "a"}),
        ({"session_id": "s"}, {"session_id": "s"}),
        ({"message_id": "m"}, {"message_id": "m"}),
        ({"dialect": "apex"}, {"provenance": Provenance(dialect="apex")}),
        ({"request_id": "r"}, {"provenance": Provenance(dialect="datafly", request_id="r")}),
        ({"name": "n", "user_id": "u"}, {"name": "n", "user_id": "u"}),
    ],
    ids="+".join,
)
async def test_every_filter_must_hold(
    store: PostgresEvents, database_url: str, filters: dict[str, Any], fields: dict[str, Any]
) -> None:
    wanted = make_event(1, **fields)
    others = [make_event(2), make_event(3, name="n"), make_event(4, source_id=BLOG, **fields)]
    others[1].kind = EVENT_KIND_IDENTIFY
    store_events(database_url, [wanted, *others])
    assert await all_pages(store, SHOP, 10, **filters) == [[wanted]]


async def test_receipt_bounds_include_the_first_and_exclude_the_last(
    store: PostgresEvents, database_url: str
) -> None:
    days = [make_event(number, age=number * DAY) for number in range(4)]
    store_events(database_url, days)
    bounds = {"received_from": timestamp_of(NOW - 2 * DAY), "received_until": timestamp_of(NOW)}
    assert await all_pages(store, SHOP, 10, **bounds) == [days[1:3]]
    end_of_time = Timestamp(seconds=2**60)
    assert await all_pages(store, SHOP, 10, received_until=end_of_time) == [days]
    assert await all_pages(store, SHOP, 10, received_from=end_of_time) == [[]]


async def test_a_filter_nothing_can_match_finds_nothing(store: PostgresEvents, database_url: str) -> None:
    store_events(database_url, [make_event(1)])
    for filters in ({"name": "n\0ul"}, {"kind": 77}, {"user_id": "é" * 5000}):
        assert await all_pages(store, SHOP, 10, **filters) == [[]]
    assert await all_pages(store, "not a source", 10) == [[]]


@pytest.mark.parametrize("token", BAD_TOKENS)
async def test_a_token_that_is_not_its_own_is_a_value_error(store: PostgresEvents, token: str) -> None:
    with pytest.raises(ValueError, match="not a page token"):
        await store.list_events(SHOP, ListEventsRequest(page_token=token), 10)


async def test_an_event_is_found_by_its_id(store: PostgresEvents, database_url: str) -> None:
    event = make_event(1, age=3 * DAY)
    store_events(database_url, [make_event(0), event, make_event(2, source_id=BLOG)])
    assert await store.get_event(SHOP, event_id=event.event_id) == event
    assert await store.get_event(SHOP, event_id=event.event_id.upper()) == event
    assert await store.get_event(None, event_id=event.event_id) == event
    assert await store.get_event(BLOG, event_id=event.event_id) is None


@pytest.mark.parametrize(
    "event_id",
    [
        # Of another day than its receipt, of no time at all, and of one past the year 9999.
        uuid7_at(NOW - 40 * DAY),
        "a1b2c3d4-e5f6-4890-abcd-ef1234567890",
        "ffffffff-ffff-7fff-bfff-ffffffffffff",
    ],
)
async def test_an_id_that_does_not_tell_the_day_is_found_all_the_same(
    store: PostgresEvents, database_url: str, event_id: str
) -> None:
    event = make_event(event_id=event_id)
    store_events(database_url, [event, make_event(1, age=DAY)])
    assert await store.get_event(SHOP, event_id=event_id) == event
    assert await store.get_event(None, event_id=event_id) == event


@pytest.mark.parametrize("event_id", [NEVER_STORED, "nonsense", "", "\0"])
async def test_an_unknown_id_is_none(store: PostgresEvents, database_url: str, event_id: str) -> None:
    store_events(database_url, [make_event(1)])
    assert await store.get_event(SHOP, event_id=event_id) is None


async def test_an_event_is_found_by_the_clients_id(store: PostgresEvents, database_url: str) -> None:
    event = make_event(1, age=DAY, message_id="m-1")
    namesake = make_event(2, source_id=BLOG, message_id="m-2")
    store_events(database_url, [event, namesake, make_event(3)])
    assert await store.get_event(SHOP, message_id="m-1") == event
    assert await store.get_event(None, message_id="m-2") == namesake
    assert await store.get_event(SHOP, message_id="m-2") is None
    assert await store.get_event(SHOP, message_id="m\0") is None
    assert await store.get_event(SHOP) is None


async def test_what_deduplication_does_not_know_is_found_by_the_clients_id_all_the_same(
    store: PostgresEvents, database_url: str
) -> None:
    revenue = Revenue(transaction_id="t-1", event_type="purchase")
    payment = make_event(1, age=DAY, message_id="m-1", kind=EVENT_KIND_REVENUE, revenue=revenue)
    forgotten, newer = (make_event(n, age=(40 - n) * DAY, message_id="m-2") for n in (2, 3))
    for event in (payment, forgotten, newer, make_event(4, source_id=BLOG, message_id="m-3")):
        with psycopg.connect(database_url) as connection:
            connection.execute("DELETE FROM dedup_keys WHERE event_id <> %s", (payment.event_id,))
        store_events(database_url, [event])
    with psycopg.connect(database_url) as connection:
        connection.execute("DELETE FROM dedup_keys WHERE event_id <> %s", (payment.event_id,))
    assert await store.get_event(SHOP, message_id="m-1") == payment
    assert await store.get_event(SHOP, message_id="m-2") == newer
    assert await store.get_event(SHOP, message_id="m-3") is None


async def test_an_unknown_clients_id_is_not_looked_for_without_end(
    store: PostgresEvents, database_url: str
) -> None:
    oldest = make_event(0, age=DAY, message_id="old")
    store_events(database_url, [oldest])
    with psycopg.connect(database_url) as connection:
        columns = ", ".join(column for column in COLUMNS if column not in ("event_id", "message_id"))
        connection.execute("DELETE FROM dedup_keys")
        connection.execute(
            f"INSERT INTO events (event_id, message_id, {columns})"
            " SELECT ('01ffffff' || substr(gen_random_uuid()::text, 9))::uuid, 'other', "
            f"{columns} FROM events, generate_series(1, 99999)".encode()
        )
        connection.commit()
        assert await store.get_event(SHOP, message_id="old") == oldest
        connection.execute(
            f"INSERT INTO events (event_id, {columns})"
            f" SELECT '02ffffff-0000-7000-8000-000000000000'::uuid, {columns} FROM events LIMIT 1".encode()
        )
        connection.commit()
    assert await store.get_event(SHOP, message_id="old") is None


async def test_before_the_first_partition_there_is_simply_nothing(store: PostgresEvents) -> None:
    assert await all_pages(store, None, 10) == [[]]
    assert await store.get_event(None, event_id=NEVER_STORED) is None


async def test_ping_answers_when_the_database_does(database: Database) -> None:
    await database.ping()
    with pytest.raises(StorageUnavailable):
        await Database("postgresql://nobody@127.0.0.1:1/nothing").ping()


def link(url: str, visitor: str, user: str, *, age: timedelta, source_id: str = SHOP) -> None:
    with psycopg.connect(url) as connection:
        values = (source_id, visitor, NOW - age, uuid7_at(NOW - age), user)
        connection.execute("INSERT INTO identity_links VALUES (%s, %s, %s, %s, %s)", values)


async def test_a_visitors_events_are_read_with_the_user(store: PostgresEvents, database_url: str) -> None:
    minute = timedelta(minutes=1)
    before = make_event(1, age=40 * minute, anonymous_id="device")
    first = make_event(2, age=20 * minute, anonymous_id="device")
    second = make_event(3, age=5 * minute, anonymous_id="other", cookie_id="device")
    own = make_event(4, age=4 * minute, anonymous_id="device", user_id="own")
    stranger = make_event(5, age=3 * minute, anonymous_id="stranger")
    foreign = make_event(6, age=2 * minute, anonymous_id="device", source_id=BLOG)
    store_events(database_url, [before, first, second, own, stranger, foreign])
    link(database_url, "device", "ann", age=30 * minute)
    link(database_url, "device", "bob", age=10 * minute)
    (page,) = await all_pages(store, None, 50)
    assert [event.user_id for event in page] == ["", "", "own", "bob", "ann", "ann"]
    assert [event.event_id for event in (await all_pages(store, SHOP, 50, user_id="ann"))[0]] == [
        first.event_id,
        before.event_id,
    ]
    found = await store.get_event(SHOP, event_id=second.event_id)
    assert found is not None
    assert found.user_id == "bob"
