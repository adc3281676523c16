"""How refused and unwritable things lie in rows of `quarantine`.

A row made here always fits: what can't stand in its column is replaced, for here goes what fits nowhere else.
It must not know why something came.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

import psycopg
from polylect.v1.error_reason_pb2 import ERROR_REASON_UNWRITABLE, ErrorReason, Rejection
from polylect.v1.event_pb2 import Event
from polylect.v1.quarantine_pb2 import QuarantinedEvent
from uuid_utils.compat import uuid7

from storage.rows import datetime_of

NO_SOURCE = "00000000-0000-0000-0000-000000000000"
"""Where things stand of which no source can be told: no source has this id, so only the admin sees them."""

_MESSAGE_LIMIT = 2_000

_INSERT = """
INSERT INTO quarantine (source_id, quarantine_id, received_at, reason, message, field, raw,
                        dialect, endpoint, request_id, client_ip)
SELECT * FROM unnest(%s::uuid[], %s::uuid[], %s::timestamptz[], %s::text[], %s::text[], %s::text[],
                     %b::bytea[], %s::text[], %s::text[], %s::text[], %s::text[])
ON CONFLICT (source_id, quarantine_id) DO NOTHING
"""


def insert_quarantined(
    connection: psycopg.Connection[Any], entries: Sequence[QuarantinedEvent], now: datetime
) -> None:
    """Insert those that are not there yet, by their ids; without a time of their own as of `now`.

    Raises the driver's errors.
    """
    rows = [_row_of(entry, now) for entry in entries]
    connection.execute(_INSERT, [list(column) for column in zip(*rows, strict=True)])


def unwritable(event: Event, error: Exception) -> QuarantinedEvent:
    """Give the entry of an accepted event that can't be stored; its id is the event's."""
    return QuarantinedEvent(
        quarantine_id=event.event_id,
        source_id=event.source_id,
        rejection=Rejection(reason=ERROR_REASON_UNWRITABLE, message=_words_of(error)),
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
        rejection=Rejection(reason=ERROR_REASON_UNWRITABLE, message=_words_of(error)),
        raw=payload,
    )


def _words_of(error: Exception) -> str:
    return (str(error).strip() or repr(error))[:_MESSAGE_LIMIT]


def _row_of(entry: QuarantinedEvent, now: datetime) -> tuple[Any, ...]:
    rejection = entry.rejection
    return (
        _uuid_or(entry.source_id, NO_SOURCE),
        _uuid_or(entry.quarantine_id, "") or str(uuid7()),
        _time_of(entry) or now,
        ErrorReason.Name(rejection.reason).removeprefix("ERROR_REASON_").lower(),
        _text(rejection.message),
        _text(rejection.field) or None,
        entry.raw,
        _text(entry.dialect) or None,
        _text(entry.endpoint) or None,
        _text(entry.request_id) or None,
        _text(entry.client_ip) or None,
    )


def _uuid_or(text: str, default: str) -> str:
    try:
        return str(UUID(text))
    except ValueError:
        return default


def _time_of(entry: QuarantinedEvent) -> datetime | None:
    try:
        return datetime_of(entry.received_at) if entry.HasField("received_at") else None
    except OverflowError:
        return None


def _text(text: str) -> str:
    return text.replace("\0", "")
