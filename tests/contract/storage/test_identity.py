"""Who a visitor is: identifies and unlinks are records that alone decide, in whatever order they came."""

import asyncio
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from identity_model import Model
from polylect.v1.event_pb2 import EVENT_KIND_GROUP, EVENT_KIND_IDENTIFY, EVENT_KIND_TRACK, Event
from polylect.v1.identity_pb2 import GetIdentityResponse, IdentityUnlink
from polylect.v1.query_pb2 import ListEventsRequest
from worker_factory import NOW, Clock, enqueue, make_event

from storage.database import Database
from storage.events import PostgresEvents
from storage.identity_records import PostgresIdentity
from storage.values import timestamp_of
from storage.worker import Worker, WorkerOptions

USERS = ("ann", "bob", "same")
VISITORS = ("phone", "laptop", "same")
KINDS = {"identify": EVENT_KIND_IDENTIFY, "track": EVENT_KIND_TRACK, "group": EVENT_KIND_GROUP}


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


@dataclass(frozen=True)
class Store:
    """The two stores, asked from here one question after the other."""

    runner: asyncio.Runner
    events: PostgresEvents
    identity: PostgresIdentity

    def users(self, source_id: str | None, **filters: Any) -> dict[str, str]:
        """Give user ids by event ids, as a listing has them."""
        request = ListEventsRequest(**filters)
        events, _ = self.runner.run(self.events.list_events(source_id, request, 1000))
        return {event.event_id: event.user_id for event in events}

    def user_of(self, source_id: str, event_id: str) -> str:
        event = self.runner.run(self.events.get_event(source_id, event_id=event_id))
        assert event is not None
        return event.user_id

    def of_user(self, source_id: str, user_id: str, page_size: int = 1000) -> GetIdentityResponse:
        return self._whole(self.identity.user_identity, source_id, user_id, page_size)

    def of_visitor(self, source_id: str, anonymous_id: str, page_size: int = 1000) -> GetIdentityResponse:
        return self._whole(self.identity.visitor_identity, source_id, anonymous_id, page_size)

    def _whole(self, ask: Callable[..., Any], *asked: Any) -> GetIdentityResponse:
        """Read all pages into one."""
        *which, page_size = asked
        whole = self.runner.run(ask(*which, page_size, ""))
        token, whole.next_page_token = whole.next_page_token, ""
        while token:
            page = self.runner.run(ask(*which, page_size, token))
            assert 0 < len(page.records) <= page_size
            assert not page.connected
            assert not page.groups
            token, page.next_page_token = page.next_page_token, ""
            records = [*page.records, *whole.records]
            del whole.records[:]
            whole.records.extend(records)
        return whole

    def unlink(self, source_id: str, unlink: IdentityUnlink, *, dry_run: bool = False) -> Any:
        return self.runner.run(self.identity.unlink(source_id, unlink, dry_run=dry_run))


@pytest.fixture
def store(database_url: str) -> Iterator[Store]:
    database = Database(database_url)
    with asyncio.Runner() as runner:
        yield Store(runner, PostgresEvents(database), PostgresIdentity(database))
        runner.run(database.aclose())


def said(number: int, second: int, source_id: str, kind: str = "track", **fields: Any) -> Event:
    """Give the event of that number, which decides between those of one moment."""
    event_id = f"{source_id[:8]}-0000-7000-8000-{number:012d}"
    received_at = NOW + timedelta(seconds=second)
    return make_event(received_at, source_id=source_id, event_id=event_id, kind=KINDS[kind], **fields)


def undone(number: int, second: int, source_id: str, visitor: str, user: str) -> IdentityUnlink:
    """Give the unlink of that number, made at that second."""
    return IdentityUnlink(
        anonymous_id=visitor,
        user_id=user,
        unlinked_at=timestamp_of(NOW + timedelta(seconds=second)),
        unlink_id=f"{source_id[:8]}-0000-7000-9000-{number:012d}",
        reason=f"reason {number}",
    )


def settle(connection: psycopg.Connection[Any], worker: Worker, *batches: Sequence[Event]) -> None:
    for batch in batches:
        enqueue(connection, *batch)
    worker.settle_all()


_LATEST = """
SELECT max(linked_at) FROM identity_links
WHERE source_id = %s AND anonymous_id = %s AND user_id = %s AND NOT EXISTS (
    SELECT FROM identity_unlinks AS u
    WHERE u.source_id = identity_links.source_id AND u.anonymous_id = identity_links.anonymous_id
    AND u.user_id = identity_links.user_id AND unlinked_at >= linked_at)
"""


