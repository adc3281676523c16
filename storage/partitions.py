"""The day partitions of `events`: made ahead, made on demand, dropped when too old.

Hides their names, bounds and locks. A partition is made beside the table and then attached: that lets writers
go on, where `CREATE TABLE … PARTITION OF` would wait for every one of them and block the next. Days are UTC,
whatever the session's time zone.
"""

from collections.abc import Callable, Iterable
from datetime import date, datetime, timedelta
from enum import IntEnum
from typing import Any, LiteralString

import psycopg
import structlog
from psycopg import sql

from storage.errors import driver_errors_wrapped

LOCK_SPACE = 0x706F6C79
"""First number of every advisory lock of the workers of a database; the second is a Lock."""


class Lock(IntEnum):
    """What the workers of a database do one at a time. Other versions run beside this one: never renumber."""

    ATTACH = 1
    RETENTION = 2
    TRIM = 3
    QUARANTINE = 4
    ROLLUP = 5


DAYS_AHEAD = 7
DAYS_BEHIND = 1

_PREFIX = "events_p"

_LIST: LiteralString = """
SELECT child.relname FROM pg_inherits
JOIN pg_class AS child ON child.oid = inhrelid
WHERE inhparent = 'events'::regclass
"""

_NO_STATISTICS: LiteralString = """
ALTER TABLE {}
    ALTER COLUMN properties SET STATISTICS 0,
    ALTER COLUMN traits SET STATISTICS 0,
    ALTER COLUMN context SET STATISTICS 0
"""

log = structlog.get_logger()

Connect = Callable[[], psycopg.Connection[Any]]
"""Opens a connection in autocommit mode. Raises StorageUnavailable."""


def try_lock(connection: psycopg.Connection[Any], lock: Lock) -> bool:
    """Take the lock until the connection is closed; False while another worker has it.

    Raises the driver's errors.
    """
    got = connection.execute("SELECT pg_try_advisory_lock(%s, %s)", (LOCK_SPACE, lock)).fetchone()
    return got == (True,)


class Partitions:
    """Knows which days have a partition, and gives one to those that haven't.

    Works on connections of its own, so that a partition stays when the claim that asked for it is done again.
    """

    def __init__(self, connect: Connect) -> None:
        self._connect = connect
        self._known: frozenset[date] = frozenset()

    def ensure(self, days: Iterable[date]) -> None:
        """Make those of `days` that are missing; free when all are known. Raises StorageUnavailable."""
        missing = frozenset(days) - self._known
        if missing:
            self._make(missing)

    def restore(self, days: Iterable[date]) -> bool:
        """Look again at what there is, make what is missing of `days`, and tell whether anything was.

        For when a partition believed to be there was dropped by another worker's retention.
        """
        self._known = frozenset()
        return self._make(frozenset(days)) > 0

    def make_ahead(self, today: date) -> None:
        """Make the partitions from yesterday to a week ahead. Raises StorageUnavailable."""
        self.ensure(today + timedelta(days=offset) for offset in range(-DAYS_BEHIND, DAYS_AHEAD + 1))

    def any_before(self, day: date) -> bool:
        """Tell whether a day before `day` has a partition. Raises StorageUnavailable."""
        with driver_errors_wrapped(), self._connect() as connection:
            return any(known < day for known in _existing(connection))

    def drop_before(self, day: date) -> list[date]:
        """Drop the partitions of the days before `day`, oldest first, and give these days.

        Waits at most a second for readers and writers to let go, lest others queue up behind the wait. Raises
        StorageUnavailable when they don't; what was dropped stays dropped.
        """
        with driver_errors_wrapped(), self._connect() as connection:
            connection.execute("SET lock_timeout = '1s'")
            expired = sorted(known for known in _existing(connection) if known < day)
            for old in expired:
                connection.execute(sql.SQL("DROP TABLE IF EXISTS {}").format(_name(old)))
                self._known -= {old}
        return expired

    def _make(self, days: frozenset[date]) -> int:
        with driver_errors_wrapped(), self._connect() as connection, connection.transaction():
            connection.execute("SELECT pg_advisory_xact_lock(%s, %s)", (LOCK_SPACE, Lock.ATTACH))
            existing = _existing(connection)
            for day in sorted(days - existing):
                _attach(connection, day)
        self._known = existing | days
        return len(days - existing)


def _existing(connection: psycopg.Connection[Any]) -> frozenset[date]:
    names = (name for (name,) in connection.execute(_LIST))
    return frozenset(day for name in names if (day := _day_of(name)) is not None)


def _attach(connection: psycopg.Connection[Any], day: date) -> None:
    name = _name(day)
    connection.execute(
        sql.SQL("CREATE TABLE {} (LIKE events INCLUDING ALL)").format(name),
    )
    # Nothing is looked for by what is in them, and comparing it is most of what ANALYZE does.
    connection.execute(sql.SQL(_NO_STATISTICS).format(name))
    connection.execute(
        sql.SQL("ALTER TABLE events ATTACH PARTITION {} FOR VALUES FROM ({}) TO ({})").format(
            name, _midnight(day), _midnight(day + timedelta(days=1))
        )
    )
    log.debug("partition_made", day=day.isoformat())


def _name(day: date) -> sql.Identifier:
    return sql.Identifier(f"{_PREFIX}{day.isoformat().replace('-', '')}")


def _day_of(name: str) -> date | None:
    try:
        # Partitions an operator attached by another name are his own.
        return datetime.strptime(name, f"{_PREFIX}%Y%m%d").date()
    except ValueError:
        return None


def _midnight(day: date) -> sql.Literal:
    return sql.Literal(f"{day.isoformat()} 00:00:00+00")
