"""Turns a shape's table into the function that fills a canonical Event, once, at start-up.

It hides how rows become fast; it knows no dialect, no HTTP, and no body but one event's members.
"""

from collections.abc import Callable, Mapping
from itertools import groupby
from operator import itemgetter
from types import MappingProxyType
from typing import Any, Protocol

from polylect.v1 import error_reason_pb2 as reasons
from polylect.v1.event_pb2 import EVENT_KIND_TRACK, EVENT_KIND_UNSPECIFIED, Event
from polylect.v1.ingest_pb2 import ClientItem

from rest_facade import body_json
from rest_facade.values import URL_CHARACTERS, Invalid, Text
from rest_facade.vocabulary import Choice, Extras, Field, Json, OnNull, Shape, ShapeError


class FillEvent(Protocol):
    """Fills `item.event` from the members of one wire event and others found beside them.

    Raises ShapeError.
    """

    def __call__(self, members: Json, item: ClientItem, beside: Mapping[str, Any] = ...) -> None: ...


_NOTHING: Mapping[str, Any] = MappingProxyType({})

_FREE_FORM = ("properties", "traits", "context")
_ABSENT = object()

_Take = Callable[[Event, Any, Json, Json], None]
"""Parses a value and puts it into the event, aside for the end or among the extras; raises values.Invalid."""


_Slot = tuple[int, str, str, _Take]
"""Where a member goes: strings up to a length (-1: none) as they are to a parent's leaf, the rest to `take`.

No NamedTuple: the interpreter unpacks those ten times slower.
"""

_Copy = tuple[str, str, str, bool, bool]
"""A member, the parent and leaf it goes to, whether whole, and whether another may have gone there before."""

_Copies = tuple[tuple[str, ...], tuple[_Copy, ...]]
"""Where an object is, and which of its members are copied."""


def compile_events(events: Shape | Choice) -> FillEvent:
    """Compile a shape, or a choice of shapes."""
    return _compile_choice(events) if isinstance(events, Choice) else _compile_shape(events)


def _compile_choice(choice: Choice) -> FillEvent:
    fills = {
        word: (_compile_shape(shape), shape.kind or EVENT_KIND_UNSPECIFIED)
        for word, shape in choice.shapes.items()
    }
    wire, within = choice.wire, choice.within

    def fill(members: Json, item: ClientItem, beside: Mapping[str, Any] = _NOTHING) -> None:
        word = members.pop(wire, None)
        if word is None or word == "":
            raise ShapeError(reasons.ERROR_REASON_FIELD_MISSING, choice.missing, wire)
        chosen = fills.get(word) if type(word) is str else None
        if chosen is None:
            raise ShapeError(reasons.ERROR_REASON_KIND_UNKNOWN, choice.unknown, wire)
        fill_shape, kind = chosen
        item.kind = kind
        if within:
            inner = members.pop(within, None)
            if inner is None:
                raise ShapeError(reasons.ERROR_REASON_FIELD_MISSING, choice.within_missing, within)
            if type(inner) is not dict:
                raise ShapeError(reasons.ERROR_REASON_FIELD_INVALID, choice.within_invalid, within)
            fill_shape(inner, item, members)
        else:
            fill_shape(members, item)

    return fill


def _compile_shape(shape: Shape) -> FillEvent:
    """Make a pass over the members that are there: most rows of a table are absent from most events."""
    slots = {row.wire: _compile_row(row, shape) for row in shape.fields}
    required = tuple(row.wire for row in shape.fields if row.required)
    fingerprinting = {row.wire for row in shape.fields if row.null is OnNull.FINGERPRINT}
    copies = _compile_copies(shape)
    kind, finish = shape.kind or EVENT_KIND_UNSPECIFIED, shape.finish

    def fill(members: Json, item: ClientItem, beside: Mapping[str, Any] = _NOTHING) -> None:
        event = item.event
        event.kind = kind
        for wire in required:
            if not members.get(wire):
                _refuse_first_problem(shape, members)
        aside: Json = {}
        extras: Json = {}
        message: Any = event
        held = ""
        try:
            for wire, value in members.items():
                slot = slots.get(wire)
                if slot is None:
                    extras[wire] = value
                    continue
                safe_characters, parent, leaf, take = slot
                if type(value) is str and len(value) <= safe_characters:
                    if parent != held:
                        message = getattr(event, parent) if parent else event
                        held = parent
                    setattr(message, leaf, value)
                elif value is not None:
                    take(event, value, aside, extras)
                elif wire in fingerprinting:
                    item.fingerprint_visitor = True
        except Invalid:
            _refuse_first_problem(shape, members)
            raise
        if copies:
            _copy(event, aside, copies)
        if finish is not None:
            finish(event, aside)
        if aside or extras or beside:
            _keep_free_form(event, aside, (extras, beside), shape.extras)

    return fill


