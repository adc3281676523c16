"""A connection that is sent more than it answers: what it parses, and how long it waits for the rest."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from uvicorn import Config
from uvicorn.server import ServerState

from rest_facade import connections
from rest_facade.connections import FacadeProtocol

_REQUEST = b"GET /x HTTP/1.1\r\n\r\n"
_PACKET_BYTES = 256_000


class Transport(asyncio.Transport):
    """Notes what is written and whether it is read."""

    def __init__(self) -> None:
        super().__init__()
        self.written: list[bytes] = []
        self.is_read = True
        self.is_closed = False
        self.protocol: Any = None

    def get_protocol(self) -> Any:
        return self.protocol

    def pause_reading(self) -> None:
        self.is_read = False

    def resume_reading(self) -> None:
        self.is_read = True

    def write(self, data: Any) -> None:
        self.written.append(bytes(data))

    def close(self) -> None:
        self.is_closed = True

    def is_closing(self) -> bool:
        return self.is_closed


class Application:
    """Answers each request when let go, and reads no body before."""

    def __init__(self) -> None:
        self.let_go = asyncio.Event()
        self.asked = 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.asked += 1
        await self.let_go.wait()
        while (await receive())["more_body"]:
            pass
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body", "body": b""})


@pytest.fixture
async def application() -> Application:
    return Application()


@pytest.fixture
async def connection(application: Application) -> AsyncIterator[FacadeProtocol]:
    config = Config(application, http=FacadeProtocol, ws="none", lifespan="off", interface="asgi3")
    config.load()
    transport = Transport()
    protocol = FacadeProtocol(config, ServerState(), {}, asyncio.get_running_loop())
    transport.protocol = protocol
    protocol.connection_made(transport)
    yield protocol
    protocol.connection_lost(None)


async def until(condition: Callable[[], bool]) -> None:
    for _ in range(2000):
        if condition():
            return
        await asyncio.sleep(0.01)
    raise TimeoutError


async def settle(turns: int = 200) -> None:
    for _ in range(turns):
        await asyncio.sleep(0)


@pytest.mark.parametrize("request_line", [_REQUEST, b"GET /x RTSP/1.1\r\n\r\n", b"SOURCE /x ICE/1.1\r\n\r\n"])
async def test_of_a_packet_of_requests_few_wait(
    connection: FacadeProtocol, application: Application, request_line: bytes
) -> None:
    count = _PACKET_BYTES // len(request_line)
    connection.data_received(request_line * count)
    await settle()
    assert len(connection.pipeline) < 250
    assert not connection.transport.is_read
    application.let_go.set()
    await until(lambda: application.asked == count)
    await settle()
    assert connection.transport.is_read
    assert len(connection.transport.written) == count


async def test_a_body_nobody_asks_for_is_not_read_on(
    connection: FacadeProtocol, application: Application
) -> None:
    connection.data_received(b"POST /x HTTP/1.1\r\nContent-Length: 600000\r\n\r\n")
    packet = b"\r\n\r\n" * 50_000
    for _ in range(3):
        if connection.transport.is_read:
            connection.data_received(packet)
            await settle()
    assert connection.cycle
    assert len(connection.cycle.body) < len(packet)
    application.let_go.set()
    sent = len(packet)
    async with asyncio.timeout(20):
        while not connection.transport.written:
            if connection.transport.is_read and sent < 600_000:
                connection.data_received(packet)
                sent += len(packet)
            await asyncio.sleep(0)
    assert sent == 600_000


async def test_a_head_whose_rest_we_hold_back_has_no_deadline(
    connection: FacadeProtocol, application: Application, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "_HEAD_SECONDS", 0.05)
    connection.data_received(_REQUEST * 2 + _REQUEST[:10])
    # Longer than a head may take.
    await asyncio.sleep(0.2)
    assert not connection.transport.is_closed
    application.let_go.set()
    await asyncio.sleep(0)
    await until(lambda: connection.transport.is_closed)
    assert len(connection.transport.written) == 2
