"""How the contract's enums read on the command line."""

from polylect.v1.error_reason_pb2 import ErrorReason


def reason_word(reason: int) -> str:
    """Give a reason as the list has it: field_missing. A core that is newer may know more."""
    if reason not in ErrorReason.values():
        return f"reason_{reason}"
    return ErrorReason.Name(ErrorReason.ValueType(reason)).removeprefix("ERROR_REASON_").lower()
