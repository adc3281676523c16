"""How the core's errors become reasons: the one place that reads a google.rpc.Status."""

import math
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import cast

import grpc
from google.rpc import error_details_pb2, status_pb2
from polylect.v1 import error_reason_pb2 as reasons
from polylect.v1.error_reason_pb2 import ErrorReason

_DETAILS_KEY = "grpc-status-details-bin"
_PREFIX = "ERROR_REASON_"
_BY_CODE = {
    grpc.StatusCode.RESOURCE_EXHAUSTED: reasons.ERROR_REASON_OVERLOADED,
    grpc.StatusCode.UNAVAILABLE: reasons.ERROR_REASON_STORAGE_UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED: reasons.ERROR_REASON_STORAGE_UNAVAILABLE,
    grpc.StatusCode.CANCELLED: reasons.ERROR_REASON_STORAGE_UNAVAILABLE,
    grpc.StatusCode.UNAUTHENTICATED: reasons.ERROR_REASON_CREDENTIAL_INVALID,
    grpc.StatusCode.PERMISSION_DENIED: reasons.ERROR_REASON_SCOPE_MISSING,
    grpc.StatusCode.NOT_FOUND: reasons.ERROR_REASON_NOT_FOUND,
    grpc.StatusCode.INVALID_ARGUMENT: reasons.ERROR_REASON_ARGUMENT_INVALID,
}

_NOT_KNOWN = frozenset(
    (
        reasons.ERROR_REASON_CREDENTIAL_MISSING,
        reasons.ERROR_REASON_CREDENTIAL_INVALID,
        reasons.ERROR_REASON_SCOPE_MISSING,
    )
)


class CoreRefusal(Exception):
    """The core said no to a call, or did not answer."""

    def __init__(
        self,
        reason: ErrorReason.ValueType,
        message: str,
        retry_after_seconds: int = 0,
        metadata: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        # 0: the core did not say.
        self.retry_after_seconds = retry_after_seconds
        # Of the failed call, trailing.
        self.metadata = metadata


class UnknownFacade(CoreRefusal):
    """The core does not know the facade by its token."""

    def __init__(self, reason: ErrorReason.ValueType) -> None:
        super().__init__(
            reason, "The core does not know this facade: POLYLECT_FACADE_TOKEN differs from the core's"
        )


def own_refusal_of(error: grpc.aio.AioRpcError) -> CoreRefusal:
    """Read a failed call made under the facade's own token."""
    refusal = refusal_of(error)
    return UnknownFacade(refusal.reason) if refusal.reason in _NOT_KNOWN else refusal


def refusal_of(error: grpc.aio.AioRpcError) -> CoreRefusal:
    """Read reason, text and RetryInfo of a failed call; without details the status code decides."""
    reason = _BY_CODE.get(error.code(), reasons.ERROR_REASON_INTERNAL)
    retry_after_seconds = 0
    metadata: dict[str, str] = {}
    for key, value in _pairs(error):
        if isinstance(value, str):
            metadata[key] = value
        elif key == _DETAILS_KEY:
            reason, retry_after_seconds = _read_details(value, reason)
    return CoreRefusal(reason, error.details() or "", retry_after_seconds, metadata)


def _pairs(error: grpc.aio.AioRpcError) -> Iterable[tuple[str, str | bytes]]:
    # grpc-stubs types Metadata as a single entry; it iterates over pairs.
    return cast(Iterable[tuple[str, str | bytes]], error.trailing_metadata() or ())


def _read_details(serialized: bytes, reason: ErrorReason.ValueType) -> tuple[ErrorReason.ValueType, int]:
    retry_after_seconds = 0
    for detail in status_pb2.Status.FromString(serialized).details:
        info = error_details_pb2.ErrorInfo()
        retry = error_details_pb2.RetryInfo()
        if detail.Unpack(info):
            if _PREFIX + info.reason in ErrorReason.keys():  # noqa: SIM118 - no mapping
                reason = ErrorReason.Value(_PREFIX + info.reason)
        elif detail.Unpack(retry):
            delay = retry.retry_delay
            retry_after_seconds = max(1, math.ceil(delay.seconds + delay.nanos / 1e9))
    return reason, retry_after_seconds
