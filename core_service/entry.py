"""The way in for every call; hides what is refused before its message is read.

A caller that shows no valid credential costs no more than its metadata, and no caller's calls leave the
facade without room. Knows which calls are under way, so that a drain can wait for the last answer.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping
from contextlib import aclosing, suppress
from time import monotonic
from typing import Any, NoReturn, Protocol, TypeAlias, TypeVar, cast

import grpc
import structlog
from polylect.v1 import error_reason_pb2 as reasons

from core_service.callers import Callers, Context, Metadata, client_ip_of, given_request_id, request_id_of
from core_service.counts import Counts
from core_service.errors import CoreError, reason_label
from core_service.ingest import MAX_EVENTS
from core_service.places import CallerPlaces, Places
from core_service.raw_message import MESSAGE_BYTES, RawLimits, parse
from core_service.refusals import Refusals, RefusedCall
from core_service.rich_status import Answer, abort, as_core_error, leaving_nothing

_OWN_METHODS = "/polylect.v1."
_BATCH_INGEST = "/polylect.v1.IngestService/BatchIngest"
_BATCH_INGEST_STREAM = "/polylect.v1.IngestService/BatchIngestStream"
_REPORT_REFUSALS = "/polylect.v1.IngestService/ReportRefusals"
_FACADE_METHODS = (_BATCH_INGEST, _BATCH_INGEST_STREAM, _REPORT_REFUSALS)
_EVENT_METHODS = ("/polylect.v1.IngestService/Ingest", "/polylect.v1.IngestService/IngestStream")
# At a time, of each method that needs no credential: few, as each may have a message of the server's limit in
# memory.
_OPEN_CALLS = 16
_OPEN_READERS = 4
_OPEN_READ_SECONDS = 2.0
# For the one message of a call with a credential.
_READ_SECONDS = 30.0
_OPEN_LIMITS = RawLimits(max_bytes=64 * 1024)
_NO_LIMITS = RawLimits()
_NO_MESSAGE = "The call has no whole message"

# Generic for the type checker only.
Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
Servicer = TypeVar("Servicer")

log = structlog.get_logger()


class Services(Protocol):
    """What generated code knows of a server."""

    def add_generic_rpc_handlers(self, generic_rpc_handlers: Any, /) -> None:
        """Add methods in one way."""

    def add_registered_method_handlers(self, service: str, handlers: Mapping[str, Handler], /) -> None:
        """Add a service's methods in the other."""


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
        self._places = CallerPlaces()
        self._open_readers = asyncio.Semaphore(_OPEN_READERS)
        self._calls = 0
        self._idle = asyncio.Event()
        self._idle.set()

    def add(self, add_to_server: Callable[[Servicer, Any], None], servicer: Servicer) -> None:
        """Add a service by its generated function."""
        add_to_server(servicer, self)

    def require(self, services: Iterable[str]) -> None:
        """Raise LookupError unless each service was added: other generated code might not do it."""
        added = {method.rpartition("/")[0] for method in self._of_facade}
        lacking = sorted(name for name in services if f"/{name}" not in added)
        if lacking:
            raise LookupError(f"nothing answers for {', '.join(lacking)}")

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
            cast("Any", leaving_nothing(answer)), response_serializer=handler.response_serializer
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
            cast("Any", leaving_nothing(answer)), response_serializer=handler.response_serializer
        )

    async def _each(
        self, method: str, parser: Callable[[bytes], Any], context: Context
    ) -> AsyncGenerator[Any, None]:
        """Give message after message; each is under way until the next is asked for."""
        while read := await _read(context):
            self._calls += 1
            self._idle.clear()
            started = monotonic()
            try:
                yield parse(read.pop(), parser, _NO_LIMITS)
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
                known, caller = self._callers.admit(context)
                if facade_only:
                    self._callers.require_facade(known)
                with self._places.of(caller):
                    if handler.stream_stream:
                        self._enter()
                        async with aclosing(_parsed(context, parser, limits)) as messages:
                            await _stream(cast("Any", handler.stream_stream)(messages, known), context)
                    else:
                        request = parse(await _only(context, _READ_SECONDS), parser, limits)
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
        refusal = as_core_error(error, method, request_id)
        # A stream that ends with the core has all its answers.
        if refusal.event_count:
            self._counts.count_call(method, refusal.status.name, refusal.reason)
            reason = reason_label(refusal.reason)
            log.info("call_refused", method=method, request_id=request_id, reason=reason)
            if has_events:
                self._note_refused(method, refusal, context, request_id)
        await abort(context, refusal)

    def _note_refused(self, method: str, refusal: CoreError, context: Context, request_id: str) -> None:
        """Have refused events counted, and tell the caller by which id to ask for them."""
        source_id = self._callers.source_id_of(context)
        call = RefusedCall(method, source_id, request_id, client_ip_of(context))
        self._refusals.note_call(call, refusal)
        context.set_trailing_metadata((("x-request-id", request_id),))

    def _wrap_open(self, handler: Handler, method: str) -> Handler:
        """Health and reflection: for anyone, so that anyone's calls must not be many, or large."""
        places = Places(_OPEN_CALLS)
        parser = cast("Any", handler.request_deserializer)

        async def answer(_: object, context: Context) -> object:
            try:
                with places:
                    if handler.stream_stream:
                        async with aclosing(_parsed(context, parser, _OPEN_LIMITS)) as messages:
                            await _stream(cast("Any", handler.stream_stream)(messages, context), context)
                        return None
                    async with self._open_readers:
                        request = parse(await _only(context, _OPEN_READ_SECONDS), parser, _OPEN_LIMITS)
                    if handler.unary_unary:
                        return cast("object", await cast("Any", handler.unary_unary)(request, context))
                    await cast("Any", handler.unary_stream)(request, context)
            except grpc.aio.AbortError:
                raise
            except Exception as error:
                await abort(context, as_core_error(error, method, ""))
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


def _unread(answer: Answer, handler: Handler) -> Handler:
    # gRPC reads a unary call's message before its handler runs, and a stream's when the handler asks. On the
    # wire the two are the same. A single answer is sent together with metadata and status.
    make = (
        grpc.stream_unary_rpc_method_handler if handler.unary_unary else grpc.stream_stream_rpc_method_handler
    )
    return make(cast("Any", leaving_nothing(answer)), response_serializer=handler.response_serializer)


async def _parsed(
    context: Context, parser: Callable[[bytes], Any], limits: RawLimits
) -> AsyncGenerator[Any, None]:
    while read := await _read(context):
        yield _parsed_one(read.pop(), parser, limits)


def _parsed_one(raw: bytes, parser: Callable[[bytes], Any], limits: RawLimits) -> Any:
    try:
        return parse(raw, parser, limits)
    except CoreError as error:
        # It may wait for the answers before it, and its frames have the bytes.
        del raw
        error.__context__ = None
        raise error.with_traceback(None) from None


async def _only(context: Context, seconds: float) -> bytes:
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            if read := await _read(context):
                return read.pop()
    raise CoreError(reasons.ERROR_REASON_PAYLOAD_UNREADABLE, _NO_MESSAGE)


async def _read(context: Context) -> list[bytes]:
    """Give the next message, to be taken out: a stream that waits keeps none; nothing at the end."""
    raw = await context.read()
    return [raw] if isinstance(raw, bytes) else []


async def _stream(answers: AsyncGenerator[Any, None], context: Context) -> None:
    # Closed here and now when the caller is gone, not when it is collected.
    async with aclosing(answers) as responses:
        async for response in responses:
            await context.write(response)
