"""How a quarantined event is shown: to people so that it can't steer their terminal, to programs whole.

Hides that what was kept may be JSON, no JSON at all, or an event.
"""

import base64
from collections.abc import Iterator
from typing import Any

import msgspec
from google.protobuf.message import DecodeError
from polylect.v1.error_reason_pb2 import ERROR_REASON_UNWRITABLE
from polylect.v1.event_pb2 import Event
from polylect.v1.quarantine_pb2 import QuarantinedEvent, QuarantineSummary

from polylect_cli.calling import time_text
from polylect_cli.output import printable
from polylect_cli.words import reason_word
from rest_facade.event_document import as_document

_GRPC = "grpc"


def entry_document(entry: QuarantinedEvent) -> dict[str, Any]:
    """Give an entry for programs.

    What was sent stands under `raw` when it is JSON, under `event` when it is an event, else, in base64,
    under `raw_base64`.
    """
    kept = entry.circumstances
    document: dict[str, Any] = {
        "quarantine_id": entry.quarantine_id,
        "source_id": entry.source_id,
        "reason": reason_word(entry.rejection.reason),
        "message": entry.rejection.message,
        "field": entry.rejection.field or None,
        "received_at": time_text(entry.received_at),
        "dialect": entry.dialect,
        "endpoint": entry.endpoint,
        "request_id": entry.request_id,
        "client_ip": entry.client_ip,
        "user_agent": kept.user_agent or None,
        "cookie_id": kept.cookie_id or None,
    }
    if kept.envelope:
        document |= _body_document("envelope", kept.envelope)
    event = _event_of(entry)
    return document | ({"event": as_document(event)} if event else _body_document("raw", entry.raw))


def summary_document(summary: QuarantineSummary) -> dict[str, Any]:
    """Give a source's summary for programs."""
    return {
        "source_id": summary.source_id,
        "entries": sum(counted.count for counted in summary.reasons),
        "reasons": {reason_word(counted.reason): counted.count for counted in summary.reasons},
        "size_bytes": summary.size_bytes,
        "oldest_received_at": time_text(summary.oldest_received_at) or None,
        "latest_received_at": time_text(summary.latest_received_at) or None,
        "dropped_for_room": summary.dropped_for_room,
        "dropped_for_age": summary.dropped_for_age,
    }


def sent_lines(entry: QuarantinedEvent) -> Iterator[str]:
    """Give what was sent for people, line by line, safe for a terminal."""
    if entry.circumstances.envelope:
        yield from ("", "beside it in its batch:")
        yield from _body_lines(entry.circumstances.envelope)
    event = _event_of(entry)
    yield from ("", "what was sent:" if event is None else "the event:")
    yield from _body_lines(entry.raw if event is None else msgspec.json.encode(as_document(event)))


def _body_document(name: str, body: bytes) -> dict[str, Any]:
    compact = _reformatted(body, indent=-1)
    if compact is None:
        return {f"{name}_base64": base64.b64encode(body).decode()}
    return {name: msgspec.Raw(compact)}


def _body_lines(body: bytes) -> Iterator[str]:
    pretty = _reformatted(body, indent=2)
    for line in (body if pretty is None else pretty).decode(errors="replace").split("\n"):
        yield printable(line)


def _reformatted(body: bytes, indent: int) -> bytes | None:
    """Lay JSON out anew, each string and number as it was written; None when it is none."""
    try:
        # Strictly: the formatter lets through what no reader of JSON does.
        msgspec.json.decode(body, type=msgspec.Raw)
        body.decode()
        return msgspec.json.format(body, indent=indent)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def _event_of(entry: QuarantinedEvent) -> Event | None:
    if entry.rejection.reason != ERROR_REASON_UNWRITABLE and entry.dialect != _GRPC:
        return None
    try:
        return Event.FromString(entry.raw)
    except DecodeError:
        return None
