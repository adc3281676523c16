"""Taking new events into the tables that statistics are answered from.

Hides when, and how many at once: a claim only leaves the keys of its events in a queue, and a second later
whatever waits there is folded in by a few statements over all of it. Of one visitor, session or hour there
are many events by then, and claims don't wait for each other at rows they share. One worker folds at a time.
What a fold takes off the queue and what it changes is one transaction.
"""

import threading
from collections.abc import Callable
from datetime import date, timedelta
from typing import Any

import psycopg
import structlog
from sqlalchemy import ColumnElement, Date, cast, func, select

from storage.database import compiled
from storage.errors import StorageUnavailable, driver_errors_wrapped
from storage.event_facts import type_name, user_id
from storage.partitions import LOCK_SPACE, Connect, Lock
from storage.rollup_horizon import horizon_of, purge_rollups
from storage.rollup_sessions import SESSION_TABLES, fold_sessions
from storage.rollup_users import USER_TABLES, fold_users
from storage.schema import events
from storage.sessions import is_windowed, session_key
from storage.values import EPOCH

# Some 0.3 s.
_EVENTS_AT_ONCE = 20_000
_ROWS_AT_ONCE = 1_000
# From the end of a fold that left nothing behind to the next: an event is counted within two seconds.
_PAUSE_SECONDS = 1.0
_LONGEST_RETRY_SECONDS = 10.0

_LOCK = "SELECT pg_try_advisory_xact_lock(%s, %s)"
_WAITING = """
SELECT rollup_id, cardinality(event_ids) FROM rollup_queue ORDER BY rollup_id LIMIT %s
"""
TEMPORARY = """
CREATE TEMP TABLE fresh (
    source_id uuid NOT NULL,
    site_id text NOT NULL,
    event_id uuid NOT NULL,
    occurred_at timestamptz NOT NULL,
    received_at timestamptz NOT NULL,
    day date NOT NULL,
    hour timestamptz NOT NULL,
    kind text NOT NULL,
    name text NOT NULL,
    country text NOT NULL,
    device_type text NOT NULL,
    anonymous_id text,
    cookie_id text,
    own_user_id text,
    user_id text,
    session uuid,
    windowed boolean NOT NULL
) ON COMMIT DELETE ROWS;
CREATE TEMP TABLE unlinked (source_id uuid NOT NULL, visitor text NOT NULL) ON COMMIT DELETE ROWS;
SET TimeZone = 'UTC';
SET work_mem = '32MB';
SET jit = off
"""
"""Makes what `Rollup` works in: once a connection."""

_TAKE = """
WITH taken AS (
    DELETE FROM rollup_queue WHERE rollup_id = ANY(%(taken)s)
    RETURNING source_ids, event_ids, received_ats, unlinked_source_id, unlinked_visitor
), noted AS (
    INSERT INTO unlinked SELECT DISTINCT unlinked_source_id, unlinked_visitor
    FROM taken WHERE unlinked_visitor IS NOT NULL
), asked AS (
    SELECT unnest(source_ids) AS source_id, unnest(event_ids) AS event_id, unnest(received_ats) AS received_at
    FROM taken
)
"""
# OFFSET 0: a join might read all events there are.
_EACH = """
SELECT each.* FROM asked CROSS JOIN LATERAL (
    {event}
    WHERE events.source_id = asked.source_id AND events.event_id = asked.event_id
        AND events.received_at = asked.received_at
    OFFSET 0
) AS each
"""

_COUNT_EVENTS = """
INSERT INTO event_hours (source_id, site_id, hour, group_hash, kind, name, country, device_type, events)
SELECT source_id, site_id, hour, md5(ROW(kind, name, country, device_type)::text)::uuid,
       kind, name, country, device_type, count(*)
FROM fresh
GROUP BY source_id, site_id, hour, kind, name, country, device_type
ON CONFLICT (source_id, site_id, hour, group_hash) DO UPDATE
SET events = event_hours.events + excluded.events
"""

log = structlog.get_logger()


