"""The worker: every queued event settled once, whatever dies or waits meanwhile."""

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import psycopg
import pytest
from polylect.v1.queue_pb2 import EventBatch
from worker_factory import (
    NOW,
    Clock,
    column,
    enqueue,
    enqueue_payload,
    ids_of,
    make_event,
    make_identify,
    make_refused,
    select,
    stored_ids,
    wait_until,
)

from storage.errors import StorageUnavailable
from storage.queue import encode_batch
from storage.values import NO_SOURCE
from storage.worker import Worker, WorkerOptions
from storage.writer import Tally


@pytest.fixture
def connection(database_url: str) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("SET TIME ZONE 'UTC'")
        yield connection


@pytest.fixture
def workers(database_url: str) -> Iterator[list[Worker]]:
    """Two workers of one database."""
    made = [Worker(WorkerOptions(database_url, claim_items=200), Clock()) for _ in range(2)]
    yield made
    for worker in made:
        worker.close()


@pytest.fixture
def worker(workers: list[Worker]) -> Worker:
    return workers[0]


def queue_length(connection: psycopg.Connection[Any]) -> int:
    (length,) = column(connection, "SELECT count(*) FROM queue")
    assert isinstance(length, int)
    return length


# -- claims


def test_an_empty_queue_is_nothing_to_do(worker: Worker) -> None:
    assert worker.settle_once() == 0
    assert worker.totals == Tally()


def test_queued_rows_become_events_and_vanish(worker: Worker, connection: psycopg.Connection[Any]) -> None:
    single = make_event()
    many = [make_event(message_id=f"m-{n}") for n in range(300)]
    assert encode_batch(EventBatch(events=many).SerializeToString()).startswith(b"\x28\xb5\x2f\xfd")
    assert not encode_batch(EventBatch(events=[single]).SerializeToString()).startswith(b"\x28\xb5\x2f\xfd")
    enqueue(connection, single, refused=[make_refused(), make_refused()])
    enqueue(connection, *many)
    assert worker.settle_all() == 303
    assert queue_length(connection) == 0
    assert stored_ids(connection) == ids_of(single, *many)
    assert worker.totals == Tally(stored=301, quarantined=2)


def test_queue_order_decides_which_of_two_is_stored(
    worker: Worker, connection: psycopg.Connection[Any]
) -> None:
    first, second = make_event(message_id="m"), make_event(message_id="m")
    enqueue(connection, first)
    enqueue(connection, second)
    assert worker.settle_all() == 2
    assert stored_ids(connection) == [first.event_id]


@pytest.mark.parametrize(
    ("limits", "claims"),
    [
        ({"claim_items": 10}, [10, 10, 5]),
        ({"claim_items": 12}, [10, 10, 5]),
        ({"claim_items": 1}, [5, 5, 5, 5, 5]),
        ({"claim_bytes": 1}, [5, 5, 5, 5, 5]),
        ({}, [25]),
    ],
)
def test_a_claim_takes_whole_rows_up_to_its_limits(
    database_url: str, connection: psycopg.Connection[Any], limits: dict[str, int], claims: list[int]
) -> None:
    for _ in range(5):
        enqueue(connection, *(make_event() for _ in range(5)))
    worker = Worker(WorkerOptions(database_url, **limits), Clock())
    assert [worker.settle_once() for _ in range(len(claims) + 1)] == [*claims, 0]
    assert column(connection, "SELECT count(*) FROM events") == [25]
    worker.close()


def test_a_claim_is_bounded_by_what_its_payloads_become(
    database_url: str, connection: psycopg.Connection[Any]
) -> None:
    for _ in range(4):
        enqueue(connection, make_event(properties_json=json.dumps({"a": "a" * 100_000})))
    worker = Worker(WorkerOptions(database_url, claim_bytes=150_000), Clock())
    assert [worker.settle_once() for _ in range(3)] == [2, 2, 0]
    worker.close()


def test_many_small_rows_make_one_claim(worker: Worker, connection: psycopg.Connection[Any]) -> None:
    events = [make_event() for _ in range(100)]
    for event in events:
        enqueue(connection, event)
    assert worker.settle_once() == 100
    assert stored_ids(connection) == ids_of(*events)


