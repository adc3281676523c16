"""How a call that fails is answered; hides google.rpc.Status, and what gRPC would keep of such a call.

What is raised here ends the call.
"""

from collections.abc import Awaitable, Callable
from typing import Any, NoReturn, TypeAlias, cast

import grpc
import structlog
from google.protobuf.any_pb2 import Any as AnyMessage
from google.rpc import error_details_pb2
from google.rpc.status_pb2 import Status
from polylect.v1 import error_reason_pb2 as reasons

from core_service.callers import Context
from core_service.errors import CoreError, StorageUnavailable, reason_word

_DOMAIN = "polylect.v1"
_DETAILS_KEY = "grpc-status-details-bin"

Answer: TypeAlias = Callable[[Any, Context], Awaitable[object]]

log = structlog.get_logger()


def leaving_nothing(answer: Answer) -> Answer:
    """Give an `answer` of which nothing stays in memory when it aborts its call."""

    async def call(given: Any, context: Context) -> object:
        try:
            return await answer(given, context)
        except grpc.aio.AbortError as aborted:
            # The call's state keeps the error, whose frames would keep that and the message: a circle, which
            # only the collector ends.
            del given, context
            raise aborted.with_traceback(None) from None

    return call


def as_core_error(error: Exception, method: str, request_id: str) -> CoreError:
    """Give what a call is refused with that failed with `error`; log a failure that is not the caller's."""
    if isinstance(error, CoreError):
        refusal = error
    elif isinstance(error, ConnectionError):
        log.warning("storage_unavailable", method=method, request_id=request_id, error=str(error))
        refusal = StorageUnavailable()
    else:
        log.error("call_failed", method=method, request_id=request_id, exc_info=error)
        refusal = CoreError(reasons.ERROR_REASON_INTERNAL, "Internal error")
    # It is the context of what ends the call, and its frames have the message.
    error.__cause__ = error.__context__ = error.__traceback__ = None
    return refusal


async def abort(context: Context, error: CoreError) -> NoReturn:
    """End the call with the error's status and details. Raises AbortError."""
    status = Status(code=cast("tuple[int, str]", error.status.value)[0], message=error.message)
    _add_detail(status, error_details_pb2.ErrorInfo(reason=reason_word(error.reason), domain=_DOMAIN))
    if error.field:
        violation = error_details_pb2.BadRequest.FieldViolation(field=error.field, description=error.message)
        _add_detail(status, error_details_pb2.BadRequest(field_violations=[violation]))
    if error.retry_after_seconds:
        retry = error_details_pb2.RetryInfo()
        retry.retry_delay.seconds = error.retry_after_seconds
        _add_detail(status, retry)
    given = tuple(context.trailing_metadata() or ())
    details = (_DETAILS_KEY, status.SerializeToString())
    await context.abort(error.status, error.message, cast("Any", (*given, details)))
    raise AssertionError("abort raises")


def _add_detail(status: Status, detail: Any) -> None:
    packed = AnyMessage()
    packed.Pack(detail)
    status.details.append(packed)
