"""The core, or its database, goes away and comes back."""

import asyncio
import contextlib
import json
from collections.abc import Awaitable

import pytest
from conftest import StartCore
from facade_process import Facade, Reply, running_facade, until
from structlog.testing import capture_logs

TOKEN = {"X-API-Token": "pub_123"}
PAGEVIEW = (
    b'{"type":"pageview","data":{"visitor_fingerprint":"fp","session_id":"s","url":"https://e.example/"}}'
)
PREFLIGHT = {"Origin": "https://shop.example.com", "Access-Control-Request-Method": "POST"}


def send(facade: Facade) -> Awaitable[Reply]:
    return facade.ask("POST", "/api/ingest", TOKEN, PAGEVIEW)


def accepted(reply: Reply) -> bool:
    return reply.status == 202


def ready(reply: Reply) -> bool:
    return reply.status == 200


async def test_without_core_it_asks_to_come_back_and_recovers(start: StartCore) -> None:
    async with contextlib.AsyncExitStack() as core:
        address = await core.enter_async_context(start())
        async with running_facade(address) as facade:
            assert (await send(facade)).status == 202
            assert (await facade.ask("GET", "/readyz")).status == 200
            await core.aclose()
            replies = await asyncio.gather(*(send(facade) for _ in range(20)))
            assert {reply.status for reply in replies} == {503}
            assert all(int(reply.headers["retry-after"]) >= 1 for reply in replies)
            assert json.loads(replies[0].body).keys() == {"error"}
            assert (await facade.ask("OPTIONS", "/v1/t", PREFLIGHT)).status == 503
            stats = "/api/v1/stats?site_id=site_abc123&metric=event_count&api_key=YOUR_API_KEY"
            assert (await facade.ask("GET", stats)).status == 503
            not_ready = await facade.ask("GET", "/readyz")
            assert (not_ready.status, json.loads(not_ready.body)["status"]) == (503, "unavailable")
            assert (await facade.ask("GET", "/healthz")).status == 200
            async with start(address):
                await until(accepted, lambda: send(facade))
                await until(ready, lambda: facade.ask("GET", "/readyz"))


async def test_a_facade_may_start_before_its_core(start: StartCore) -> None:
    async with contextlib.AsyncExitStack() as core:
        address = await core.enter_async_context(start())
        await core.aclose()
        async with running_facade(address) as facade:
            assert (await send(facade)).status == 503
            async with start(address):
                await until(accepted, lambda: send(facade))


async def test_a_core_that_does_not_answer_costs_a_deadline_only() -> None:
    hold = asyncio.Event()

    async def say_nothing(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await hold.wait()
        writer.close()

    silent = await asyncio.start_server(say_nothing, "127.0.0.1", 0)
    port = silent.sockets[0].getsockname()[1]
    async with running_facade(f"127.0.0.1:{port}", core_timeout_seconds=0.3) as facade:
        async with asyncio.timeout(5):
            reply = await send(facade)
        assert (reply.status, reply.headers["retry-after"]) == (503, "1")
    hold.set()
    silent.close()
    await silent.wait_closed()


async def test_too_many_waiting_requests_are_refused_not_kept(core_address: str) -> None:
    async with running_facade(core_address, max_waiting_requests=1) as facade:
        replies = await asyncio.gather(*(send(facade) for _ in range(30)))
    statuses = [reply.status for reply in replies]
    assert set(statuses) == {202, 503}
    assert all(reply.headers["retry-after"] == "1" for reply in replies if reply.status == 503)


async def test_a_facade_the_core_does_not_know_loses_nothing(core_address: str) -> None:
    async with running_facade(core_address, facade_token="another") as facade:
        assert (await facade.ask("GET", "/healthz")).status == 200
        unready = await facade.ask("GET", "/readyz")
        assert unready.status == 503
        assert "POLYLECT_FACADE_TOKEN differs" in json.loads(unready.body)["reason"]
        with capture_logs() as logs:
            assert (await send(facade)).status == 503
    (said,) = (entry for entry in logs if entry["event"] == "core_does_not_answer")
    assert said["reason"] == "credential_invalid"
    assert "POLYLECT_FACADE_TOKEN differs" in said["error"]


@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_health(facade: Facade, method: str) -> None:
    alive = await facade.ask(method, "/healthz")
    assert (alive.status, alive.body) == (200, b'{"status":"alive"}' if method == "GET" else b"")
    assert (await facade.ask(method, "/readyz")).status == 200


async def test_stopping_answers_what_was_accepted(core_address: str) -> None:
    body = b"POST /api/ingest HTTP/1.1\r\nHost: x\r\nX-API-Token: pub_123\r\nContent-Length: %d\r\n\r\n%s"
    request = body % (len(PAGEVIEW), PAGEVIEW)
    async with running_facade(core_address) as facade, contextlib.AsyncExitStack() as stack:
        connections = [await stack.enter_async_context(facade.connection()) for _ in range(8)]
        for reader, writer in connections[:4]:
            writer.write(request)
            assert b" 202 " in await reader.readline()
            await reader.readuntil(b'{"success":true}')
        for _, writer in connections[4:6]:
            writer.write(request[:60])
        await facade.stop()
        async with asyncio.timeout(5):
            while True:
                try:
                    async with facade.connection():
                        await asyncio.sleep(0.01)
                except ConnectionError:
                    break
        for index, (_, writer) in enumerate(connections):
            writer.write(request[60:] if index in (4, 5) else request)
        for reader, _ in connections:
            answer = await asyncio.wait_for(reader.read(), 5)
            assert answer.startswith(b"HTTP/1.1 202 ")
            assert b"connection: close" in answer
