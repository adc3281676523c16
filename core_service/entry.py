"""The way in for every call; hides what is refused before its message is read, and google.rpc.Status.

A caller that shows no valid credential costs no more than its metadata, and no caller's calls leave the
facade without room. Knows which calls are under way, so that a drain can wait for the last answer.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import aclosing
from time import monotonic
from typing import Any, NoReturn, TypeAlias, cast

import grpc
import structlog
from google.protobuf.any_pb2 import Any as AnyMessage
from google.rpc import error_details_pb2
from google.rpc.status_pb2 import Status
from polylect.v1 import error_reason_pb2 as reasons

from core_service.callers import Callers, Context, Metadata, client_ip_of, given_request_id, request_id_of
from core_service.counts import Counts
from core_service.errors import (
    OVERLOAD_RETRY_SECONDS,
    CoreError,
    StorageUnavailable,
    reason_label,
    reason_word,
)
from core_service.ingest import MAX_EVENTS
from core_service.raw_message import MESSAGE_BYTES, RawLimits, parse
from core_service.refusals import Refusals, RefusedCall

_DOMAIN = "polylect.v1"
_OWN_METHODS = "/polylect.v1."
_BATCH_INGEST = "/polylect.v1.IngestService/BatchIngest"
_BATCH_INGEST_STREAM = "/polylect.v1.IngestService/BatchIngestStream"
_REPORT_REFUSALS = "/polylect.v1.IngestService/ReportRefusals"
_FACADE_METHODS = (_BATCH_INGEST, _BATCH_INGEST_STREAM, _REPORT_REFUSALS)
_EVENT_METHODS = ("/polylect.v1.IngestService/Ingest", "/polylect.v1.IngestService/IngestStream")
# At a time: of all with a credential but the facade; of each method that needs none.
_CLIENT_CALLS = 1_000
# Few, as each may have a message of the server's limit in memory.
_OPEN_CALLS = 16
_OPEN_READERS = 4
_OPEN_READ_SECONDS = 2.0
_OPEN_LIMITS = RawLimits(max_bytes=64 * 1024)
_NO_LIMITS = RawLimits()
_NO_MESSAGE = "The call has no message"
_DETAILS_KEY = "grpc-status-details-bin"

# Generic for the type checker only.
Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"

log = structlog.get_logger()


class Entry(grpc.GenericRpcHandler):  # type: ignore[type-arg]
    """Lets calls in, answers their errors with a rich status, and counts them.

    Services are added to it, not to the server: that waits for each method registered with it by itself, and
    begins to wait for all of them anew with every call.
    """

    def __init__(self, callers: Callers, refusals: Refusals, counts: Counts) -> None:
        """Start with no call under way."""
        self._callers = callers
        self._refusals = refusals
        self._counts = counts
        self._of_facade: dict[str, Handler] = {}
        self._of_others: dict[str, Handler] = {}
        self._client_places = _Places(_CLIENT_CALLS)
        self._open_readers = asyncio.Semaphore(_OPEN_READERS)
        self._calls = 0
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def services(self) -> grpc.aio.Server:
        """Give what services are added to: of a server, generated code knows nothing but this."""
        return cast("grpc.aio.Server", self)

    def add_generic_rpc_handlers(self, _: object) -> None:
        """Take no notice: generated code adds every method in both ways."""

    def add_registered_method_handlers(self, service: str, handlers: Mapping[str, Handler]) -> None:
        """Add a service's methods, each wrapped once for the facade and once for all others."""
        for name, handler in handlers.items():
            method = f"/{service}/{name}"
            is_own = method.startswith(_OWN_METHODS)
            self._of_facade[method] = self._wrap_trusted(handler, method) if is_own else handler
            self._of_others[method] = (self._wrap_own if is_own else self._wrap_open)(handler, method)

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> "Handler | None":
        """Give how to answer a call; None when there is no such method."""
        metadata = cast("Metadata", handler_call_details.invocation_metadata or ())
        handlers = self._of_facade if self._callers.is_facade(metadata) else self._of_others
        return handlers.get(handler_call_details.method)

    async def wait_idle(self) -> None:
        """Wait until no call of ours is under way, its answer sent."""
        await self._idle.wait()

    def _wrap_trusted(self, handler: Handler, method: str) -> Handler:
        """The facade's: neither limited nor counted out."""
        if method == _BATCH_INGEST_STREAM:
            return self._wrap_facade_stream(handler, method)
        call = cast("Any", handler.unary_unary)
        if not call:
            return self._wrap_own(handler, method)
        parser = cast("Any", handler.request_deserializer)

        async def answer(raw: bytes, context: Context) -> object:
            self._enter()
            started = monotonic()
            try:
                response = await call(parse(raw, parser, _NO_LIMITS), context)
            except Exception as error:
                await self._end(error, method, context)
            finally:
                self._counts.time_call(method, started)
            self._counts.count_call(method)
            return response

        return grpc.unary_unary_rpc_method_handler(
            cast("Any", answer), response_serializer=handler.response_serializer
        )

    def _wrap_facade_stream(self, handler: Handler, method: str) -> Handler:
        """Open as long as the facade runs, so that each message counts as a call."""
        parser = cast("Any", handler.request_deserializer)

        async def answer(_: object, context: Context) -> None:
            try:
                # A message counts no longer than its call, whoever holds the generator still.
                async with aclosing(self._each(method, parser, context)) as messages:
                    await _stream(cast("Any", handler.stream_stream)(messages, context), context)
            except Exception as error:
                await self._end(error, method, context)

        return grpc.stream_stream_rpc_method_handler(
            cast("Any", answer), response_serializer=handler.response_serializer
        )

    async def _each(
        self, method: str, parser: Callable[[bytes], Any], context: Context
    ) -> AsyncGenerator[Any, None]:
        """Give message after message; each is under way until the next is asked for."""
        while isinstance(raw := await context.read(), bytes):
            self._calls += 1
            self._idle.clear()
            started = monotonic()
            try:
                yield parse(raw, parser, _NO_LIMITS)
            finally:
                self._leave(None)
                self._counts.time_call(method, started)
            # The next is asked for, so this one has its answer.
            self._counts.count_call(method)

    def _wrap_own(self, handler: Handler, method: str) -> Handler:
        limits = RawLimits(MESSAGE_BYTES, MAX_EVENTS if method in _EVENT_METHODS else None)
        parser = cast("Any", handler.request_deserializer)
        facade_only = method in _FACADE_METHODS

        async def answer(_: object, context: Context) -> object:
            response = None
            started = monotonic()
            try:
                known = self._callers.admit(context)
                if facade_only:
                    self._callers.require_facade(known)
                with self._client_places:
                    if handler.stream_stream:
                        self._enter()
                        messages = _parsed(context, parser, limits)
                        await _stream(cast("Any", handler.stream_stream)(messages, known), context)
                    else:
                        request = parse(await _only(context), parser, limits)
                        self._enter()
                        if handler.unary_unary:
                            response = await cast("Any", handler.unary_unary)(request, known)
                        else:
                            await _stream(cast("Any", handler.unary_stream)(request, known), context)
            except asyncio.CancelledError:
                # As those who follow go.
                self._counts.count_call(method, grpc.StatusCode.CANCELLED.name)
                raise
            except Exception as error:
                await self._end(error, method, context)
            finally:
                # How long a stream is open is its caller's affair.
                if handler.unary_unary:
                    self._counts.time_call(method, started)
            # Of a stream of requests each was counted when it was answered.
            if not handler.stream_stream:
                self._counts.count_call(method)
            return response

        return _unread(answer, handler)

    async def _end(self, error: Exception, method: str, context: Context) -> NoReturn:
        """End a call with an error: counted, logged with the caller's own request id, told."""
        has_events = method in _EVENT_METHODS
        request_id = request_id_of(context) if has_events else given_request_id(context)
        refusal = _as_core_error(error, method, request_id)
        # A stream that ends with the core has all its answers.
        if refusal.event_count:
            self._counts.count_call(method, refusal.status.name, refusal.reason)
            reason = reason_label(refusal.reason)
            log.info("call_refused", method=method, request_id=request_id, reason=reason)
            if has_events:
                self._note_refused(method, refusal, context, request_id)
        await _abort(context, refusal)

    def _note_refused(self, method: str, refusal: CoreError, context: Context, request_id: str) -> None:
        """Have refused events counted, and tell the caller by which id to ask for them."""
        source_id = self._callers.source_id_of(context)
        call = RefusedCall(method, source_id, request_id, client_ip_of(context))
        self._refusals.note_call(call, refusal)
        context.set_trailing_metadata((("x-request-id", request_id),))

    def _wrap_open(self, handler: Handler, method: str) -> Handler:
        """Health and reflection: for anyone, so that anyone's calls must not be many, or large."""
        places = _Places(_OPEN_CALLS)
        parser = cast("Any", handler.request_deserializer)

        async def answer(_: object, context: Context) -> object:
            try:
                with places:
                    if handler.stream_stream:
                        messages = _parsed(context, parser, _OPEN_LIMITS)
                        await _stream(cast("Any", handler.stream_stream)(messages, context), context)
                        return None
                    async with self._open_readers, asyncio.timeout(_OPEN_READ_SECONDS):
                        request = parse(await _only(context), parser, _OPEN_LIMITS)
                    if handler.unary_unary:
                        return cast("object", await cast("Any", handler.unary_unary)(request, context))
                    await cast("Any", handler.unary_stream)(request, context)
            except grpc.aio.AbortError:
                raise
            except TimeoutError:
                await _abort(context, CoreError(reasons.ERROR_REASON_PAYLOAD_UNREADABLE, _NO_MESSAGE))
            except Exception as error:
                await _abort(context, _as_core_error(error, method, ""))
            return None

        return _unread(answer, handler)

    def _enter(self) -> None:
        self._calls += 1
        self._idle.clear()
        # Not the context's own callback: that leaves a circle behind for the collector, of each call.
        cast("asyncio.Task[object]", asyncio.current_task()).add_done_callback(self._leave)

    def _leave(self, _: object) -> None:
        self._calls -= 1
        if not self._calls:
            self._idle.set()


