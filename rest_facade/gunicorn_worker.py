"""One worker process of gunicorn: its server, which stops without leaving anybody unanswered."""

import asyncio
import functools
import gc
import logging
import signal
import socket
import sys
from typing import Any

from gunicorn.arbiter import Arbiter  # type: ignore[import-untyped]
from uvicorn import Server
from uvicorn_worker import UvicornWorker  # type: ignore[import-untyped]

from rest_facade.connections import FacadeProtocol
from rest_facade.stalls import END_STREAMS


class FacadeServer(Server):
    """One worker's server."""

    def handle_exit(self, sig: int, frame: Any) -> None:
        """Stop in order, whatever the signal and however often it comes."""
        self.should_exit = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop listening, but take in those the kernel has accepted already."""
        end_streams = self.lifespan.state.get(END_STREAMS)
        if end_streams is not None:
            end_streams()
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
        # What start-up left behind is never garbage, and no request leaves a cycle. Those under way are 36
        # objects each, looked at when there are 1,400: that takes 1 ms (17 with a threshold of 200,000).
        gc.freeze()
        gc.set_threshold(50_000, 20, 20)
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
