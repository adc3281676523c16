"""Who a visitor is: every identify is a record, and the records alone decide, in whatever order they came."""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from polylect.v1.event_pb2 import EVENT_KIND_IDENTIFY, EVENT_KIND_TRACK, Event
from polylect.v1.query_pb2 import ListEventsRequest
from worker_factory import NOW, Clock, enqueue, make_event

from storage.database import Database
from storage.events import PostgresEvents
from storage.worker import Worker, WorkerOptions

Read = Callable[..., dict[str, str]]
USERS = ("ann", "bob", "same")


@pytest.fixture
def connection(database_url: str) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(database_url, autocommit=True) as connection:
        yield connection


@pytest.fixture
def worker(database_url: str) -> Iterator[Worker]:
    """Settles one row at a time."""
    worker = Worker(WorkerOptions(database_url, claim_items=1), Clock())
    yield worker
    worker.close()


@pytest.fixture
def read(database_url: str) -> Iterator[Read]:
    """Gives user ids by event ids, as a listing has them."""
    database = Database(database_url)
    store = PostgresEvents(database)
    with asyncio.Runner() as runner:

        def read(source_id: str | None, **filters: Any) -> dict[str, str]:
            events, _ = runner.run(store.list_events(source_id, ListEventsRequest(**filters), 1000))
            return {event.event_id: event.user_id for event in events}

        yield read
        runner.run(database.aclose())


def said(number: int, second: int, source_id: str, **fields: Any) -> Event:
    """Give the event of that number, which decides between those of one moment."""
    kind = EVENT_KIND_IDENTIFY if fields.pop("identifies", False) else EVENT_KIND_TRACK
    event_id = f"{source_id[:8]}-0000-7000-8000-{number:012d}"
    received_at = NOW + timedelta(seconds=second)
    return make_event(received_at, source_id=source_id, event_id=event_id, kind=kind, **fields)


def settle(connection: psycopg.Connection[Any], worker: Worker, *batches: Sequence[Event]) -> None:
    for batch in batches:
        enqueue(connection, *batch)
    worker.settle_all()


def by_the_rule(events: Sequence[Event]) -> dict[str, str]:
    """Say what each event must be read with, from the rule's words."""

    def at(event: Event) -> tuple[int, str]:
        return event.received_at.seconds, event.event_id

    def user_of(event: Event) -> str:
        visitors = {event.anonymous_id, event.cookie_id} - {""}
        identifies = sorted((other for other in events if visitors & _linked_by(other)), key=at)
        before = [other for other in identifies if at(other) <= at(event)]
        return (before[-1:] or identifies[:1] or [Event()])[0].user_id

    return {event.event_id: event.user_id or user_of(event) for event in events}


def _linked_by(event: Event) -> set[str]:
    if event.kind != EVENT_KIND_IDENTIFY:
        return set()
    return {event.anonymous_id, event.cookie_id} - {"", event.user_id}


visitors = st.sampled_from(["", "phone", "laptop", "same"])
facts = st.lists(
    st.tuples(
        st.integers(0, 3),
        st.fixed_dictionaries({"anonymous_id": visitors, "cookie_id": visitors}),
        st.one_of(
            st.fixed_dictionaries({"identifies": st.just(True), "user_id": st.sampled_from(USERS)}),
            st.fixed_dictionaries({"user_id": st.sampled_from(["", "", "", *USERS])}),
        ),
    ),
    min_size=1,
    max_size=10,
)


@st.composite
def told(draw: st.DrawFn) -> tuple[list[Any], list[list[int]], list[list[int]]]:
    """Draw facts, and two orders in which they come, each cut into batches."""
    drawn = draw(facts)
    orders = [draw(st.permutations(range(len(drawn)))) for _ in range(2)]
    return drawn, *(_cut(order, draw(st.integers(1, len(drawn)))) for order in orders)


def _cut(order: list[int], size: int) -> list[list[int]]:
    return [order[first : first + size] for first in range(0, len(order), size)]


def _identify(second: int, user: str) -> tuple[int, dict[str, str], dict[str, Any]]:
    return second, {"anonymous_id": "phone"}, {"identifies": True, "user_id": user}


