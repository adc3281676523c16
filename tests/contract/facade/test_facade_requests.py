"""Requests as the wire may bring them: whole, slow, too large, packed, cut short."""

import asyncio
import contextlib
import gzip
import json
import zlib

import pytest
from facade_process import Facade, read_reply, running_facade

TOKEN = {"X-API-Token": "pub_123"}
PAGEVIEW = (
    b'{"type":"pageview","data":{"visitor_fingerprint":"fp","session_id":"s","url":"https://e.example/"}}'
)
ACCEPTED = b'{"success":true}'


def post(body: bytes, *headers: str, path: str = "/api/ingest", length: int | None = None) -> bytes:
    lines = [f"POST {path} HTTP/1.1", "Host: localhost", "X-API-Token: pub_123", *headers]
    if length != -1:
        lines.append(f"Content-Length: {len(body) if length is None else length}")
    return "\r\n".join([*lines, "", ""]).encode() + body


def chunked(*parts: bytes) -> bytes:
    return b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"


async def test_accepts(facade: Facade) -> None:
    reply = await facade.ask("POST", "/api/ingest", TOKEN, PAGEVIEW)
    assert (reply.status, reply.body) == (202, ACCEPTED)
    assert reply.headers["content-type"] == "application/json"
    assert reply.headers["access-control-allow-origin"] == "*"
    assert reply.headers["access-control-expose-headers"] == "Retry-After"


@pytest.mark.parametrize("content_type", ["text/plain", "application/x-www-form-urlencoded", "image/png", ""])
async def test_content_type_does_not_matter(facade: Facade, content_type: str) -> None:
    reply = await facade.ask("POST", "/api/ingest", {**TOKEN, "Content-Type": content_type}, PAGEVIEW)
    assert reply.status == 202


async def test_each_gets_its_own_answer(facade: Facade) -> None:
    bodies = []
    for number in range(60):
        name = {"event_name": "clicked"} if number % 3 else {}
        data = {"visitor_fingerprint": "fp", "session_id": "s", **name}
        bodies.append(json.dumps({"type": "event", "data": data}).encode())
    tokens = [TOKEN if number % 2 else {"X-API-Token": "nobody"} for number in range(60)]
    replies = await asyncio.gather(
        *(
            facade.ask("POST", "/api/ingest", {**token, "X-Request-Id": f"r{number}"}, body)
            for number, (token, body) in enumerate(zip(tokens, bodies, strict=True))
        )
    )
    for number, reply in enumerate(replies):
        expected = 401 if not number % 2 else 400 if not number % 3 else 202
        assert (number, reply.status, reply.headers["x-request-id"]) == (number, expected, f"r{number}")


@pytest.mark.parametrize("sent", ["", "a" * 129, "with space", "a/b", "é"])
async def test_makes_a_request_id_where_the_clients_is_not_sane(facade: Facade, sent: str) -> None:
    async with facade.connection() as (reader, writer):
        writer.write(post(PAGEVIEW, f"X-Request-Id: {sent}"))
        reply = await read_reply(reader)
    assert reply.headers["x-request-id"] != sent
    assert len(reply.headers["x-request-id"]) == 36


async def test_refuses_an_announced_oversize_before_reading_it(facade: Facade) -> None:
    async with facade.connection() as (reader, writer):
        writer.write(post(b"", "Expect: 100-continue", length=300_000))
        reply = await read_reply(reader)
    assert reply.status == 413
    assert json.loads(reply.body).keys() == {"error"}


async def test_refuses_an_unannounced_oversize(facade: Facade) -> None:
    async with facade.connection() as (reader, writer):
        writer.write(post(b"", "Transfer-Encoding: chunked", length=-1))
        writer.write(chunked(*[b" " * 60_000] * 5))
        assert (await read_reply(reader)).status == 413


async def test_a_refused_body_may_still_arrive_and_the_connection_lives_on(facade: Facade) -> None:
    async with facade.connection() as (reader, writer):
        writer.write(post(b" " * 300_000))
        assert (await read_reply(reader)).status == 413
        await writer.drain()
        writer.write(post(PAGEVIEW))
        assert (await read_reply(reader)).status == 202


async def test_a_pause_before_a_refused_body_takes_nothing_of_the_time_for_its_rest(
    core_address: str,
) -> None:
    async with (
        running_facade(core_address, keep_alive_seconds=2) as facade,
        facade.connection() as (reader, writer),
    ):
        # The pause is what this is about: half of what a connection may be idle.
        await asyncio.sleep(1)
        writer.write(post(b"", length=300_000))
        assert (await read_reply(reader)).status == 413
        answered_at = asyncio.get_running_loop().time()
        await asyncio.wait_for(reader.read(), 10)
        assert asyncio.get_running_loop().time() - answered_at > 1.9


