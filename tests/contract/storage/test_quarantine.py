"""The quarantine in real Postgres: listed and counted, bounded, discarded, and left by what is replayed."""

import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import psycopg
import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from polylect.v1.error_reason_pb2 import (
    ERROR_REASON_FIELD_INVALID,
    ERROR_REASON_FIELD_MISSING,
    ERROR_REASON_RATE_LIMITED,
    ERROR_REASON_UNSPECIFIED,
    ERROR_REASON_UNWRITABLE,
    ErrorReason,
    Rejection,
)
from polylect.v1.event_pb2 import Event
from polylect.v1.quarantine_pb2 import (
    Circumstances,
    QuarantinedEvent,
    QuarantineFilter,
    QuarantineSummary,
    ReasonCount,
)
from polylect.v1.query_pb2 import ListEventsRequest
from polylect.v1.queue_pb2 import EventBatch
from worker_factory import Clock, column, enqueue_payload, make_event, stored_ids

from storage.database import Database
from storage.events import PostgresEvents
from storage.partitions import LOCK_SPACE, Lock
from storage.quarantine import PostgresQuarantine
from storage.quarantine_bounds import QuarantineBounds
from storage.quarantine_rows import insert_quarantined
from storage.queue import claim, encode_batch
from storage.values import NO_SOURCE, timestamp_of
from storage.worker import Worker, WorkerOptions
from storage.writer import Tally

NOW = datetime(2026, 1, 31, 12, 0, tzinfo=UTC)
SHOP, BLOG = "01941f29-7c00-7000-8000-000000000001", "01941f29-7c00-7000-8000-000000000002"
EVERYTHING = QuarantineFilter()
# Long enough to be kept beside the table, compressed.
LONG = b'{"event":"' + b"long " * 2_000 + b'"}'


def uuid7_at(moment: datetime, number: int = 0) -> str:
    milliseconds = (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1)
    return str(UUID(int=milliseconds << 80 | 7 << 76 | 2 << 62 | number))


def make_refused(
    number: int, *, source_id: str = SHOP, age: timedelta = timedelta(), **fields: Any
) -> QuarantinedEvent:
    moment = NOW - timedelta(seconds=number) - age
    return QuarantinedEvent(
        **{
            "quarantine_id": uuid7_at(moment, number),
            "source_id": source_id,
            "rejection": Rejection(
                reason=ERROR_REASON_FIELD_MISSING, message="name is required", field="name"
            ),
            "raw": b'{"\xff\x00',
            "received_at": timestamp_of(moment),
            "dialect": "apex",
            "endpoint": "/api/events",
            "request_id": "r-1",
            "client_ip": "::1",
        }
        | fields
    )


def store_refused(url: str, refused: Sequence[QuarantinedEvent]) -> None:
    with psycopg.connect(url) as connection:
        insert_quarantined(connection, refused, NOW)


def left(connection: psycopg.Connection[Any]) -> list[str]:
    return column(connection, "SELECT quarantine_id::text FROM quarantine ORDER BY quarantine_id DESC")


def ids_of(*entries: QuarantinedEvent) -> list[str]:
    return [entry.quarantine_id for entry in entries]


@pytest.fixture
def connection(database_url: str) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(database_url, autocommit=True) as connection:
        yield connection


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    with psycopg.connect(database_url) as connection:
        for source_id, name in ((SHOP, "shop"), (BLOG, "blog")):
            connection.execute("INSERT INTO sources (source_id, name) VALUES (%s, %s)", (source_id, name))
    database = Database(database_url)
    yield database
    await database.aclose()


@pytest.fixture
def store(database: Database) -> PostgresQuarantine:
    return PostgresQuarantine(database)


# -- reading


async def listed(
    store: PostgresQuarantine, source_id: str | None = SHOP, **wanted: Any
) -> list[QuarantinedEvent]:
    page, token = await store.list_entries(source_id, QuarantineFilter(**wanted), 1000, "")
    assert token == ""
    return page


