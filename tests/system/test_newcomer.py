"""Someone who knows nothing of the project pastes a line from a document, and finds the event."""

import json
import re
import shutil
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pytest

from .rpc import Rpc
from .stack import Stack
from .waiting import eventually

# What curl adds by itself.
_CURL = {"User-Agent": "curl/8.14.1", "Accept": "*/*"}
_JSON = {"Content-Type": "application/json"}
_DATAFLY = {**_JSON, "Authorization": "Bearer dk_live_abc123"}
_PULSE = {**_JSON, "Authorization": "Bearer YOUR_API_KEY"}

_Row = Mapping[str, Any]


@dataclass(frozen=True)
class Example:
    """A request as a document prints it, the answer it promises, and what must stand in `events`."""

    path: str
    headers: Mapping[str, str]
    body: str
    status: int
    answer: str
    rows: tuple[_Row, ...]
    # Finds the rows, and nothing else.
    where: str


_COLUMNS = (
    "kind",
    "name",
    "message_id",
    "anonymous_id",
    "user_id",
    "group_id",
    "session_id",
    "page_url",
    "page_path",
    "page_title",
    "page_referrer_source",
    "device_type",
    "geo_country",
    "properties",
    "traits",
    "provenance_dialect",
    "provenance_endpoint",
)

