"""Responses as bytes, from an application of any kind."""

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest
from uvicorn import Config

from rest_facade.connections import FacadeProtocol
from rest_facade.gunicorn_worker import FacadeServer

Headers = Sequence[tuple[bytes, bytes]]


def responding(status: int, headers: Headers, *bodies: bytes) -> Callable[..., Awaitable[None]]:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": status, "headers": headers})
        for number, body in enumerate(bodies, start=1):
            await send({"type": "http.response.body", "body": body, "more_body": number < len(bodies)})

    return app


@asynccontextmanager
async def serving(app: Any) -> AsyncIterator[int]:
    config = Config(
        app, http=FacadeProtocol, lifespan="off", interface="asgi3", log_config=None, date_header=False
    )
    listener = socket.create_server(("127.0.0.1", 0))
    server = FacadeServer(config)
    task = asyncio.create_task(server._serve([listener]))
    yield listener.getsockname()[1]
    server.should_exit = True
    await task


async def ask(port: int, method: str = "GET", version: str = "1.1", *headers: str) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    lines = [f"{method} / HTTP/{version}", "Host: x", "Connection: close", *headers]
    writer.write("\r\n".join([*lines, "", ""]).encode())
    try:
        return await asyncio.wait_for(reader.read(), 10)
    finally:
        writer.close()


@pytest.mark.parametrize(
    ("method", "app", "expected"),
    [
        (
            "GET",
            responding(200, [(b"a", b"1"), (b"content-length", b"2")], b"ok"),
            b"HTTP/1.1 200 OK\r\nserver: uvicorn\r\na: 1\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok",
        ),
        (
            "GET",
            responding(204, [(b"a", b"1")], b""),
            b"HTTP/1.1 204 No Content\r\nserver: uvicorn\r\na: 1\r\nconnection: close\r\n\r\n",
        ),
        (
            "HEAD",
            responding(200, [(b"content-length", b"2")], b"ok"),
            b"HTTP/1.1 200 OK\r\nserver: uvicorn\r\ncontent-length: 2\r\nconnection: close\r\n\r\n",
        ),
        (
            "GET",
            responding(200, [], b"a", b"b"),
            b"HTTP/1.1 200 OK\r\nserver: uvicorn\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n"
            b"1\r\na\r\n1\r\nb\r\n0\r\n\r\n",
        ),
    ],
)
async def test_every_form_of_response(method: str, app: Any, expected: bytes) -> None:
    async with serving(app) as port:
        assert await ask(port, method) == expected


@pytest.mark.parametrize("value", [b"x\r\nset-cookie: a=b", b"x\ny"])
async def test_a_line_break_never_leaves_in_a_header(value: bytes) -> None:
    async with serving(responding(200, [(b"a", value), (b"content-length", b"0")], b"")) as port:
        answer = await ask(port)
    assert answer.startswith(b"HTTP/1.1 500 ")
    assert b"set-cookie" not in answer
