"""What a table of copies makes of an event's members."""

from typing import Any

import pytest
from google.protobuf.json_format import MessageToDict
from polylect.v1.event_pb2 import EVENT_KIND_TRACK
from polylect.v1.ingest_pb2 import ClientItem

from rest_facade.shapes import compile_events
from rest_facade.values import json_object, text
from rest_facade.vocabulary import Field, Shape, Wording

_FIELDS = (
    Field("properties", "properties", json_object),
    Field("context", "context", json_object),
    Field("heading", "", text(100)),
    Field("url", "page.url", text(100)),
)


def _filled(copies: tuple[tuple[str, str], ...], members: dict[str, Any]) -> dict[str, Any]:
    item = ClientItem()
    shape = Shape(EVENT_KIND_TRACK, _FIELDS, Wording(missing="{field}", invalid="{field}"), copies=copies)
    compile_events(shape)(members, item)
    return MessageToDict(item.event, preserving_proto_field_name=True)


def test_a_member_of_the_event_itself_is_copied() -> None:
    assert _filled((("heading", "page.title"),), {"heading": "Prices"})["page"] == {"title": "Prices"}
    event = _filled((("context", "traits"),), {"context": {"plan": "pro"}})
    assert event["traits_json"] == event["context_json"] == '{"plan":"pro"}'


@pytest.mark.parametrize(
    ("members", "found"),
    [
        ({"context": {"a": "1", "b": "3"}, "properties": {"a": "2"}}, "1"),
        ({"context": {"b": "3"}, "properties": {"a": "2"}}, "2"),
        ({"context": {"b": "3"}, "properties": {}}, "3"),
        ({"context": {"a": "1"}, "properties": {"a": "2"}, "url": "0"}, "0"),
    ],
)
def test_of_copies_from_two_objects_the_first_of_the_table_wins(members: dict[str, Any], found: str) -> None:
    wires = ("context.a", "properties.a", "context.b")
    assert _filled(tuple((wire, "page.url") for wire in wires), members)["page"] == {"url": found}


def test_of_whole_objects_too() -> None:
    copies = (("context.a", "traits"), ("properties.a", "traits"), ("context.b", "traits"))
    event = _filled(copies, {"context": {"b": {"n": 3}}, "properties": {"a": {"n": 2}}})
    assert event["traits_json"] == '{"n":2}'