async def test_the_quarantine_is_listed_latest_first(store: PostgresQuarantine, database_url: str) -> None:
    mine = [make_refused(number) for number in range(5)]
    mine[3].rejection.CopyFrom(Rejection(reason=ERROR_REASON_RATE_LIMITED, message="slow down"))
    other = make_refused(9, source_id=BLOG)
    orphan = make_refused(10, source_id=NO_SOURCE)
    store_refused(database_url, [orphan, *mine, other])
    first, token = await store.list_entries(SHOP, EVERYTHING, 3, "")
    rest, end = await store.list_entries(SHOP, EVERYTHING, 3, token)
    assert (first, rest, end) == (mine[:3], mine[3:], "")
    assert await listed(store, None) == [*mine, other, orphan]


async def test_oldest_first_for_a_replay(store: PostgresQuarantine, database_url: str) -> None:
    mine = [make_refused(number) for number in range(5)]
    store_refused(database_url, [*mine, make_refused(9, source_id=BLOG)])
    first, token = await store.oldest_entries(SHOP, EVERYTHING, (), 3, "")
    rest, end = await store.oldest_entries(SHOP, EVERYTHING, (), 3, token)
    assert (first, rest, end) == (mine[:1:-1], mine[1::-1], "")
    chosen = [*ids_of(mine[3], mine[1]), "no id", uuid7_at(NOW, 77)]
    assert await store.oldest_entries(SHOP, EVERYTHING, chosen, 9, "") == ([mine[3], mine[1]], "")
    assert await store.oldest_entries(SHOP, EVERYTHING, ["no id"], 9, "") == ([], "")


async def test_filters(store: PostgresQuarantine, database_url: str) -> None:
    minute = timedelta(minutes=1)
    plain = make_refused(0)
    entries = {
        "reason": make_refused(
            1, rejection=Rejection(reason=ERROR_REASON_FIELD_INVALID, message="no", field="name")
        ),
        "dialect": make_refused(2, dialect="pulse"),
        "request_id": make_refused(3, request_id="r-2"),
        "field": make_refused(
            4, rejection=Rejection(reason=ERROR_REASON_FIELD_MISSING, message="no", field="url")
        ),
    }
    old = make_refused(5, age=90 * minute)
    store_refused(database_url, [plain, *entries.values(), old])
    for name, wanted in (
        ("reason", ERROR_REASON_FIELD_INVALID),
        ("dialect", "pulse"),
        ("request_id", "r-2"),
        ("field", "url"),
    ):
        assert await listed(store, **{name: wanted}) == [entries[name]]
    assert await listed(store, dialect="pulse", request_id="r-2") == []
    assert await listed(store, dialect="pul\0se") == []
    assert await listed(store, reason=4711) == []
    long_ago = timestamp_of(NOW - 60 * minute)
    assert await listed(store, received_until=long_ago) == [old]
    assert await listed(store, received_from=long_ago) == [plain, *entries.values()]
    assert await listed(store, received_from=plain.received_at) == [plain]
    assert await listed(store, received_until=old.received_at) == []
    for far in (Timestamp(seconds=2**62), Timestamp(seconds=-(2**62))):
        bounds = {"received_until": far} if far.seconds > 0 else {"received_from": far}
        assert len(await listed(store, **bounds)) == 6


async def test_facade_and_core_may_disagree_about_the_hour(
    store: PostgresQuarantine, database_url: str
) -> None:
    behind = make_refused(0, received_at=timestamp_of(NOW - timedelta(minutes=55)))
    store_refused(database_url, [behind])
    assert await listed(store, received_until=timestamp_of(NOW - timedelta(minutes=50))) == [behind]
    assert await listed(store, received_from=timestamp_of(NOW - timedelta(minutes=56))) == [behind]


