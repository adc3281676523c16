"""Every answer has a request id, and what the facade refused by itself is in the ledger and remembered."""

import asyncio
import contextlib
from datetime import UTC, datetime

import psycopg
import pytest
from conftest import StartCore
from facade_process import Facade, Reply, read_reply, running_facade

TOKEN = {"X-API-Token": "pub_123"}
PAGEVIEW = (
    b'{"type":"pageview","data":{"visitor_fingerprint":"fp","session_id":"s","url":"https://e.example/"}}'
)
OWN_ID = "own-id:1"


def head(*lines: str) -> bytes:
    return "\r\n".join(["POST /api/ingest HTTP/1.1", "Host: x", *lines, "", ""]).encode()


async def answer_to(facade: Facade, *sent: bytes) -> list[Reply]:
    """Send on one connection, waiting for the answer of each."""
    replies = []
    async with facade.connection() as (reader, writer):
        for each in sent:
            writer.write(each)
            replies.append(await read_reply(reader))
    return replies


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/api/ingest"),
        ("OPTIONS", "/api/ingest"),
        ("GET", "/v1/pixel/t"),
        ("GET", "/api/v1/stats"),
        ("GET", "/healthz"),
        ("HEAD", "/healthz"),
        ("OPTIONS", "/healthz"),
        ("GET", "/readyz"),
        ("GET", "/metrics"),
        ("GET", "/tracker.js"),
        ("OPTIONS", "/tracker.js"),
        ("DELETE", "/collect"),
        ("POST", "/nowhere"),
    ],
)
async def test_every_answer_has_a_request_id(facade: Facade, method: str, path: str) -> None:
    own = await facade.ask(method, path, {"X-Request-Id": OWN_ID})
    assert own.headers["x-request-id"] == OWN_ID
    made = await facade.ask(method, path, {"X-Request-Id": "not sane!"})
    assert len(made.headers["x-request-id"]) == 36


async def test_refusals_before_there_is_a_request_have_one_too(core_address: str) -> None:
    async with running_facade(core_address, max_connections=2) as facade:
        (garbage,) = await answer_to(facade, b"GARBAGE\r\n\r\n")
        assert garbage.status == 400
        assert len(garbage.headers["x-request-id"]) == 36
        (broken,) = await answer_to(facade, head(f"X-Request-Id: {OWN_ID}", "Content-Length: -1"))
        assert (broken.status, broken.headers["x-request-id"]) == (400, OWN_ID)
        (large,) = await answer_to(facade, head(f"X-Request-Id: {OWN_ID}", "X-Filler: " + "a" * 70_000))
        assert (large.status, large.headers["x-request-id"]) == (431, OWN_ID)
        good = head(
            *(f"{name}: {value}" for name, value in TOKEN.items()),
            f"X-Request-Id: {OWN_ID}",
            f"Content-Length: {len(PAGEVIEW)}",
        )
        first, second = await answer_to(facade, good + PAGEVIEW, b"\x00GARBAGE\r\n\r\n")
        assert (first.status, first.headers["x-request-id"]) == (202, OWN_ID)
        # The one before has its answer.
        assert second.status == 400
        assert second.headers["x-request-id"] != OWN_ID
        async with facade.connection() as (_, one), facade.connection() as (_, other):
            for writer in (one, other):
                writer.write(b"POST")
            (crowded,) = await answer_to(facade, b"")
        assert (crowded.status, len(crowded.headers["x-request-id"])) == (503, 36)


def kept(database_url: str) -> dict[str, tuple[str, str, int]]:
    with psycopg.connect(database_url) as connection:
        rows = connection.execute(
            "SELECT request_id, reason, concat(dialect, endpoint), event_count FROM refusals"
        )
        return {row[0]: (row[1], row[2], row[3]) for row in rows}


def counted(database_url: str) -> dict[str, int]:
    with psycopg.connect(database_url) as connection:
        rows = connection.execute(
            "SELECT dialect, sum(refused)::int, sum(received)::int FROM ledger GROUP BY 1"
        )
        return {dialect: refused for dialect, refused, received in rows if refused == received}


async def until_counted(database_url: str, expected: dict[str, int]) -> None:
    seen: dict[str, int] = {}
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(10):
            while seen != expected:
                await asyncio.sleep(0.05)
                seen = await asyncio.to_thread(counted, database_url)
    assert seen == expected


async def test_what_it_refuses_by_itself_is_known(facade: Facade, database_url: str) -> None:
    async def post(path: str, request_id: str, body: bytes) -> int:
        reply = await facade.ask("POST", path, {**TOKEN, "X-Request-Id": request_id}, body)
        return reply.status

    assert await post("/api/ingest", "unread", b"{") == 400
    assert await post("/api/ingest", "large", b" " * 300_000) == 413
    assert await post("/api/ingest?x=pub_123", "fine", PAGEVIEW) == 202
    assert await post("/v1/nowhere/dk_live_abc123", "nowhere", b"{}") == 404
    assert await post("/nowhere/dk_live_abc123", "nobodys", b"{}") == 404
    assert await post("/v1/pixel/t", "other-method", b"{}") == 405
    # Nothing was sent with it.
    assert (await facade.ask("GET", "/api/ingest", {"X-Request-Id": "looked"})).status == 405
    await answer_to(facade, head("X-Request-Id: headless", "Content-Length: -1"))
    await until_counted(database_url, {"pulsora": 2, "datafly": 2, "": 2})
    assert kept(database_url) == {
        "unread": ("payload_unreadable", "pulsora/api/ingest", 1),
        "large": ("payload_too_large", "pulsora/api/ingest", 1),
        "nowhere": ("not_found", "datafly", 1),
        "nobodys": ("not_found", "", 1),
        "other-method": ("method_not_allowed", "datafly/v1/pixel/t", 1),
        "headless": ("payload_unreadable", "", 1),
    }
    with psycopg.connect(database_url) as connection:
        now = datetime.now(UTC)
        for received_at, client_ip, message in connection.execute(
            "SELECT received_at, client_ip, message FROM refusals"
        ):
            assert abs((now - received_at).total_seconds()) < 60
            assert client_ip == "127.0.0.1"
            assert "dk_live" not in message


async def test_what_was_refused_without_a_core_is_told_later(start: StartCore, database_url: str) -> None:
    async with contextlib.AsyncExitStack() as core:
        address = await core.enter_async_context(start())
        async with running_facade(address) as facade:
            await core.aclose()
            batch = b'{"projectKey":"pk_live_xyz","visitorId":"v","events":[{"type":"a"},{"type":"b"}]}'
            for number in range(300):
                reply = await facade.ask("POST", "/api/events", {"X-Request-Id": f"away-{number}"}, batch)
                assert reply.status == 503
            assert counted(database_url) == {}
            async with start(address):
                await until_counted(database_url, {"apex": 600})
                known = kept(database_url)
                assert known["away-0"] == ("storage_unavailable", "apex/api/events", 2)
                # Counts are exact, of requests the first are told.
                assert len(known) == 200


async def test_the_last_ones_are_told_when_it_stops(core_address: str, database_url: str) -> None:
    async with running_facade(core_address) as facade:
        assert (await facade.ask("POST", "/api/ingest", TOKEN, b"{")).status == 400
    await until_counted(database_url, {"pulsora": 1})
