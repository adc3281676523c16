"""Reading the ledger together with what lies in the queue, as of one moment.

Hides that the two are one statement: an event is counted here or there, never in both or in neither. What
adds to it is `reckoning`.
"""

import base64
from collections.abc import Mapping
from datetime import datetime
from typing import Any, LiteralString, NamedTuple

import msgspec
from polylect.v1.trail_pb2 import GetLedgerResponse, LedgerEntry

from storage.database import Database
from storage.values import NO_SOURCE, timestamp_of, uuid_text

_COUNTS = ("received", "stored", "duplicate", "quarantined", "refused", "in_queue")
# Told apart from the tokens of other lists.
_TOKEN_MARK = b"l"

_SUMS: LiteralString = ", ".join(f"coalesce(sum({name}), 0)::bigint AS total_{name}" for name in _COUNTS)
_OF_RANGE: LiteralString = """
    (%(source_id)s::uuid IS NULL OR source_id = %(source_id)s::uuid)
    AND (%(from)s::timestamptz IS NULL OR hour >= %(from)s::timestamptz)
    AND (%(until)s::timestamptz IS NULL OR hour < %(until)s::timestamptz)
"""
_WAITING: LiteralString = """
SELECT coalesce(sum(item_count), 0)::bigint AS items,
       coalesce(extract(epoch FROM clock_timestamp() - min(enqueued_at)), 0)::float AS age_seconds,
       coalesce((SELECT extract(epoch FROM clock_timestamp() - enqueued_at) FROM rollup_queue
                 ORDER BY rollup_id LIMIT 1), 0)::float AS rollup_age_seconds
FROM queue
"""
_ENTRIES: LiteralString = f"""
WITH counted AS (
    SELECT source_id, dialect, hour, received, stored, duplicate, quarantined, refused FROM ledger
    WHERE {_OF_RANGE}
), waiting AS (
    SELECT source_id, dialect, hour, sum(events) AS in_queue FROM (
        SELECT (line->>0)::uuid, line->>1, to_timestamp((line->>2)::bigint), (line->>3)::bigint
        FROM queue CROSS JOIN LATERAL jsonb_array_elements(received) AS line
        UNION ALL
        SELECT %(no_source)s::uuid, '', date_trunc('hour', enqueued_at, 'UTC'), item_count
        FROM queue WHERE received IS NULL
    ) AS line (source_id, dialect, hour, events)
    WHERE {_OF_RANGE} GROUP BY 1, 2, 3
), entries AS (
    SELECT source_id, dialect, hour,
           coalesce(received, 0) + coalesce(in_queue, 0) AS received, coalesce(stored, 0) AS stored,
           coalesce(duplicate, 0) AS duplicate, coalesce(quarantined, 0) AS quarantined,
           coalesce(refused, 0) AS refused, coalesce(in_queue, 0) AS in_queue
    FROM counted FULL JOIN waiting USING (source_id, dialect, hour)
)
"""  # noqa: S608
_TOTAL: LiteralString = f"""
SELECT {_SUMS},
       count(*) FILTER (WHERE received <> stored + duplicate + quarantined + refused + in_queue) AS unbalanced
"""
_BY_DIALECT: LiteralString = f"{_ENTRIES} {_TOTAL}, dialect FROM entries GROUP BY dialect ORDER BY dialect"
_PAGE: LiteralString = f"""
{_ENTRIES}
SELECT total.*, page.*
FROM ({_TOTAL} FROM entries) AS total
LEFT JOIN LATERAL (
    SELECT source_id AS source, dialect, hour, received, stored, duplicate, quarantined, refused, in_queue
    FROM entries
    WHERE %(after_hour)s::timestamptz IS NULL OR hour < %(after_hour)s::timestamptz
        OR (hour = %(after_hour)s::timestamptz
            AND (source_id, dialect) > (%(after_source)s::uuid, %(after_dialect)s::text))
    ORDER BY hour DESC, source_id, dialect LIMIT %(limit)s
) AS page ON true
ORDER BY hour DESC, source, dialect
"""  # noqa: S608


