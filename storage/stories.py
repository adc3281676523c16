"""How what is remembered of an event or a request is told: rows and messages as an EventStory."""

from collections.abc import Mapping
from typing import Any

from polylect.v1 import trail_pb2
from polylect.v1.error_reason_pb2 import Rejection
from polylect.v1.event_pb2 import Event
from polylect.v1.quarantine_pb2 import QuarantinedEvent
from polylect.v1.trail_pb2 import EventStory, Verdict

from storage.reasons import reason_of
from storage.values import timestamp_of


def story_of_event(event: Event, verdict: Verdict.ValueType) -> EventStory:
    """Tell of an accepted event, without the event itself."""
    return EventStory(
        verdict=verdict,
        source_id=event.source_id,
        request_id=event.provenance.request_id,
        event_id=event.event_id,
        message_id=event.message_id,
        received_at=event.received_at,
        client_ip=event.client_ip,
        dialect=event.provenance.dialect,
        endpoint=event.provenance.endpoint,
    )


def story_of_quarantined(entry: QuarantinedEvent) -> EventStory:
    """Tell of a quarantined event."""
    return EventStory(
        verdict=trail_pb2.VERDICT_QUARANTINED,
        source_id=entry.source_id,
        request_id=entry.request_id,
        quarantine_id=entry.quarantine_id,
        received_at=entry.received_at,
        client_ip=entry.client_ip,
        dialect=entry.dialect,
        endpoint=entry.endpoint,
        rejection=entry.rejection,
    )


def story_of_duplicate(row: Mapping[str, Any]) -> EventStory:
    """Tell of a row of `duplicates`."""
    return EventStory(
        verdict=trail_pb2.VERDICT_DUPLICATE,
        event_id=row["event_id"],
        message_id=row["message_id"] or "",
        duplicate_of=row["duplicate_of"],
        **_arrival(row),
    )


def story_of_refusal(row: Mapping[str, Any]) -> EventStory:
    """Tell of a row of `refusals`."""
    return EventStory(
        verdict=trail_pb2.VERDICT_REFUSED,
        rejection=Rejection(reason=reason_of(row["reason"]), message=row["message"]),
        event_count=row["event_count"],
        **_arrival(row),
    )


def _arrival(row: Mapping[str, Any]) -> dict[str, Any]:
    texts = ("request_id", "client_ip", "dialect", "endpoint")
    return {
        "source_id": row["source_id"],
        "received_at": timestamp_of(row["received_at"]),
        **{name: row[name] or "" for name in texts},
    }