async def test_time_bounds_are_looked_up_in_the_primary_key(
    connection: psycopg.Connection[Any], database: Database, store: PostgresQuarantine
) -> None:
    """Of a full quarantine a page of an hour is read without looking at the rest."""
    connection.execute(
        """INSERT INTO quarantine (source_id, quarantine_id, received_at, reason, message, raw)
        SELECT %s, (lpad(to_hex((extract(epoch FROM at) * 1000)::bigint), 12, '0') || '70008000'
                    || lpad(to_hex(n), 12, '0'))::uuid, at, 'field_missing', '', '{}'
        FROM generate_series(1, 50000) AS n,
             LATERAL (SELECT %s::timestamptz - n * interval '1 min') AS times (at)""",
        (SHOP, NOW),
    )
    connection.execute("ANALYZE quarantine")
    until = NOW - timedelta(days=20)
    connection.execute("SELECT pg_stat_reset()")
    page = await listed(
        store, received_from=timestamp_of(until - timedelta(hours=1)), received_until=timestamp_of(until)
    )
    assert len(page) == 60
    await database.aclose()
    deadline = datetime.now(UTC) + timedelta(seconds=20)
    read = 0
    while not read:
        assert datetime.now(UTC) < deadline, "Postgres never told what was read"
        connection.execute("SELECT pg_stat_force_next_flush()")
        (read,) = column(
            connection,
            "SELECT coalesce(idx_tup_fetch, 0) + seq_tup_read FROM pg_stat_user_tables"
            " WHERE relname = 'quarantine'",
        )
    assert read < 500


@pytest.mark.parametrize("reason", ErrorReason.values())
async def test_every_reason_is_read_back(store: PostgresQuarantine, database_url: str, reason: int) -> None:
    refused = make_refused(1, rejection=Rejection(reason=reason, message="no"))  # type: ignore[arg-type]
    store_refused(database_url, [refused])
    assert await listed(store) == [refused]


async def test_a_reason_the_worker_does_not_know_yet_keeps_its_number(
    store: PostgresQuarantine, connection: psycopg.Connection[Any], database_url: str
) -> None:
    refused = make_refused(1, rejection=Rejection(reason=4711, message="no"))  # type: ignore[arg-type]
    store_refused(database_url, [refused])
    assert column(connection, "SELECT reason FROM quarantine") == ["reason_4711"]
    assert await listed(store) == [refused]
    assert await listed(store, reason=4711) == [refused]


async def test_a_reason_of_a_newer_version_is_no_known_one(
    store: PostgresQuarantine, connection: psycopg.Connection[Any], database_url: str
) -> None:
    store_refused(database_url, [make_refused(1)])
    connection.execute("UPDATE quarantine SET reason = 'too_boring'")
    (refused,) = await listed(store)
    assert refused.rejection.reason == ERROR_REASON_UNSPECIFIED


async def test_what_is_kept_beside_it_is_read_back(store: PostgresQuarantine, database_url: str) -> None:
    kept = Circumstances(
        envelope=b"", user_agent="\0agent", cookie_id="c", vendor_ids={"_ga": "1"}, fingerprint="f" * 64
    )
    refused = make_refused(1, circumstances=kept)
    store_refused(database_url, [refused])
    (found,) = await listed(store)
    assert found == refused
    assert found.circumstances.HasField("envelope")
    assert await store.get_entry(SHOP, refused.quarantine_id) == refused


async def test_one_is_got(store: PostgresQuarantine, database_url: str) -> None:
    mine, orphan = make_refused(1), make_refused(2, source_id=NO_SOURCE)
    store_refused(database_url, [mine, orphan])
    assert await store.get_entry(SHOP, mine.quarantine_id.upper()) == mine
    assert await store.get_entry(None, orphan.quarantine_id) == orphan
    assert await store.get_entry(BLOG, mine.quarantine_id) is None
    assert await store.get_entry(None, "no id\0") is None


async def test_a_token_is_of_one_listing(store: PostgresQuarantine, database: Database) -> None:
    store_refused(database.url, [make_refused(1), make_refused(2)])
    _, latest = await store.list_entries(SHOP, EVERYTHING, 1, "")
    _, oldest = await store.oldest_entries(SHOP, EVERYTHING, (), 1, "")
    with pytest.raises(ValueError, match="not a page token"):
        await store.list_entries(SHOP, EVERYTHING, 1, oldest)
    with pytest.raises(ValueError, match="not a page token"):
        await store.oldest_entries(SHOP, EVERYTHING, (), 1, latest)
    with pytest.raises(ValueError, match="not a page token"):
        await PostgresEvents(database).list_events(SHOP, ListEventsRequest(page_token=latest), 1)


