"""Reads JSON as strictly as storage needs it, once, without losing a digit.

Refused: anything that is not UTF-8 JSON, lone surrogates, NaN and Infinity, more than 32 levels, numbers
Postgres cannot hold. U+0000, which Postgres cannot hold either, is taken out, and the caller told. Numbers
keep their digits: ints are unbounded, the others become Decimal. Of a repeated key the last counts, as in
jsonb.
"""

import re
from decimal import Decimal
from typing import Any

import msgspec
from polylect.v1 import error_reason_pb2 as reasons

from rest_facade.vocabulary import Json, ShapeError

MAX_DEPTH = 32
_MAX_DIGITS = 1000
# Doubles end at 1.8e308 and 5e-324. Postgres writes a number out in full: six bytes here are 400 there.
_MAX_EXPONENT = 400
_MAX_WRITTEN_OUT = 500
_WRITTEN_OUT = re.compile(rb"[\[:,\s]-?\d++(?:\.\d++)?[eE][+-]?\d{2,}")
# In fewer bytes there is no room for many.
_FEW_BYTES = 4096
_BRACKET = ord("[")
_BACKSLASH = ord("\\")


def _exact(digits: str) -> Decimal:
    try:
        number = Decimal(digits)
    except ArithmeticError as error:
        # An exponent that no Decimal has.
        raise _out_of_range() from error
    if abs(number.adjusted()) > _MAX_EXPONENT or len(digits) > _MAX_DIGITS:
        raise _out_of_range()
    return number


_decode = msgspec.json.Decoder(float_hook=_exact).decode
_decode_members = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_encode = msgspec.json.Encoder(decimal_format="number").encode


def read(raw: bytes | msgspec.Raw, levels_above: int = 0) -> tuple[Any, bool]:
    """Decode one value; the flag says that U+0000 was taken out of it.

    `levels_above` counts the containers around it in its body. Raises ShapeError.
    """
    try:
        value = _decode(raw)
    except _UNREADABLE as error:
        raise _refusal(error) from error
    text = raw if type(raw) is bytes else bytes(raw)
    # An int is looked for ten times as fast as bytes, and most often there is none.
    openings = text.count(b"{") + (text.count(b"[") if _BRACKET in text else 0)
    if openings > MAX_DEPTH - levels_above:
        _check_depth(value, MAX_DEPTH - levels_above)
    if len(text) > _FEW_BYTES and len(_WRITTEN_OUT.findall(text)) > _MAX_WRITTEN_OUT:
        raise _out_of_range()
    if _BACKSLASH not in text or b"\\u0000" not in text:
        return value, False
    clean = without_nul(value)
    return clean, clean != value


def read_members(raw: bytes) -> dict[str, msgspec.Raw]:
    """Split an object into its members' bytes. Raises ShapeError for anything else."""
    try:
        return _decode_members(raw)
    except _UNREADABLE as error:
        raise _refusal(error) from error


def write(value: Any) -> bytes:
    """Encode what `read` gave, numbers as they were."""
    return _encode(value)


def without_nul(value: Any) -> Any:
    """Give the same value with U+0000 taken out of every string."""
    if type(value) is str:
        return value.replace("\0", "")
    if type(value) is list:
        return [without_nul(element) for element in value]
    if type(value) is dict:
        return {key.replace("\0", ""): without_nul(member) for key, member in value.items()}
    return value


def as_object(value: Any) -> Json:
    """Give the object a body must be. Raises ShapeError."""
    if type(value) is not dict:
        raise ShapeError(reasons.ERROR_REASON_PAYLOAD_UNREADABLE, "The body must be a JSON object.")
    return value


_UNREADABLE = (RecursionError, msgspec.DecodeError, UnicodeDecodeError)


def _refusal(error: Exception) -> ShapeError:
    if isinstance(error, RecursionError):
        return _too_deep()
    if not isinstance(error, msgspec.ValidationError):
        return ShapeError(reasons.ERROR_REASON_PAYLOAD_UNREADABLE, "The body is not valid JSON.")
    if "out of range" in str(error):
        return _out_of_range()
    return ShapeError(reasons.ERROR_REASON_PAYLOAD_UNREADABLE, "The body must be a JSON object.")


def _check_depth(value: Any, levels: int) -> None:
    # Breadth first: no recursion, whatever was sent.
    layer = [value] if type(value) in (dict, list) else []
    for _ in range(levels):
        if not layer:
            return
        layer = [
            inner
            for outer in layer
            for inner in (outer.values() if type(outer) is dict else outer)
            if type(inner) is dict or type(inner) is list
        ]
    if layer:
        raise _too_deep()


def _out_of_range() -> ShapeError:
    return ShapeError(reasons.ERROR_REASON_NUMBER_OUT_OF_RANGE, "A number is out of range.")


def _too_deep() -> ShapeError:
    return ShapeError(
        reasons.ERROR_REASON_PAYLOAD_TOO_DEEP, f"JSON must not nest deeper than {MAX_DEPTH} levels."
    )
