"""GET /demo and its stream: in demo mode only, for this machine's browsers only, bounded, and soon over."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest
from conftest import StartCore
from facade_process import Facade, Reply, read_reply, running_facade, until

from storage.demo_readers import DEMO_READERS

KEYS = tuple(DEMO_READERS.values())
FILES = ("/demo", "/demo/page.js", "/demo/page.css", "/demo/icon.svg", "/demo/uPlot.iife.min.js")
TRACK = b'{"type":"track","event":"Signed Up","messageId":"m-1"}'
# What an open stream lets others follow of a source, whatever the core's own limit.
MOST = 8


@pytest.fixture
async def demo(core_address: str) -> AsyncIterator[Facade]:
    async with running_facade(core_address, demo_keys=KEYS) as facade:
        yield facade


@dataclass
class Stream:
    """An open stream of server-sent events."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    reply: Reply
    last_id: str = ""
    last_name: str = ""

    async def next(self) -> Any:
        """Give the data of the next event, comments left out."""
        while True:
            fields = dict(
                line.split(": ", 1)
                for line in (await self._chunk()).splitlines()
                if line[:1] not in ("", ":")
            )
            if "data" in fields and fields.get("event") != "now":
                self.last_id, self.last_name = fields["id"], fields.get("event", "")
                return json.loads(fields["data"])

    async def end(self) -> None:
        """Read to the end."""
        async with asyncio.timeout(10):
            await self.reader.readuntil(b"\n\r\n0\r\n\r\n")

    async def _chunk(self) -> str:
        async with asyncio.timeout(10):
            size = int((await self.reader.readuntil(b"\r\n")).strip(), 16)
            return (await self.reader.readexactly(size + 2)).decode()


@asynccontextmanager
async def following(facade: Facade, query: str = "", *headers: str) -> AsyncIterator[Stream]:
    """Open a stream; its reply's body is read only where there is an end to it."""
    async with facade.connection() as (reader, writer):
        lines = (f"GET /demo/events{query} HTTP/1.1", f"Host: localhost:{facade.port}", *headers, "", "")
        writer.write("\r\n".join(lines).encode())
        yield Stream(reader, writer, await read_reply(reader))


async def be_refused(facade: Facade, request_id: str) -> None:
    """Have a whole request refused that came with the key of a demo source: no worker is needed for that."""
    reply = await facade.ask(
        "POST",
        "/v1/t",
        {
            "Authorization": "Bearer dk_live_abc123",
            "Origin": "https://evil.example",
            "X-Request-Id": request_id,
        },
        TRACK,
    )
    assert reply.status == 403


async def test_there_is_no_page_outside_of_demo_mode(facade: Facade) -> None:
    for path in ("/", *FILES, "/demo/events"):
        reply = await facade.ask("GET", path)
        assert (reply.status, reply.body) == (404, b'{"error":"Not found"}'), path


async def test_who_opens_the_address_alone_is_led_to_the_page(demo: Facade) -> None:
    for method, path in (("GET", "/"), ("HEAD", "/"), ("GET", "/demo/")):
        reply = await demo.ask(method, path, {"Sec-Fetch-Site": "cross-site"})
        assert (reply.status, reply.headers["location"]) == (302, "/demo")
    stranger = await demo.ask("GET", "/", {"Host": "evil.example"})
    assert stranger.status == 403


async def test_the_page_loads_nothing_from_elsewhere_and_runs_nothing_inline(demo: Facade) -> None:
    page = await demo.ask("GET", "/demo")
    assert page.status == 200
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    policy = dict(part.strip().split(" ", 1) for part in page.headers["content-security-policy"].split(";"))
    assert policy["default-src"] == "'none'"
    assert {value for name, value in policy.items() if name.endswith("-src")} == {"'self'", "'none'"}
    assert {policy[name] for name in ("form-action", "base-uri", "frame-ancestors")} == {"'none'"}
    assert b"style=" not in page.body
    assert b"<style" not in page.body


