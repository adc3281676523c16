"""Takes a batch's body apart: the events' bytes, each by itself, and the members beside them.

Hides that there are two ways. A parser that only skips is fast, but one event nested too deep or with half a
surrogate stops it, and a body of a million zeros makes a million objects. Where it stops, or would make too
many, the cuts are found by tokens alone; what stands between them is judged by whoever reads it. Knows no
dialect.
"""

import re
from typing import NamedTuple

import msgspec
from polylect.v1 import error_reason_pb2 as reasons

from rest_facade import body_json
from rest_facade.vocabulary import ShapeError

# As many objects as the skipping parser may make: some 70 bytes each.
_MAX_COMMAS_SKIPPED = 50_000
# What finding cuts may cost, at 0.2 µs a token.
_MAX_TOKENS = 500_000
# A string that never ends is one token to the end: sought from each of its quotes, it would cost a square.
_TOKEN = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+(?:"|\\?\Z)|[\[\]{},:]', re.DOTALL)
_OPEN_ARRAY, _COMMA, _COLON, _QUOTE = b'[,:"'

_members_of = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_elements_of = msgspec.json.Decoder(list[msgspec.Raw]).decode
_text_of = msgspec.json.Decoder(str).decode


class Envelope(NamedTuple):
    """A batch's body in parts."""

    # The events as they were sent; of too many, one more than allowed. None where the body lists none.
    events: list[bytes] | None
    # The other members.
    beside: dict[str, msgspec.Raw]


def open_envelope(body: bytes, wire: str, max_events: int) -> Envelope:
    """Split `body` at its member `wire`; one that is no array stays with the others.

    Raises ShapeError when the body is no JSON object.
    """
    if body.count(b",") <= _MAX_COMMAS_SKIPPED:
        try:
            members = _members_of(body)
            listed = members.get(wire)
            if listed is None or not bytes(listed).startswith(b"["):
                return Envelope(None, members)
            events = [bytes(event) for event in _elements_of(members.pop(wire))]
            return Envelope(events, members)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            # Perhaps one event's fault only.
            pass
    return _cut(body, wire, max_events)


def _cut(body: bytes, wire: str, max_events: int) -> Envelope:
    cuts, end = _find_cuts(body, wire, max_events)
    if not cuts:
        return Envelope(None, body_json.read_members(body))
    # Without the events it must be an object still: then the cuts were where they seemed to be.
    members = body_json.read_members(body[: cuts[0] + 1] + body[end:])
    del members[wire]
    ends = [*cuts[1:], end]
    events = [body[start + 1 : stop].strip() for start, stop in zip(cuts, ends, strict=True)]
    if events == [b""]:
        events = []
    if b"" in events:
        raise ShapeError(reasons.ERROR_REASON_PAYLOAD_UNREADABLE, "The body is not valid JSON.")
    return Envelope(events, members)


def _find_cuts(body: bytes, wire: str, max_events: int) -> tuple[list[int], int]:
    """Give where each event begins, as offsets of the character before, and where the array ends."""
    cuts: list[int] = []
    end = depth = 0
    name = b""
    is_listed = within = False
    for count, token in enumerate(_TOKEN.finditer(body)):
        if count == _MAX_TOKENS:
            raise ShapeError(reasons.ERROR_REASON_PAYLOAD_TOO_LARGE, "The body has too many parts.")
        offset = token.start()
        symbol = body[offset]
        if symbol in b"[{":
            depth += 1
            if depth == 2 and is_listed and symbol == _OPEN_ARRAY:
                cuts, within = [offset], True
        elif symbol in b"]}":
            if within and depth == 2:
                end, within = offset, False
            depth -= 1
        elif within:
            if symbol == _COMMA and depth == 2 and len(cuts) <= max_events:
                cuts.append(offset)
        elif depth == 1:
            if symbol == _QUOTE:
                name = token[0]
            is_listed = symbol == _COLON and _is(name, wire)
    return (cuts, end) if cuts and end > cuts[0] else ([], 0)


def _is(name: bytes, wire: str) -> bool:
    try:
        return _text_of(name) == wire
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return False
