"""How a worker treats connections: what uvicorn leaves open. Knows nothing of what requests mean.

Bounds and deadlines for heads, so that a slow or endless one costs nothing; a limit of connections; time for
the rest of a body nobody wants, so that its sender can read the refusal; and a stop that answers every
accepted connection.
"""

import asyncio
import functools
import gc
import logging
import signal
import socket
import sys
from typing import Any

from gunicorn.arbiter import Arbiter  # type: ignore[import-untyped]
from uvicorn import Config, Server
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState
from uvicorn_worker import UvicornWorker  # type: ignore[import-untyped]

from rest_facade.caller import sane_request_id
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

_TEXTS = {400: b"Bad request", 431: b"Request head too large", 503: b"Too many connections"}


class FacadeProtocol(HttpToolsProtocol):
    """One connection."""

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

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Accept, unless there are too many."""
        super().connection_made(transport)
        if self._max_connections is not None and len(self.connections) > self._max_connections:
            self._refuse(503)
        else:
            self._set_deadline(self.timeout_keep_alive)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the deadline."""
        self._cancel_deadline()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Read what came; a head that is not whole yet has a deadline."""
        if self._deadline is not None and not self._in_head and not self._is_lingering():
            self._cancel_deadline()
        self._packet_bytes = len(data)
        super().data_received(data)
        if self._in_head and not self.transport.is_closing():
            self._head_bytes += len(data)
            if self._head_bytes > _MAX_HEAD_BYTES:
                self._refuse(431)
            elif self._deadline is None:
                self._set_deadline(_HEAD_SECONDS)

    def on_message_begin(self) -> None:
        """Note that a head has begun."""
        self._in_head = True
        self._head_bytes = 0
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """Start the request, if its head is of a reasonable size."""
        self._in_head = False
        if self._deadline is not None:
            self._cancel_deadline()
        if len(self.headers) > _MAX_HEADERS or (
            self._head_bytes + self._packet_bytes > _MAX_HEAD_BYTES and self._head_size() > _MAX_HEAD_BYTES
        ):
            self._refusal_status = 431
            raise ValueError("head too large")
        super().on_headers_complete()
        if self._draining:
            self.cycle.keep_alive = False

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        # The only seam uvicorn leaves: it makes the cycle itself.
        cycle.__class__ = WholeResponseCycle
        super()._start_asgi_task(cycle, app)

    def on_message_complete(self) -> None:
        """Stop waiting for the rest of a refused body: it is here."""
        if self._deadline is not None:
            self._cancel_deadline()
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """Give the rest of a refused body some time to arrive, so that its sender gets to read the answer."""
        super().on_response_complete()
        if self._is_lingering() and not self.transport.is_closing():
            self._unset_keepalive_if_required()
            self._set_deadline(_LINGER_SECONDS)

    def send_400_response(self, msg: str) -> None:
        """Answer what is no HTTP."""
        self._refuse(self._refusal_status)

    def shutdown(self) -> None:
        """Let the request under way, or one about to arrive, be the last."""
        self._draining = True
        if self.cycle is None or self.cycle.response_complete:
            self.loop.call_later(_LAST_CALL_SECONDS, self._close_if_idle)
        else:
            self.cycle.keep_alive = False

    def _close_if_idle(self) -> None:
        idle = self.cycle is None or self.cycle.response_complete
        if idle and not self._in_head and not self.transport.is_closing():
            self.transport.close()

    def _is_lingering(self) -> bool:
        return self.cycle is not None and self.cycle.response_complete and self.cycle.more_body

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
        """Answer without a request, neutrally, for there is no path to tell a dialect by."""
        body = b'{"error":"%s"}' % _TEXTS[status]
        retry_after = b"retry-after: 1\r\n" if status == 503 else b""
        request_id = self._request_id()
        self.transport.write(
            STATUS_LINE[status]
            + b"content-type: application/json\r\n"
            + retry_after
            + b"x-request-id: %s\r\n" % request_id.encode()
            + b"content-length: %d\r\nconnection: close\r\n\r\n" % len(body)
            + body
        )
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


class FacadeServer(Server):
    """One worker's server."""

    def handle_exit(self, sig: int, frame: Any) -> None:
        """Stop in order, whatever the signal and however often it comes."""
        self.should_exit = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop listening, but take in those the kernel has accepted already."""
        listeners = [listener.dup() for listener in sockets or ()]
        for server in self.servers:
            server.close()
        protocol = functools.partial(
            FacadeProtocol,
            config=self.config,
            server_state=self.server_state,
            app_state=self.lifespan.state,
        )
        loop = asyncio.get_running_loop()
        for listener in listeners:
            listener.setblocking(False)
            while (connection := _accepted(listener)) is not None:
                await loop.connect_accepted_socket(protocol, connection)
            listener.close()
        await super().shutdown(sockets)


class FacadeWorker(UvicornWorker):  # type: ignore[misc]
    """A gunicorn worker that runs FacadeServer."""

    CONFIG_KWARGS = {  # noqa: RUF012 - so named and typed by the parent
        "loop": "uvloop",
        "http": FacadeProtocol,
        "ws": "none",
        "interface": "asgi3",
        "lifespan": "on",
        "access_log": False,
        "server_header": False,
        "proxy_headers": False,
    }

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.config.limit_concurrency = self.cfg.worker_connections
        log = logging.getLogger("uvicorn.error")
        # Below it stands a line for every malformed request.
        log.setLevel(logging.ERROR)
        log.propagate = True

    async def _serve(self) -> None:
        # What start-up left behind is never garbage, and a request leaves no cycles: collecting seldom saves
        # a tenth.
        gc.freeze()
        gc.set_threshold(200_000, 20, 20)
        self.config.app = self.wsgi
        server = FacadeServer(config=self.config)
        # gunicorn's quick stop. A worker has nothing to gain by leaving requests unanswered.
        asyncio.get_running_loop().add_signal_handler(
            signal.SIGQUIT, server.handle_exit, signal.SIGQUIT, None
        )
        # uvloop would close gunicorn's wrappers a second time, and they complain of it.
        await server.serve(sockets=[wrapper.sock for wrapper in self.sockets])
        if not server.started:
            sys.exit(Arbiter.WORKER_BOOT_ERROR)


def _accepted(listener: socket.socket) -> socket.socket | None:
    try:
        connection, _ = listener.accept()
    except OSError:
        return None
    connection.setblocking(False)
    return connection
