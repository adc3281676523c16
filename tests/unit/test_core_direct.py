"""Direct callers' free-form values: any of them is taken whole or refused, never an accident."""

import json
from decimal import Decimal
from typing import Any

import pytest
from google.protobuf.struct_pb2 import Struct
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import assume, given
from hypothesis import strategies as st
from polylect.v1.event_pb2 import Event

from core_service.direct import normalize

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(10**40), 10**40)
    | st.decimals(allow_nan=False, allow_infinity=False, places=3).map(float)
    | st.text(max_size=20)
)
TREES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
)
OBJECTS = st.dictionaries(st.text(max_size=8), TREES, max_size=6)


def without_nul(node: Any) -> Any:
    if isinstance(node, str):
        return node.replace("\0", "")
    if isinstance(node, list):
        return [without_nul(child) for child in node]
    if isinstance(node, dict):
        return {without_nul(key): without_nul(child) for key, child in node.items()}
    return node


def is_taken(event: Event) -> bool:
    """Normalize; what is taken is what its bytes say."""
    judged = normalize(event, event.SerializeToString())
    return isinstance(judged, bytes) and Event.FromString(judged) == event


def read(text: str) -> Any:
    return json.loads(text, parse_float=Decimal)


@given(OBJECTS, st.booleans())
def test_json_text_stays_but_for_nul(tree: dict[str, Any], ascii_only: bool) -> None:
    text = json.dumps(tree, ensure_ascii=ascii_only)
    event = Event(properties_json=text)
    assert is_taken(event)
    assert read(event.properties_json) == without_nul(read(text))
    if not event.sanitized:
        assert event.properties_json == text


@given(st.binary(max_size=60) | st.text(max_size=60).map(str.encode))
def test_any_text_is_taken_or_refused(content: bytes) -> None:
    text = content.decode(errors="replace")
    event = Event(context_json=text)
    if is_taken(event) and text:
        assert isinstance(json.loads(event.context_json), dict)
        assert "\0" not in event.context_json


@given(st.dictionaries(st.text(max_size=8), st.floats() | st.text(max_size=8) | st.none(), max_size=6))
def test_a_struct_becomes_text(tree: dict[str, Any]) -> None:
    # Which of two stays that become one key is nobody's to say: a Struct has no order.
    assume(len(without_nul(tree)) == len(tree))
    struct = Struct()
    struct.update(tree)
    event = Event(traits=struct)
    finite = all(
        value == value and abs(value) != float("inf") for value in tree.values() if isinstance(value, float)
    )
    assert is_taken(event) is finite
    if finite:
        assert json.loads(event.traits_json) == without_nul(tree)


def test_whole_doubles_are_integers_while_they_are_exact() -> None:
    struct = Struct()
    struct.update({"a": 3.0, "b": -0.0, "c": 2.0**53, "d": 1e300, "e": 0.1})
    event = Event(properties=struct)
    assert is_taken(event)
    assert json.loads(event.properties_json, parse_float=str) == {
        "a": 3,
        "b": 0,
        "c": 2**53,
        "d": "1e300",
        "e": "0.1",
    }


@pytest.mark.parametrize(
    "owned",
    [
        {"event_id": "mine"},
        {"source_id": "mine"},
        {"received_at": Timestamp(seconds=1)},
        {"received_at": Timestamp()},
        {"sanitized": True},
    ],
)
def test_what_is_the_cores_to_say_is_cleared(owned: dict[str, Any]) -> None:
    event = Event(name="signup", **owned)
    assert is_taken(event)
    assert event == Event(name="signup")
