"""How refused and unwritable things lie in rows of `quarantine`.

A row made here always fits: what can't stand in its column is replaced, for here goes what fits nowhere else.
It must not know why something came.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

import psycopg
import structlog
from polylect.v1.error_reason_pb2 import ERROR_REASON_UNWRITABLE, Rejection
from polylect.v1.event_pb2 import Event
from polylect.v1.quarantine_pb2 import Circumstances, QuarantinedEvent
from uuid_utils.compat import uuid7

from storage.reasons import reason_of, reason_text
from storage.schema import events, quarantine
from storage.values import NO_SOURCE, datetime_of, selected, timestamp_of, uuid_text

SELECTED = tuple(selected(column) for column in quarantine.columns)
"""What to select for `quarantined_of`."""

SIZE_BYTES = "octet_length(raw) + coalesce(octet_length(circumstances), 0)"
"""How much an entry holds, in SQL; of what is yet to be written, `size_bytes_of`."""

_MESSAGE_LIMIT = 2_000
# Of one claim's, each by itself.
_LOGGED = 10
# What quotes a value in the messages of Postgres and Python; a value may hold quotes itself.
_QUOTED = re.compile(r"""(["']).*\1""", re.DOTALL)
_COPIED_COLUMN = re.compile(r"^COPY events, line \d+, column (\w+)", re.MULTILINE)

_INSERT = """
INSERT INTO quarantine (source_id, quarantine_id, received_at, reason, message, field, raw,
                        dialect, endpoint, request_id, client_ip, circumstances)
SELECT * FROM unnest(%s::uuid[], %s::uuid[], %s::timestamptz[], %s::text[], %s::text[], %s::text[],
                     %b::bytea[], %s::text[], %s::text[], %s::text[], %s::text[], %b::bytea[])
ON CONFLICT (source_id, quarantine_id) DO NOTHING
"""

log = structlog.get_logger()

# Locked in the order of the ids; a DELETE takes them as they come.
_REMOVE = """
WITH found AS (
    SELECT source_id, quarantine_id FROM quarantine
    JOIN unnest(%s::uuid[], %s::uuid[]) AS gone (source_id, quarantine_id) USING (source_id, quarantine_id)
    ORDER BY source_id, quarantine_id FOR UPDATE OF quarantine
)
DELETE FROM quarantine USING found
WHERE quarantine.source_id = found.source_id AND quarantine.quarantine_id = found.quarantine_id
RETURNING quarantine.source_id::text, quarantine.quarantine_id::text
"""


def insert_quarantined(
    connection: psycopg.Connection[Any], entries: Sequence[QuarantinedEvent], now: datetime
) -> None:
    """Insert those that are not there yet, by their ids; without a time of their own as of `now`.

    Raises the driver's errors.
    """
    rows = [_row_of(entry, now) for entry in entries]
    connection.execute(_INSERT, [list(column) for column in zip(*rows, strict=True)])
    for row in rows[:_LOGGED]:
        _log_row(row)
    if len(rows) > _LOGGED:
        log.info("more_quarantined", events=len(rows) - _LOGGED)


def _log_row(row: tuple[Any, ...]) -> None:
    """Name the request it came with, as facade and core do, and nothing the client wrote."""
    source_id, quarantine_id, _, reason, *_, dialect, endpoint, request_id, _, _ = row
    log.info(
        "event_quarantined",
        request_id=request_id,
        source_id=source_id,
        quarantine_id=quarantine_id,
        dialect=dialect,
        endpoint=endpoint,
        reason=reason,
    )


def remove_quarantined(
    connection: psycopg.Connection[Any], keys: Iterable[tuple[str, str]]
) -> set[tuple[str, str]]:
    """Remove by source_id and quarantine_id, and give those that were there. Raises the driver's errors."""
    # In one order, so that workers with entries in common wait for each other and never in a circle.
    source_ids, quarantine_ids = zip(*sorted(keys), strict=True)
    return set(connection.execute(_REMOVE, (list(source_ids), list(quarantine_ids))))


def unwritable(event: Event, error: Exception) -> QuarantinedEvent:
    """Give the entry of an accepted event that can't be stored; its id is the event's."""
    return QuarantinedEvent(
        quarantine_id=event.event_id,
        source_id=event.source_id,
        rejection=Rejection(reason=ERROR_REASON_UNWRITABLE, message=words_of(error)),
        raw=event.SerializeToString(),
        received_at=event.received_at,
        dialect=event.provenance.dialect,
        endpoint=event.provenance.endpoint,
        request_id=event.provenance.request_id,
        client_ip=event.client_ip,
    )


def undecodable(payload: bytes, error: Exception) -> QuarantinedEvent:
    """Give the entry of a queue row nobody can read, as it was, for an operator to look at."""
    return QuarantinedEvent(
        source_id=NO_SOURCE,
        rejection=Rejection(reason=ERROR_REASON_UNWRITABLE, message=words_of(error)),
        raw=payload,
    )


def words_of(error: Exception) -> str:
    """Say why an event can't be stored without repeating what the client sent: fit for a log.

    The driver's own text has the statement's context and, quoted, the values.
    """
    words, column = str(error), None
    if isinstance(error, psycopg.Error):
        words = error.diag.message_primary or words
        column = _COPIED_COLUMN.search(error.diag.context or "")
    words = _QUOTED.sub(r"\1…\1", words.strip())[:_MESSAGE_LIMIT] or type(error).__name__
    return f"{column[1]}: {words}" if column and column[1] in events.columns else words


def size_bytes_of(entry: QuarantinedEvent) -> int:
    """Give how much an entry will hold: its SIZE_BYTES."""
    return len(entry.raw) + entry.circumstances.ByteSize()


def quarantined_of(row: Mapping[str, Any]) -> QuarantinedEvent:
    """Give the entry of a row selected by SELECTED."""
    circumstances = row["circumstances"]
    return QuarantinedEvent(
        quarantine_id=row["quarantine_id"],
        source_id=row["source_id"],
        rejection=Rejection(
            reason=reason_of(row["reason"]), message=row["message"], field=row["field"] or ""
        ),
        raw=row["raw"],
        received_at=timestamp_of(row["received_at"]),
        dialect=row["dialect"] or "",
        endpoint=row["endpoint"] or "",
        request_id=row["request_id"] or "",
        client_ip=row["client_ip"] or "",
        circumstances=Circumstances.FromString(circumstances) if circumstances is not None else None,
    )


def _row_of(entry: QuarantinedEvent, now: datetime) -> tuple[Any, ...]:
    rejection = entry.rejection
    return (
        uuid_text(entry.source_id) or NO_SOURCE,
        uuid_text(entry.quarantine_id) or str(uuid7()),
        _time_of(entry) or now,
        reason_text(rejection.reason),
        _text(rejection.message),
        _text(rejection.field) or None,
        entry.raw,
        _text(entry.dialect) or None,
        _text(entry.endpoint) or None,
        _text(entry.request_id) or None,
        _text(entry.client_ip) or None,
        entry.circumstances.SerializeToString() if entry.HasField("circumstances") else None,
    )


def _time_of(entry: QuarantinedEvent) -> datetime | None:
    try:
        return datetime_of(entry.received_at) if entry.HasField("received_at") else None
    except OverflowError:
        return None


def _text(text: str) -> str:
    return text.replace("\0", "")
