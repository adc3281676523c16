"""Starts a facade on a real socket in this event loop, and speaks HTTP to it byte by byte."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import httpx
from uvicorn import Config

from rest_facade.app import create_app
from rest_facade.connections import FacadeProtocol
from rest_facade.gunicorn_worker import FacadeServer
from rest_facade.options import FacadeOptions

FACADE_TOKEN = "facade-token-of-the-tests"
ADMIN_TOKEN = "admin-token-of-the-tests"


def utc_now() -> datetime:
    return datetime.now(UTC)


@dataclass(frozen=True)
class Reply:
    status: int
    # Lower-case names; of Set-Cookie all, in order.
    headers: Mapping[str, str]
    cookies: tuple[str, ...]
    body: bytes


class Facade:
    """A running facade."""

    def __init__(self, server: FacadeServer, port: int, client: httpx.AsyncClient) -> None:
        self.server = server
        self.port = port
        self.client = client

    async def ask(
        self, method: str, path: str, headers: Mapping[str, str] | None = None, body: Any = b""
    ) -> Reply:
        """Send one request, with no header but those given, Host and Content-Length."""
        request = self.client.build_request(method, path, content=body, headers=dict(headers or {}))
        for name in ("accept", "accept-encoding", "user-agent", "connection"):
            if name not in {given.lower() for given in headers or {}}:
                request.headers.pop(name, None)
        response = await self.client.send(request)
        return Reply(
            response.status_code,
            {name.lower(): value for name, value in response.headers.items()},
            tuple(response.headers.get_list("set-cookie")),
            response.content,
        )

    @contextlib.asynccontextmanager
    async def connection(self) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
        """Lend a bare connection."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            yield reader, writer
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

    async def stop(self) -> None:
        """Stop in order."""
        self.server.should_exit = True


@contextlib.asynccontextmanager
async def running_facade(
    core_address: str,
    *,
    clock: Callable[[], datetime] = utc_now,
    max_connections: int | None = None,
    keep_alive_seconds: int = 75,
    **options: Any,
) -> AsyncIterator[Facade]:
    """Run a facade until the block ends."""
    defaults = FacadeOptions(
        core_address=core_address, facade_token=FACADE_TOKEN, metrics_dir="", development=True
    )
    app = create_app(replace(defaults, **options), clock)
    config = Config(
        app,
        http=FacadeProtocol,
        lifespan="on",
        ws="none",
        interface="asgi3",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        log_config=None,
        limit_concurrency=max_connections,
        timeout_keep_alive=keep_alive_seconds,
    )
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    server = FacadeServer(config)
    # Not serve(): signals are pytest's here.
    serving = asyncio.create_task(server._serve([listener]))
    try:
        async with asyncio.timeout(10):
            while not server.started and not serving.done():  # noqa: ASYNC110 - uvicorn has no event
                await asyncio.sleep(0)
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=30) as client:
            yield Facade(server, port, client)
    finally:
        server.should_exit = True
        await serving


async def read_reply(reader: asyncio.StreamReader) -> Reply:
    """Read one response with a Content-Length."""
    head = (await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 30)).decode("latin-1").split("\r\n")
    fields = [line.partition(":") for line in head[1:] if line]
    headers = {name.strip().lower(): value.strip() for name, _, value in fields}
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    return Reply(int(head[0].split()[1]), headers, (), body)


async def until(
    is_so: Callable[[Reply], bool], ask: Callable[[], Awaitable[Reply]], *, seconds: float = 10
) -> Reply:
    """Ask until the reply is so; raises TimeoutError when it does not come to that."""
    async with asyncio.timeout(seconds):
        reply = await ask()
        while not is_so(reply):
            await asyncio.sleep(0.02)
            reply = await ask()
    return reply