class _Places:
    """Room for so many at a time; who comes when there is none is told to come back."""

    def __init__(self, count: int) -> None:
        self._left = count

    def __enter__(self) -> None:
        if not self._left:
            raise CoreError(
                reasons.ERROR_REASON_OVERLOADED,
                "Too many calls at once",
                retry_after_seconds=OVERLOAD_RETRY_SECONDS,
            )
        self._left -= 1

    def __exit__(self, *_: object) -> None:
        self._left += 1


def _unread(answer: Callable[[object, Context], Awaitable[object]], handler: Handler) -> Handler:
    # gRPC reads a unary call's message before its handler runs, and a stream's when the handler asks. On the
    # wire the two are the same. A single answer is sent together with metadata and status.
    make = (
        grpc.stream_unary_rpc_method_handler if handler.unary_unary else grpc.stream_stream_rpc_method_handler
    )
    return make(cast("Any", answer), response_serializer=handler.response_serializer)


async def _parsed(context: Context, parser: Callable[[bytes], Any], limits: RawLimits) -> AsyncIterator[Any]:
    while isinstance(raw := await context.read(), bytes):
        yield parse(raw, parser, limits)


async def _only(context: Context) -> bytes:
    raw = await context.read()
    if isinstance(raw, bytes):
        return raw
    raise CoreError(reasons.ERROR_REASON_PAYLOAD_UNREADABLE, _NO_MESSAGE)


async def _stream(answers: AsyncGenerator[Any, None], context: Context) -> None:
    # Closed here and now when the caller is gone, not when it is collected.
    async with aclosing(answers) as responses:
        async for response in responses:
            await context.write(response)


def _as_core_error(error: Exception, method: str, request_id: str) -> CoreError:
    if isinstance(error, CoreError):
        # gRPC keeps what ends a call for a while; its frames would keep the raw message.
        error.__context__ = None
        return error.with_traceback(None)
    if isinstance(error, ConnectionError):
        log.warning("storage_unavailable", method=method, request_id=request_id, error=str(error))
        return StorageUnavailable()
    log.error("call_failed", method=method, request_id=request_id, exc_info=error)
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