EXAMPLES = {
    "seed 000, Testing the Endpoint": Example(
        "/api/ingest",
        {**_JSON, "X-API-Token": "pub_123"},
        """{
"type": "event",
"data": {
"visitor_fingerprint": "test_fingerprint",
"session_id": "test_session",
"event_name": "curl_test",
"timestamp": 1714412200000
}
}""",
        202,
        r'\{"success":true\}',
        (
            {
                "kind": "track",
                "name": "curl_test",
                "anonymous_id": "test_fingerprint",
                "session_id": "test_session",
                "provenance_dialect": "pulsora",
                "provenance_endpoint": "/api/ingest",
            },
        ),
        "anonymous_id = 'test_fingerprint' and occurred_at = '2024-04-29T17:36:40Z'",
    ),
    "seed 000, Pageview Payload": Example(
        "/api/ingest",
        {**_JSON, "X-API-Token": "pub_123"},
        """{
"type": "pageview",
"data": {
"visitor_fingerprint": "fp_abc",
"session_id": "sess_xyz",
"url": "https://example.com/pricing",
"path": "/pricing",
"referrer": "https://google.com",
"referrer_source": "google",
"title": "Pricing",
"locale": "en-US",
"utm_source": "newsletter",
"utm_medium": "email",
"utm_campaign": "launch",
"timestamp": 1714412000000
}
}""",
        202,
        r'\{"success":true\}',
        (
            {
                "kind": "page",
                "anonymous_id": "fp_abc",
                "session_id": "sess_xyz",
                "page_url": "https://example.com/pricing",
                "page_path": "/pricing",
                "page_title": "Pricing",
                "page_referrer_source": "google",
                "provenance_dialect": "pulsora",
                "provenance_endpoint": "/api/ingest",
            },
        ),
        "anonymous_id = 'fp_abc' and kind = 'page' and campaign_name = 'launch' and device_locale = 'en-US'",
    ),
    "seed 000, Event Payload": Example(
        "/api/ingest",
        {**_JSON, "X-API-Token": "pub_123"},
        """{
"type": "event",
"data": {
"visitor_fingerprint": "fp_abc",
"session_id": "sess_xyz",
"event_name": "signup_submit",
"event_data": {
"plan": "pro",
"form_variant": "modal"
},
"url": "https://example.com/signup",
"path": "/signup",
"timestamp": 1714412100000
}
}""",
        202,
        r'\{"success":true\}',
        (
            {
                "kind": "track",
                "name": "signup_submit",
                "anonymous_id": "fp_abc",
                "session_id": "sess_xyz",
                "page_url": "https://example.com/signup",
                "page_path": "/signup",
                "properties": {"plan": "pro", "form_variant": "modal"},
                "provenance_dialect": "pulsora",
                "provenance_endpoint": "/api/ingest",
            },
        ),
        "anonymous_id = 'fp_abc' and kind = 'track'",
    ),
    "seed 000, Identify Payload": Example(
        "/api/ingest",
        {**_JSON, "X-API-Token": "pub_123"},
        """{
"type": "identify",
"data": {
"visitor_fingerprint": "fp_abc",
"session_id": "sess_xyz",
"customer_id": "cus_123",
"timestamp": 1714412150000
}
}""",
        202,
        r'\{"success":true\}',
        (
            {
                "kind": "identify",
                "anonymous_id": "fp_abc",
                "user_id": "cus_123",
                "session_id": "sess_xyz",
                "provenance_dialect": "pulsora",
                "provenance_endpoint": "/api/ingest",
            },
        ),
        "anonymous_id = 'fp_abc' and kind = 'identify'",
    ),
    "seed 001, Method 1: REST API": Example(
        "/collect",
        _PULSE,
        """{
"site_id": "site_abc123",
"event_type": "page_view",
"timestamp": NOW,
"session_id": "session_123",
"url": "https://example.com",
"device_type": "desktop"
}""",
        200,
        r'\{"success":true,"timestamp":\d{13}\}',
        (
            {
                "kind": "page",
                "session_id": "session_123",
                "page_url": "https://example.com",
                "page_path": "/",
                "device_type": "desktop",
                "provenance_dialect": "pulse",
                "provenance_endpoint": "/collect",
            },
        ),
        "session_id = 'session_123' and provenance_site_id = 'site_abc123'",
    ),
    # Printed without site, time and session; the key's only site and the time of receipt stand in.
    "seed 001, Batch Events": Example(
        "/collect/batch",
        _PULSE,
        """{"events": [
{ "event_type": "page_view", "session_id": "session_batch" },
{ "event_type": "click", "session_id": "session_batch" },
{ "event_type": "form_submit", "session_id": "session_batch" }
]}""",
        200,
        r'\{"success":true,"accepted":3,"rejected":0,"errors":\[\],"timestamp":\d{13}\}',
        (
            {
                "kind": "page",
                "session_id": "session_batch",
                "provenance_dialect": "pulse",
                "provenance_endpoint": "/collect/batch",
            },
            {
                "kind": "track",
                "name": "click",
                "session_id": "session_batch",
                "provenance_dialect": "pulse",
                "provenance_endpoint": "/collect/batch",
            },
            {
                "kind": "track",
                "name": "form_submit",
                "session_id": "session_batch",
                "provenance_dialect": "pulse",
                "provenance_endpoint": "/collect/batch",
            },
        ),
        "session_id = 'session_batch' and provenance_site_id = 'site_abc123'",
    ),
    # The document's example of an event is older than the 30 days its own troubleshooting allows.
    "seed 001, Understanding Events": Example(
        "/collect",
        _PULSE,
        """{
"site_id": "site_abc123",
"event_type": "page_view",
"timestamp": 1703001234567,
"session_id": "session_xyz789",
"user_id": "user_123",
"url": "https://example.com/products",
"referrer": "https://google.com",
"device_type": "desktop",
"country": "US"
}""",
        400,
        r'\{"success":false,"error":"Timestamp too old: events must be less than 30 days old","status":400,'
        r'"timestamp":\d{13}\}',
        (),
        "session_id = 'session_xyz789'",
    ),
    "seed 002, Snippet Format": Example(
        "/api/events",
        _JSON,
        '{ "type": "pageview", "visitorId": "v_abc123", "projectKey": "pk_live_xyz", '
        '"url": "https://example.com/pricing", "referrer": "https://google.com" }',
        200,
        r'\{"received":1\}',
        (
            {
                "kind": "page",
                "anonymous_id": "v_abc123",
                "page_url": "https://example.com/pricing",
                "page_path": "/pricing",
                "page_referrer_source": "google",
                "provenance_dialect": "apex",
                "provenance_endpoint": "/api/events",
            },
        ),
        "anonymous_id = 'v_abc123'",
    ),
    "seed 002, Batch Format": Example(
        "/api/events",
        _JSON,
        '{ "projectKey": "pk_live_xyz", "userId": "lead_456", "events": [ { "type": "pageview", '
        '"url": "/pricing", "timestamp": "2025-01-15T10:30:00Z" }, { "type": "click", "url": "/pricing", '
        '"data": { "elementId": "plan-pro" } }, { "type": "form_submit", "url": "/signup", '
        '"data": { "plan": "pro" } } ] }',
        200,
        r'\{"received":3\}',
        (
            {
                "kind": "page",
                "user_id": "lead_456",
                "page_url": "/pricing",
                "page_path": "/pricing",
                "provenance_dialect": "apex",
                "provenance_endpoint": "/api/events",
            },
            {
                "kind": "track",
                "name": "click",
                "user_id": "lead_456",
                "page_url": "/pricing",
                "page_path": "/pricing",
                "properties": {"elementId": "plan-pro"},
                "provenance_dialect": "apex",
                "provenance_endpoint": "/api/events",
            },
            {
                "kind": "track",
                "name": "form_submit",
                "user_id": "lead_456",
                "page_url": "/signup",
                "page_path": "/signup",
                "properties": {"plan": "pro"},
                "provenance_dialect": "apex",
                "provenance_endpoint": "/api/events",
            },
        ),
        "user_id = 'lead_456'",
    ),
    "seed 003, Track Event": Example(
        "/v1/t",
        _DATAFLY,
        """{
"type": "track",
"event": "Product Added",
"properties": {
"product_id": "SKU-1234",
"name": "Wireless Headphones",
"price": 79.99,
"currency": "USD",
"quantity": 1
},
"context": {
"page": {
"url": "https://shop.example.com/products/headphones",
"title": "Wireless Headphones | Shop",
"referrer": "https://shop.example.com/category/audio"
},
"userAgent": "Mozilla/5.0 ...",
"locale": "en-US",
"timezone": "America/New_York"
},
"timestamp": "2026-02-25T14:30:00.000Z",
"messageId": "a1b2c3d4-e5f6-7890-abcd-ef1234567890"
}""",
        200,
        r'\{"success":true\}',
        (
            {
                "kind": "track",
                "name": "Product Added",
                "message_id": "a1b2c3d4-e5f6-7890-abcd-ef1234567890",
                "anonymous_id": "COOKIE",
                "page_url": "https://shop.example.com/products/headphones",
                "page_path": "/products/headphones",
                "page_title": "Wireless Headphones | Shop",
                "page_referrer_source": "internal",
                "properties": {
                    "product_id": "SKU-1234",
                    "name": "Wireless Headphones",
                    "price": 79.99,
                    "currency": "USD",
                    "quantity": 1,
                },
                "provenance_dialect": "datafly",
                "provenance_endpoint": "/v1/t",
            },
        ),
        "message_id = 'a1b2c3d4-e5f6-7890-abcd-ef1234567890' and occurred_at = '2026-02-25T14:30:00Z'",
    ),
    "seed 003, Page Event": Example(
        "/v1/p",
        _DATAFLY,
        """{
"type": "page",
"name": "Product Detail",
"properties": {
"url": "https://shop.example.com/products/headphones",
"title": "Wireless Headphones | Shop",
"referrer": "https://shop.example.com/category/audio",
"path": "/products/headphones",
"search": "?color=black"
},
"context": {
"userAgent": "Mozilla/5.0 ...",
"locale": "en-US"
},
"timestamp": "2026-02-25T14:30:00.000Z",
"messageId": "b2c3d4e5-f6a7-8901-bcde-f12345678901"
}""",
        200,
        r'\{"success":true\}',
        (
            {
                "kind": "page",
                "name": "Product Detail",
                "message_id": "b2c3d4e5-f6a7-8901-bcde-f12345678901",
                "anonymous_id": "COOKIE",
                "page_url": "https://shop.example.com/products/headphones",
                "page_path": "/products/headphones",
                "page_title": "Wireless Headphones | Shop",
                "page_referrer_source": "internal",
                "properties": {
                    "url": "https://shop.example.com/products/headphones",
                    "title": "Wireless Headphones | Shop",
                    "referrer": "https://shop.example.com/category/audio",
                    "path": "/products/headphones",
                    "search": "?color=black",
                },
                "provenance_dialect": "datafly",
                "provenance_endpoint": "/v1/p",
            },
        ),
        "message_id = 'b2c3d4e5-f6a7-8901-bcde-f12345678901' and page_search = '?color=black'",
    ),
    "seed 003, Identify Event": Example(
        "/v1/i",
        _DATAFLY,
        """{
"type": "identify",
"userId": "user_98765",
"traits": {
"email": "jane@example.com",
"name": "Jane Smith",
"plan": "premium",
"createdAt": "2025-03-15T10:00:00.000Z"
},
"context": {
"userAgent": "Mozilla/5.0 ...",
"locale": "en-US"
},
"timestamp": "2026-02-25T14:30:00.000Z",
"messageId": "c3d4e5f6-a7b8-9012-cdef-123456789012"
}""",
        200,
        r'\{"success":true\}',
        (
            {
                "kind": "identify",
                "message_id": "c3d4e5f6-a7b8-9012-cdef-123456789012",
                "anonymous_id": "COOKIE",
                "user_id": "user_98765",
                "traits": {
                    "email": "jane@example.com",
                    "name": "Jane Smith",
                    "plan": "premium",
                    "createdAt": "2025-03-15T10:00:00.000Z",
                },
                "provenance_dialect": "datafly",
                "provenance_endpoint": "/v1/i",
            },
        ),
        "message_id = 'c3d4e5f6-a7b8-9012-cdef-123456789012'",
    ),
    "seed 003, Group Event": Example(
        "/v1/g",
        _DATAFLY,
        """{
"type": "group",
"groupId": "org_555",
"traits": {
"name": "Acme Corp",
"industry": "Technology",
"employees": 250,
"plan": "enterprise"
},
"context": {
"userAgent": "Mozilla/5.0 ...",
"locale": "en-US"
},
"timestamp": "2026-02-25T14:30:00.000Z",
"messageId": "d4e5f6a7-b8c9-0123-defa-234567890123"
}""",
        200,
        r'\{"success":true\}',
        (
            {
                "kind": "group",
                "message_id": "d4e5f6a7-b8c9-0123-defa-234567890123",
                "anonymous_id": "COOKIE",
                "group_id": "org_555",
                "traits": {
                    "name": "Acme Corp",
                    "industry": "Technology",
                    "employees": 250,
                    "plan": "enterprise",
                },
                "provenance_dialect": "datafly",
                "provenance_endpoint": "/v1/g",
            },
        ),
        "message_id = 'd4e5f6a7-b8c9-0123-defa-234567890123'",
    ),
}


