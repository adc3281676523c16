"""The worker: takes batches from the queue and settles them, for ever.

Hides when to wait, when to see to what is due (partitions, retention, the quarantine's bounds), and what to
do when the database is away. A claim is one transaction: all that follows from its items, the counts of the
ledger among it, appears and its queue rows vanish together, or nothing happened. Any number of workers may
run.
"""

import gc
import random
import signal
import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from time import monotonic, sleep

import psycopg
import structlog

from storage.enrich import Enricher
from storage.errors import StorageUnavailable, driver_errors_wrapped
from storage.partitions import Partitions
from storage.quarantine_bounds import QuarantineBounds
from storage.queue import Claim, claim, is_waiting
from storage.retention import Retention
from storage.rollup import Rollup
from storage.writer import Clock, Connection, Tally, Writer

_MAINTENANCE_RETRY_SECONDS = 60
_TRIM_SECONDS = 60
_CONNECT_TIMEOUT_SECONDS = 5
# How many objects may be made before the collector looks for cycles.
_COLLECTED_OBJECTS = 100_000
# How late a signal to stop may be heard.
_LISTEN_SECONDS = 0.05
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
    # After how many days quarantined events are dropped, no later than events are. 0: not for their age.
    quarantine_days: int = 30
    # What the quarantine holds of a source; the oldest beyond are dropped.
    quarantine_max_events: int = 100_000
    quarantine_max_bytes: int = 256 << 20
    # A claim takes whole queue rows, one at least, until it has so many items, or bytes.
    claim_items: int = 4_000
    claim_bytes: int = 4 << 20
    # From the start of a claim that left nothing behind to the start of the next, so that it is worth its
    # transaction.
    claim_interval_seconds: float = 0.1
    # How often to look into an empty queue, growing from the former to the latter.
    idle_pause_seconds: float = 0.05
    longest_idle_pause_seconds: float = 0.25
    maintenance_seconds: float = 3_600
    # Between attempts while the database is away: doubling, with jitter.
    first_retry_seconds: float = 0.1
    longest_retry_seconds: float = 10