async def test_accepts_chunks(facade: Facade) -> None:
    async with facade.connection() as (reader, writer):
        writer.write(post(b"", "Transfer-Encoding: chunked", length=-1))
        for octet in chunked(PAGEVIEW[:5], PAGEVIEW[5:]):
            writer.write(bytes((octet,)))
            await writer.drain()
        assert (await read_reply(reader)).status == 202


async def test_answers_pipelined_requests_in_order(facade: Facade) -> None:
    async with facade.connection() as (reader, writer):
        writer.write(b"".join(post(PAGEVIEW, f"X-Request-Id: n{number}") for number in range(20)))
        ids = [(await read_reply(reader)).headers["x-request-id"] for _ in range(20)]
    assert ids == [f"n{number}" for number in range(20)]


@pytest.mark.parametrize("coding", ["gzip", "x-gzip", "GZIP"])
async def test_inflates(facade: Facade, coding: str) -> None:
    packed = gzip.compress(PAGEVIEW[:20]) + gzip.compress(PAGEVIEW[20:])
    reply = await facade.ask("POST", "/api/ingest", {**TOKEN, "Content-Encoding": coding}, packed)
    assert reply.status == 202


@pytest.mark.parametrize(
    ("coding", "body"),
    [
        ("br", PAGEVIEW),
        ("deflate", zlib.compress(PAGEVIEW)),
        ("gzip, gzip", gzip.compress(PAGEVIEW)),
        ("gzip", PAGEVIEW),
        ("gzip", b""),
        ("gzip", gzip.compress(PAGEVIEW)[:-9]),
        ("gzip", gzip.compress(PAGEVIEW)[:-4] + b"\0\0\0\0"),
        ("gzip", gzip.compress(PAGEVIEW) + b"more"),
    ],
)
async def test_refuses_other_codings_and_lies(facade: Facade, coding: str, body: bytes) -> None:
    reply = await facade.ask("POST", "/api/ingest", {**TOKEN, "Content-Encoding": coding}, body)
    assert reply.status == 415


async def test_refuses_a_gzip_bomb(facade: Facade) -> None:
    bomb = gzip.compress(b" " * 200_000_000)
    assert len(bomb) < 256 * 1024
    reply = await facade.ask("POST", "/api/ingest", {**TOKEN, "Content-Encoding": "gzip"}, bomb)
    assert reply.status == 413


async def test_refuses_a_body_that_does_not_arrive(core_address: str) -> None:
    async with (
        running_facade(core_address, body_timeout_seconds=0.3) as facade,
        facade.connection() as (reader, writer),
        facade.connection() as (other_reader, other_writer),
    ):
        writer.write(post(PAGEVIEW[:10], length=len(PAGEVIEW)))
        # Not one byte of it.
        other_writer.write(post(b"", length=len(PAGEVIEW)))
        assert [(await read_reply(r)).status for r in (reader, other_reader)] == [408, 408]


async def test_bounds_what_all_bodies_hold_together(core_address: str) -> None:
    async with (
        running_facade(core_address, max_reading_bytes=150_000) as facade,
        facade.connection() as (_, holder),
        facade.connection() as (reader, writer),
    ):
        holder.write(post(b" " * 100_000, length=200_000))
        await holder.drain()
        writer.write(post(b" " * 100_000, length=200_000))
        reply = await read_reply(reader)
        assert (reply.status, reply.headers["retry-after"]) == (503, "1")
        assert (await facade.ask("POST", "/api/ingest", TOKEN, PAGEVIEW)).status == 202


async def test_a_client_that_goes_away_costs_nobody_anything(facade: Facade) -> None:
    for _ in range(10):
        async with facade.connection() as (_, writer):
            writer.write(post(PAGEVIEW))
        async with facade.connection() as (_, writer):
            writer.write(post(PAGEVIEW[:10], length=len(PAGEVIEW)))
    assert (await facade.ask("POST", "/api/ingest", TOKEN, PAGEVIEW)).status == 202