@pytest.mark.parametrize("example", EXAMPLES.values(), ids=EXAMPLES.keys())
def test_an_example_of_the_documents_works_verbatim(stack: Stack, example: Example) -> None:
    body = example.body.replace("NOW", f"{int(time.time())}000")
    answer = stack.request("POST", example.path, body, {**_CURL, **example.headers})

    assert (answer.status, answer.headers["content-type"]) == (example.status, "application/json")
    assert re.fullmatch(example.answer, answer.text), answer.text
    query = f"select {', '.join(_COLUMNS)} from events where {example.where} order by event_id"
    if not example.rows:
        stack.await_rows("select 1 from quarantine where raw = %s", body.encode())
        assert stack.sql(query) == []
        return
    empty = dict.fromkeys(_COLUMNS) | {"properties": {}, "traits": {}}
    cookie = next(
        (each.partition("=")[2].partition(";")[0] for each in answer.cookies if "_dfid" in each), None
    )
    expected = [
        {**empty, **row} | ({"anonymous_id": cookie} if row.get("anonymous_id") == "COOKIE" else {})
        for row in example.rows
    ]
    found = [dict(zip(_COLUMNS, row, strict=True)) for row in stack.await_rows(query)]
    # Taken from the address, which is loopback here, and from curl's User-Agent: not the examples' affair.
    for row, wanted in zip(found, expected, strict=False):
        if wanted["device_type"] is None:
            wanted["device_type"] = row["device_type"]
    assert found == expected
    _assert_over_grpc(stack, example)


