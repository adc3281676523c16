"""From which day on the rollups are complete, and what is deleted of them before it.

Events are dropped by the day of their receipt, and an event is received up to a day before it says it
occurred: of the days before, rollups tell what `events` no longer has.
"""

from datetime import UTC, date, datetime, time, timedelta
from typing import Any

import psycopg
from psycopg import sql

_RAISE = """
INSERT INTO rollup_horizon (day) VALUES (%s)
ON CONFLICT (only_row) DO UPDATE SET day = greatest(rollup_horizon.day, excluded.day)
"""
# By when a row's day begins, or its day.
_PURGED = {
    "event_hours": "hour",
    "session_days": "started_at",
    "session_hours": "hour",
    "session_hour_names": "hour",
    "visitor_days": "day",
    "user_day_totals": "day",
}
_PURGE = """
DELETE FROM {table} WHERE ctid = ANY(ARRAY(SELECT ctid FROM {table} WHERE {moment} < %s LIMIT %s))
"""
# As in `purging`.
_PURGE_ROWS = 5_000


def horizon_of(connection: psycopg.Connection[Any]) -> date | None:
    """Give the day from which on rollups are complete; None for all. Raises the driver's errors."""
    row = connection.execute("SELECT day FROM rollup_horizon").fetchone()
    return row[0] if row else None


def raise_horizon(connection: psycopg.Connection[Any], first_day: date) -> None:
    """Say that events received before `first_day` are about to be dropped. Raises the driver's errors."""
    connection.execute(_RAISE, (first_day + timedelta(days=1),))


def purge_rollups(connection: psycopg.Connection[Any], horizon: date) -> bool:
    """Delete a chunk of each table before the horizon; False when more is due. Raises the driver's errors.

    Nobody may fold meanwhile.
    """
    midnight = datetime.combine(horizon, time(), UTC)
    done = True
    for table, moment in _PURGED.items():
        statement = sql.SQL(_PURGE).format(table=sql.Identifier(table), moment=sql.Identifier(moment))
        bound = horizon if moment == "day" else midnight
        done &= connection.execute(statement, (bound, _PURGE_ROWS)).rowcount < _PURGE_ROWS
    return done