@pytest.mark.parametrize(
    "head",
    [
        b"POST /%zz%00%ff HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n",
        b"GET /v1/pixel/t?\xff\xfe=%ff&a&&=&%00 HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET " + b"/a" * 20_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        b"POST /api/ingest HTTP/1.1\r\nHost: x\r\n" + b"X-A: b\r\n" * 200 + b"Content-Length: 0\r\n\r\n",
        b"POST /api/ingest HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999999999999999\r\n\r\n",
        b"POST /api/ingest HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        b"POST /v1/t HTTP/1.1\r\nHost: \xff\r\nCookie: \xff;=;;_dfid\r\nOrigin: \xff\r\nContent-Length: 0"
        b"\r\n\r\n",
        b"POST /v1/t HTTP/1.1\r\nAuthorization: \xff\r\nX-Forwarded-For: ,,\xff\r\nContent-Length: 0\r\n\r\n",
        b"CONNECT example.com:443 HTTP/1.1\r\nHost: x\r\n\r\n",
        b"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n",
        b"PROPFIND /api/ingest HTTP/1.1\r\nHost: x\r\n\r\n",
        b"TRACE /api/ingest HTTP/1.1\r\nHost: x\r\n\r\n",
        b"HEAD /api/ingest HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET http://h/v1/t HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /api/v1/stats?site_id=\xff&metric=%00&start_date=1e9 HTTP/1.1\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00",
        b"GET / HTTP/9.9\r\n\r\n",
    ],
)
async def test_no_head_is_our_fault(facade: Facade, head: bytes) -> None:
    async with facade.connection() as (reader, writer):
        writer.write(head)
        status = int((await asyncio.wait_for(reader.readline(), 10)).split()[1])
    assert 400 <= status < 500 or (status == 204 and head.startswith(b"OPTIONS"))


@pytest.mark.parametrize("offer", ["h2c", "websocket"])
async def test_another_protocol_is_not_taken_up_and_the_request_is_taken(facade: Facade, offer: str) -> None:
    headers = ("Connection: Upgrade, HTTP2-Settings", f"Upgrade: {offer}", "HTTP2-Settings: AAMAAABkAAQ")
    async with facade.connection() as (reader, writer):
        for body in (PAGEVIEW, PAGEVIEW + b" " * 100_000):
            whole = post(body, *headers)
            writer.write(whole[:-10])
            await writer.drain()
            writer.write(whole[-10:] + b"GET /healthz HTTP/1.1\r\n\r\n")
            assert (await read_reply(reader)).status == 202
            assert (await read_reply(reader)).status == 200


@pytest.mark.parametrize(
    "behind", [b"GARBAGE\0", b"POST /x HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"]
)
async def test_what_comes_before_a_fault_has_its_own_answer(facade: Facade, behind: bytes) -> None:
    for ahead in (1, 3):
        async with facade.connection() as (reader, writer):
            writer.write(post(PAGEVIEW) * ahead + behind)
            statuses = [(await read_reply(reader)).status for _ in range(ahead + 1)]
            assert statuses == [202] * ahead + [400]
            assert await asyncio.wait_for(reader.read(), 10) == b""


async def test_only_heads_count_as_heads(facade: Facade) -> None:
    large = PAGEVIEW + b" " * 120_000
    async with facade.connection() as (reader, writer):
        for _ in range(5):
            next_one = post(PAGEVIEW)
            writer.write(post(large) + next_one[:30])
            assert (await read_reply(reader)).status == 202
            writer.write(next_one[30:])
            assert (await read_reply(reader)).status == 202


async def test_trailers_say_nothing_and_end(facade: Facade) -> None:
    trailing = post(b"", "Transfer-Encoding: chunked", length=-1).replace(b"pub_123", b"")
    async with facade.connection() as (reader, writer):
        body = b"%x\r\n%s\r\n0\r\nX-API-Token: pub_123\r\n\r\n" % (len(PAGEVIEW), PAGEVIEW)
        writer.write(trailing + body)
        assert (await read_reply(reader)).status == 401
    for endless in (b"x-filler: aaaaaaaa\r\n" * 100, b"a" * 2_000):
        async with facade.connection() as (reader, writer):
            writer.write(trailing + b"0\r\nx-more: ")
            with contextlib.suppress(ConnectionError):
                for _ in range(100):
                    writer.write(endless)
                    await writer.drain()
            assert (await asyncio.wait_for(reader.readline(), 10)).split()[1] == b"431"


@pytest.mark.parametrize(
    "head", [b"GET /healthz\r\n\r\n", b"POST /api/ingest HTTP/2.0\r\nContent-Length: 0\r\n\r\n"]
)
async def test_another_http_is_a_fault_of_the_client(facade: Facade, head: bytes) -> None:
    async with facade.connection() as (reader, writer):
        writer.write(head)
        reply = await read_reply(reader)
    assert reply.status == 400
    assert reply.headers["content-type"] == "application/json"