async def test_pages_end_at_two_megabytes(store: PostgresQuarantine, database_url: str) -> None:
    refused = [make_refused(number, raw=bytes(5 << 20)) for number in range(3)]
    store_refused(database_url, [*refused, make_refused(3), make_refused(4)])
    sizes, token = [], ""
    while not sizes or token:
        page, token = await store.list_entries(SHOP, EVERYTHING, 1000, token)
        sizes.append(len(page))
    assert sizes == [1, 1, 1, 2]


# -- discarding and summing up


async def test_discarding(
    store: PostgresQuarantine, connection: psycopg.Connection[Any], database_url: str
) -> None:
    mine = [make_refused(number, dialect="pulse" if number < 2 else "apex") for number in range(6)]
    other = make_refused(9, source_id=BLOG)
    store_refused(database_url, [*mine, other])
    apex = QuarantineFilter(dialect="apex")
    assert await store.count(SHOP, apex, ()) == 4
    assert await store.count(SHOP, EVERYTHING, ids_of(mine[0], other)) == 1
    assert await store.discard(SHOP, EVERYTHING, [*ids_of(mine[0], other), "no id"]) == 1
    assert await store.discard(SHOP, EVERYTHING, ["no id"]) == 0
    assert await store.discard(SHOP, apex, ()) == 4
    assert left(connection) == ids_of(mine[1], other)
    assert await store.discard(SHOP, EVERYTHING, ()) == 1
    assert left(connection) == ids_of(other)


async def test_discarding_more_than_a_statement_deletes(
    store: PostgresQuarantine, connection: psycopg.Connection[Any], database_url: str
) -> None:
    store_refused(database_url, [make_refused(number) for number in range(12_000)])
    assert await store.discard(SHOP, EVERYTHING, ()) == 12_000
    assert left(connection) == []


async def test_summaries(
    store: PostgresQuarantine, connection: psycopg.Connection[Any], database_url: str
) -> None:
    invalid = Rejection(reason=ERROR_REASON_FIELD_INVALID, message="no")
    mine = [
        make_refused(1, raw=b"12345", circumstances=Circumstances(user_agent="123")),
        make_refused(2, raw=LONG, rejection=invalid),
        make_refused(3, raw=b"", rejection=invalid),
    ]
    store_refused(database_url, mine)
    connection.execute("INSERT INTO quarantine_drops VALUES (%s, 3, 4, %s)", (BLOG, NOW))
    shop, blog = await store.summaries(None)
    assert shop == QuarantineSummary(
        source_id=SHOP,
        reasons=[
            ReasonCount(reason=ERROR_REASON_FIELD_INVALID, count=2),
            ReasonCount(reason=ERROR_REASON_FIELD_MISSING, count=1),
        ],
        size_bytes=10 + len(LONG),
        oldest_received_at=mine[2].received_at,
        latest_received_at=mine[0].received_at,
    )
    assert blog == QuarantineSummary(source_id=BLOG, dropped_for_room=3, dropped_for_age=4)
    assert await store.summaries(BLOG) == [blog]
    assert await store.summaries("01941f29-7c00-7000-8000-00000000dead") == []


# -- bounds


@pytest.fixture
def bounded(database_url: str) -> Callable[..., QuarantineBounds]:
    def make(max_entries: int = 1_000, max_bytes: int = 1 << 30, days: int = 0) -> QuarantineBounds:
        return QuarantineBounds(
            lambda: psycopg.connect(database_url, autocommit=True), max_entries, max_bytes, days
        )

    return make


def drops(connection: psycopg.Connection[Any]) -> dict[str, tuple[int, int]]:
    rows = connection.execute("SELECT source_id::text, for_room, for_age FROM quarantine_drops").fetchall()
    return {source_id: (for_room, for_age) for source_id, for_room, for_age in rows}