def test_rows_another_worker_holds_are_passed_by(
    database_url: str, worker: Worker, connection: psycopg.Connection[Any]
) -> None:
    held, free = make_event(), make_event()
    enqueue(connection, held)
    enqueue(connection, free)
    with psycopg.connect(database_url) as other:
        other.execute("SELECT FROM queue ORDER BY queue_id LIMIT 1 FOR UPDATE")
        assert worker.settle_all() == 1
        assert stored_ids(connection) == [free.event_id]
    assert worker.settle_all() == 1


def test_an_undecodable_row_stops_nobody(worker: Worker, connection: psycopg.Connection[Any]) -> None:
    good = make_event()
    frame = encode_batch(EventBatch(events=[make_event() for _ in range(100)]).SerializeToString())
    broken = [b"\xff\xff\xff", frame[: len(frame) // 2]]
    for payload in broken:
        enqueue_payload(connection, payload)
    enqueue(connection, good)
    assert worker.settle_all() == 3
    assert queue_length(connection) == 0
    assert stored_ids(connection) == [good.event_id]
    rows = select(connection, "SELECT * FROM quarantine ORDER BY quarantine_id")
    assert [row["raw"] for row in rows] == broken
    assert {(str(row["source_id"]), row["reason"], row["received_at"]) for row in rows} == {
        (NO_SOURCE, "unwritable", NOW)
    }
    assert all(row["message"] for row in rows)


def test_events_of_a_month_in_the_queue_get_their_partitions(
    worker: Worker, connection: psycopg.Connection[Any]
) -> None:
    events = [make_event(NOW - timedelta(days=back)) for back in range(31)]
    enqueue(connection, *events)
    assert worker.settle_all() == 31
    assert stored_ids(connection) == ids_of(*events)


# -- several, and death


def test_two_workers_settle_a_queue_once(workers: list[Worker], connection: psycopg.Connection[Any]) -> None:
    for row in range(60):
        # Each id twice in rows far apart, in opposite orders, and links all in common.
        ids = range(20) if row < 30 else reversed(range(20))
        batch = [
            make_identify(message_id=f"m-{row % 30}-{n}", anonymous_id=f"anon-{n}", user_id=f"user-{n}")
            for n in ids
        ]
        enqueue(connection, *batch)
    with ThreadPoolExecutor(2) as pool:
        for settled in [pool.submit(settle_patiently, worker, connection) for worker in workers]:
            settled.result()
    assert queue_length(connection) == 0
    assert column(connection, "SELECT count(*) FROM events") == [600]
    assert column(connection, "SELECT count(DISTINCT message_id) FROM events") == [600]
    assert column(connection, "SELECT count(*) FROM identity_links") == [600]
    assert column(connection, "SELECT count(*) FROM quarantine") == [0]
    totals = [worker.totals for worker in workers]
    assert sum(total.stored for total in totals) == 600
    assert sum(total.duplicate for total in totals) == 600


def settle_patiently(worker: Worker, connection: psycopg.Connection[Any]) -> None:
    """Settle as the loop does: a claim that failed is tried again."""

    def settled() -> bool:
        try:
            worker.settle_all()
        except StorageUnavailable:
            return False
        return queue_length(connection) == 0

    wait_until(settled)


def test_a_worker_killed_in_its_transaction_changes_nothing(
    database_url: str, worker: Worker, connection: psycopg.Connection[Any]
) -> None:
    events = [make_identify(message_id=f"m-{n}", anonymous_id=f"anon-{n}") for n in range(50)]
    enqueue(connection, *events, refused=[make_refused()])
    waiting = (
        "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    )
    with ThreadPoolExecutor(1) as pool, psycopg.connect(database_url) as holder:
        # It gets as far as its links: keys and events are written by then.
        holder.execute("LOCK TABLE identity_links IN EXCLUSIVE MODE")
        claim = pool.submit(worker.settle_once)
        wait_until(lambda: column(connection, waiting))
        (pid,) = column(connection, waiting)
        connection.execute("SELECT pg_terminate_backend(%s)", (pid,))
        with pytest.raises(StorageUnavailable):
            claim.result(timeout=10)
    assert queue_length(connection) == 1
    assert column(connection, "SELECT count(*) FROM events") == [0]
    assert column(connection, "SELECT count(*) FROM dedup_keys") == [0]
    assert worker.settle_all() == 51
    assert stored_ids(connection) == ids_of(*events)
    assert worker.totals == Tally(stored=50, quarantined=1)
    assert column(connection, "SELECT count(*) FROM identity_links") == [50]
    assert worker.settle_all() == 0


def test_trouble_leaves_the_claim_for_later(
    database_url: str, worker: Worker, connection: psycopg.Connection[Any]
) -> None:
    event = make_event(message_id="m")
    enqueue(connection, event)
    connection.execute("ALTER TABLE dedup_keys RENAME TO elsewhere")
    with pytest.raises(StorageUnavailable):
        worker.settle_once()
    assert queue_length(connection) == 1
    connection.execute("ALTER TABLE elsewhere RENAME TO dedup_keys")
    assert worker.settle_once() == 1
    assert stored_ids(connection) == [event.event_id]


def test_a_claim_does_not_wait_for_the_disk(worker: Worker, connection: psycopg.Connection[Any]) -> None:
    connection.execute("CREATE TABLE seen (setting text)")
    connection.execute(
        "CREATE FUNCTION look() RETURNS trigger LANGUAGE plpgsql AS"
        " 'BEGIN INSERT INTO seen VALUES (current_setting(''synchronous_commit'')); RETURN NULL; END'"
    )
    connection.execute("CREATE TRIGGER look AFTER DELETE ON queue FOR EACH STATEMENT EXECUTE FUNCTION look()")
    enqueue(connection, make_event())
    worker.settle_once()
    assert column(connection, "SELECT setting FROM seen") == ["off"]


# -- the loop


class Script:
    """A pause that doesn't wait: notes for how long it should, runs a step, and stops after the last."""

    def __init__(self, *steps: Any) -> None:
        self.steps = list(steps)
        self.waits: list[float] = []

    def __call__(self, seconds: float) -> bool:
        self.waits.append(seconds)
        if not self.steps:
            return True
        step = self.steps.pop(0)
        if step is not None:
            step()
        return False


def test_an_idle_worker_looks_less_and_less_often(worker: Worker) -> None:
    script = Script(*[None] * 6)
    worker.work(script)
    assert script.waits == [0, 0.05, 0.1, 0.2, 0.25, 0.25, 0.25]


def test_when_nothing_is_left_it_lets_the_next_claim_grow(
    worker: Worker, connection: psycopg.Connection[Any]
) -> None:
    script = Script(None, None, None, lambda: enqueue(connection, make_event()), None)
    worker.work(script)
    assert script.waits[:4] == [0, 0.05, 0.1, 0.2]
    assert 0 <= script.waits[4] <= 0.1
    assert script.waits[5] == 0.05


def test_it_never_waits_while_more_is_queued(database_url: str, connection: psycopg.Connection[Any]) -> None:
    for _ in range(4):
        enqueue(connection, make_event())
    script = Script(*[None] * 4)
    worker = Worker(WorkerOptions(database_url, claim_items=1, claim_interval_seconds=60), Clock())
    worker.work(script)
    worker.close()
    assert script.waits[:4] == [0, 0, 0, 0]
    assert script.waits[4] > 50


def test_it_comes_back_by_itself_ever_more_slowly(
    database_url: str, connection: psycopg.Connection[Any]
) -> None:
    def away() -> None:
        connection.execute("ALTER TABLE queue RENAME TO elsewhere")

    def back() -> None:
        connection.execute("ALTER TABLE elsewhere RENAME TO queue")
        enqueue(connection, make_event())

    script = Script(away, *[None] * 9, back, None)
    worker = Worker(WorkerOptions(database_url), Clock())
    worker.work(script)
    worker.close()
    retries = script.waits[1:11]
    for attempt, wait in enumerate(retries):
        longest = min(10, 0.1 * 2**attempt)
        assert longest / 2 <= wait <= longest
    assert worker.totals == Tally(stored=1)
    assert script.waits[-1] == 0.05


def test_maintenance_runs_at_start_and_hourly(database_url: str, connection: psycopg.Connection[Any]) -> None:
    def count() -> int:
        (partitions,) = column(
            connection, "SELECT count(*) FROM pg_inherits WHERE inhparent = 'events'::regclass"
        )
        return int(partitions)

    clock = Clock()
    seen: list[int] = []
    worker = Worker(WorkerOptions(database_url, retention_days=1), clock)
    worker.work(
        Script(
            None,
            lambda: (seen.append(count()), clock.forward(minutes=59, days=0)),
            lambda: connection.execute("DROP TABLE events_p20260130"),
            lambda: (seen.append(count()), clock.forward(days=1)),
            lambda: seen.append(count()),
        )
    )
    worker.close()
    assert seen == [9, 8, 9]


def test_failing_maintenance_does_not_stop_the_queue(
    database_url: str, connection: psycopg.Connection[Any]
) -> None:
    connection.execute("ALTER TABLE daily_salts RENAME TO elsewhere")
    event = make_event()
    script = Script(None, lambda: enqueue(connection, event), None)
    worker = Worker(WorkerOptions(database_url), Clock())
    worker.work(script)
    worker.close()
    assert stored_ids(connection) == [event.event_id]


# -- the process


_RUN = "import sys; from storage.worker import *; run(WorkerOptions(sys.argv[1], first_retry_seconds=0.02))"


@pytest.fixture
def processes() -> Iterator[list[subprocess.Popen[str]]]:
    started: list[subprocess.Popen[str]] = []
    yield started
    for process in started:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def start(processes: list[subprocess.Popen[str]], database_url: str) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", _RUN, database_url],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    processes.append(process)
    return process


@pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_with_its_claims_settled(
    database_url: str,
    connection: psycopg.Connection[Any],
    processes: list[subprocess.Popen[str]],
    stop: signal.Signals,
) -> None:
    event = make_event()
    enqueue(connection, event)
    process = start(processes, database_url)
    wait_until(lambda: stored_ids(connection))
    with psycopg.connect(database_url) as holder:
        # It is in the middle of a claim when the signal comes.
        holder.execute("LOCK TABLE identity_links IN EXCLUSIVE MODE")
        identify = make_identify(anonymous_id="anon")
        enqueue(connection, identify)
        waiting = (
            "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        )
        wait_until(lambda: column(connection, waiting))
        process.send_signal(stop)
    output, _ = process.communicate(timeout=10)
    assert process.returncode == 0, output
    assert "Traceback" not in output
    assert stored_ids(connection) == ids_of(event, identify)
    assert queue_length(connection) == 0


def test_kill_9_loses_and_doubles_nothing(
    database_url: str, connection: psycopg.Connection[Any], processes: list[subprocess.Popen[str]]
) -> None:
    events = [make_event(message_id=f"m-{n}" if n % 2 else "") for n in range(5_000)]
    for first in range(0, len(events), 50):
        enqueue(connection, *events[first : first + 50])
    process = start(processes, database_url)
    wait_until(lambda: column(connection, "SELECT 1 FROM events LIMIT 1"))
    process.kill()
    process.wait()
    start(processes, database_url)
    wait_until(lambda: queue_length(connection) == 0)
    assert stored_ids(connection) == ids_of(*events)


def test_it_waits_for_a_database_that_comes_later(
    database_url: str, connection: psycopg.Connection[Any], processes: list[subprocess.Popen[str]]
) -> None:
    server, _, name = database_url.rpartition("/")
    process = start(processes, f"{server}/later_{name}")
    assert process.stdout is not None
    for line in process.stdout:
        if "claim_failed" in line:
            break
    connection.execute(f"CREATE DATABASE later_{name} TEMPLATE polylect_template".encode())
    try:
        event = make_event()
        with psycopg.connect(f"{server}/later_{name}", autocommit=True) as later:
            enqueue(later, event)
            wait_until(lambda: stored_ids(later))
            assert stored_ids(later) == [event.event_id]
        process.terminate()
        process.wait(timeout=10)
        assert process.returncode == 0
    finally:
        connection.execute(f"DROP DATABASE later_{name} WITH (FORCE)".encode())