async def test_files_are_asked_for_again_and_sent_once(demo: Facade) -> None:
    for path in FILES:
        file = await demo.ask("GET", path)
        assert (file.status, file.headers["cache-control"]) == (200, "no-cache")
        again = await demo.ask("GET", path, {"If-None-Match": file.headers["etag"]})
        assert (again.status, again.body) == (304, b"")
        head = await demo.ask("HEAD", path)
        assert (head.status, head.body) == (200, b"")
        options = await demo.ask("OPTIONS", path)
        assert (options.status, options.headers["allow"]) == (204, "GET, HEAD, OPTIONS")
        post = await demo.ask("POST", path)
        assert (post.status, post.headers["allow"]) == (405, "GET, HEAD, OPTIONS")


async def test_a_name_that_was_made_to_point_here_is_shown_nothing(demo: Facade) -> None:
    for path in (*FILES, "/demo/events"):
        reply = await demo.ask("GET", path, {"Host": "evil.example"})
        assert reply.status == 403, path
        assert b"open it by localhost or 127.0.0.1" in reply.body
    for host in ("127.0.0.1", "localhost:8080", "[::1]:8080", "polylect.localhost"):
        assert (await demo.ask("GET", "/demo", {"Host": host})).status == 200


async def test_a_page_of_elsewhere_can_link_here_and_load_nothing(demo: Facade) -> None:
    elsewhere = {"Sec-Fetch-Site": "cross-site"}
    assert (await demo.ask("GET", "/demo", elsewhere)).status == 200
    for path in ("/demo/page.js", "/demo/events"):
        assert (await demo.ask("GET", path, elsewhere)).status == 403


async def test_a_facade_that_listens_for_others_may_have_any_name(core_address: str) -> None:
    # Of the options only: the socket is the test's own.
    async with running_facade(core_address, demo_keys=KEYS, host="0.0.0.0") as facade:
        assert (await facade.ask("GET", "/demo", {"Host": "demo.example"})).status == 200


async def test_what_is_refused_is_told_with_its_reason(demo: Facade) -> None:
    async with following(demo) as stream:
        assert stream.reply.status == 200
        assert stream.reply.headers["content-type"] == "text/event-stream"
        assert stream.reply.headers["cache-control"] == "no-store"
        await be_refused(demo, "req-1")
        line = await stream.next()
    assert line | {"id": "", "received_at": ""} == {
        "id": "",
        "dialect": "datafly",
        "gap": False,
        "verdict": "refused",
        "received_at": "",
        "reason": "origin_not_allowed",
        "message": "The origin is not one of the source's",
        "known": {"endpoint": "/v1/t", "request": "req-1"},
        "text": "",
    }


async def test_one_who_comes_a_moment_later_is_told_too(demo: Facade) -> None:
    await be_refused(demo, "before")
    async with following(demo) as stream:
        assert (await stream.next())["known"]["request"] == "before"


async def test_a_stream_goes_on_where_it_broke(demo: Facade) -> None:
    async with following(demo) as stream:
        await be_refused(demo, "seen")
        seen = await stream.next()
    await be_refused(demo, "meanwhile")
    for resumed in (("", f"Last-Event-ID: {stream.last_id}"), (f"?after={stream.last_id}",)):
        async with following(demo, *resumed) as again:
            lines = [await again.next()]
            while lines[-1]["known"]["request"] != "meanwhile":
                # The last seconds are repeated.
                assert lines[-1]["id"] == seen["id"]
                lines.append(await again.next())


async def test_an_id_of_no_line_begins_anew(demo: Facade) -> None:
    # The last ones look like one, and the core says that they are none.
    of_none = (".".join(["z" * 20] * 4), f"1.1.1.{'A' * 24}")
    for last_id in ("x", "1.2", "....", "%00.1.1.1", "1.1.1.1.1", "a" * 500, *of_none):
        # A new page is told of the last seconds only.
        await be_refused(demo, "before")
        async with following(demo, f"?after={last_id}") as stream:
            assert (await stream.next())["known"]["request"] == "before"