def _assert_over_grpc(stack: Stack, example: Example) -> None:
    """The same events, by someone who has a key of the source and a gRPC client without files."""
    query = f"select source_id::text, event_id::text, kind, name from events where {example.where}"
    rows = stack.sql(query)
    with Rpc(stack.grpc_port, _service_key(stack, rows[0][0])) as rpc:
        listed = rpc.call("polylect.v1.QueryService/ListEvents", {"page_size": 1000})["events"]
        by_id = {event["event_id"]: event for event in listed}
        for source_id, event_id, kind, name in rows:
            found = rpc.call("polylect.v1.QueryService/GetEvent", {"event_id": event_id})["event"]
            assert found == by_id[event_id]
            assert found["source_id"] == source_id
            assert (found["kind"], found.get("name")) == (f"EVENT_KIND_{kind.upper()}", name)


def _service_key(stack: Stack, source_id: str) -> str:
    made: dict[str, str] = stack.polylect_json("key", "create", source_id, "--kind", "service")
    return made["secret"]


def test_a_browser_of_the_documented_origin_gets_its_cookies_and_headers(stack: Stack) -> None:
    origin = "https://shop.example.com"
    answer = stack.post(
        "/v1/p",
        {"type": "page", "messageId": "browser-1"},
        {**_DATAFLY, "Origin": origin, "Host": "data.example.com"},
    )

    assert answer.status == 200
    assert answer.headers["access-control-allow-origin"] == origin
    assert answer.headers["access-control-allow-credentials"] == "true"
    names = {cookie.partition("=")[0] for cookie in answer.cookies}
    assert {"_dfid", "_ga", "_fbp"} <= names
    refused = stack.post("/v1/p", {"type": "page"}, {**_DATAFLY, "Origin": "https://evil.example"})
    assert refused.status == 403