def test_the_oldest_of_too_many_are_dropped_and_counted(
    connection: psycopg.Connection[Any], database_url: str, bounded: Any
) -> None:
    mine = [make_refused(number) for number in range(5)]
    other = [make_refused(number, source_id=BLOG) for number in range(3)]
    orphans = [make_refused(number, source_id=NO_SOURCE) for number in range(4)]
    store_refused(database_url, [*mine, *other, *orphans])
    assert bounded(max_entries=3).apply(NOW)
    assert set(left(connection)) == {*ids_of(*mine[:3], *other, *orphans[:3])}
    assert drops(connection) == {SHOP: (2, 0), NO_SOURCE: (1, 0)}
    assert bounded(max_entries=2).apply(NOW)
    assert drops(connection) == {SHOP: (3, 0), BLOG: (1, 0), NO_SOURCE: (2, 0)}


def test_the_oldest_of_what_takes_too_much_are_dropped(
    connection: psycopg.Connection[Any], database_url: str, bounded: Any
) -> None:
    kept = Circumstances(user_agent="u" * 98)  # 100 bytes
    mine = [make_refused(number, raw=b"r" * 100, circumstances=kept) for number in range(4)]
    store_refused(database_url, [*mine, make_refused(9, raw=LONG)])
    assert bounded(max_bytes=600).apply(NOW)
    assert left(connection) == ids_of(*mine[:3])
    assert bounded(max_bytes=599).apply(NOW)
    assert left(connection) == ids_of(*mine[:2])
    assert drops(connection) == {SHOP: (3, 0)}


def test_what_is_too_old_is_dropped(
    connection: psycopg.Connection[Any], database_url: str, bounded: Any
) -> None:
    day = timedelta(days=1)
    young, old = make_refused(0, age=2.9 * day), make_refused(0, age=3.1 * day)
    store_refused(database_url, [young, old])
    assert bounded(days=0).apply(NOW)
    assert left(connection) == ids_of(young, old)
    assert bounded(days=3).apply(NOW)
    assert left(connection) == ids_of(young)
    assert drops(connection) == {SHOP: (0, 1)}


def test_many_are_dropped_in_steps(
    connection: psycopg.Connection[Any], database_url: str, bounded: Any
) -> None:
    store_refused(database_url, [make_refused(number) for number in range(11_000)])
    bounds = bounded(max_entries=100)
    rounds = 1
    while not bounds.apply(NOW):
        rounds += 1
        assert rounds < 10
    assert column(connection, "SELECT count(*) FROM quarantine") == [100]
    assert drops(connection) == {SHOP: (10_900, 0)}


def test_who_got_a_tenth_of_its_room_is_looked_at(
    connection: psycopg.Connection[Any], database_url: str, bounded: Any
) -> None:
    bounds = bounded(max_entries=30, max_bytes=10_000)
    mine = [make_refused(number) for number in range(33)]
    other = [make_refused(number, source_id=BLOG) for number in range(31)]
    store_refused(database_url, [*mine, *other])
    bounds.note(mine[:3])
    assert bounds.pressed() == []
    bounds.note(mine[3:4])
    assert bounds.pressed() == [SHOP]
    bounds.note([make_refused(0, source_id=BLOG, raw=bytes(1_001))])
    assert bounds.pressed() == [SHOP, BLOG]
    assert bounds.apply(NOW, [SHOP])
    assert bounds.pressed() == [BLOG]
    assert drops(connection) == {SHOP: (3, 0)}


def test_one_worker_at_a_time_drops(
    connection: psycopg.Connection[Any], database_url: str, bounded: Any
) -> None:
    store_refused(database_url, [make_refused(0), make_refused(1)])
    bounds = bounded(max_entries=1)
    with psycopg.connect(database_url) as other:
        other.execute("SELECT pg_advisory_xact_lock(%s, %s)", (LOCK_SPACE, Lock.QUARANTINE))
        assert bounds.apply(NOW)
        assert len(left(connection)) == 2
    assert bounds.apply(NOW)
    assert len(left(connection)) == 1


def enqueue(connection: psycopg.Connection[Any], **fields: Any) -> None:
    batch = EventBatch(**fields)
    enqueue_payload(connection, encode_batch(batch.SerializeToString()), 1)


MakeWorker = Callable[..., Worker]


