"""Requests refused as a whole: counted in the ledger, and some of them remembered.

Hides that both are one statement, and how many are kept. It must not know why something is refused.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

import psycopg
from polylect.v1.error_reason_pb2 import Rejection
from polylect.v1.trail_pb2 import Refusal
from uuid_utils.compat import uuid7

from storage.database import Database
from storage.purging import purge_many, purge_old
from storage.reasons import reason_of, reason_text
from storage.reckoning import UPSERT, Line, Reckoning
from storage.schema import refusals
from storage.values import NO_SOURCE, datetime_of, selected, timestamp_of, uuid_text

KEPT = timedelta(days=7)
"""For how long a refusal is remembered; README and command line say so too."""

_LARGEST_OF_SOURCE = 100_000

_TEXT_CHARACTERS = {"message": 1_000, "dialect": 64, "endpoint": 256, "request_id": 128, "client_ip": 64}
_LARGEST_EVENT_COUNT = (1 << 31) - 1

# One statement: a refusal that is remembered is counted, whatever fails.
_ADD = f"""
WITH remembered AS (
    INSERT INTO refusals (source_id, refusal_id, received_at, reason, message, dialect, endpoint, request_id,
                          client_ip, event_count)
    SELECT * FROM unnest(%s::uuid[], %s::uuid[], %s::timestamptz[], %s::text[], %s::text[], %s::text[],
                         %s::text[], %s::text[], %s::text[], %s::int[])
)
{UPSERT}
"""  # noqa: S608 - of literals only

REFUSALS_SELECTED = tuple(selected(column) for column in refusals.columns)
"""What to select for `refusal_of`."""


class PostgresRefusals:
    """The core's end of the refusals."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add_refused(self, counts: Mapping[Line, int], remembered: Sequence[Refusal]) -> None:
        """Count events as received and refused, and remember some of their requests: all or nothing.

        Raises StorageUnavailable; when the connection broke at the commit, it may be there all the same.
        """
        reckoning = Reckoning()
        reckoning.refuse(counts)
        rows = [_row_of(refusal) for refusal in remembered]
        columns = [list(column) for column in zip(*rows, strict=True)] or [[] for _ in range(10)]
        async with self._database.connection() as connection:
            await connection.execute(_ADD, [*columns, *reckoning.parameters()])


def purge_refusals(connection: psycopg.Connection[Any], now: datetime) -> bool:
    """Forget a chunk of those past their time, and of too many; False when more is due.

    Raises the driver's errors.
    """
    # Both, whatever the one says.
    return purge_old(connection, "refusals", now - KEPT) & purge_many(
        connection, "refusals", "refusal_id", _LARGEST_OF_SOURCE
    )


def refusal_of(row: Mapping[str, Any]) -> Refusal:
    """Give the refusal of a row selected by REFUSALS_SELECTED."""
    return Refusal(
        refusal_id=row["refusal_id"],
        source_id=row["source_id"],
        rejection=Rejection(reason=reason_of(row["reason"]), message=row["message"]),
        received_at=timestamp_of(row["received_at"]),
        dialect=row["dialect"] or "",
        endpoint=row["endpoint"] or "",
        request_id=row["request_id"] or "",
        client_ip=row["client_ip"] or "",
        event_count=row["event_count"],
    )


def _row_of(refusal: Refusal) -> tuple[Any, ...]:
    return (
        uuid_text(refusal.source_id) or NO_SOURCE,
        uuid_text(refusal.refusal_id) or str(uuid7()),
        datetime_of(refusal.received_at),
        reason_text(refusal.rejection.reason),
        _text(refusal.rejection.message, "message"),
        _text(refusal.dialect, "dialect") or None,
        _text(refusal.endpoint, "endpoint") or None,
        _text(refusal.request_id, "request_id") or None,
        _text(refusal.client_ip, "client_ip") or None,
        min(refusal.event_count, _LARGEST_EVENT_COUNT),
    )


def _text(text: str, column: str) -> str:
    return text.replace("\0", "")[: _TEXT_CHARACTERS[column]]
