"""The worker: takes batches from the queue and settles them, for ever.

Hides how a claim is cut, when to wait, and what to do when the database is away. A claim is one transaction:
its events, links, keys and quarantine entries appear and its queue rows vanish together, or nothing happened.
Any number of workers may run.
"""

import random
import signal
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from time import monotonic
from typing import NamedTuple

import psycopg
import structlog
from polylect.v1.event_pb2 import Event
from polylect.v1.quarantine_pb2 import QuarantinedEvent

from storage.enrich import Enricher
from storage.errors import StorageUnavailable, driver_errors_wrapped
from storage.partitions import Partitions
from storage.quarantine_rows import undecodable
from storage.queue import decode_batch
from storage.retention import Retention
from storage.writer import Clock, Connection, Tally, Writer

# Rows are locked as they are fetched, so that other workers find the rest. Sizes come first, payloads when it
# is known which fit: a fetch of payloads could bring any amount.
_CLAIM = """
DECLARE claim NO SCROLL CURSOR FOR
SELECT queue_id, item_count, octet_length(payload) FROM queue ORDER BY queue_id FOR UPDATE SKIP LOCKED
"""
_PAYLOADS = "SELECT queue_id, payload FROM queue WHERE queue_id = ANY(%s) ORDER BY queue_id"
_DELETE = "DELETE FROM queue WHERE queue_id = ANY(%s)"
# One round trip when there is nothing; by the index, for the table's first pages hold dead rows only.
_WAITING = "SELECT queue_id FROM queue ORDER BY queue_id LIMIT 1"
_FIRST_FETCH_ROWS = 8
_LARGEST_FETCH_ROWS = 1_000

# What a claim writes and the queue rows it deletes are in one transaction: a crash that loses the commit
# loses both, and the claim is done again. So, unlike the core's commit, this one need not wait for the disk.
_CLAIM_SETTINGS = "SET LOCAL synchronous_commit = off"

_MAINTENANCE_RETRY_SECONDS = 60
_CONNECT_TIMEOUT_SECONDS = 5
# Windows and days are UTC. A worker whose machine is gone gives its rows back within a minute.
_SESSION_SETTINGS = """
SELECT set_config('TimeZone', 'UTC', false),
       set_config('idle_in_transaction_session_timeout', '60s', false)
"""

log = structlog.get_logger()


@dataclass(frozen=True)
class WorkerOptions:
    """What a worker needs to know. Times in seconds."""

    database_url: str
    # For how long a client's id is remembered. 0: not at all.
    dedup_window_seconds: int = 7 * 86_400
    # After how many days events are dropped. 0: never.
    retention_days: int = 0
    # A claim takes whole queue rows, one at least, until it has so many items, or bytes.
    claim_items: int = 2_000
    claim_bytes: int = 4 << 20
    # A claim of fewer items is followed by a pause, so that the next is worth its transaction.
    small_claim_items: int = 500
    small_claim_pause_seconds: float = 0.1
    # How often to look into an empty queue, growing from the former to the latter.
    idle_pause_seconds: float = 0.05
    longest_idle_pause_seconds: float = 0.25
    maintenance_seconds: float = 3_600
    # Between attempts while the database is away: doubling, with jitter.
    first_retry_seconds: float = 0.1
    longest_retry_seconds: float = 10


class _Claim(NamedTuple):
    """How much was settled, and whether that was all there was."""

    items: int
    emptied: bool


