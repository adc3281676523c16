"""A batch's body comes apart at the same places whichever way is taken, and at bounded cost."""

import tracemalloc

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from polylect.v1 import error_reason_pb2 as reasons

from rest_facade.envelope import open_envelope
from rest_facade.vocabulary import ShapeError

_GOOD = b'{"type":"page","a":[1,{"b":"],[\\\\\\""}]}'
_DEEP = b"[" * 5000 + b"]" * 5000
_HALF_EMOJI = b'{"a":"\\ud83d"}'


def _body(*events: bytes, before: bytes = b"", after: bytes = b"") -> bytes:
    return (
        b'{"x":{"batch":[7]},'
        + before
        + b'"batch" : [ '
        + b" , ".join(events)
        + b" ]"
        + after
        + b',"y":"batch"}'
    )


@pytest.mark.parametrize("spoiler", [_DEEP, _HALF_EMOJI, b"NaN", b"nonsense"])
def test_one_event_that_stops_the_parser_leaves_its_neighbours(spoiler: bytes) -> None:
    envelope = open_envelope(_body(_GOOD, spoiler, _GOOD), "batch", 10)
    assert envelope.events == [_GOOD, spoiler, _GOOD]
    assert {name: bytes(raw) for name, raw in envelope.beside.items()} == {
        "x": b'{"batch":[7]}',
        "y": b'"batch"',
    }


@pytest.mark.parametrize("events", [[], [_GOOD], [_GOOD, b"1", b'"]"', b"[]", b"{}"]])
def test_both_ways_cut_alike(events: list[bytes]) -> None:
    fast = open_envelope(_body(*events), "batch", 10)
    slow = open_envelope(_body(*events, after=b',"y":"' + b"," * 50_001 + b'"'), "batch", 10)
    assert fast.events == slow.events == events
    assert fast.beside == slow.beside


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b'{"batch":[',
        b'{"batch":[}',
        b'{"batch":[1}]',
        b'{"batch":[1,]}',
        b'{"batch":[1],}',
        b'{"batch":[1]}]',
        b'{"batch":[1]} x',
        b'{"batch":[1',
        b'{"x":\xff,"batch":[1]}',
    ],
)
def test_what_is_no_json_object_is_refused(body: bytes) -> None:
    with pytest.raises(ShapeError) as refused:
        open_envelope(body, "batch", 10)
    assert refused.value.reason == reasons.ERROR_REASON_PAYLOAD_UNREADABLE


def test_the_list_may_be_missing_or_no_list() -> None:
    assert open_envelope(b'{"a":1}', "batch", 10).events is None
    no_list = open_envelope(b'{"batch":{"a":[1]}}', "batch", 10)
    assert (no_list.events, list(no_list.beside)) == (None, ["batch"])


def test_of_too_many_events_one_more_than_allowed_is_given() -> None:
    body = b'{"batch":[' + b",".join([b"0"] * 400_000) + b'],"writeKey":"k"}'
    tracemalloc.start()
    envelope = open_envelope(body, "batch", 500)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert envelope.events is not None
    assert len(envelope.events) == 501
    assert bytes(envelope.beside["writeKey"]) == b'"k"'
    assert peak < 8 * len(body)


@pytest.mark.parametrize("end", [b"", b'"', b"\\", b'"}'])
def test_a_string_that_never_ends_is_looked_at_once(end: bytes) -> None:
    # From each of its quotes again, it would take minutes: the test's time-out tells.
    with pytest.raises(ShapeError) as refused:
        open_envelope(b'{"batch":["' + b'\\"' * 1_000_000 + end, "batch", 500)
    assert refused.value.reason == reasons.ERROR_REASON_PAYLOAD_UNREADABLE


def test_a_body_of_brackets_costs_little() -> None:
    with pytest.raises(ShapeError) as refused:
        open_envelope(b'{"batch":' + b"[" * 5_000_000, "batch", 500)
    assert refused.value.reason == reasons.ERROR_REASON_PAYLOAD_TOO_LARGE


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


@given(st.lists(_JSON, max_size=5), st.dictionaries(st.text(max_size=3), _JSON, max_size=3))
def test_any_events_come_apart_as_they_went_in(events: list[object], beside: dict[str, object]) -> None:
    written = [msgspec.json.encode(event) for event in events]
    rest = {key: msgspec.json.encode(value) for key, value in beside.items() if key != "batch"}
    members = [msgspec.json.encode(key) + b":" + value for key, value in rest.items()]
    members.insert(len(members) // 2, b'"b\\u0061tch":[' + b",".join(written) + b"]")
    for spoil in (b"", b',"z":"' + b"," * 50_001 + b'"'):
        envelope = open_envelope(b"{" + b",".join(members) + spoil + b"}", "batch", 10)
        assert envelope.events == written
        assert {k: bytes(v) for k, v in envelope.beside.items() if k != "z"} == {
            k: v for k, v in rest.items() if k != "z"
        }
