"""From which day on the rollups are complete, and what is deleted of them before it.

Events are dropped by the day of their receipt, and an event is received up to a day before it says it
occurred: of the days before, rollups tell what `events` no longer has.
"""

from datetime import date, timedelta
from typing import Any

import psycopg
from psycopg import sql

_RAISE = """
INSERT INTO rollup_horizon (day) VALUES (%s)
ON CONFLICT (only_row) DO UPDATE SET day = greatest(rollup_horizon.day, excluded.day)
"""
_PURGED = {
    "event_hours": "(hour AT TIME ZONE 'UTC')::date",
    "session_days": "(started_at AT TIME ZONE 'UTC')::date",
    "session_hours": "(hour AT TIME ZONE 'UTC')::date",
    "session_hour_names": "(hour AT TIME ZONE 'UTC')::date",
    "visitor_days": "day",
    "user_day_totals": "day",
}
_PURGE = """
DELETE FROM {table} WHERE ctid = ANY(ARRAY(
    SELECT ctid FROM {table} WHERE {day} < (SELECT rollup_horizon.day FROM rollup_horizon) LIMIT %s))
"""
# As in `purging`.
_PURGE_ROWS = 5_000


def raise_horizon(connection: psycopg.Connection[Any], first_day: date) -> None:
    """Say that events received before `first_day` are about to be dropped. Raises the driver's errors."""
    connection.execute(_RAISE, (first_day + timedelta(days=1),))


def purge_rollups(connection: psycopg.Connection[Any]) -> bool:
    """Delete a chunk of each table before the horizon; False when more is due. Raises the driver's errors."""
    done = True
    for table, day in _PURGED.items():
        statement = sql.SQL(_PURGE).format(table=sql.Identifier(table), day=sql.SQL(day))
        done &= connection.execute(statement, (_PURGE_ROWS,)).rowcount < _PURGE_ROWS
    return done