class Worker:
    """Settles the queue of one database over one connection, opened when first needed."""

    def __init__(self, options: WorkerOptions, clock: Clock) -> None:
        """Build the enricher's tables, some 50 ms. `clock` gives aware UTC."""
        self._options = options
        self._clock = clock
        connect = partial(_connect, options.database_url)
        dedup_window = timedelta(seconds=options.dedup_window_seconds)
        self._connect = connect
        self._partitions = Partitions(connect)
        self._retention = Retention(connect, self._partitions, options.retention_days, dedup_window)
        self._writer = Writer(Enricher(), self._partitions, dedup_window, clock)
        self._connection: Connection | None = None
        self._next_maintenance = datetime.min.replace(tzinfo=UTC)
        self.totals = Tally()

    def settle_once(self) -> int:
        """Settle one claim and give its number of items; 0 when there is nothing to claim.

        Raises StorageUnavailable; nothing has then happened, and the next call connects anew.
        """
        return self._settle().items

    def settle_all(self) -> int:
        """Settle until nothing is left to claim, and give the number of items. Raises as `settle_once`."""
        settled = 0
        while items := self.settle_once():
            settled += items
        return settled

    def maintain(self) -> None:
        """Make the partitions of the days ahead and delete some of what is due; while more is, stay due.

        Raises StorageUnavailable.
        """
        now = self._clock()
        self._partitions.make_ahead(now.date())
        if self._retention.apply(now):
            self._next_maintenance = now + timedelta(seconds=self._options.maintenance_seconds)

    def work(self, pause: Callable[[float], bool]) -> None:
        """Settle until `pause`, which waits so many seconds between claims, says that it is time to stop."""
        failures = 0
        idle_seconds = self._options.idle_pause_seconds
        wait_seconds = 0.0
        while not pause(wait_seconds):
            started = monotonic()
            try:
                claim = self._settle()
                if failures:
                    log.info("database is back", failures=failures)
                    failures = 0
                self._maintain_if_due()
            except StorageUnavailable as error:
                failures += 1
                wait_seconds = self._retry_seconds(failures)
                log.warning("claim failed", error=str(error), failures=failures, retry_seconds=wait_seconds)
                continue
            if claim.items:
                idle_seconds = self._options.idle_pause_seconds
                small = claim.emptied and claim.items < self._options.small_claim_items
                rest = self._options.small_claim_pause_seconds - (monotonic() - started)
                wait_seconds = max(0.0, rest) if small else 0.0
            else:
                wait_seconds = idle_seconds
                idle_seconds = min(2 * idle_seconds, self._options.longest_idle_pause_seconds)
        log.info("worker stops", **asdict(self.totals))

    def close(self) -> None:
        """Close the connection; a later call opens another."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _maintain_if_due(self) -> None:
        now = self._clock()
        if now < self._next_maintenance:
            return
        try:
            self.maintain()
        except StorageUnavailable as error:
            # Mostly a reader that holds a partition to be dropped; what matters meanwhile is the queue.
            log.warning("maintenance failed", error=str(error))
            self._next_maintenance = now + timedelta(seconds=_MAINTENANCE_RETRY_SECONDS)

    def _retry_seconds(self, failures: int) -> float:
        doubled = self._options.first_retry_seconds * (1 << min(failures - 1, 20))
        jitter = random.uniform(0.5, 1)  # noqa: S311 - keeps workers apart, no secret
        return min(doubled, self._options.longest_retry_seconds) * jitter

    def _settle(self) -> _Claim:
        try:
            with driver_errors_wrapped():
                if self._connection is None:
                    self._connection = self._connect()
                if self._connection.execute(_WAITING).fetchone() is None:
                    return _Claim(0, emptied=True)
                with self._connection.transaction():
                    claim, tally = self._settle_claim(self._connection)
        except BaseException:
            self.close()
            raise
        self.totals.add(tally)
        return claim

    def _settle_claim(self, connection: Connection) -> tuple[_Claim, Tally]:
        connection.execute(_CLAIM_SETTINGS)
        queue_ids, emptied = self._lock(connection)
        if not queue_ids:
            return _Claim(0, emptied=True), Tally()
        events: list[Event] = []
        refused: list[QuarantinedEvent] = []
        taken: list[int] = []
        decoded_bytes = 0
        for queue_id, payload in connection.execute(_PAYLOADS, (queue_ids,), binary=True):
            taken.append(queue_id)
            try:
                batch = decode_batch(payload)
            except ValueError as error:
                # In quarantine an operator can find it; in the queue it would stop everything behind it.
                log.error("queue row undecodable", queue_id=queue_id, error=str(error))
                refused.append(undecodable(payload, error))
                continue
            events += batch.events
            refused += batch.quarantined
            decoded_bytes += batch.ByteSize()
            if decoded_bytes >= self._options.claim_bytes:
                break
        tally = self._writer.write(connection, events, refused)
        connection.execute(_DELETE, (taken,))
        items = max(len(events) + len(refused), len(taken))
        return _Claim(items, emptied and len(taken) == len(queue_ids)), tally

    def _lock(self, connection: Connection) -> tuple[list[int], bool]:
        """Lock the rows of a claim; tell too whether these were all there were for us."""
        connection.execute(_CLAIM)
        queue_ids: list[int] = []
        items = size = 0
        step = _FIRST_FETCH_ROWS
        while True:
            rows = connection.execute(f"FETCH FORWARD {step} FROM claim").fetchall()
            for queue_id, item_count, payload_bytes in rows:
                if queue_ids and (
                    items + item_count > self._options.claim_items
                    or size + payload_bytes > self._options.claim_bytes
                ):
                    return queue_ids, False
                queue_ids.append(queue_id)
                items += item_count
                size += payload_bytes
            if len(rows) < step:
                return queue_ids, True
            fitting = (self._options.claim_items - items) * len(queue_ids) // max(items, 1)
            step = min(max(fitting, 1), _LARGEST_FETCH_ROWS)


def run(options: WorkerOptions) -> None:
    """Work until SIGTERM or SIGINT, finish the claim at hand, and return.

    A database that isn't there, or not yet, is waited for.
    """
    # Blocked and asked for between claims, a signal can't interrupt a claim anywhere.
    signals = {signal.SIGTERM, signal.SIGINT}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    worker = Worker(options, clock=lambda: datetime.now(UTC))
    try:
        log.info("worker starts")
        worker.work(lambda seconds: signal.sigtimedwait(signals, seconds) is not None)
    finally:
        worker.close()
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _connect(database_url: str) -> Connection:
    with driver_errors_wrapped():
        connection = psycopg.connect(
            database_url,
            autocommit=True,
            client_encoding="UTF8",
            connect_timeout=_CONNECT_TIMEOUT_SECONDS,
            fallback_application_name="polylect worker",
            keepalives_idle=10,
            keepalives_interval=5,
            keepalives_count=3,
        )
        connection.execute(_SESSION_SETTINGS)
        return connection