async def test_what_comes_too_fast_to_be_read_is_counted(demo: Facade) -> None:
    number = 150
    async with following(demo) as stream:
        await asyncio.gather(*(be_refused(demo, f"burst-{each}") for each in range(number)))
        lines = beyond = 0
        while lines + beyond < number:
            data = await stream.next()
            if stream.last_name == "beyond":
                for dialect, verdict, second, counted in data:
                    assert (dialect, verdict) == ("datafly", "refused")
                    assert abs(second - time.time()) < 60
                    beyond += counted
            else:
                lines += 1
    assert (lines + beyond, beyond > 0) == (number, True)


async def test_so_many_pages_follow_and_one_that_goes_makes_room_at_once(demo: Facade) -> None:
    async with AsyncExitStack() as others:
        for _ in range(MOST - 1):
            assert (await others.enter_async_context(following(demo))).reply.status == 200
        async with following(demo) as last:
            assert last.reply.status == 200
            full = await demo.ask("GET", "/demo/events")
            assert (full.status, full.headers["retry-after"]) == (503, "5")
            assert b"Too many pages" in full.body

        async def ask() -> Reply:
            async with following(demo) as another:
                return another.reply

        await until(lambda reply: reply.status == 200, ask)


async def test_one_that_goes_before_it_is_answered_leaves_nobody_following(demo: Facade) -> None:
    for _ in range(3 * MOST):
        async with demo.connection() as (_, writer):
            writer.write(f"GET /demo/events HTTP/1.1\r\nHost: localhost:{demo.port}\r\n\r\n".encode())
    async with asyncio.timeout(10):
        while True:
            async with following(demo) as stream:
                if stream.reply.status == 200:
                    return
            await asyncio.sleep(0.1)


async def test_without_a_core_it_says_so(start: StartCore) -> None:
    async with AsyncExitStack() as core:
        address = await core.enter_async_context(start())
        async with running_facade(address, demo_keys=KEYS) as facade, following(facade) as stream:
            assert stream.reply.status == 200
            await core.aclose()
            await stream.end()
            away = await facade.ask("GET", "/demo/events")
            assert (away.status, away.headers["retry-after"]) == (503, "1")
            assert (await facade.ask("GET", "/demo")).status == 200


async def test_where_there_are_no_demo_sources_nothing_is_shown(start: StartCore) -> None:
    """The keys are known to everybody, and good in demo mode only."""
    async with start(mode="development") as address, running_facade(address, demo_keys=KEYS) as facade:
        assert (await facade.ask("GET", "/demo/events")).status == 503


async def test_a_stop_waits_for_no_page(core_address: str) -> None:
    async with AsyncExitStack() as pages, running_facade(core_address, demo_keys=KEYS) as facade:
        streams = [await pages.enter_async_context(following(facade)) for _ in range(3)]
        await facade.stop()
        for stream in streams:
            await stream.end()
        await wait_until(lambda: not facade.server.server_state.connections, seconds=5)


async def test_a_stop_waits_for_nobody_who_takes_nothing(core_address: str) -> None:
    async with running_facade(core_address, demo_keys=KEYS) as facade, facade.connection() as (_, writer):
        wanted = f"GET /demo/uPlot.iife.min.js HTTP/1.1\r\nHost: localhost:{facade.port}\r\n\r\n".encode()
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        (connection,) = facade.server.server_state.connections
        # More than the system keeps for a reader.
        writer.write(wanted * 400)
        await wait_until(lambda: connection.flow.write_paused, seconds=10)
        await facade.stop()
        await wait_until(lambda: not facade.server.server_state.connections, seconds=5)


async def wait_until(is_so: Callable[[], bool], *, seconds: float) -> None:
    async with asyncio.timeout(seconds):
        while not is_so():  # noqa: ASYNC110 - uvicorn has no event
            await asyncio.sleep(0.02)
