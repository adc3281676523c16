"""The ledger: every event that came in is counted where it ended, whatever happened on the way."""

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from polylect.v1 import error_reason_pb2 as reasons
from polylect.v1.error_reason_pb2 import Rejection
from polylect.v1.event_pb2 import EVENT_KIND_UNSPECIFIED, Event, Provenance
from polylect.v1.queue_pb2 import EventBatch
from polylect.v1.trail_pb2 import GetLedgerResponse, Refusal
from worker_factory import NOW, OTHER_SOURCE, SOURCE, Clock, enqueue, make_event, make_refused, select

from storage.database import Database
from storage.queue import PostgresQueue
from storage.reckoning import Line, hour_of
from storage.refusals import PostgresRefusals, purge_refusals
from storage.trail import PostgresTrail
from storage.values import NO_SOURCE, timestamp_of
from storage.worker import Worker, WorkerOptions

HOUR = hour_of(int(NOW.timestamp()))
LINE: Line = (SOURCE, "grpc", HOUR)


@pytest.fixture
def connection(database_url: str) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("SET TIME ZONE 'UTC'")
        yield connection


@pytest.fixture
def worker(database_url: str) -> Iterator[Worker]:
    worker = Worker(WorkerOptions(database_url), Clock())
    worker.maintain()
    yield worker
    worker.close()


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    database = Database(database_url)
    yield database
    await database.aclose()


def ledger(connection: psycopg.Connection[Any]) -> dict[tuple[str, str, datetime], tuple[int, ...]]:
    rows = select(connection, "SELECT * FROM ledger")
    counts = ("received", "stored", "duplicate", "quarantined", "refused")
    return {
        (str(row["source_id"]), row["dialect"], row["hour"]): tuple(row[name] for name in counts)
        for row in rows
    }


async def append(target: Database | PostgresQueue, batch: EventBatch, received: dict[Line, int]) -> None:
    item_count = len(batch.events) + len(batch.quarantined) + len(batch.replayed)
    queue = PostgresQueue(target) if isinstance(target, Database) else target
    await queue.append(batch.SerializeToString(), item_count, received)


def at(hour: int) -> datetime:
    return datetime.fromtimestamp(hour, UTC)


async def read(database: Database, *, size: int = 50, token: str = "", **bounds: Any) -> GetLedgerResponse:
    between = (bounds.get("received_from"), bounds.get("received_until"))
    return await PostgresTrail(database).ledger(bounds.get("source_id"), *between, size, token)


async def test_each_fate_has_its_column(
    database: Database, worker: Worker, connection: psycopg.Connection[Any]
) -> None:
    first, again = make_event(message_id="m"), make_event(message_id="m")
    unwritable = make_event(kind=EVENT_KIND_UNSPECIFIED)
    refused = make_refused(dialect="grpc", received_at=timestamp_of(NOW))
    batch = EventBatch(events=[first, again, unwritable], quarantined=[refused])
    await append(database, batch, {LINE: 4})
    (waiting,) = (await read(database)).entries
    assert (waiting.received, waiting.in_queue, waiting.stored) == (4, 4, 0)
    await asyncio.to_thread(worker.settle_all)
    assert ledger(connection) == {(SOURCE, "grpc", at(HOUR)): (4, 1, 1, 2, 0)}
    answer = await read(database)
    assert answer.unbalanced_entries == 0
    assert (answer.total.received, answer.total.in_queue) == (4, 0)


async def test_a_replay_moves_what_was_quarantined(
    database: Database, worker: Worker, connection: psycopg.Connection[Any]
) -> None:
    queue = PostgresQueue(database)
    refused = [make_refused(dialect="grpc", received_at=timestamp_of(NOW)) for _ in range(3)]
    await append(queue, EventBatch(quarantined=refused), {LINE: 3})
    await asyncio.to_thread(worker.settle_all)
    assert ledger(connection) == {(SOURCE, "grpc", at(HOUR)): (3, 0, 0, 3, 0)}
    good, bad, _ = [make_event(event_id=one.quarantine_id) for one in refused]
    bad.kind = EVENT_KIND_UNSPECIFIED
    await append(queue, EventBatch(replayed=[good, bad]), {})
    await asyncio.to_thread(worker.settle_all)
    assert ledger(connection) == {(SOURCE, "grpc", at(HOUR)): (3, 1, 0, 2, 0)}
    # Asked for twice, the second finds no entry any more, and comes to nothing.
    await append(queue, EventBatch(replayed=[good]), {})
    await asyncio.to_thread(worker.settle_all)
    assert ledger(connection) == {(SOURCE, "grpc", at(HOUR)): (3, 1, 0, 2, 0)}
    # One whose entry was discarded on its way is stored.
    late = make_event(event_id=refused[2].quarantine_id)
    connection.execute("DELETE FROM quarantine WHERE quarantine_id = %s", (late.event_id,))
    await append(queue, EventBatch(replayed=[late]), {})
    await asyncio.to_thread(worker.settle_all)
    assert ledger(connection) == {(SOURCE, "grpc", at(HOUR)): (3, 2, 0, 1, 0)}
    assert (await read(database)).unbalanced_entries == 0


