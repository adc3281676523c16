"""Compares what came with what a case file expects, whole, and says where they differ.

A text that begins with "~ " is a regular expression for the whole value. Numbers are the same when their
digits are: 79.9 is not 79.90, 1 is not 1.0.
"""

import json
import re
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

from google.protobuf.json_format import MessageToDict
from polylect.v1.event_pb2 import Event

_PATTERN = "~ "
# No case's own session_id looks so.
_MADE_SESSION = re.compile(r"s_[0-9a-f]{48}").fullmatch
_FREE_FORM = ("properties", "traits", "context")


def matches(expected: str, actual: str) -> bool:
    """Tell whether a text is the one expected."""
    if expected.startswith(_PATTERN):
        return re.fullmatch(expected.removeprefix(_PATTERN), actual, re.DOTALL) is not None
    return actual == expected


def differences(expected: Any, actual: Any, where: str = "") -> list[str]:
    """Say where `actual` is not as expected; nothing when it is."""
    if isinstance(expected, Mapping) and isinstance(actual, Mapping):
        found = []
        for name in {**expected, **actual}:
            path = f"{where}.{name}" if where else str(name)
            if name not in actual:
                found.append(f"{path} is missing, expected {expected[name]!r}")
            elif name not in expected:
                found.append(f"{path} is {actual[name]!r}, expected nothing")
            else:
                found += differences(expected[name], actual[name], path)
        return found
    if isinstance(expected, Sequence) and isinstance(actual, Sequence) and not isinstance(expected, str):
        if len(expected) != len(actual):
            return [f"{where} has {len(actual)} entries, expected {len(expected)}: {actual!r}"]
        pairs = enumerate(zip(expected, actual, strict=True))
        return [line for index, pair in pairs for line in differences(*pair, f"{where}[{index}]")]
    if isinstance(expected, str) and isinstance(actual, str):
        same = matches(expected, actual)
    elif isinstance(expected, Decimal) and isinstance(actual, Decimal):
        same = expected.as_tuple() == actual.as_tuple()
    else:
        same = type(expected) is type(actual) and expected == actual
    return [] if same else [f"{where} is {actual!r}, expected {expected!r}"]


def expected_event(written: Mapping[str, Any]) -> dict[str, Any]:
    """Give the event a case file means, free-form parts decoded, empty ones left out."""
    event = dict(written)
    for name in _FREE_FORM:
        if (text := event.pop(f"{name}_json", None)) is not None:
            event[name] = decoded(text)
        if not event.get(name, True):
            del event[name]
    return event


def actual_event(event: Event) -> dict[str, Any]:
    """Give a stored event in the same form, without the ids the service made."""
    told: dict[str, Any] = MessageToDict(event, preserving_proto_field_name=True)
    for name in ("event_id", "source_id"):
        told.pop(name)
    if _MADE_SESSION(event.session_id):
        told.pop("session_id")
    for name in _FREE_FORM:
        if (text := told.pop(f"{name}_json", "{}")) != "{}":
            told[name] = decoded(text)
    return told


def decoded(text: str) -> Any:
    """Decode JSON, decimals with their digits."""
    return json.loads(text, parse_float=Decimal)
