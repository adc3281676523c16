"""Turns a shape's table into the function that fills a canonical Event, once, at start-up.

It hides how rows become fast; it knows no dialect, no HTTP, and no body but one event's members.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol

from polylect.v1 import error_reason_pb2 as reasons
from polylect.v1.event_pb2 import EVENT_KIND_TRACK, EVENT_KIND_UNSPECIFIED, Event
from polylect.v1.ingest_pb2 import ClientItem

from rest_facade import body_json
from rest_facade.values import URL_CHARACTERS, Invalid
from rest_facade.vocabulary import Choice, Extras, Field, Json, OnNull, Shape, ShapeError


class FillEvent(Protocol):
    """Fills `item.event` from the members of one wire event, which it consumes, and others found beside them.

    Raises ShapeError.
    """

    def __call__(self, members: Json, item: ClientItem, beside: Mapping[str, Any] = ...) -> None: ...


_NOTHING: Mapping[str, Any] = MappingProxyType({})

_FREE_FORM = ("properties", "traits", "context")
_ABSENT = object()

_Put = Callable[[Event, Any], None]


class _Row(NamedTuple):
    wire: str
    required: bool
    missing: str
    parse: Callable[[Any], Any]
    to: str
    # None for values kept aside: free-form objects and those for `finish`.
    put: _Put | None
    fingerprints: bool


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
            if type(inner) is not dict:
                raise ShapeError(reasons.ERROR_REASON_FIELD_MISSING, choice.within_missing, within)
            fill_shape(inner, item, members)
        else:
            fill_shape(members, item)

    return fill


def _compile_shape(shape: Shape) -> FillEvent:
    rows = tuple(_compile_row(row, shape) for row in shape.fields)
    invalid = {row.wire: row.invalid for row in shape.fields if row.invalid}
    copies = tuple((tuple(wire.split(".")), *_target(to)) for wire, to in shape.copies)
    finish, wording, extras = shape.finish, shape.wording, shape.extras

    def fill(members: Json, item: ClientItem, beside: Mapping[str, Any] = _NOTHING) -> None:
        event = item.event
        if shape.kind is not None:
            event.kind = shape.kind
        aside: Json = {}
        for wire, required, missing, parse, to, put, fingerprints in rows:
            value = members.pop(wire, _ABSENT)
            if value is _ABSENT or value is None or (required and value == ""):
                if value is None and fingerprints:
                    item.fingerprint_visitor = True
                elif required:
                    raise ShapeError(reasons.ERROR_REASON_FIELD_MISSING, missing, wire)
                continue
            try:
                value = parse(value)
            except Invalid as problem:
                message = invalid.get(wire) or wording.invalid.format(field=wire, problem=problem)
                raise ShapeError(reasons.ERROR_REASON_FIELD_INVALID, message, wire) from None
            if put is not None:
                put(event, value)
            elif to and type(value) is not dict:
                members[wire] = value
            else:
                aside[to or wire] = value
        if copies:
            _copy(event, aside, copies)
        if finish is not None:
            finish(event, aside)
        _keep_free_form(event, aside, (members, beside), extras)

    return fill


def _compile_row(row: Field, shape: Shape) -> _Row:
    missing = row.missing or shape.wording.missing.format(field=row.wire)
    if row.to == "" or row.to in _FREE_FORM:
        put = None
    elif row.to == "type":
        put = _put_type(shape.kind_words)
    else:
        put = _putter(*_target(row.to))
    fingerprints = row.null is OnNull.FINGERPRINT
    return _Row(row.wire, row.required, missing, row.parse, row.to, put, fingerprints)


def _target(path: str) -> tuple[str, str]:
    parent, _, leaf = path.rpartition(".")
    return parent, leaf


def _putter(parent: str, leaf: str) -> _Put:
    if leaf.endswith("_at"):

        def put_time(event: Event, micros: int) -> None:
            seconds, rest = divmod(micros, 1_000_000)
            moment = getattr(event, leaf)
            moment.seconds = seconds
            moment.nanos = rest * 1000

        return put_time
    if parent:
        return lambda event, value: setattr(getattr(event, parent), leaf, value)
    return lambda event, value: setattr(event, leaf, value)


def _put_type(kind_words: Mapping[str, Any]) -> _Put:
    def put(event: Event, word: str) -> None:
        event.kind = kind_words.get(word, EVENT_KIND_TRACK)
        if event.kind == EVENT_KIND_TRACK:
            event.name = word

    return put


def _copy(event: Event, aside: Json, copies: tuple[tuple[tuple[str, ...], str, str], ...]) -> None:
    for path, parent, leaf in copies:
        found: Any = aside
        for step in path:
            found = found.get(step) if type(found) is dict else None
        if leaf in _FREE_FORM:
            if type(found) is dict:
                aside.setdefault(leaf, found)
        elif type(found) is str and 0 < len(found) <= URL_CHARACTERS:
            message = getattr(event, parent) if parent else event
            if not getattr(message, leaf):
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