class Worker:
    """Settles the queue of one database over one connection, opened when first needed."""

    def __init__(self, options: WorkerOptions, clock: Clock) -> None:
        """Build the enricher's tables, some 50 ms. `clock` gives aware UTC."""
        self._options = options
        self._clock = clock
        connect = partial(_connect, options.database_url)
        dedup_window = timedelta(seconds=options.dedup_window_seconds)
        self._partitions = Partitions(connect)
        self._retention = Retention(connect, self._partitions, options.retention_days, dedup_window)
        self._quarantine = QuarantineBounds(
            connect,
            options.quarantine_max_events,
            options.quarantine_max_bytes,
            # What was refused is not kept when what was accepted is gone, nor could a replay store it.
            min(filter(None, (options.quarantine_days, options.retention_days)), default=0),
        )
        self._writer = Writer(Enricher(), self._partitions, dedup_window, clock, self._quarantine.note)
        self._connection: Connection | None = None
        # Folded beside the claims, or by who settles for himself.
        self.rollup = Rollup(connect)
        self._next_maintenance = datetime.min.replace(tzinfo=UTC)
        self._next_trim = self._next_maintenance
        self.totals = Tally()

    def settle_once(self) -> int:
        """Settle one claim and give its number of items; 0 when there is nothing to claim.

        Raises StorageUnavailable; nothing has then happened, and the next call connects anew.
        """
        claimed = self._settle()
        return claimed.items if claimed else 0

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
        # Both, whatever the one says.
        if self._retention.apply(now) & self._quarantine.apply(now):
            self._next_maintenance = now + timedelta(seconds=self._options.maintenance_seconds)

    def trim(self) -> None:
        """Delete some of what grows by the minute; while more is due, stay due. Raises StorageUnavailable."""
        now = self._clock()
        if self._retention.trim(now):
            self._next_trim = now + timedelta(seconds=_TRIM_SECONDS)

    def work(self, pause: Callable[[float], bool]) -> None:
        """Settle until `pause`, which waits so many seconds between claims, says that it is time to stop."""
        failures = 0
        idle_seconds = self._options.idle_pause_seconds
        wait_seconds = 0.0
        while not pause(wait_seconds):
            started = monotonic()
            try:
                claimed = self._settle()
                if failures:
                    log.info("database_available", failures=failures)
                    failures = 0
                self._maintain_if_due()
            except StorageUnavailable as error:
                failures += 1
                wait_seconds = self._retry_seconds(failures)
                log.warning("claim_failed", error=str(error), failures=failures, retry_seconds=wait_seconds)
                continue
            if claimed:
                idle_seconds = self._options.idle_pause_seconds
                rest = self._options.claim_interval_seconds - (monotonic() - started)
                wait_seconds = max(0.0, rest) if claimed.emptied else 0.0
            else:
                wait_seconds = idle_seconds
                idle_seconds = min(2 * idle_seconds, self._options.longest_idle_pause_seconds)
        log.info("worker_stopped", **asdict(self.totals))

    def close(self) -> None:
        """Close the connections; a later call opens others."""
        self.rollup.close()
        self._disconnect()

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _maintain_if_due(self) -> None:
        now = self._clock()
        pressed = self._quarantine.pressed()
        try:
            if now >= self._next_trim:
                self.trim()
            if now >= self._next_maintenance:
                self.maintain()
            elif pressed:
                self._quarantine.apply(now, pressed)
        except StorageUnavailable as error:
            # Mostly a reader that holds a partition to be dropped; what matters meanwhile is the queue.
            log.warning("maintenance_failed", error=str(error))
            self._next_maintenance = now + timedelta(seconds=_MAINTENANCE_RETRY_SECONDS)
            self._next_trim = self._next_maintenance

    def _retry_seconds(self, failures: int) -> float:
        doubled = self._options.first_retry_seconds * (1 << min(failures - 1, 20))
        jitter = random.uniform(0.5, 1)  # noqa: S311 - keeps workers apart, no secret
        return min(doubled, self._options.longest_retry_seconds) * jitter

    def _settle(self) -> Claim | None:
        options = self._options
        try:
            with driver_errors_wrapped():
                if self._connection is None:
                    self._connection = _connect(self._options.database_url)
                if not is_waiting(self._connection):
                    return None
                with self._connection.transaction():
                    claimed = claim(self._connection, options.claim_items, options.claim_bytes)
                    if claimed is None:
                        return None
                    tally = self._writer.write(
                        self._connection,
                        claimed.events,
                        claimed.refused,
                        claimed.reckoning,
                        replayed=claimed.replayed,
                    )
                    claimed.settle()
                    # Last: every worker adds to the same few rows, and waits for who has them.
                    claimed.reckoning.write(self._connection)
        except BaseException:
            self._disconnect()
            raise
        self.totals.add(tally)
        return claimed


def _is_told_to_stop(signals: set[signal.Signals], seconds: float) -> bool:
    # Not by sigtimedwait: woken late, as after SIGSTOP, CPython's tells of a signal that nobody sent
    # (it leaves its loop with a siginfo that was never filled in).
    until = monotonic() + seconds
    while not (told := signal.sigpending() & signals):
        left_seconds = until - monotonic()
        if left_seconds <= 0:
            return False
        sleep(min(left_seconds, _LISTEN_SECONDS))
    for number in told:
        signal.sigwait({number})
    return True


def run(options: WorkerOptions) -> None:
    """Work until SIGTERM or SIGINT, finish the claim at hand, and return.

    A database that isn't there, or not yet, is waited for.
    """
    # Blocked and asked for between claims, a signal can't interrupt a claim anywhere.
    signals = {signal.SIGTERM, signal.SIGINT}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    worker = Worker(options, clock=lambda: datetime.now(UTC))
    stopped = threading.Event()
    # Beside the claims: Postgres does the work, and no event waits for it.
    folding = threading.Thread(target=worker.rollup.keep_folding, args=(stopped,), name="rollup")
    # A claim's thousands of objects form no cycles, yet by default the collector looks through them every few
    # dozen events, and now and then through all that was imported: 4 % of the worker's instructions.
    gc.freeze()
    gc.set_threshold(_COLLECTED_OBJECTS)
    folding.start()
    try:
        log.info("worker_started")
        worker.work(lambda seconds: _is_told_to_stop(signals, seconds))
    finally:
        stopped.set()
        folding.join()
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
