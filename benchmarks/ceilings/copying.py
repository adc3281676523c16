"""Ceiling (b): the rows of real events into the same table by COPY, from one plain psycopg connection.

No parsing, no queue, no deduplication: what a script would do that has the rows in its hands. Every
transaction is as durable as the system's.
"""

import time
import uuid
from collections.abc import Sequence
from datetime import datetime
from typing import Any

import psycopg
from psycopg import sql
from uuid_utils import compat

_TEMPLATE_ROWS = 2000
# Measured as the best on a small machine; larger ones gain nothing.
_ROWS_PER_TRANSACTION = 2000
_OWN_COLUMNS = ("source_id", "event_id")

# Some of each dialect, in any order.
_TEMPLATES = """
SELECT {} FROM events WHERE source_id = %s AND received_at >= %s ORDER BY md5(event_id::text) LIMIT %s
"""

Connection = psycopg.Connection[Any]
Row = tuple[Any, ...]


class CopyCeiling:
    """Copies events of a source, received since, again and again under a source of its own and fresh ids."""

    def __init__(self, connection: Connection, source_id: str, since: datetime) -> None:
        self._connection = connection
        self._source_id = str(uuid.uuid4())
        names = [name for name in _columns(connection) if name not in _OWN_COLUMNS]
        select = sql.SQL(_TEMPLATES).format(
            sql.SQL(", ").join(sql.SQL("{}::text").format(sql.Identifier(name)) for name in names)
        )
        chosen = connection.execute(select, [source_id, since, _TEMPLATE_ROWS])
        self._templates: Sequence[Row] = chosen.fetchall()
        self._copy = sql.SQL("COPY events ({}) FROM STDIN").format(
            sql.SQL(", ").join(map(sql.Identifier, [*_OWN_COLUMNS, *names]))
        )

    def measure(self, rows: int) -> float:
        """Copy that many rows; give rows per second."""
        templates = self._templates
        ready = [
            (self._source_id, str(compat.uuid7()), *templates[number % len(templates)])
            for number in range(rows)
        ]
        begun = time.perf_counter()
        for start in range(0, rows, _ROWS_PER_TRANSACTION):
            with (
                self._connection.transaction(),
                self._connection.cursor() as cursor,
                cursor.copy(self._copy) as copy,
            ):
                for row in ready[start : start + _ROWS_PER_TRANSACTION]:
                    copy.write_row(row)
        return rows / (time.perf_counter() - begun)

    def remove(self) -> None:
        """Take the copies away."""
        self._connection.execute("DELETE FROM events WHERE source_id = %s", [self._source_id])
        self._connection.execute("VACUUM events")


def _columns(connection: Connection) -> list[str]:
    rows = connection.execute(
        "SELECT attname FROM pg_attribute WHERE attrelid = 'events'::regclass AND attnum > 0 "
        "AND NOT attisdropped ORDER BY attnum"
    )
    return [name for (name,) in rows]