def take_back(
    connection: psycopg.Connection[Any], store: Store, source_id: str, unlink: IdentityUnlink
) -> None:
    """Unlink as asked where there is what to unlink; else leave the record, as if links came in later."""
    pair = (source_id, unlink.anonymous_id, unlink.user_id)
    [(latest,)] = connection.execute(_LATEST, pair).fetchall()
    unlinked_at = unlink.unlinked_at.ToDatetime(NOW.tzinfo)
    if latest is not None and latest <= unlinked_at:
        assert store.unlink(source_id, unlink).unlink == unlink
    else:
        values = (*pair, unlinked_at, unlink.unlink_id, unlink.reason)
        connection.execute("INSERT INTO identity_unlinks VALUES (%s, %s, %s, %s, %s, %s)", values)


visitors = st.sampled_from(["", *VISITORS])
facts = st.one_of(
    st.tuples(
        st.just("event"),
        st.integers(0, 3),
        st.fixed_dictionaries({"anonymous_id": visitors, "cookie_id": visitors}),
        st.one_of(
            st.fixed_dictionaries({"kind": st.just("identify"), "user_id": st.sampled_from(USERS)}),
            st.fixed_dictionaries({"user_id": st.sampled_from(["", "", "", *USERS])}),
            st.fixed_dictionaries(
                {
                    "kind": st.just("group"),
                    "user_id": st.sampled_from(["", "", *USERS]),
                    "group_id": st.sampled_from(["acme", "globex"]),
                }
            ),
        ),
    ),
    st.tuples(st.just("unlink"), st.integers(0, 3), st.sampled_from(VISITORS), st.sampled_from(USERS)),
)


@st.composite
def told(draw: st.DrawFn) -> tuple[list[Any], list[list[int]], list[list[int]]]:
    """Draw facts, and two orders in which they come, each cut into batches."""
    drawn = draw(st.lists(facts, min_size=1, max_size=12))
    orders = [draw(st.permutations(range(len(drawn)))) for _ in range(2)]
    return drawn, *(_cut(order, draw(st.integers(1, len(drawn)))) for order in orders)


def _cut(order: list[int], size: int) -> list[list[int]]:
    return [order[first : first + size] for first in range(0, len(order), size)]


def _identify(second: int, user: str) -> Any:
    return "event", second, {"anonymous_id": "phone"}, {"kind": "identify", "user_id": user}


def _seen(second: int) -> Any:
    return "event", second, {"anonymous_id": "phone"}, {}


def _unlink(second: int, user: str) -> Any:
    return "unlink", second, "phone", user


_BACK_AND_FORTH = [_identify(0, "ann"), _identify(1, "bob"), _identify(2, "ann"), _seen(3)]
_AT_ONCE = [_seen(1), _identify(1, "bob"), _seen(1), _identify(1, "ann"), _seen(1), _seen(0)]
_UNDONE = [_identify(0, "ann"), _identify(1, "bob"), _identify(2, "bob"), _unlink(2, "bob"), _seen(3)]
_REDONE = [_identify(0, "ann"), _unlink(1, "ann"), _identify(2, "ann"), _seen(0), _seen(3)]