async def test_what_is_not_in_the_batch_is_missed(
    database: Database, worker: Worker, connection: psycopg.Connection[Any]
) -> None:
    await append(database, EventBatch(events=[make_event()]), {LINE: 2})
    await asyncio.to_thread(worker.settle_all)
    assert ledger(connection) == {(SOURCE, "grpc", at(HOUR)): (2, 1, 0, 0, 0)}
    assert (await read(database)).unbalanced_entries == 1


def test_rows_from_before_the_ledger_count_when_they_are_claimed(
    worker: Worker, connection: psycopg.Connection[Any]
) -> None:
    event, refused = make_event(), make_refused(dialect="pulse", received_at=timestamp_of(NOW))
    enqueue(connection, event, make_event(received_at=NOW - timedelta(hours=2)), refused=[refused])
    worker.settle_all()
    assert ledger(connection) == {
        (SOURCE, "grpc", at(HOUR)): (1, 1, 0, 0, 0),
        (SOURCE, "grpc", at(HOUR - 7_200)): (1, 1, 0, 0, 0),
        (SOURCE, "pulse", at(HOUR)): (1, 0, 0, 1, 0),
    }


async def test_a_row_nobody_can_read_is_quarantined_whole(
    database: Database, worker: Worker, connection: psycopg.Connection[Any]
) -> None:
    await append(database, EventBatch(events=[make_event()] * 3), {LINE: 3})
    connection.execute("UPDATE queue SET payload = '\\xff'")
    await asyncio.to_thread(worker.settle_all)
    assert ledger(connection) == {(SOURCE, "grpc", at(HOUR)): (3, 0, 0, 3, 0)}


async def test_a_batch_queued_twice_balances(
    database: Database, worker: Worker, connection: psycopg.Connection[Any]
) -> None:
    batch = EventBatch(events=[make_event(), make_event(message_id="m")])
    queue = PostgresQueue(database)
    for _ in range(2):
        await append(queue, batch, {LINE: 2})
        await asyncio.to_thread(worker.settle_all)
    assert ledger(connection) == {(SOURCE, "grpc", at(HOUR)): (4, 2, 2, 0, 0)}


async def test_odd_lines_fail_nothing(
    database: Database, worker: Worker, connection: psycopg.Connection[Any]
) -> None:
    """Counting must not be what stops a queue."""
    odd = {("no uuid", "a\0b", 1 << 62): 1, (SOURCE.upper(), "x" * 100, -5): 2}
    event = make_event(provenance=Provenance(dialect="d" * 200))
    await append(database, EventBatch(events=[event]), odd)
    await asyncio.to_thread(worker.settle_all)
    assert ledger(connection) == {
        (NO_SOURCE, "ab", at(0)): (1, 0, 0, 0, 0),
        (SOURCE, "x" * 64, at(0)): (2, 0, 0, 0, 0),
        (SOURCE, "d" * 64, at(HOUR)): (0, 1, 0, 0, 0),
    }


async def test_refusals_are_counted_and_remembered_in_one(
    database: Database, connection: psycopg.Connection[Any]
) -> None:
    rejection = Rejection(reason=reasons.ERROR_REASON_RATE_LIMITED, message="no\0w")
    refusal = Refusal(source_id=SOURCE, rejection=rejection, received_at=timestamp_of(NOW), event_count=7)
    store = PostgresRefusals(database)
    await store.add_refused({LINE: 7, (NO_SOURCE, "", HOUR): 1}, [refusal])
    await store.add_refused({LINE: 1}, [])
    assert ledger(connection) == {
        (SOURCE, "grpc", at(HOUR)): (8, 0, 0, 0, 8),
        (NO_SOURCE, "", at(HOUR)): (1, 0, 0, 0, 1),
    }
    (row,) = select(connection, "SELECT reason, message, event_count FROM refusals")
    assert row == {"reason": "rate_limited", "message": "now", "event_count": 7}
    assert (await read(database)).unbalanced_entries == 0