@pytest.fixture
def make_worker(database_url: str) -> Iterator[MakeWorker]:
    with ExitStack() as stack:

        def make(**options: Any) -> Worker:
            worker = Worker(WorkerOptions(database_url, **options), Clock(NOW))
            stack.callback(worker.close)
            return worker

        yield make


def test_a_worker_keeps_the_bounds_between_its_rounds(
    connection: psycopg.Connection[Any], database_url: str, make_worker: MakeWorker
) -> None:
    worker = make_worker(quarantine_max_events=20)
    pauses = iter(range(1_000))
    worker.maintain()

    def pause(_: float) -> bool:
        turn = next(pauses)
        if turn < 30:
            enqueue(connection, quarantined=[make_refused(100 * turn + n) for n in range(10)])
        return turn == 40

    worker.work(pause)
    assert 20 <= len(left(connection)) <= 22
    assert drops(connection)[SHOP][0] + len(left(connection)) == 300


@pytest.mark.parametrize(
    ("quarantine_days", "retention_days", "kept_days"), [(30, 0, 30), (30, 7, 7), (3, 7, 3), (0, 7, 7)]
)
def test_quarantined_events_outlive_no_accepted_ones(
    connection: psycopg.Connection[Any],
    database_url: str,
    quarantine_days: int,
    retention_days: int,
    kept_days: int,
    make_worker: MakeWorker,
) -> None:
    kept = make_refused(0, age=timedelta(days=kept_days, hours=-1))
    store_refused(database_url, [kept, make_refused(0, age=timedelta(days=kept_days, hours=1))])
    worker = make_worker(quarantine_days=quarantine_days, retention_days=retention_days)
    worker.maintain()
    assert left(connection) == ids_of(kept)


# -- what is replayed


def replayed_of(entry: QuarantinedEvent, **fields: Any) -> Event:
    """The event a replay of that entry stores."""
    event = make_event(event_id=entry.quarantine_id, source_id=entry.source_id, **fields)
    event.received_at.CopyFrom(entry.received_at)
    return event


def test_a_replayed_event_is_stored_and_its_entry_gone(
    connection: psycopg.Connection[Any], database_url: str, make_worker: MakeWorker
) -> None:
    entry, other = make_refused(1, age=timedelta(days=20)), make_refused(2)
    store_refused(database_url, [entry, other])
    enqueue(connection, events=[make_event()], replayed=[replayed_of(entry)])
    worker = make_worker()
    assert worker.settle_all() == 2
    assert worker.totals == Tally(stored=2)
    assert entry.quarantine_id in stored_ids(connection)
    assert left(connection) == ids_of(other)


def test_replayed_twice_it_is_stored_once(
    connection: psycopg.Connection[Any], database_url: str, make_worker: MakeWorker
) -> None:
    entries = [make_refused(number) for number in range(3)]
    store_refused(database_url, entries)
    once = [replayed_of(entry) for entry in entries]
    # In one row, in one claim, and in another claim; without and with a client's id.
    once[1].message_id = "m-1"
    enqueue(connection, replayed=[*once, once[0]])
    enqueue(connection, replayed=once)
    worker = make_worker()
    worker.settle_all()
    enqueue(connection, events=[make_event(message_id="m-2")], replayed=once)
    worker.settle_all()
    assert worker.totals == Tally(stored=4, duplicate=7)
    assert set(ids_of(*entries)) < set(stored_ids(connection))
    assert left(connection) == []


def test_what_the_client_sent_again_meanwhile_is_a_duplicate(
    connection: psycopg.Connection[Any], database_url: str, make_worker: MakeWorker
) -> None:
    entry = make_refused(1)
    store_refused(database_url, [entry])
    sent_again = make_event(source_id=SHOP, message_id="m-1")
    enqueue(connection, events=[sent_again])
    enqueue(connection, replayed=[replayed_of(entry, message_id="m-1")])
    make_worker().settle_all()
    assert stored_ids(connection) == [sent_again.event_id]
    assert left(connection) == []


