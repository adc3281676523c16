"""Deleting what is due a chunk at a time, of any table whose rows have a source and a time of receipt.

Hides the statements, and how much one of them deletes. It must not know why something is due.
"""

from datetime import datetime
from typing import Any

import psycopg
from psycopg import sql

from storage.values import NO_SOURCE

# A chunk takes some 40 ms, in which this worker claims nothing.
_PURGE_ROWS = 5_000
# The condition stands twice: the outer one is checked again on a row that another worker has just renewed.
_PURGE_OLD = sql.SQL("""
DELETE FROM {table} WHERE received_at < %(cutoff)s AND ctid = ANY(ARRAY(
    SELECT ctid FROM {table} WHERE received_at < %(cutoff)s LIMIT %(rows)s))
""")
_PURGE_MANY = sql.SQL("""
DELETE FROM {table} WHERE ctid = ANY(ARRAY(
    SELECT one.ctid FROM (SELECT source_id FROM sources UNION ALL SELECT %(no_source)s::uuid) AS each
    CROSS JOIN LATERAL (SELECT {id} AS last_id FROM {table} AS kept WHERE kept.source_id = each.source_id
                        ORDER BY {id} DESC OFFSET %(largest)s LIMIT 1) AS last
    JOIN {table} AS one ON one.source_id = each.source_id AND one.{id} <= last.last_id
    LIMIT %(rows)s))
""")


def purge_old(connection: psycopg.Connection[Any], table: str, cutoff: datetime) -> bool:
    """Delete a chunk of the rows received before `cutoff`; False when more is due.

    Raises the driver's errors.
    """
    statement = _PURGE_OLD.format(table=sql.Identifier(table))
    return connection.execute(statement, {"cutoff": cutoff, "rows": _PURGE_ROWS}).rowcount < _PURGE_ROWS


def purge_many(connection: psycopg.Connection[Any], table: str, id_column: str, largest: int) -> bool:
    """Delete a chunk of the oldest, by id, of what a source has beyond `largest`; False when more is due.

    Raises the driver's errors.
    """
    statement = _PURGE_MANY.format(table=sql.Identifier(table), id=sql.Identifier(id_column))
    parameters = {"no_source": NO_SOURCE, "largest": largest, "rows": _PURGE_ROWS}
    return connection.execute(statement, parameters).rowcount < _PURGE_ROWS
