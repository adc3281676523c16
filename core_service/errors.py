"""What the core refuses with; hides which gRPC status a reason has.

Raised anywhere in the core, translated to the wire only in `rich_status`.
"""

from typing import NamedTuple

import grpc
from polylect.v1 import error_reason_pb2 as reasons
from polylect.v1.error_reason_pb2 import ErrorReason

# When to come back if nothing better is known: a restarting database takes a second or two, a full buffer is
# emptied in less.
STORAGE_RETRY_SECONDS = 2
_TOLD_CHARACTERS = 100
OVERLOAD_RETRY_SECONDS = 1

_STATUS = {
    reasons.ERROR_REASON_CREDENTIAL_MISSING: grpc.StatusCode.UNAUTHENTICATED,
    reasons.ERROR_REASON_CREDENTIAL_INVALID: grpc.StatusCode.UNAUTHENTICATED,
    reasons.ERROR_REASON_SCOPE_MISSING: grpc.StatusCode.PERMISSION_DENIED,
    reasons.ERROR_REASON_REVENUE_NOT_PERMITTED: grpc.StatusCode.PERMISSION_DENIED,
    reasons.ERROR_REASON_ORIGIN_NOT_ALLOWED: grpc.StatusCode.PERMISSION_DENIED,
    reasons.ERROR_REASON_RATE_LIMITED: grpc.StatusCode.RESOURCE_EXHAUSTED,
    reasons.ERROR_REASON_NOT_FOUND: grpc.StatusCode.NOT_FOUND,
    reasons.ERROR_REASON_ALREADY_EXISTS: grpc.StatusCode.ALREADY_EXISTS,
    reasons.ERROR_REASON_OVERLOADED: grpc.StatusCode.RESOURCE_EXHAUSTED,
    reasons.ERROR_REASON_STORAGE_UNAVAILABLE: grpc.StatusCode.UNAVAILABLE,
    reasons.ERROR_REASON_INTERNAL: grpc.StatusCode.INTERNAL,
}


class Objection(NamedTuple):
    """Why one event, or one request, is refused: the values of a `Rejection`."""

    reason: ErrorReason.ValueType
    message: str
    field: str = ""


MISSING_CREDENTIAL = Objection(reasons.ERROR_REASON_CREDENTIAL_MISSING, "No credential was given")
INVALID_CREDENTIAL = Objection(reasons.ERROR_REASON_CREDENTIAL_INVALID, "The credential is not valid here")


class CoreError(Exception):
    """A refusal of a whole call. Retryable exactly when `retry_after_seconds` is not 0."""

    event_count = 1
    """Events refused with the call; 1 when none could be read, 0 when none was refused."""

    def __init__(
        self,
        reason: ErrorReason.ValueType,
        message: str,
        *,
        field: str = "",
        retry_after_seconds: int = 0,
        status: grpc.StatusCode | None = None,
    ) -> None:
        """Take the status documented for `reason` unless `status` says otherwise."""
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.field = field
        self.retry_after_seconds = retry_after_seconds
        self.status = status or _STATUS.get(reason, grpc.StatusCode.INVALID_ARGUMENT)


class StorageUnavailable(CoreError):
    """Nothing could be made durable, or read."""

    def __init__(self, message: str = "Storage is not available") -> None:
        """Say so neutrally: the cause is logged where it happened."""
        super().__init__(
            reasons.ERROR_REASON_STORAGE_UNAVAILABLE,
            message,
            retry_after_seconds=STORAGE_RETRY_SECONDS,
        )


class Overloaded(CoreError):
    """The commit buffer is full."""

    def __init__(self) -> None:
        """Say so neutrally."""
        super().__init__(
            reasons.ERROR_REASON_OVERLOADED,
            "Too much is waiting to be stored",
            retry_after_seconds=OVERLOAD_RETRY_SECONDS,
        )


def missing(field: str) -> CoreError:
    """Give the refusal of a call that lacks a field."""
    return CoreError(reasons.ERROR_REASON_FIELD_MISSING, f"Missing required field: {field}", field=field)


def reason_word(reason: ErrorReason.ValueType) -> str:
    """Give the reason as ErrorInfo carries it: CREDENTIAL_MISSING."""
    return ErrorReason.Name(reason).removeprefix("ERROR_REASON_")


def reason_label(reason: ErrorReason.ValueType) -> str:
    """Give the reason as label and log line have it: credential_missing; "" for none.

    reason_61 for a newer facade's.
    """
    if not reason:
        return ""
    return reason_word(reason).lower() if reason in ErrorReason.values() else f"reason_{reason}"


def no_source(name_or_id: str) -> CoreError:
    """Give the error that there is no such source."""
    # An answer's head has room for little.
    message = f"No source {name_or_id[:_TOLD_CHARACTERS]!r}"
    return CoreError(reasons.ERROR_REASON_NOT_FOUND, message, field="source")
