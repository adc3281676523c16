"""What the demo page is told of an event: the words of a line, and the event as text."""

import json

import pytest
from polylect.v1.error_reason_pb2 import ERROR_REASON_FIELD_MISSING
from polylect.v1.event_pb2 import EVENT_KIND_TRACK, Event
from polylect.v1.quarantine_pb2 import QuarantinedEvent
from polylect.v1.query_pb2 import TailEventsResponse

from rest_facade.demo_lines import line, server_sent


def told(answer: TailEventsResponse) -> dict[str, object]:
    sent = line(answer, "here").decode()
    head, _, data = sent.partition("\ndata: ")
    assert head == "id: here"
    assert data.endswith("\n\n")
    found: dict[str, object] = json.loads(data)
    return found


def test_a_line_has_what_is_known_and_the_event_digit_by_digit() -> None:
    event = Event(event_id="e", kind=EVENT_KIND_TRACK, name="Signed\nUp", user_id="u")
    event.properties_json = '{"price":79.90,"id":12345678901234567890}'
    event.geo.country = "DE"
    event.provenance.dialect = "datafly"
    found = told(TailEventsResponse(event=event, gap=True))
    assert found["known"] == {"country": "DE", "user": "u"}
    assert (found["verdict"], found["dialect"], found["kind"], found["name"], found["gap"]) == (
        "stored",
        "datafly",
        "track",
        "Signed\nUp",
        True,
    )
    assert '"price": 79.90,\n    "id": 12345678901234567890' in str(found["text"])


def test_of_a_large_event_the_beginning_is_shown() -> None:
    event = Event(properties_json='{"a":"%s"}' % ("ä" * 50_000))
    text = str(told(TailEventsResponse(event=event))["text"])
    assert len(text.encode()) < 33_000
    assert text.endswith("this page shows the first 32 KiB)")


def batch_of(depth: int, number: int) -> bytes:
    """A batch with so many properties of this depth."""
    nested = b"[" * depth + b"]" * depth
    event = b'{"event_type":"x","session_id":"s","properties":{"a":[%s]}}' % b",".join([nested] * number)
    return b'{"events":[%s,{"event_type":"ok","session_id":"s"}]}' % event


# Indented it would be a thousand times as long.
DEEP = batch_of(900, 17)


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        (b'{"a":1}', '{\n  "a": 1\n}'),
        (b"", ""),
        (b"\x0a\x01x\xff", "\n\x01x�"),
        (b"[" * 5_000, "[" * 5_000),
        (DEEP, DEEP.decode()),
    ],
    ids=["JSON", "nothing", "protobuf", "unfinished", "deep"],
)
def test_what_was_refused_is_shown_as_it_was_sent(raw: bytes, text: str) -> None:
    refused = QuarantinedEvent(quarantine_id="q", raw=raw, dialect="pulse")
    refused.rejection.reason = ERROR_REASON_FIELD_MISSING
    refused.rejection.message = "site_id is missing"
    found = told(TailEventsResponse(quarantined=refused))
    assert (found["id"], found["reason"], found["message"], found["text"]) == (
        "q",
        "field_missing",
        "site_id is missing",
        text,
    )


def test_named_events_say_their_name() -> None:
    assert server_sent("beyond", [["pulse", "stored", 7]], "p") == (
        b'event: beyond\nid: p\ndata: [["pulse","stored",7]]\n\n'
    )
