"""Bytes put together by hand are what protobuf reads and writes."""

import pytest
from polylect.v1.event_pb2 import Event, Provenance
from polylect.v1.queue_pb2 import EventBatch

from core_service.wire import field, tag_of

_EVENTS = tag_of(EventBatch.DESCRIPTOR, "events")
_SOURCE_ID, _PROVENANCE = (tag_of(Event.DESCRIPTOR, name) for name in ("source_id", "provenance"))
_SITE_ID = tag_of(Provenance.DESCRIPTOR, "site_id")


@pytest.mark.parametrize("length", [0, 1, 127, 128, 16_383, 16_384, 2_097_151, 2_097_152])
def test_a_field_is_what_protobuf_writes(length: int) -> None:
    # Lengths on both sides of where theirs takes one byte more.
    text = "x" * length
    assert Event.FromString(field(_SOURCE_ID, text.encode())) == Event(source_id=text)
    if text:
        assert field(_SOURCE_ID, text.encode()) == Event(source_id=text).SerializeToString()


def test_what_follows_an_event_is_merged_into_it() -> None:
    said = Event(source_id="theirs", name="signup", provenance=Provenance(dialect="pulse", site_id="alias"))
    added = field(_SOURCE_ID, b"ours") + field(_PROVENANCE, field(_SITE_ID, b"site"))
    stamped = Event(source_id="ours", name="signup", provenance=Provenance(dialect="pulse", site_id="site"))
    item = field(_EVENTS, said.SerializeToString() + added)
    assert EventBatch.FromString(item + item) == EventBatch(events=[stamped, stamped])
