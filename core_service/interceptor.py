"""The one place where errors become gRPC statuses; hides google.rpc.Status and its details.

It also knows which calls are under way, so that a drain can wait for the last answer.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing
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
_OWN_METHODS = "/polylect.v1."
_DETAILS_KEY = "grpc-status-details-bin"

# Generic for the type checker only.
Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
Continuation: TypeAlias = "Callable[[grpc.HandlerCallDetails], Awaitable[Handler]]"

log = structlog.get_logger()


class ErrorInterceptor(grpc.aio.ServerInterceptor):  # type: ignore[type-arg]
    """Answers every error of our own services with a rich status, and counts their calls."""

    def __init__(self) -> None:
        """Start with no call under way."""
        self._wrapped: dict[str, Handler] = {}
        self._calls = 0
        self._idle = asyncio.Event()
        self._idle.set()

    async def intercept_service(
        self, continuation: Continuation, handler_call_details: grpc.HandlerCallDetails
    ) -> Handler:
        """Wrap the handler of one of our methods, once; leave others alone."""
        method = handler_call_details.method
        wrapped = self._wrapped.get(method)
        if wrapped is not None:
            return wrapped
        handler = await continuation(handler_call_details)
        if handler is None or not method.startswith(_OWN_METHODS):
            return handler
        # Only methods that exist come here, so the dictionary is bounded.
        wrapped = self._wrapped[method] = self._wrap(handler, method)
        return wrapped

    async def wait_idle(self) -> None:
        """Wait until no call of ours is under way, its answer sent."""
        await self._idle.wait()

    def _wrap(self, handler: Handler, method: str) -> Handler:
        if handler.unary_unary:
            return grpc.unary_unary_rpc_method_handler(
                cast("Any", self._wrap_unary(cast("Any", handler.unary_unary), method)),
                request_deserializer=handler.request_deserializer,
                response_serializer=handler.response_serializer,
            )
        assert handler.stream_stream, "no service has calls of another form"
        return grpc.stream_stream_rpc_method_handler(
            cast("Any", self._wrap_stream(cast("Any", handler.stream_stream), method)),
            request_deserializer=handler.request_deserializer,
            response_serializer=handler.response_serializer,
        )

    def _wrap_unary(self, call: Callable[[Any, Context], Awaitable[Any]], method: str) -> object:
        async def answer(request: object, context: Context) -> object:
            self._enter(context)
            try:
                return await call(request, context)
            except Exception as error:
                await _abort(context, _as_core_error(error, method))

        return answer

    def _wrap_stream(self, call: Callable[[Any, Context], AsyncGenerator[Any, None]], method: str) -> object:
        async def answers(requests: object, context: Context) -> AsyncIterator[object]:
            self._enter(context)
            try:
                # Closed here and now when the caller is gone, not when it is collected.
                async with aclosing(call(requests, context)) as responses:
                    async for response in responses:
                        yield response
            except Exception as error:
                await _abort(context, _as_core_error(error, method))

        return answers

    def _enter(self, context: Context) -> None:
        self._calls += 1
        self._idle.clear()
        context.add_done_callback(cast("Any", self._leave))

    def _leave(self, _: object) -> None:
        self._calls -= 1
        if not self._calls:
            self._idle.set()


def _as_core_error(error: Exception, method: str) -> CoreError:
    if isinstance(error, CoreError):
        return error
    if isinstance(error, ConnectionError):
        log.warning("storage_unavailable", method=method, error=str(error))
        return StorageUnavailable()
    log.error("call_failed", method=method, exc_info=error)
    return CoreError(reasons.ERROR_REASON_INTERNAL, "Internal error")


async def _abort(context: Context, error: CoreError) -> NoReturn:
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