def _refuse_first_problem(shape: Shape, members: Json) -> None:
    """Raise ShapeError for what is wrong first in the order of the table; there may be nothing."""
    for row in shape.fields:
        value = members.get(row.wire, _ABSENT)
        if value is _ABSENT or value is None or (row.required and value == ""):
            if row.required and not (value is None and row.null is OnNull.FINGERPRINT):
                missing = row.missing or shape.wording.missing.format(field=row.wire)
                raise ShapeError(reasons.ERROR_REASON_FIELD_MISSING, missing, row.wire)
            continue
        try:
            row.parse(value)
        except Invalid as problem:
            invalid = row.invalid or shape.wording.invalid.format(field=row.wire, problem=problem)
            raise ShapeError(reasons.ERROR_REASON_FIELD_INVALID, invalid, row.wire) from None


def _compile_row(row: Field, shape: Shape) -> _Slot:
    parent, leaf = _target(row.to)
    safe_characters = -1
    if leaf == "" or leaf in _FREE_FORM:
        take = _keeper(row)
    elif leaf == "type" and not parent:
        take = _kind_taker(row, shape.kind_words)
    elif leaf.endswith("_at"):
        take = _time_taker(row, leaf)
    else:
        take = _taker(row, parent, leaf)
        if isinstance(row.parse, Text):
            safe_characters = row.parse.safe_characters
    return safe_characters, parent, leaf, take


def _target(path: str) -> tuple[str, str]:
    parent, _, leaf = path.rpartition(".")
    return parent, leaf


def _keeper(row: Field) -> _Take:
    parse, to, wire = row.parse, row.to, row.wire

    def keep(event: Event, value: Any, aside: Json, extras: Json) -> None:
        value = parse(value)
        if to and type(value) is not dict:
            extras[wire] = value
        else:
            aside[to or wire] = value

    return keep


def _kind_taker(row: Field, kind_words: Mapping[str, Any]) -> _Take:
    parse = row.parse

    def take_kind(event: Event, value: Any, aside: Json, extras: Json) -> None:
        word = parse(value)
        kind = event.kind = kind_words.get(word, EVENT_KIND_TRACK)
        if kind == EVENT_KIND_TRACK:
            event.name = word

    return take_kind


def _time_taker(row: Field, leaf: str) -> _Take:
    parse = row.parse

    def take_time(event: Event, value: Any, aside: Json, extras: Json) -> None:
        seconds, rest = divmod(parse(value), 1_000_000)
        moment = getattr(event, leaf)
        moment.seconds = seconds
        moment.nanos = rest * 1000

    return take_time


def _taker(row: Field, parent: str, leaf: str) -> _Take:
    parse = row.parse

    def take(event: Event, value: Any, aside: Json, extras: Json) -> None:
        setattr(getattr(event, parent) if parent else event, leaf, parse(value))

    return take


def _compile_copies(shape: Shape) -> tuple[_Copies, ...]:
    """Put together what is copied from one object: most often the object is not there.

    Neighbours only: the order of the table says which of two sources wins.
    """
    copies: list[tuple[str, _Copy]] = []
    filled = {row.to for row in shape.fields}
    for wire, to in shape.copies:
        path, _, name = wire.rpartition(".")
        copies.append((path, (name, *_target(to), to in _FREE_FORM, to in filled)))
        filled.add(to)
    return tuple(
        (tuple(path.split(".")) if path else (), tuple(copy for _, copy in neighbours))
        for path, neighbours in groupby(copies, key=itemgetter(0))
    )


def _copy(event: Event, aside: Json, copies: tuple[_Copies, ...]) -> None:
    message: Any = event
    held = ""
    for path, rows in copies:
        holder: Any = aside
        for step in path:
            holder = holder.get(step) if type(holder) is dict else None
        if type(holder) is not dict:
            continue
        for name, parent, leaf, is_free_form, may_be_filled in rows:
            found = holder.get(name)
            if not found:
                continue
            if is_free_form:
                if type(found) is dict:
                    aside.setdefault(leaf, found)
            elif type(found) is str and len(found) <= URL_CHARACTERS:
                if parent != held:
                    message = getattr(event, parent) if parent else event
                    held = parent
                if not (may_be_filled and getattr(message, leaf)):
                    setattr(message, leaf, found)


def _keep_free_form(
    event: Event, aside: Json, leftovers: tuple[Mapping[str, Any], ...], extras: Extras
) -> None:
    if any(leftovers):
        home = "properties" if extras is Extras.PROPERTIES else "context"
        kept: Json = dict(aside.get(home, ()))
        collided: Json = {}
        for members in leftovers:
            for key, value in members.items():
                (collided if key in kept else kept)[key] = value
        aside[home] = kept
        if collided:
            beside: Json = dict(aside.get("context", ()))
            name = "extra"
            while name in beside:
                name += "_"
            aside["context"] = {**beside, name: collided}
    if properties := aside.get("properties"):
        event.properties_json = body_json.write(properties)  # type: ignore[assignment]  # UTF-8 bytes will do
    if traits := aside.get("traits"):
        event.traits_json = body_json.write(traits)  # type: ignore[assignment]
    if context := aside.get("context"):
        event.context_json = body_json.write(context)  # type: ignore[assignment]
