"""What is deleted when: partitions, sessions, dedup keys, duplicates, refusals, and old salts.

Hides the order and that of all workers one does it at a time.
"""

from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Any

import psycopg
import structlog

from storage.duplicates import purge_duplicates
from storage.errors import driver_errors_wrapped
from storage.partitions import Connect, Lock, Partitions, try_lock
from storage.purging import purge_old
from storage.refusals import purge_refusals
from storage.rollup_horizon import raise_horizon

# Cores whose clock is behind may still be in yesterday.
_SALT_GRACE = timedelta(hours=1)
# An event is enqueued after it was received, but by another machine's clock.
_CLOCK_GRACE = timedelta(hours=1)

log = structlog.get_logger()


@dataclass(frozen=True)
class Retention:
    """Applies one installation's terms. `retention_days` 0 keeps events for ever."""

    connect: Connect
    partitions: Partitions
    retention_days: int
    dedup_window: timedelta

    def apply(self, now: datetime) -> bool:
        """Delete what is due, of keys and records a chunk; False when more of them is due.

        Raises StorageUnavailable. Does nothing while another worker is at it.
        """
        with driver_errors_wrapped(), self.connect() as connection:
            if not try_lock(connection, Lock.RETENTION):
                return True
            cutoff = self._dedup_cutoff(connection, now)
            keys_done = purge_old(connection, "dedup_keys", cutoff)
            duplicates_done = purge_duplicates(connection, cutoff)
            connection.execute("DELETE FROM daily_salts WHERE day < %s", ((now - _SALT_GRACE).date(),))
            dropped = self._drop_partitions(connection, now)
            sessions_done = self._purge_sessions(connection, now)
        if dropped:
            log.info("partitions_dropped", days=[day.isoformat() for day in dropped])
        return keys_done and duplicates_done and sessions_done

    def trim(self, now: datetime) -> bool:
        """Delete a chunk of the refusals that are old or too many; False when more is due.

        Raises StorageUnavailable. Does nothing while another worker is at it.
        """
        with driver_errors_wrapped(), self.connect() as connection:
            return not try_lock(connection, Lock.TRIM) or purge_refusals(connection, now)

    def _dedup_cutoff(self, connection: psycopg.Connection[Any], now: datetime) -> datetime:
        # An event that waits in the queue counts as of its receipt: its window's keys must still be there.
        row = connection.execute("SELECT min(enqueued_at) FROM queue").fetchone()
        oldest = row[0] if row and row[0] else now
        cutoff: datetime = min(now, oldest) - self.dedup_window - _CLOCK_GRACE
        return cutoff

    def _purge_sessions(self, connection: psycopg.Connection[Any], now: datetime) -> bool:
        if not self.retention_days:
            return True
        # A session goes when the last of its events has; one that goes on is renewed meanwhile.
        return purge_old(connection, "session_spans", datetime.combine(self._first_day(now), time(), UTC))

    def _drop_partitions(self, connection: psycopg.Connection[Any], now: datetime) -> list[date]:
        first_day = self._first_day(now)
        if not self.retention_days or not self.partitions.any_before(first_day):
            return []
        raise_horizon(connection, first_day)
        return self.partitions.drop_before(first_day)

    def _first_day(self, now: datetime) -> date:
        return (now - timedelta(days=self.retention_days)).date()