def test_the_documented_query_counts_the_events(stack: Stack) -> None:
    body = {
        "site_id": "site_abc123",
        "event_type": "click",
        "timestamp": int(time.time() * 1000),
        "session_id": "session_stats",
    }
    assert stack.post("/collect", body, _PULSE).status == 200

    def counted() -> Any:
        answer = stack.get(
            "/api/v1/stats?site_id=site_abc123&metric=event_count", {"Authorization": "Bearer YOUR_API_KEY"}
        )
        assert answer.status == 200, answer.text
        return answer.json["data"]["value"] and answer.json

    answered = eventually(counted, "the event is counted", within_seconds=5)
    assert answered["success"] is True
    assert answered["data"] | {"value": 0} == {
        "metric": "event_count",
        "value": 0,
        "period": "24h",
        "site_id": "site_abc123",
    }


def test_the_command_line_lists_what_was_sent(stack: Stack) -> None:
    sent = stack.post(
        "/v1/t",
        {"type": "track", "event": "Seen By Command", "messageId": "cli-1", "properties": {"n": 1}},
        _DATAFLY,
    )
    assert sent.status == 200
    stack.await_rows("select 1 from events where message_id = 'cli-1'")

    listed = [json.loads(line) for line in stack.polylect("events", "--json").splitlines()]

    found = next(event for event in listed if event.get("message_id") == "cli-1")
    assert (found["kind"], found["name"], found["properties"]) == ("track", "Seen By Command", {"n": 1})
    assert "Seen By Command" in stack.polylect("events")


def test_the_lines_printed_at_the_start_work(stack: Stack) -> None:
    if not shutil.which("curl"):
        pytest.skip("curl is not installed")
    lines = re.findall(r"^\s*(curl .*)$", stack.output, re.MULTILINE)
    assert len(lines) == 4

    for line in lines:
        done = subprocess.run(
            ["/bin/sh", "-c", f"{line} --silent --show-error --write-out ' %{{http_code}}'"],
            capture_output=True,
            text=True,
            timeout=30,
            check=True,
        )
        answered = r'("success":true|"received":1).* 20[02]$'
        assert re.search(answered, done.stdout), f"{line}: {done.stdout}"
