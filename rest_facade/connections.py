"""How a worker treats connections: what uvicorn leaves open. Knows nothing of what requests mean.

Bounds and deadlines for heads, so that a slow or endless one costs nothing; a limit of connections; time for
the rest of a body nobody wants, so that its sender can read the refusal.
"""

import asyncio
from typing import Any

import httptools
from uvicorn import Config
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT
from uvicorn.server import ServerState

from rest_facade.caller import sane_request_id
from rest_facade.heads import refusal, taken_apart, without_offer
from rest_facade.read_ahead import PacedProtocol
from rest_facade.response_cycle import WholeResponseCycle

_MAX_HEAD_BYTES = 64 * 1024
_MAX_HEADERS = 128
_HEAD_SECONDS = 10.0
# For the rest of a body after its refusal.
_LINGER_SECONDS = 5.0
# For a request that is on its way on an idle connection when the worker stops.
_LAST_CALL_SECONDS = 1.0

COUNT_UNPARSED = "count_unparsed"
"""Where the lifespan's state may hold a function that is told of each refusal made here: its status, the
request's id and the address it came from."""

_VERSIONS = frozenset(("1.1", "1.0"))


class FacadeProtocol(PacedProtocol):
    """One connection.

    The parser's callbacks are written anew, for a request without websockets and without objects nobody uses:
    uvicorn's take a third of the work on a small request.
    """

    cycle: WholeResponseCycle | None  # type: ignore[assignment]

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        # uvicorn would answer in plain text.
        self._max_connections = self.limit_concurrency
        self.limit_concurrency = None
        self._deadline: asyncio.TimerHandle | None = None
        self._draining = False
        self._in_head = False
        self._head_bytes = 0
        self._packet_bytes = 0
        self._refusal_status = 400
        # Begins when all that came with its head is parsed.
        self._next: WholeResponseCycle | None = None
        # A head that offers another protocol, to be parsed again without the offer.
        self._offers = False
        # Whether a request has ended in the packet at hand.
        self._ended_in_packet = False
        # Of a request under way, what came and was neither head nor body: chunk extensions, trailers.
        self._beside_bytes = 0
        # The status of a refusal that comes when the requests before have their answers.
        self._refusing = 0
        # What all requests of a connection have in common.
        self._scope: dict[str, Any] = {}
        self._parsed_url = b""
        self._idle_since = 0.0
        self._idle_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Accept, unless there are too many."""
        super().connection_made(transport)
        if self._max_connections is not None and len(self.connections) > self._max_connections:
            self._refuse(503)
            return
        self._idle_since = self.loop.time()
        self._idle_timer = self.loop.call_later(self.timeout_keep_alive, self._close_if_idle_for_long)
        self._scope = {
            "type": "http",
            "asgi": {"version": self.asgi_version, "spec_version": "2.3"},
            "http_version": "1.1",
            "server": self.server,
            "client": self.client,
            "scheme": self.scheme,
            "root_path": "",
            "headers": (),
            "state": self.app_state,
            "method": "",
            "path": "",
            "raw_path": b"",
            "query_string": b"",
        }

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the deadlines."""
        self._cancel_deadline()
        if self._idle_timer is not None:
            self._idle_timer.cancel()
        super().connection_lost(exc)

    def take(self, data: bytes) -> None:
        """Parse it; a head that is not whole yet has a deadline."""
        if self._refusing:
            return
        self._packet_bytes = len(data)
        self._ended_in_packet = False
        self._beside_bytes += len(data)
        self._parse(data)
        if self._next is not None:
            cycle, self._next = self._next, None
            if cycle.more_body:
                self._start_asgi_task(cycle, self.app)
            else:
                cycle.run(self.app, self.tasks)
        if self._in_head and not self.transport.is_closing():
            self._head_bytes += len(data)
            if self._head_bytes > _MAX_HEAD_BYTES:
                self._refuse(431)
            else:
                self._await_head()
        elif self._beside_bytes > _MAX_HEAD_BYTES and not self._is_idle():
            self._refuse(431)

    def read_on(self) -> None:
        """Read on; the rest of a head has its time from then on."""
        super().read_on()
        if self._in_head:
            self._await_head()

    def _await_head(self) -> None:
        if self._deadline is None and not (self.pipeline or self.flow.rest):
            self._set_deadline(_HEAD_SECONDS)

    def _parse(self, data: bytes) -> None:
        while True:
            try:
                self.parser.feed_data(data)
            except httptools.HttpParserUpgrade as offer:
                if self._offers:
                    # Not taken up; but the parser leaves out the body of one who offers.
                    self._offers = False
                    head = without_offer(self.parser.get_method(), self.url, self.headers)
                    data = head + data[offer.args[0] :]
                    self.parser = httptools.HttpRequestParser(self)
                    # As uvicorn's: a request behind one that said `close` is no fault.
                    self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
                    continue
            except httptools.HttpParserError:
                self._refuse(self._refusal_status)
            return

    def on_message_begin(self) -> None:
        """Note that a head has begun."""
        self._in_head = True
        # How much of the packet is its head shows when it ends; what ended before in the packet is not.
        self._head_bytes = -self._packet_bytes if self._ended_in_packet else 0
        self.url = b""
        self.headers = []
        self.expect_100_continue = False

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep a header. Trailers, which nobody here waits for, are none."""
        if self._in_head:
            name = name.lower()
            if name == b"expect" and value.lower() == b"100-continue":
                self.expect_100_continue = True
            self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        """Start the request, if its head is of a reasonable size."""
        self._in_head = False
        self._beside_bytes = 0
        if self._deadline is not None:
            self._cancel_deadline()
        if len(self.headers) > _MAX_HEADERS or (
            self._head_bytes + self._packet_bytes > _MAX_HEAD_BYTES and self._head_size() > _MAX_HEAD_BYTES
        ):
            self._refusal_status = 431
            raise ValueError("head too large")
        version = self.parser.get_http_version()
        if version not in _VERSIONS:
            raise ValueError("another HTTP")
        if self.parser.should_upgrade() and any(name == b"upgrade" for name, _ in self.headers):
            self._offers = True
            return
        if self.url != self._parsed_url:
            # Most connections know one address only.
            self._scope |= taken_apart(self.url)
            self._parsed_url = self.url
        scope = self._scope.copy()
        scope["headers"] = self.headers
        scope["method"] = self.parser.get_method().decode("ascii")
        if version != "1.1":
            scope["http_version"] = version
        before = self.cycle
        self.cycle = WholeResponseCycle(
            scope,
            self,
            expects_continue=self.expect_100_continue,
            keep_alive=not self._draining and version != "1.0" and self.parser.should_keep_alive(),
        )
        if before is None or before.response_complete:
            self._next = self.cycle
        else:
            self.flow.hold()
            self.pipeline.appendleft((self.cycle, self.app))

    def on_body(self, body: bytes) -> None:
        """Keep a part of the body, unless the request is answered already."""
        self._beside_bytes = 0
        cycle = self.cycle
        if cycle is None or cycle.response_complete:
            return
        cycle.add(body)
        if len(cycle.body) > HIGH_WATER_LIMIT:
            self.flow.pause_reading()

    def on_message_complete(self) -> None:
        """Note that the body is whole, and stop waiting for the rest of a refused one."""
        if self._offers:
            return
        self._ended_in_packet = True
        if self._deadline is not None:
            self._cancel_deadline()
        cycle = self.cycle
        if cycle is None:
            return
        if cycle.response_complete:
            self._idle_since = self.loop.time()
        else:
            cycle.end()

    def on_response_complete(self) -> None:
        """Go on with the next request of the connection, or wait for it.

        The rest of a refused body gets some time to arrive, so that its sender gets to read the answer.
        """
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())
            if not self.pipeline:
                self.read_on()
            return
        self.read_on()
        if self._refusing:
            self._answer_refused(self._refusing)
            return
        self._idle_since = self.loop.time()
        cycle = self.cycle
        if cycle is not None and cycle.response_complete and cycle.more_body:
            self._set_deadline(_LINGER_SECONDS)

    def shutdown(self) -> None:
        """Let the request under way, or one about to arrive, be the last."""
        self._draining = True
        self.hurry_stalled()
        if self.cycle is None or self.cycle.response_complete:
            self.loop.call_later(_LAST_CALL_SECONDS, self._close_if_idle)
        else:
            self.cycle.keep_alive = False

    def _close_if_idle(self) -> None:
        if self._is_idle() and not self.transport.is_closing():
            self.transport.close()

    def _close_if_idle_for_long(self) -> None:
        """Look again when the time may be over: a timer for each pause between requests costs 2 %."""
        left: float = self.timeout_keep_alive
        if self._is_idle():
            left -= self.loop.time() - self._idle_since
        if left > 0:
            self._idle_timer = self.loop.call_later(left, self._close_if_idle_for_long)
        elif not self.transport.is_closing():
            self.transport.close()

    def _is_idle(self) -> bool:
        return not self._in_head and (self.cycle is None or self.cycle.response_complete)

    def _head_size(self) -> int:
        return len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)

    def _set_deadline(self, seconds: float) -> None:
        self._cancel_deadline()
        self._deadline = self.loop.call_later(seconds, self._give_up)

    def _cancel_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _give_up(self) -> None:
        self._deadline = None
        if not self.transport.is_closing():
            self.transport.close()

    def _refuse(self, status: int) -> None:
        """Refuse what comes now, and all after it; what came whole before is answered first."""
        broken = self.cycle if self.cycle is not None and self.cycle.more_body else None
        if broken is not None and broken is self._next:
            self._next = None
        elif broken is not None and self.pipeline and self.pipeline[0][0] is broken:
            self.pipeline.popleft()
            self._refusing = status
        if self._next is not None or self.pipeline or self._has_unanswered():
            self._refusing = status
        if not self._refusing:
            self._answer_refused(status)

    def _has_unanswered(self) -> bool:
        """Tell whether the last request came whole, and has no answer yet."""
        return self.cycle is not None and not self.cycle.response_complete and not self.cycle.more_body

    def _answer_refused(self, status: int) -> None:
        """Answer without a request, neutrally, for there is no path to tell a dialect by."""
        request_id = self._request_id()
        self.transport.write(refusal(status, request_id))
        self.transport.close()
        count = self.app_state.get(COUNT_UNPARSED)
        if count is not None:
            count(status, request_id, self.client[0] if self.client else "")

    def _request_id(self) -> str:
        """Give the id in as much of the head as could be read, or a new one."""
        headers = self.headers or ()
        cycle = self.cycle
        if cycle is not None and cycle.response_complete and cycle.scope["headers"] is headers:
            # Of the request before, which has its answer.
            headers = ()
        asked = (value for name, value in headers if name.lower() == b"x-request-id")
        return sane_request_id(next(asked, b"").decode("latin-1"))
