"""GET /api/v1/stats, as seed 001 ("Query Your Events") and spec/dialects.md have it."""

import json
from datetime import UTC, datetime

import pytest
from conftest import ADMIN
from facade_process import Facade, running_facade
from polylect.v1.ingest_pb2 import KEY_KIND_PULSE
from polylect.v1.source_pb2 import CreateKeyRequest
from polylect.v1.source_pb2_grpc import SourceServiceStub

KEY = {"Authorization": "Bearer YOUR_API_KEY"}
ASK = "/api/v1/stats?site_id=site_abc123&metric=event_count"
NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
NOW_MS = 1_772_366_400_000


async def test_the_seeds_own_question(core_address: str) -> None:
    async with running_facade(core_address, clock=lambda: NOW) as facade:
        reply = await facade.ask("GET", ASK, KEY)
        assert reply.status == 200
        assert reply.body == (
            b'{"success":true,"data":{"metric":"event_count","value":0,"period":"24h","site_id":"site_abc123"},'
            b'"timestamp":%d}' % NOW_MS
        )
        assert reply.headers["content-type"] == "application/json"
        assert (reply.headers["x-ratelimit-limit"], reply.headers["x-ratelimit-remaining"]) == ("1000", "999")
        assert int(reply.headers["x-ratelimit-reset"]) - NOW_MS // 1000 in range(1, 62)
        by_query = await facade.ask("GET", f"{ASK}&api_key=YOUR_API_KEY&period=7d")
        assert (by_query.status, json.loads(by_query.body)["data"]["period"]) == (200, "7d")


@pytest.mark.parametrize(
    ("query", "status", "error"),
    [
        ("metric=event_count", 400, "Missing required field: site_id"),
        ("site_id=&metric=event_count", 400, "Missing required field: site_id"),
        ("site_id=site_abc123", 400, "Missing required field: metric"),
        (
            "site_id=site_abc123&metric=happiness",
            400,
            "Unknown metric: happiness; metric must be one of: event_count, unique_users, unique_sessions, "
            "avg_session_duration, event_count_by_type, bounce_rate, conversion_rate",
        ),
        ("site_id=site_abc123&metric=event_count&period=2h", 400, "period must be one of: 1h, 24h, 7d, 30d"),
        (
            "site_id=site_abc123&metric=event_count&start_date=yesterday",
            400,
            "start_date must be a Unix timestamp in milliseconds",
        ),
        (
            "site_id=site_abc123&metric=event_count&end_date=999999999999999",
            400,
            "end_date must be a Unix timestamp in milliseconds",
        ),
        (
            "site_id=site_abc123&metric=event_count&start_date=2&end_date=2",
            400,
            "start_date must be before end_date",
        ),
        ("site_id=site_of_another&metric=event_count", 404, "Unknown site_id"),
    ],
)
async def test_questions_it_does_not_take(facade: Facade, query: str, status: int, error: str) -> None:
    reply = await facade.ask("GET", f"/api/v1/stats?{query}", KEY)
    body = json.loads(reply.body)
    assert (reply.status, body.pop("timestamp") > 0) == (status, True)
    assert body == {"success": False, "error": error, "status": status}
    assert reply.headers["access-control-allow-origin"] == "*"


@pytest.mark.parametrize(
    "headers",
    [{}, {"Authorization": "Bearer nobody"}, {"Authorization": "Basic eDp5"}, {"Authorization": "Bearer é"}],
)
async def test_without_a_good_key(facade: Facade, headers: dict[str, str]) -> None:
    reply = await facade.ask("GET", ASK, {name: value.encode() for name, value in headers.items()})
    assert (reply.status, json.loads(reply.body)["error"]) == (401, "Invalid API key")


async def test_without_the_scope(facade: Facade, sources: SourceServiceStub) -> None:
    wanted = CreateKeyRequest(source="demo-pulse", kind=KEY_KIND_PULSE, scopes=["events:write"])
    made = await sources.CreateKey(wanted, metadata=ADMIN)
    reply = await facade.ask("GET", ASK, {"Authorization": f"Bearer {made.secret}"})
    assert (reply.status, json.loads(reply.body)["error"]) == (403, "Insufficient scope")


async def test_over_its_quota(core_address: str) -> None:
    async with running_facade(core_address) as facade:
        for _ in range(1000):
            assert (await facade.ask("GET", ASK, KEY)).status == 200
        reply = await facade.ask("GET", ASK, KEY)
    assert (reply.status, json.loads(reply.body)["error"]) == (429, "Rate limit exceeded")
    assert (reply.headers["retry-after"], reply.headers["x-ratelimit-remaining"]) == ("60", "0")


async def test_a_preflight(facade: Facade) -> None:
    asking = {"Origin": "https://a.example", "Access-Control-Request-Method": "GET"}
    reply = await facade.ask("OPTIONS", "/api/v1/stats", asking)
    assert (reply.status, reply.headers["access-control-allow-methods"]) == (204, "GET, OPTIONS")