def _seen(second: int) -> tuple[int, dict[str, str], dict[str, Any]]:
    return second, {"anonymous_id": "phone"}, {}


_BACK_AND_FORTH = [_identify(0, "ann"), _identify(1, "bob"), _identify(2, "ann"), _seen(3)]
_AT_ONCE = [_seen(1), _identify(1, "bob"), _seen(1), _identify(1, "ann"), _seen(1), _seen(0)]


@settings(
    deadline=None,
    max_examples=60,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(told())
@example((_BACK_AND_FORTH, [[0], [1], [2], [3]], [[3, 2, 1, 0]]))
@example((_AT_ONCE, [[0, 1, 2, 3, 4, 5]], [[5], [3], [4], [1], [0], [2]]))
def test_any_order_of_events_over_any_claims_reads_the_same(
    connection: psycopg.Connection[Any], worker: Worker, read: Read, story: Any
) -> None:
    drawn, *orders = story
    for batches in orders:
        source_id = str(uuid4())
        events = [
            said(number, second, source_id, **visitor, **user)
            for number, (second, visitor, user) in enumerate(drawn)
        ]
        expected = by_the_rule(events)
        settle(connection, worker, *([events[number] for number in batch] for batch in batches))
        assert read(source_id) == expected
        for user in USERS:
            of_user = {event_id: user for event_id, read_as in expected.items() if read_as == user}
            assert read(source_id, user_id=user) == of_user


def test_every_identify_is_a_record(connection: psycopg.Connection[Any], worker: Worker) -> None:
    source_id = str(uuid4())
    repeated = [
        said(number, second, source_id, anonymous_id="phone", user_id="ann", identifies=True)
        for number, second in enumerate((5, 1, 1, 9))
    ]
    settle(connection, worker, repeated[:2], repeated[2:])
    records = connection.execute(
        "SELECT source_id::text, anonymous_id, user_id, linked_at, event_id::text FROM identity_links"
        " ORDER BY event_id"
    ).fetchall()
    assert records == [
        (source_id, "phone", "ann", event.received_at.ToDatetime(NOW.tzinfo), event.event_id)
        for event in repeated
    ]


def test_sources_know_nothing_of_each_others_users(
    connection: psycopg.Connection[Any], worker: Worker, read: Read
) -> None:
    mine, others = str(uuid4()), str(uuid4())
    for source_id, name in ((mine, "mine"), (others, "others")):
        connection.execute("INSERT INTO sources (source_id, name) VALUES (%s, %s)", (source_id, name))
    seen = [said(1, 1, source_id, anonymous_id="phone") for source_id in (mine, others)]
    settle(connection, worker, seen)
    settle(connection, worker, [said(2, 2, mine, anonymous_id="phone", user_id="ann", identifies=True)])
    assert read(others) == {seen[1].event_id: ""}
    assert read(None)[seen[0].event_id] == "ann"
    assert set(read(None, user_id="ann")) == set(read(mine))


def test_a_visitor_of_many_records_is_looked_up_not_searched(
    connection: psycopg.Connection[Any], worker: Worker, read: Read
) -> None:
    source_id = str(uuid4())
    connection.execute(
        "INSERT INTO identity_links (source_id, anonymous_id, user_id, event_id, linked_at)"
        " SELECT %s::uuid, 'kiosk', 'user ' || n, %s::uuid, %s + n * interval '1 second'"
        " FROM generate_series(1, 20000) AS n",
        (source_id, str(UUID(int=0)), NOW),
    )
    connection.execute("ANALYZE identity_links")
    events = [said(number, number, source_id, anonymous_id="kiosk") for number in range(200)]
    settle(connection, worker, events)
    expected = {event.event_id: f"user {max(number, 1)}" for number, event in enumerate(events)}
    assert read(source_id) == expected
    assert read(source_id, user_id="user 7") == {events[7].event_id: "user 7"}
    # What a session read is counted at its end.
    connection.execute(
        "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
        " WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )
    [(looks, rows)] = connection.execute(
        "SELECT idx_scan, idx_tup_fetch + seq_tup_read FROM pg_stat_user_tables"
        " WHERE relname = 'identity_links'"
    )
    assert looks >= 400
    assert rows < 2_000
