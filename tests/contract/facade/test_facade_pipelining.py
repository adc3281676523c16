"""Requests sent without waiting for answers: all are answered in order, and few are read ahead."""

import asyncio
import json

import pytest
from facade_process import Facade, read_reply

_SHORTEST = b"GET /x HTTP/1.1\r\nHost: a\r\n\r\n"
_STALLED_SECONDS = 1.0
# What the sockets' buffers of both ends hold, with room to spare: read ahead of its answers it was 90 MB.
_BUFFERED_BYTES = 24_000_000


def _event(number: int, name: str = "clicked") -> bytes:
    data = {"visitor_fingerprint": "fp", "session_id": "s", "event_name": name}
    body = json.dumps({"type": "event", "data": data}).encode()
    head = (
        f"POST /api/ingest HTTP/1.1\r\nHost: localhost\r\nX-API-Token: pub_123\r\nX-Request-Id: n{number}\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


@pytest.mark.parametrize("cut", [None, 1000, 65_536])
async def test_thousands_in_one_packet_are_answered_in_order(facade: Facade, cut: int | None) -> None:
    # Refused ones at once, accepted ones when the core has answered.
    requests = [_SHORTEST if number % 3 else _event(number) for number in range(3000)]
    sent = b"".join(requests)
    async with facade.connection() as (reader, writer):
        for start in range(0, len(sent), cut or len(sent)):
            writer.write(sent[start : start + (cut or len(sent))])
            await asyncio.sleep(0)
        for number in range(3000):
            reply = await asyncio.wait_for(read_reply(reader), 10)
            assert (number, reply.status) == (number, 404 if number % 3 else 202)
            if not number % 3:
                assert reply.headers["x-request-id"] == f"n{number}"
        writer.write(_event(9999))
        assert (await read_reply(reader)).headers["x-request-id"] == "n9999"


async def test_a_body_that_looks_like_requests_is_a_body(facade: Facade) -> None:
    # In one packet with others, and in many.
    looks = " HTTP/1.1\r\n\r\n" * 400
    async with facade.connection() as (reader, writer):
        writer.write(_event(0) + _event(1, looks) + _event(2) + _event(3, looks * 4) + _event(4))
        replies = [await asyncio.wait_for(read_reply(reader), 10) for _ in range(5)]
    assert [reply.headers["x-request-id"] for reply in replies] == [f"n{number}" for number in range(5)]
    # A name may have so many characters, or not; either way it was read whole.
    assert {reply.status for reply in replies} <= {202, 400}


@pytest.mark.parametrize("size", [70_000, 250_000])
async def test_a_body_full_of_ends_of_heads_is_read_whole(facade: Facade, size: int) -> None:
    # More than what is kept of a body that nobody has asked for yet.
    body = b"\r\n\r\n" * (size // 4)
    head = b"POST /api/ingest HTTP/1.1\r\nHost: a\r\nX-API-Token: pub_123\r\nContent-Length: %d\r\n\r\n"
    async with facade.connection() as (reader, writer):
        for number in range(2):
            writer.write(head % len(body) + body + _event(number))
            assert (await asyncio.wait_for(read_reply(reader), 10)).status == 400
            reply = await asyncio.wait_for(read_reply(reader), 10)
            assert (reply.status, reply.headers["x-request-id"]) == (202, f"n{number}")


@pytest.mark.parametrize("shortest", [_SHORTEST, b"GET /x RTSP/1.1\r\n\r\n"])
async def test_who_takes_no_answers_is_not_read(facade: Facade, shortest: bytes) -> None:
    async with facade.connection() as (_, writer):
        sent = 0
        blob = shortest * 10_000
        while sent < 4 * _BUFFERED_BYTES:
            writer.write(blob)
            try:
                await asyncio.wait_for(writer.drain(), _STALLED_SECONDS)
            except TimeoutError:
                break
            sent += len(blob)
        assert sent < _BUFFERED_BYTES
        writer.transport.abort()
    assert (await facade.ask("GET", "/healthz", {})).status == 200
