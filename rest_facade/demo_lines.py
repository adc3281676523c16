"""What the demo page is told of each thing that happened; hides its form, server-sent events with JSON.

The page gets few words to show at once, and the whole event as text, digit by digit, to show on demand.
"""

from typing import Any

import msgspec
from google.protobuf.timestamp_pb2 import Timestamp
from polylect.v1.event_pb2 import Event
from polylect.v1.quarantine_pb2 import QuarantinedEvent
from polylect.v1.query_pb2 import TailEventsResponse
from polylect.v1.trail_pb2 import Refusal

from rest_facade.event_document import as_document, kind_word
from rest_facade.metrics import reason_word

# What a page shows of something larger is its beginning: a page has 200 lines.
_MAX_TEXT_BYTES = 32 * 1024
_CUT = "\n… (it goes on; this page shows the first 32 KiB)"


def is_stored(answer: TailEventsResponse) -> bool:
    """Tell whether it was stored, not refused."""
    return answer.WhichOneof("item") == "event"


def dialect_of(answer: TailEventsResponse) -> str:
    """Give the dialect it came through, or "grpc"."""
    return answer.event.provenance.dialect if is_stored(answer) else _refused(answer).dialect


def received_second_of(answer: TailEventsResponse) -> int:
    """Give the second it was received in, since the epoch."""
    return (answer.event if is_stored(answer) else _refused(answer)).received_at.seconds


def line(answer: TailEventsResponse, position: str) -> bytes:
    """Give one thing that happened as a server-sent event; `position` is its id."""
    told = _stored_words(answer.event) if is_stored(answer) else _refused_words(answer)
    return server_sent("", {"dialect": dialect_of(answer), "gap": answer.gap, **told}, position)


def server_sent(name: str, content: Any, position: str) -> bytes:
    """Give a server-sent event; a name of "" is the page's onmessage."""
    named = b"event: %s\n" % name.encode() if name else b""
    return b"%sid: %s\ndata: %s\n\n" % (named, position.encode(), msgspec.json.encode(content))


def _stored_words(event: Event) -> dict[str, Any]:
    known = {
        "page": event.page.path or event.page.url,
        "came from": event.page.referrer_source,
        "campaign": event.campaign.name or event.campaign.source,
        "device": "bot" if event.device.bot else event.device.type,
        "country": event.geo.country,
        "session": event.session_id,
        "visitor": event.anonymous_id,
        "user": event.user_id,
        "group": event.group_id,
        "request": event.provenance.request_id,
    }
    return {
        "id": event.event_id,
        "verdict": "stored",
        "received_at": _rfc3339(event.received_at),
        "kind": kind_word(event.kind),
        "name": event.name,
        "known": {name: value for name, value in known.items() if value},
        "text": _shown(msgspec.json.encode(as_document(event))),
    }


def _refused_words(answer: TailEventsResponse) -> dict[str, Any]:
    refused = _refused(answer)
    known = {
        "endpoint": refused.endpoint,
        "field": refused.rejection.field,
        "request": refused.request_id,
        "in quarantine as": answer.quarantined.quarantine_id,
    }
    return {
        "id": answer.quarantined.quarantine_id or answer.refusal.refusal_id,
        "verdict": "refused",
        "received_at": _rfc3339(refused.received_at),
        "reason": reason_word(refused.rejection.reason),
        "message": refused.rejection.message,
        "known": {name: value for name, value in known.items() if value},
        "text": _shown(answer.quarantined.raw),
    }


def _refused(answer: TailEventsResponse) -> QuarantinedEvent | Refusal:
    return answer.quarantined if answer.WhichOneof("item") == "quarantined" else answer.refusal


def _shown(raw: bytes) -> str:
    formatted = _formatted(raw) if len(raw) <= _MAX_TEXT_BYTES else raw
    # Indentation grows with depth: of few bytes it can make many.
    text = formatted if len(formatted) <= _MAX_TEXT_BYTES else raw
    cut = _CUT if len(text) > _MAX_TEXT_BYTES else ""
    return text[:_MAX_TEXT_BYTES].decode(errors="replace") + cut


def _formatted(raw: bytes) -> bytes:
    try:
        return msgspec.json.format(raw, indent=2)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        # What came over gRPC is protobuf, not JSON.
        return raw


def _rfc3339(moment: Timestamp) -> str:
    return moment.ToJsonString()
