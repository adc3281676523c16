"""What differs from one sent request to the next: visitor, session and message ids, ten digits each.

Hides how many visitors there are and how often they come. A body says where an id goes with a marker, as long
as what takes its place, so that no length changes; the loaders fill it in as they send, by counting. wrk.lua
counts the same way.

At any time 1,088 sessions are open, each has 5 events and then makes room for the next; of ten sessions three
are of a visitor who has another. A load has ids of its own: nobody comes back in the next one.
"""

import re
from collections.abc import Callable, Sequence

# A multiple of 64, so that what a session's events say of the device can be the same (`DEVICES`), and none of
# 256, so that they are taken from different requests.
OPEN_SESSIONS = 1088
DEVICES = 64
_EVENTS_PER_SESSION = 5
_SESSION_EVENTS = OPEN_SESSIONS * _EVENTS_PER_SESSION
# Of ten requests, three repeat the message ids of one sent so much before, as a client that heard nothing.
_REPEAT_DISTANCE = 17

_WIDTH = 10
_MARKER = re.compile(rb"@([VSMR])(\d{4})@{4}")
_LOAD_MARKER = re.compile(rb"@L@{6}(?:@@)?")

VISITOR, SESSION, MESSAGE, REPEATED_MESSAGE = "V", "S", "M", "R"
LOAD, SHORT_LOAD = "@L@@@@@@@@", "@L@@@@@@"
"""Stand for ten and for eight digits that tell one load from another."""

Piece = bytes
Slot = tuple[str, int]
"""What goes between two pieces: the kind, and the index of the event it is of."""
Template = tuple[Sequence[Piece], Sequence[Slot]]


def slot(kind: str, index: int = 0) -> str:
    """Give the marker for an id of a request's event."""
    return f"@{kind}{index:04}@@@@"


def cut(text: bytes, load_number: int) -> Template:
    """Give what stands between the markers, and what the markers ask for."""
    digits = b"%010d" % (load_number % 10**_WIDTH)
    parts = _MARKER.split(_LOAD_MARKER.sub(lambda found: digits[-len(found[0]) :], text))
    slots = [(kind.decode(), int(index)) for kind, index in zip(parts[1::3], parts[2::3], strict=True)]
    return parts[0::3], slots


def pack(templates: Sequence[Template]) -> bytes:
    """Give templates as the loaders read them.

    For each the number of its pieces; for each piece its length and the bytes, and for each but the last the
    slot behind it: a letter and four digits. Numbers have ten digits.
    """
    packed = []
    for pieces, slots in templates:
        packed.append(b"%010d" % len(pieces))
        for number, piece in enumerate(pieces):
            packed.append(b"%010d" % len(piece) + piece)
            if number < len(slots):
                kind, index = slots[number]
                packed.append(b"%s%04d" % (kind.encode(), index))
    return b"".join(packed)


def unpack(packed: bytes) -> list[Template]:
    """Undo `pack`."""
    templates, at = [], 0
    while at < len(packed):
        count = int(packed[at : at + _WIDTH])
        at += _WIDTH
        pieces, slots = [], []
        for number in range(count):
            length = int(packed[at : at + _WIDTH])
            pieces.append(packed[at + _WIDTH : at + _WIDTH + length])
            at += _WIDTH + length
            if number < count - 1:
                slots.append((chr(packed[at]), int(packed[at + 1 : at + 5])))
                at += 5
        templates.append((pieces, slots))
    return templates


def writer(template: Template, events_per_request: int) -> Callable[[int], bytes]:
    """Give what writes the request of a turn, from 0 on."""
    pieces, slots = template
    if not slots:
        whole = b"".join(pieces)
        return lambda turn: whole
    # Where the ids go; what stands between them is there already.
    frame = [b""] * (len(pieces) + len(slots))
    frame[0::2] = pieces
    places = [(2 * number + 1, kind, index) for number, (kind, index) in enumerate(slots)]

    def write(turn: int) -> bytes:
        first = turn * events_per_request
        for place, kind, index in places:
            frame[place] = b"%010d" % _number(kind, turn, first + index, index, events_per_request)
        return b"".join(frame)

    return write


def _number(kind: str, turn: int, event: int, index: int, events_per_request: int) -> int:
    if kind == MESSAGE:
        return event
    if kind == REPEATED_MESSAGE:
        return _original(turn) * events_per_request + index
    session = event // _SESSION_EVENTS * OPEN_SESSIONS + event % OPEN_SESSIONS
    if kind == VISITOR and session % 10 >= 7:
        return session - 7
    return session


def _original(turn: int) -> int:
    """Give the turn whose message ids a turn has: its own, or those of one before."""
    return turn - _REPEAT_DISTANCE if turn % 10 >= 7 and turn >= _REPEAT_DISTANCE else turn


def repeated_requests(requests: int) -> int:
    """Count those of the first so many requests that repeat the message ids of one before."""
    return sum(_original(turn) != turn for turn in range(requests))