async def test_bounds_a_head_that_never_ends(facade: Facade) -> None:
    async with facade.connection() as (reader, writer):
        writer.write(b"POST /api/ingest HTTP/1.1\r\n")
        for _ in range(80):
            writer.write(b"X-Filler: " + b"a" * 1000 + b"\r\n")
            await writer.drain()
        assert (await asyncio.wait_for(reader.readline(), 10)).split()[1] == b"431"


async def test_refuses_connections_beyond_the_limit(core_address: str) -> None:
    async with (
        running_facade(core_address, max_connections=2) as facade,
        facade.connection() as (first_reader, first),
        facade.connection() as (second_reader, second),
    ):
        for reader, writer in ((first_reader, first), (second_reader, second)):
            writer.write(post(PAGEVIEW))
            assert (await read_reply(reader)).status == 202
        async with facade.connection() as (third_reader, _):
            reply = await read_reply(third_reader)
        assert (reply.status, reply.headers["retry-after"]) == (503, "1")


@pytest.mark.parametrize(
    ("method", "path", "status", "allow", "keys"),
    [
        ("GET", "/api/ingest", 405, "POST, OPTIONS", {"error"}),
        ("PUT", "/collect", 405, "POST, OPTIONS", {"success", "error", "status", "timestamp"}),
        ("POST", "/v1/pixel/t", 405, "GET, OPTIONS", {"error", "code", "message"}),
        ("DELETE", "/api/events", 405, "POST, OPTIONS", {"error", "code", "status"}),
        ("POST", "/api/v1/stats", 405, "GET, OPTIONS", {"success", "error", "status", "timestamp"}),
        ("POST", "/healthz", 405, "GET, HEAD", {"error"}),
        ("GET", "/collect/nothing", 404, None, {"success", "error", "status", "timestamp"}),
        ("GET", "/api/v1/nothing", 404, None, {"success", "error", "status", "timestamp"}),
        ("POST", "/v1/x", 404, None, {"error", "code", "message"}),
        ("GET", "/nothing", 404, None, {"error"}),
        ("GET", "/", 404, None, {"error"}),
    ],
)
async def test_answers_what_it_has_not_in_the_nearest_dialects_words(
    facade: Facade, method: str, path: str, status: int, allow: str | None, keys: set[str]
) -> None:
    reply = await facade.ask(method, path)
    assert (reply.status, reply.headers.get("allow")) == (status, allow)
    assert json.loads(reply.body).keys() == keys
    assert reply.headers["x-request-id"]


async def test_counts_answers_and_events_by_reason(facade: Facade) -> None:
    await facade.ask("POST", "/api/ingest", TOKEN, PAGEVIEW)
    await facade.ask("POST", "/api/ingest", {}, PAGEVIEW)
    await facade.ask("POST", "/api/ingest", TOKEN, b"{")
    events = [{"type": "pageview", "url": "/a"}, {"type": "pageview"}]
    batch = json.dumps({"projectKey": "pk_live_xyz", "visitorId": "v", "events": events}).encode()
    assert (await facade.ask("POST", "/api/events", {}, batch)).status == 200
    async with facade.connection() as (reader, writer):
        writer.write(b"no http\r\n\r\n")
        await reader.read()
    lines = (await facade.ask("GET", "/metrics")).body.decode().splitlines()
    requests = 'polylect_facade_requests_total{dialect="%s",endpoint="%s",reason="%s",status="%d"} 1.0'
    tallies = 'polylect_facade_events_total{dialect="%s",endpoint="%s",reason="%s"} 1.0'
    expected = [
        requests % ("pulsora", "/api/ingest", "", 202),
        requests % ("pulsora", "/api/ingest", "credential_missing", 401),
        requests % ("pulsora", "/api/ingest", "payload_unreadable", 400),
        requests % ("apex", "/api/events", "", 200),
        requests % ("", "", "payload_unreadable", 400),
        tallies % ("pulsora", "/api/ingest", ""),
        tallies % ("apex", "/api/events", ""),
        tallies % ("apex", "/api/events", "field_missing"),
        # Not the one that could not be read.
        'polylect_facade_request_seconds_count{dialect="pulsora",endpoint="/api/ingest"} 2.0',
        'polylect_facade_request_seconds_bucket{dialect="pulsora",endpoint="/api/ingest",le="+Inf"} 2.0',
        'polylect_facade_message_requests_bucket{le="1.0"} 3.0',
        "polylect_facade_message_requests_sum 3.0",
    ]
    assert [line for line in expected if line not in lines] == []