async def test_what_can_not_be_written_comes_back_as_that(
    store: PostgresQuarantine, connection: psycopg.Connection[Any], database_url: str, make_worker: MakeWorker
) -> None:
    entry, good = make_refused(1), make_refused(2)
    store_refused(database_url, [entry, good])
    bad = replayed_of(entry, properties_json='{"a":')
    for _ in range(2):
        enqueue(connection, replayed=[bad, replayed_of(good)])
        make_worker().settle_all()
        (back,) = await listed(store)
        assert back.quarantine_id == entry.quarantine_id
        assert back.rejection.reason == ERROR_REASON_UNWRITABLE
        assert Event.FromString(back.raw).properties_json == '{"a":'
    assert stored_ids(connection) == [good.quarantine_id]


def test_a_worker_that_dies_before_its_commit_has_done_nothing(
    connection: psycopg.Connection[Any], database_url: str, make_worker: MakeWorker
) -> None:
    entry = make_refused(1)
    store_refused(database_url, [entry])
    enqueue(connection, replayed=[replayed_of(entry)])
    dying = make_worker()
    dying.maintain()
    doomed = psycopg.connect(database_url)
    claimed = claim(doomed, 2_000, 4 << 20)
    assert claimed
    dying._writer.write(doomed, claimed.events, claimed.refused, claimed.reckoning, replayed=claimed.replayed)
    claimed.settle()
    assert (stored_ids(doomed), left(doomed)) == ([entry.quarantine_id], [])
    # As of a killed process: the server sees the end of the connection, and no COMMIT.
    doomed.close()
    assert (stored_ids(connection), left(connection)) == ([], ids_of(entry))
    make_worker().settle_all()
    assert (stored_ids(connection), left(connection)) == ([entry.quarantine_id], [])


def test_many_workers_with_the_same_replays_store_each_once(
    connection: psycopg.Connection[Any], database_url: str, make_worker: MakeWorker
) -> None:
    entries = [make_refused(number) for number in range(200)]
    store_refused(database_url, entries)
    events = [replayed_of(entry) for entry in entries]
    for turn in range(12):
        # In different orders, so that they would lock in circles if they could.
        enqueue(connection, replayed=events if turn % 2 else events[::-1])
    workers = [make_worker(claim_items=100) for _ in range(3)]
    workers[0].maintain()
    threads = [threading.Thread(target=worker.settle_all) for worker in workers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    # One that lost a deadlock gives up its claim and does it again.
    make_worker().settle_all()
    assert sorted(stored_ids(connection)) == sorted(ids_of(*entries))
    assert left(connection) == []


def ledger(connection: psycopg.Connection[Any]) -> tuple[int, ...]:
    """Give what the ledger says in all: received, stored, duplicate, quarantined, refused."""
    columns = ("received", "stored", "duplicate", "quarantined", "refused")
    sums = ", ".join(f"sum({name})::int" for name in columns)
    (row,) = connection.execute(f"SELECT {sums} FROM ledger".encode()).fetchall()
    return tuple(row)


def test_the_ledger_follows_what_is_replayed(
    connection: psycopg.Connection[Any], make_worker: MakeWorker
) -> None:
    entries = [make_refused(number, dialect="grpc") for number in range(4)]
    worker = make_worker()
    enqueue(connection, events=[make_event(message_id="m")], quarantined=entries)
    worker.settle_all()
    assert ledger(connection) == (5, 1, 0, 4, 0)
    stored, duplicate, bad, _ = (replayed_of(entry) for entry in entries)
    duplicate.message_id = "m"
    bad.properties_json = '{"a":'
    connection.execute(
        "INSERT INTO queue (item_count, payload, received) VALUES (3, %b, '[]')",
        (encode_batch(EventBatch(replayed=[stored, duplicate, bad]).SerializeToString()),),
    )
    worker.settle_all()
    assert ledger(connection) == (5, 2, 1, 2, 0)
    # One whose entry had gone before comes to nothing.
    connection.execute(
        "INSERT INTO queue (item_count, payload, received) VALUES (3, %b, '[]')",
        (encode_batch(EventBatch(replayed=[stored, duplicate, bad]).SerializeToString()),),
    )
    worker.settle_all()
    assert ledger(connection) == (5, 2, 1, 2, 0)