class Rollup:
    """Folds what waits into the tables, over a connection of its own, opened when first needed."""

    def __init__(self, connect: Connect) -> None:
        self._connect = connect
        self._connection: psycopg.Connection[Any] | None = None
        # The horizon before which nothing is left to purge.
        self._purged: date | None = None

    def fold(self) -> bool:
        """Take in some of what waits; False when all of it was, or another worker is at it.

        Raises StorageUnavailable; nothing has then happened, and the next call connects anew.
        """
        return self._alone(_fold)

    def purge(self) -> bool:
        """Delete some of what lies before the horizon; True when more of it is due. Raises as `fold`."""
        return self._alone(self._purge)

    def fold_all(self) -> None:
        """Fold until nothing waits. Raises as `fold`."""
        while self.fold():
            pass

    def keep_folding(self, stopped: threading.Event) -> None:
        """Fold, again and again, until `stopped`."""
        failures = 0
        while not stopped.is_set():
            wait_seconds = 0.0
            try:
                if not self.fold() and not self.purge():
                    wait_seconds = _PAUSE_SECONDS
                failures = 0
            except Exception as error:
                # Figures are worked out from the events as long as it fails.
                failures += 1
                wait_seconds = min(_PAUSE_SECONDS * 2 ** min(failures, 10), _LONGEST_RETRY_SECONDS)
                known = isinstance(error, StorageUnavailable)
                log.warning(
                    "rollup_failed",
                    error=str(error),
                    failures=failures,
                    retry_seconds=wait_seconds,
                    exc_info=None if known else error,
                )
            stopped.wait(wait_seconds)
        self.close()

    def _alone(self, work: Callable[[psycopg.Connection[Any]], bool]) -> bool:
        """Do it in a transaction while no other worker folds or purges; without it, when one does."""
        try:
            with driver_errors_wrapped():
                if self._connection is None:
                    self._connection = self._connect()
                    for tables in (TEMPORARY, SESSION_TABLES, USER_TABLES):
                        self._connection.execute(tables)
                with self._connection.transaction():
                    got = self._connection.execute(_LOCK, (LOCK_SPACE, Lock.ROLLUP)).fetchone()
                    return got == (True,) and work(self._connection)
        except BaseException:
            self.close()
            raise

    def _purge(self, connection: psycopg.Connection[Any]) -> bool:
        horizon = horizon_of(connection)
        if horizon is None or horizon == self._purged:
            return False
        if not purge_rollups(connection, horizon):
            return True
        self._purged = horizon
        return False

    def close(self) -> None:
        """Close the connection; a later call opens another."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def _fold(connection: psycopg.Connection[Any]) -> bool:
    waiting = connection.execute(_WAITING, (_ROWS_AT_ONCE,)).fetchall()
    taken: list[int] = []
    event_count = 0
    for rollup_id, size in waiting:
        if taken and event_count + size > _EVENTS_AT_ONCE:
            break
        taken.append(rollup_id)
        event_count += size
    if taken:
        # Planned each time: a plan kept from when a day's partition was empty reads all of that day.
        connection.execute(TAKING, {**TAKING_PARAMETERS, "taken": taken}, prepare=False)
        connection.execute(_COUNT_EVENTS)
        fold_sessions(connection)
        fold_users(connection)
    return len(taken) < len(waiting) or len(waiting) == _ROWS_AT_ONCE


def _taking() -> tuple[bytes, dict[str, Any]]:
    columns: dict[str, ColumnElement[Any]] = {
        "source_id": events.c.source_id,
        "site_id": func.coalesce(events.c.provenance_site_id, ""),
        "event_id": events.c.event_id,
        "occurred_at": events.c.occurred_at,
        "received_at": events.c.received_at,
        # In the session's time zone; one given by name would be looked up for each event.
        "day": cast(events.c.occurred_at, Date),
        "hour": func.date_bin(timedelta(hours=1), events.c.occurred_at, EPOCH),
        "kind": events.c.kind,
        "name": type_name(),
        "country": func.coalesce(events.c.geo_country, ""),
        "device_type": func.coalesce(events.c.device_type, ""),
        "anonymous_id": events.c.anonymous_id,
        "cookie_id": events.c.cookie_id,
        "own_user_id": events.c.user_id,
        "user_id": user_id(of_many=False),
        "session": session_key(),
        "windowed": is_windowed(),
    }
    text, parameters = compiled(select(*columns.values()))
    each = _EACH.format(event=text)
    return f"{_TAKE} INSERT INTO fresh ({', '.join(columns)}) {each}".encode(), parameters


TAKING, TAKING_PARAMETERS = _taking()
"""Takes rows off the queue, and their events into `fresh`."""