class QueueState(NamedTuple):
    """What waits for a worker."""

    items: int
    # Of the oldest; 0 when nothing waits.
    age_seconds: float
    # Of the oldest that the rollups have yet to take in; likewise.
    rollup_age_seconds: float


async def queue_state(database: Database) -> QueueState:
    """Tell what waits in the queue. Raises StorageUnavailable."""
    async with database.connection() as connection:
        rows = await (await connection.execute(_WAITING)).fetchall()
    return QueueState(**rows[0])


async def ledger_by_dialect(database: Database) -> GetLedgerResponse:
    """Give the whole ledger, summed up: an entry for each dialect, of no source and hour.

    It reads all of it. Raises StorageUnavailable.
    """
    parameters = {"source_id": None, "from": None, "until": None, "no_source": NO_SOURCE}
    async with database.connection() as connection:
        rows = await (await connection.execute(_BY_DIALECT, parameters)).fetchall()
    response = GetLedgerResponse(unbalanced_entries=sum(row["unbalanced"] for row in rows))
    for row in rows:
        counts = {name: row[f"total_{name}"] for name in _COUNTS}
        response.entries.add(dialect=row["dialect"], **counts)
    return response


async def ledger_page(
    database: Database,
    source_id: str | None,
    between: tuple[datetime | None, datetime | None],
    page_size: int,
    page_token: str,
) -> GetLedgerResponse:
    """Give a page of the hours `between`, from inclusive, until exclusive, and the sums over all of them.

    Raises ValueError for a page token that is not one of its own, and StorageUnavailable.
    """
    after_hour, after_source, after_dialect = _place_of(page_token) if page_token else (None, None, None)
    parameters = {
        "source_id": source_id and (uuid_text(source_id) or NO_SOURCE),
        "from": between[0],
        "until": between[1],
        "no_source": NO_SOURCE,
        "after_hour": after_hour,
        "after_source": after_source,
        "after_dialect": after_dialect,
        # One more tells whether there is another page.
        "limit": page_size + 1,
    }
    async with database.connection() as connection:
        rows = await (await connection.execute(_PAGE, parameters)).fetchall()
    response = GetLedgerResponse(
        total=LedgerEntry(**{name: rows[0][f"total_{name}"] for name in _COUNTS}),
        unbalanced_entries=rows[0]["unbalanced"],
    )
    listed = [row for row in rows if row["source"] is not None]
    for row in listed[:page_size]:
        response.entries.append(_entry_of(row))
    if len(listed) > page_size:
        response.next_page_token = _token_of(listed[page_size - 1])
    return response


def _entry_of(row: Mapping[str, Any]) -> LedgerEntry:
    return LedgerEntry(
        source_id=str(row["source"]),
        dialect=row["dialect"],
        hour=timestamp_of(row["hour"]),
        **{name: int(row[name]) for name in _COUNTS},
    )


def _token_of(row: Mapping[str, Any]) -> str:
    place = msgspec.json.encode((row["hour"], str(row["source"]), row["dialect"]))
    return base64.urlsafe_b64encode(_TOKEN_MARK + place).decode()


def _place_of(token: str) -> tuple[datetime, str, str]:
    try:
        content = base64.urlsafe_b64decode(token)
        hour, source_id, dialect = msgspec.json.decode(
            content.removeprefix(_TOKEN_MARK), type=tuple[datetime, str, str]
        )
    except (ValueError, msgspec.MsgspecError) as error:
        raise ValueError("not a page token") from error
    canonical = uuid_text(source_id)
    if not content.startswith(_TOKEN_MARK) or canonical is None or hour.tzinfo is None or "\0" in dialect:
        raise ValueError("not a page token of the ledger")
    return hour, canonical, dialect
