"""How a reason of refusal stands in a column, and is read again.

Hides that cores and workers of other versions may know other reasons.
"""

from polylect.v1.error_reason_pb2 import ERROR_REASON_UNSPECIFIED, ErrorReason

_PREFIX = "ERROR_REASON_"
_NAMELESS = "reason_"
_REASONS = {name.removeprefix(_PREFIX).lower(): number for name, number in ErrorReason.items()}
_REASON_TEXTS: dict[int, str] = {number: text for text, number in _REASONS.items()}


def reason_text(reason: int) -> str:
    """Give a reason as tables have it: field_missing."""
    # A core that is already newer may have more of them.
    return _REASON_TEXTS.get(reason, f"{_NAMELESS}{reason}")


def reason_of(text: str) -> ErrorReason.ValueType:
    """Give the reason of a text in the table; of one a newer version wrote, the unspecified one."""
    number = text.removeprefix(_NAMELESS)
    if number != text and number.isdecimal():
        return ErrorReason.ValueType(int(number))
    return _REASONS.get(text, ERROR_REASON_UNSPECIFIED)