@settings(
    deadline=None,
    max_examples=40,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(told())
@example((_BACK_AND_FORTH, [[0], [1], [2], [3]], [[3, 2, 1, 0]]))
@example((_AT_ONCE, [[0, 1, 2, 3, 4, 5]], [[5], [3], [4], [1], [0], [2]]))
@example((_UNDONE, [[0, 1, 2, 3, 4]], [[3], [4], [2], [1], [0]]))
@example((_REDONE, [[0], [1], [2], [3], [4]], [[2, 3, 4], [1], [0]]))
def test_any_order_of_events_and_unlinks_over_any_claims_reads_the_same(
    connection: psycopg.Connection[Any], worker: Worker, store: Store, story: Any
) -> None:
    drawn, *orders = story
    for batches in orders:
        source_id = str(uuid4())
        items = [_item(number, source_id, fact) for number, fact in enumerate(drawn)]
        for batch in batches:
            settle(connection, worker, [items[n] for n in batch if isinstance(items[n], Event)])
            for number in batch:
                if isinstance(items[number], IdentityUnlink):
                    take_back(connection, store, source_id, items[number])
        _compare(store, source_id, Model(*_apart(items)))


def _item(number: int, source_id: str, fact: Any) -> Event | IdentityUnlink:
    what, second, *rest = fact
    if what == "unlink":
        return undone(number, second, source_id, *rest)
    visitor, more = rest
    return said(number, second, source_id, **visitor, **more)


def _apart(items: Sequence[Event | IdentityUnlink]) -> tuple[list[Event], list[IdentityUnlink]]:
    events = [item for item in items if isinstance(item, Event)]
    return events, [item for item in items if isinstance(item, IdentityUnlink)]


def _compare(store: Store, source_id: str, model: Model) -> None:
    expected = model.users()
    assert store.users(source_id) == expected
    assert {event_id: store.user_of(source_id, event_id) for event_id in expected} == expected
    for user in USERS:
        of_user = {event_id: user for event_id, read_as in expected.items() if read_as == user}
        assert store.users(source_id, user_id=user) == of_user
        assert store.of_user(source_id, user, 2) == model.of_user(user)
    for visitor in VISITORS:
        assert store.of_visitor(source_id, visitor, 3) == model.of_visitor(visitor)


_DOCUMENT = (Path(__file__).parents[3] / "docs" / "identity.md").read_text()
_STORIES = dict(re.findall(r"^\*\*([^*]+)\.\*\*.*?^```story\n(.*?)^```", _DOCUMENT, re.MULTILINE | re.DOTALL))
_LINE = re.compile(r"10:(\d\d)  (\w+) +((?:\w+=\S+ *)+)(?:→ (\S+))?\n")
_FIELDS = {"visitor": "anonymous_id", "cookie": "cookie_id", "user": "user_id"}


@pytest.mark.parametrize("title", _STORIES)
@pytest.mark.parametrize("step", [1, -1], ids=["forwards", "backwards"])
def test_the_documents_examples_are_so(
    connection: psycopg.Connection[Any], worker: Worker, store: Store, title: str, step: int
) -> None:
    source_id, story = str(uuid4()), _STORIES[title]
    lines = [match.groups() for match in _LINE.finditer(story)]
    assert len(lines) == story.count("\n")
    expected = {}
    for number, (minute, kind, ids, reads) in list(enumerate(lines))[::step]:
        fields = {_FIELDS[name]: text for name, text in (one.split("=") for one in ids.split())}
        if kind == "unlink":
            unlink = undone(number, int(minute), source_id, fields["anonymous_id"], fields["user_id"])
            take_back(connection, store, source_id, unlink)
            continue
        event = said(number, int(minute), source_id, kind, **fields)
        settle(connection, worker, [event])
        expected[event.event_id] = "" if reads == "nobody" else reads
    assert store.users(source_id) == expected


def test_the_document_has_all_its_examples() -> None:
    assert len(_STORIES) == _DOCUMENT.count("```story") >= 9


def test_every_identify_is_a_record(connection: psycopg.Connection[Any], worker: Worker) -> None:
    source_id = str(uuid4())
    repeated = [
        said(number, second, source_id, anonymous_id="phone", user_id="ann", kind="identify")
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
    connection: psycopg.Connection[Any], worker: Worker, store: Store
) -> None:
    mine, others = str(uuid4()), str(uuid4())
    for source_id, name in ((mine, "mine"), (others, "others")):
        connection.execute("INSERT INTO sources (source_id, name) VALUES (%s, %s)", (source_id, name))
    seen = [said(1, 1, source_id, anonymous_id="phone") for source_id in (mine, others)]
    settle(connection, worker, seen)
    settle(connection, worker, [said(2, 2, mine, anonymous_id="phone", user_id="ann", kind="identify")])
    assert store.users(others) == {seen[1].event_id: ""}
    assert store.users(None)[seen[0].event_id] == "ann"
    assert set(store.users(None, user_id="ann")) == set(store.users(mine))


def _looks(connection: psycopg.Connection[Any]) -> tuple[int, int]:
    """Give how often indexes of links were looked into, and how many rows were read."""
    # What a session read is counted at its end.
    connection.execute(
        "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
        " WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )
    [(looks, rows)] = connection.execute(
        "SELECT idx_scan, idx_tup_fetch + seq_tup_read FROM pg_stat_user_tables"
        " WHERE relname = 'identity_links'"
    )
    return looks, rows


def test_a_visitor_of_many_records_is_looked_up_not_searched(
    connection: psycopg.Connection[Any], worker: Worker, store: Store
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
    assert store.users(source_id) == expected
    assert store.users(source_id, user_id="user 7") == {events[7].event_id: "user 7"}
    looks, rows = _looks(connection)
    assert looks >= 400
    assert rows < 2_000


def test_links_that_are_void_are_not_passed_one_by_one(
    connection: psycopg.Connection[Any], worker: Worker, store: Store
) -> None:
    source_id = str(uuid4())
    first = said(0, -1, source_id, anonymous_id="kiosk", user_id="ann", kind="identify")
    events = [said(number, 30_000 + number, source_id, anonymous_id="kiosk") for number in range(1, 101)]
    settle(connection, worker, [first, *events])
    connection.execute(
        "INSERT INTO identity_links (source_id, anonymous_id, user_id, event_id, linked_at)"
        " SELECT %s::uuid, 'kiosk', 'bob', %s::uuid, %s + n * interval '1 second'"
        " FROM generate_series(1, 20000) AS n",
        (source_id, str(UUID(int=0)), NOW),
    )
    assert store.unlink(source_id, undone(0, 29_000, source_id, "kiosk", "bob")).voided_links == 20_000
    connection.execute("VACUUM ANALYZE identity_links")
    _, before = _looks(connection)
    expected = {event.event_id: "ann" for event in (first, *events)}
    assert store.users(source_id) == expected
    assert store.users(source_id, user_id="ann") == expected
    assert store.users(source_id, user_id="bob") == {}
    _, after = _looks(connection)
    assert after - before < 2_000
