"""What is parsed at all; hides how a message is judged by its bytes alone.

A message of a few bytes an event becomes hundreds of bytes an event once parsed, so what is too much is
refused before.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from google.protobuf.message import DecodeError
from polylect.v1 import error_reason_pb2 as reasons

from core_service.errors import CoreError

MESSAGE_BYTES = 4 * 1024 * 1024
_GROUP_TYPES = (3, 4)
_LENGTH_DELIMITED, _FIXED_64, _FIXED_32 = 2, 1, 5


class RawLimits(NamedTuple):
    """What a message may have before it is parsed."""

    max_bytes: int | None = None
    # Top-level fields: of a message that only repeats one field, its elements.
    max_fields: int | None = None


def parse(raw: bytes, parser: Callable[[bytes], Any], limits: RawLimits) -> Any:
    """Give the message. Raises CoreError when it is too much, or none."""
    if limits.max_bytes is not None and len(raw) > limits.max_bytes:
        message = f"The message is larger than {limits.max_bytes} bytes"
        raise CoreError(reasons.ERROR_REASON_PAYLOAD_TOO_LARGE, message)
    most = limits.max_fields
    # None takes less than a byte.
    if most is not None and len(raw) > most and _has_more_fields(raw, most):
        message = f"More than {most} events in one request"
        raise CoreError(reasons.ERROR_REASON_BATCH_TOO_LARGE, message, field="events")
    try:
        return parser(raw)
    except DecodeError:
        message = "The message is not what the method takes"
        raise CoreError(reasons.ERROR_REASON_PAYLOAD_UNREADABLE, message) from None


def _has_more_fields(raw: bytes, limit: int) -> bool:
    """Tell whether `raw` has more top-level fields; those before a fault count."""
    position = found = 0
    try:
        while position < len(raw):
            found += 1
            if found > limit:
                return True
            tag, position = _varint(raw, position)
            position = _end_of_value(raw, tag & 7, position)
    except IndexError:
        return False
    return False


def _end_of_value(raw: bytes, wire_type: int, position: int) -> int:
    if wire_type == _LENGTH_DELIMITED:
        length, position = _varint(raw, position)
        return position + length
    if wire_type == _FIXED_64:
        return position + 8
    if wire_type == _FIXED_32:
        return position + 4
    # What is in a group counts as if it stood beside it.
    return position if wire_type in _GROUP_TYPES else _varint(raw, position)[1]


def _varint(raw: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    # None is longer than ten bytes; a longer one is a fault, not a number.
    for position_of_byte in range(position, position + 10):
        byte = raw[position_of_byte]
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position_of_byte + 1
        shift += 7
    raise IndexError
