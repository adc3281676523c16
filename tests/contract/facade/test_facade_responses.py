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
async def serving(app: Any, **settings: Any) -> AsyncIterator[int]:
    config = Config(
        app,
        http=FacadeProtocol,
        lifespan="off",
        interface="asgi3",
        log_config=None,
        date_header=False,
        **settings,
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


async def echo(scope: Any, receive: Any, send: Any) -> None:
    message = await receive()
    told = [scope["method"], scope["http_version"], scope["path"], scope["query_string"].decode()]
    body = " ".join([*told, message["body"].decode()]).encode()
    await responding(200, [(b"content-length", b"%d" % len(body))], body)(scope, receive, send)


async def test_each_request_of_a_connection_is_read_anew() -> None:
    requests = (
        b"POST /a?b=c HTTP/1.1\r\nContent-Length: 1\r\n\r\nx",
        b"GET /a?b=c HTTP/1.1\r\n\r\n",
        b"GET /%C3%A9 HTTP/1.1\r\n\r\n",
        b"POST /a?b=c HTTP/1.0\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nyz",
    )
    async with serving(echo) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        answers = []
        for request in requests:
            writer.write(request)
            head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)
            answers.append((await reader.readexactly(int(head.split(b"length: ")[1].split()[0]))).decode())
        assert await asyncio.wait_for(reader.read(), 10) == b""
        writer.close()
    assert answers == ["POST 1.1 /a b=c x", "GET 1.1 /a b=c ", "GET 1.1 /é  ", "POST 1.0 /a b=c yz"]


async def test_a_connection_may_be_idle_for_so_long_after_each_request() -> None:
    loop = asyncio.get_running_loop()
    async with serving(echo, timeout_keep_alive=1.5) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        # Time that must not count: half of what a connection may be idle.
        await asyncio.sleep(0.7)
        writer.write(b"GET / HTTP/1.1\r\n\r\n")
        assert (await asyncio.wait_for(reader.readuntil(b"GET 1.1 /  "), 10)).startswith(b"HTTP/1.1 200 ")
        answered_at = loop.time()
        assert await asyncio.wait_for(reader.read(), 10) == b""
        writer.close()
    assert 1.4 < loop.time() - answered_at < 5