async def test_pages_and_bounds(database: Database) -> None:
    lines = {
        (source, dialect, HOUR + hours * 3_600): 1 + hours
        for source in (SOURCE, OTHER_SOURCE)
        for dialect in ("apex", "pulse")
        for hours in range(3)
    }
    await PostgresRefusals(database).add_refused(lines, [])
    whole = await read(database)
    seen = [(entry.hour.seconds, entry.source_id, entry.dialect) for entry in whole.entries]
    assert seen == sorted(seen, key=lambda one: (-one[0], one[1], one[2]))
    assert len(seen) == 12
    paged, token = [], ""
    while True:
        page = await read(database, size=5, token=token)
        assert page.total == whole.total
        paged += page.entries
        token = page.next_page_token
        if not token:
            break
    assert paged == list(whole.entries)
    some = await read(
        database, source_id=SOURCE, received_from=at(HOUR + 3_600), received_until=at(HOUR + 7_200)
    )
    assert [(entry.hour.seconds, entry.dialect, entry.refused) for entry in some.entries] == [
        (HOUR + 3_600, "apex", 2),
        (HOUR + 3_600, "pulse", 2),
    ]
    assert some.total.received == 4
    assert not (await read(database, source_id="nobody")).entries
    for bad in ("x", "bm9uc2Vuc2U=", "bFtd", "ZQ=="):
        with pytest.raises(ValueError, match="token"):
            await read(database, token=bad)


def test_workers_and_cores_never_wait_in_a_circle(
    database_url: str, connection: psycopg.Connection[Any]
) -> None:
    """Many that add to the same lines, in orders of their own."""
    dialects = ["apex", "datafly", "grpc", "pulse", "pulsora"]
    rounds, each = 15, 4
    workers = [Worker(WorkerOptions(database_url, claim_items=5), Clock()) for _ in range(each)]
    workers[0].maintain()
    for number in range(rounds * each):
        order = dialects[number % 5 :] + dialects[: number % 5]
        enqueue(connection, *[make_event(provenance=Provenance(dialect=one)) for one in order])

    async def refuse() -> None:
        database = Database(database_url)
        for number in range(rounds):
            order = dialects[number % 5 :] + dialects[: number % 5]
            await PostgresRefusals(database).add_refused({(SOURCE, one, HOUR): 1 for one in order}, [])
        await database.aclose()

    threads = [threading.Thread(target=one.settle_all) for one in workers]
    threads.append(threading.Thread(target=lambda: asyncio.run(refuse())))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for one in workers:
        one.close()
    stored = rounds * each
    expected = (stored + rounds, stored, 0, 0, rounds)
    assert set(ledger(connection).values()) == {expected}
    assert len(ledger(connection)) == len(dialects)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.integers(0, 4), st.booleans(), st.integers(0, 2)), min_size=1, max_size=30))
def test_any_mixture_balances(
    worker: Worker, connection: psycopg.Connection[Any], mixture: list[tuple[int, bool, int]]
) -> None:
    """Repeated ids, unwritable ones and different hours, in any number of rows."""
    connection.execute("TRUNCATE ledger, events, quarantine, dedup_keys, duplicates, queue")
    batches: dict[int, list[Event]] = {}
    for message, writable, hour in mixture:
        event = make_event(received_at=NOW + timedelta(hours=hour), message_id=f"m{message}")
        if not writable:
            event.name = "no\0good"
        batches.setdefault(hour, []).append(event)
    for events in batches.values():
        enqueue(connection, *events)
    worker.settle_all()
    for received, *became in ledger(connection).values():
        assert received == sum(became)
    totals = [sum(column) for column in zip(*ledger(connection).values(), strict=True)]
    tables = [
        connection.execute(f"SELECT count(*) FROM {name}".encode()).fetchone()
        for name in ("events", "duplicates", "quarantine")
    ]
    assert totals[:4] == [len(mixture), *(row[0] for row in tables if row)]


async def test_refusals_are_forgotten_by_age_and_number(
    database: Database, connection: psycopg.Connection[Any]
) -> None:
    def refusal(received_at: datetime) -> Refusal:
        return Refusal(source_id=NO_SOURCE, received_at=timestamp_of(received_at), event_count=1)

    old, young = refusal(NOW - timedelta(days=7, seconds=1)), refusal(NOW - timedelta(days=6))
    await PostgresRefusals(database).add_refused({LINE: 2}, [old, young])
    assert purge_refusals(connection, NOW)
    assert [row["received_at"] for row in select(connection, "SELECT received_at FROM refusals")] == [
        NOW - timedelta(days=6)
    ]
    connection.execute(
        "INSERT INTO refusals SELECT source_id, uuidv7(), %s, reason, message, null, null, null, null, 1"
        " FROM refusals, generate_series(1, 107000)",
        [NOW],
    )
    assert not purge_refusals(connection, NOW)
    assert purge_refusals(connection, NOW)
    assert select(connection, "SELECT count(*) AS n, min(received_at) AS first FROM refusals") == [
        {"n": 100_000, "first": NOW}
    ]
