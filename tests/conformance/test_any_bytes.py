"""Whatever is sent to whatever path: a documented answer in the dialect's words, the neighbours unharmed."""

import asyncio
import base64
import gzip
import json
import re
from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

import pytest
from case_file import case_paths, read_case
from conformance_stack import Clock, Reply, Stack, read_reply, running_stack
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from polylect_cli.case_request import filled
from rest_facade.dialects import DIALECTS
from rest_facade.stats import PATH as STATS_PATH
from storage.worker import Worker

_NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
_GIF = base64.b64decode("R0lGODlhAQABAIAAAAAAAP///yH5BAEAAAAALAAAAAABAAEAAAIBRAA7")
_DOCUMENTED = {200, 202, 204, 400, 401, 403, 404, 405, 413, 415, 429}
_DIALECT_OF = {endpoint.path: dialect for dialect in DIALECTS for endpoint in dialect.endpoints}
_DIALECT_OF[STATS_PATH] = next(dialect for dialect in DIALECTS if dialect.name == "pulse")
_PIXELS = {endpoint.path for dialect in DIALECTS for endpoint in dialect.endpoints if endpoint.pixel}
# What clients written from the documents send, and where.
_GOOD_REQUESTS = sorted(
    {
        (step.request.path, filled(step.request.body, {"now_ms": "1772366400000", "key": "pub_123"}))
        for path in case_paths()
        for step in read_case(path).steps
        if step.response.status < 300
        and step.request.path in _DIALECT_OF
        and 0 < len(step.request.body) < 4_000
    }
)
_CREDENTIALS = {
    "pulsora": {"X-API-Token": "sec_123"},
    "pulse": {"Authorization": "Bearer YOUR_API_KEY"},
    "apex": {},
    "datafly": {"Authorization": "Bearer dk_live_abc123"},
}
_GOOD_EVENT = b'{"type":"event","data":{"visitor_fingerprint":"f","session_id":"s","event_name":"good"}}'
_GOOD_TRACK = b'{"type":"track","event":"good"}'

_RELAXED = settings(
    deadline=None,
    database=None,
    # The stack is shared on purpose: what one request leaves behind must not harm the next.
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)

_POSTED = sorted(set(_DIALECT_OF) - _PIXELS - {STATS_PATH})
_paths = st.sampled_from([*_POSTED * 4, *_DIALECT_OF, "/v1", "/v1/t/x", "/api", "/collect/", "/%00", "/"])
_methods = st.sampled_from(["POST"] * 12 + ["GET", "PUT", "DELETE", "OPTIONS", "HEAD", "PATCH"])
_header_text = st.text(
    st.characters(min_codepoint=0x20, max_codepoint=0xFF, exclude_characters="\x7f"), max_size=60
)
_json = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(min_value=10**300, max_value=10**301)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=20)
    | st.sampled_from(["2026-03-01T12:00:00Z", "0000-00-00", "9999-12-31T23:59:59Z", "\0", "pub_123", "-0"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
    max_leaves=12,
)
_basic_users = (
    st.sampled_from(
        [b"dk_live_abc123", b"dk_live_abc12", b"sec_123", b"\xff\xfe", b"\xed\xa0\x80", b"\0", b""]
    )
    | st.binary(max_size=20)
    | st.text(max_size=20).map(str.encode)
)


def _basic(user: bytes, rest: bytes) -> str:
    return base64.b64encode(user + rest).decode()


_basic_values = (
    st.builds(_basic, _basic_users, st.sampled_from([b":", b"", b":secret", b":\xff", b"::"]))
    # Cut, stretched, or of other alphabets: no base64, or another's.
    | st.builds(
        lambda value, cut, tail: value[: len(value) - cut] + tail,
        st.builds(_basic, _basic_users, st.just(b":")),
        st.integers(0, 4),
        st.sampled_from(["", "=", "====", "-_", "%", " ", "\xe9", "ZGs6"]),
    )
    | _header_text
)
_basic_credentials = st.builds(
    lambda scheme, space, value: f"{scheme}{space}{value}".strip(),
    st.sampled_from(["Basic", "basic", "BASIC"]),
    st.sampled_from([" ", "  ", "\t", ""]),
    _basic_values,
)

_ODD_HEADERS = {
    "Content-Type": st.sampled_from(["application/json", "text/plain", "multipart/form-data", ""]),
    "X-API-Token": st.sampled_from(["pub_123", "nobody"]) | _header_text,
    "Authorization": st.sampled_from(["Bearer", "Basic %", "Basic ZGs6", "Bearer dk_live_abc123"])
    | _basic_credentials
    | _header_text,
    "Origin": st.sampled_from(["https://shop.example.com", "null", "http://[::1", "https://a.example:99999"])
    | _header_text,
    "Cookie": st.sampled_from(["_dfid=x; _ga=", "_dfid=5b1f3c1e-6f0a-4b8f-9a52-0c9a1b2c3d4e"]) | _header_text,
    "User-Agent": _header_text,
    "Content-Encoding": st.sampled_from(["gzip", "GZIP", "br", "gzip, gzip", "identity", ""]),
    "X-Forwarded-For": _header_text,
    "X-Request-Id": _header_text,
    "Access-Control-Request-Method": st.just("POST"),
    "Access-Control-Request-Headers": _header_text,
    "Sec-GPC": st.sampled_from(["0", "1"]),
}


@st.composite
def _headers(draw: st.DrawFn, names: Sequence[str] = tuple(_ODD_HEADERS)) -> dict[str, str]:
    """Draw a few odd headers."""
    chosen = draw(st.lists(st.sampled_from(names), max_size=4, unique=True))
    # As clients on the web send them: no white space around.
    return {name: draw(_ODD_HEADERS[name]).strip() for name in chosen}


# With these, a body is read for sure.
_harmless_headers = _headers(
    [
        name
        for name in _ODD_HEADERS
        if name not in ("Authorization", "X-API-Token", "Content-Encoding", "Origin")
    ]
)


@st.composite
def _mutated(draw: st.DrawFn) -> tuple[str, bytes]:
    """Draw a good request with a few bytes cut out, put in or repeated."""
    path, good = draw(st.sampled_from(_GOOD_REQUESTS))
    body = bytearray(good)
    for _ in range(draw(st.integers(1, 3))):
        start = draw(st.integers(0, len(body)))
        end = min(len(body), start + draw(st.integers(0, 12)))
        piece = draw(
            st.sampled_from(
                [b"", b"null", b"-1", b"1e400", b'"\\ud800"', b"\\u0000", b"\xff", b"[[", b"{}", b'"', b","]
            )
            | st.binary(max_size=4)
            | st.just(bytes(body[start:end]) * 3)
        )
        body[start:end] = piece
    return path, bytes(body)


@st.composite
def _exchanged(draw: st.DrawFn) -> tuple[str, bytes]:
    """Draw a good request with some value, anywhere in it, replaced by any other."""
    path, good = draw(st.sampled_from(_GOOD_REQUESTS))
    document = json.loads(good)
    places = [
        (parent, name)
        for parent in _containers(document)
        for name in (parent if isinstance(parent, dict) else range(len(parent)))
    ]
    parent, name = draw(st.sampled_from(places))
    parent[name] = draw(_json)
    return path, json.dumps(document, ensure_ascii=draw(st.booleans())).encode("utf-8", "surrogatepass")


def _containers(value: Any) -> list[Any]:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    if inner is None:
        return []
    return [value, *(found for one in inner for found in _containers(one))]


@pytest.fixture(scope="module")
async def shared(conformance_url: str, worker: Worker) -> AsyncIterator[Stack]:
    async with running_stack(conformance_url, worker, Clock(_NOW)) as stack:
        yield stack


def _assert_documented(path: str, method: str, reply: Reply) -> None:
    assert reply.status in _DOCUMENTED, (reply.status, reply.body)
    assert b"Traceback" not in reply.body
    if method == "HEAD" or reply.status == 204:
        assert reply.body == b""
    elif path in _PIXELS and method == "GET":
        assert reply.body == _GIF
    elif reply.status >= 400:
        _assert_shape(path, reply)


def _assert_shape(path: str, reply: Reply) -> None:
    assert reply.header("content-type") == "application/json"
    document = json.loads(reply.body)
    dialect = _DIALECT_OF.get(path)
    if dialect is None:
        assert "error" in document
        return
    shapes = [set(dialect.error_body), *(set(one.body) for one in dialect.errors.values() if one.body)]
    if dialect.batch_refused:
        shapes.append(set(dialect.batch_refused.body))
    assert set(document) in shapes
    assert document.get("status", reply.status) == reply.status


async def _check(stack: Stack, method: str, path: str, headers: Mapping[str, str], body: bytes) -> Reply:
    # So that quotas don't run out.
    stack.clock.advance(0.05)
    try:
        reply = await _ask(stack, method, path, headers, body)
    except (asyncio.IncompleteReadError, ConnectionError) as error:
        raise AssertionError("the connection was cut without an answer") from error
    _assert_documented(path.partition("?")[0], method, reply)
    return reply


async def _ask(stack: Stack, method: str, path: str, headers: Mapping[str, str], body: bytes) -> Reply:
    reader, writer = await stack.connect()
    try:
        head = stack.head(method, path, {}, len(body))[:-2]
        lines = b"".join(
            b"%s: %s\r\n" % (name.encode(), value.encode("latin-1")) for name, value in headers.items()
        )
        writer.write(head + lines + b"\r\n" + body)
        async with asyncio.timeout(20):
            return await read_reply(reader, has_body=method != "HEAD")
    finally:
        writer.close()


@settings(_RELAXED, max_examples=300)
@given(method=_methods, path=_paths, headers=_headers(), body=st.binary(max_size=400))
async def test_any_bytes_at_any_endpoint(
    shared: Stack, method: str, path: str, headers: dict[str, str], body: bytes
) -> None:
    await _check(shared, method, path, headers, body)


@settings(_RELAXED, max_examples=300)
@given(path=_paths, headers=_headers(), document=_json, zipped=st.booleans())
async def test_any_json_at_any_endpoint(
    shared: Stack, path: str, headers: dict[str, str], document: Any, zipped: bool
) -> None:
    body = json.dumps(document).encode()
    if zipped:
        headers, body = {**headers, "Content-Encoding": "gzip"}, gzip.compress(body)
    await _check(shared, "POST", path, headers, body)


@settings(_RELAXED, max_examples=200)
@given(path=st.sampled_from(_POSTED), credential=_basic_credentials)
async def test_any_basic_credential(shared: Stack, path: str, credential: str) -> None:
    reply = await _check(shared, "POST", path, {"Authorization": credential}, _GOOD_TRACK)
    if path == "/v1/t":
        assert reply.status == (200 if _basic_user(credential) == b"dk_live_abc123" else 401)


def _basic_user(credential: str) -> bytes | None:
    """Give the user as RFC 7617 has it, None when there is none."""
    match = re.fullmatch(r"basic +([A-Za-z0-9+/]*=*)", credential, re.IGNORECASE)
    try:
        userpass = base64.b64decode(match[1], validate=True) if match else b""
        userpass.decode()
    except ValueError:
        return None
    return userpass.partition(b":")[0]


@settings(_RELAXED, max_examples=1_500)
@given(request=_mutated() | _exchanged(), headers=_harmless_headers)
async def test_good_bodies_gone_wrong(
    shared: Stack, request: tuple[str, bytes], headers: dict[str, str]
) -> None:
    path, body = request
    await _check(shared, "POST", path, {**headers, **_CREDENTIALS[_DIALECT_OF[path].name]}, body)


@settings(_RELAXED, max_examples=400)
@given(
    path=st.sampled_from([*sorted(_PIXELS), STATS_PATH, "/collect"]),
    parameters=st.dictionaries(
        st.sampled_from(
            [
                "wk",
                "e",
                "uid",
                "aid",
                "ts",
                "mid",
                "p.a",
                "p.",
                "t.x",
                "site_id",
                "metric",
                "period",
                "start_date",
                "api_key",
            ]
        )
        | st.text(max_size=5),
        st.sampled_from(
            [
                "dk_live_abc123",
                "YOUR_API_KEY",
                "site_abc123",
                "event_count",
                "24h",
                "1772366400000",
                "-1",
                "9e99",
            ]
        )
        | st.text(max_size=20),
        max_size=6,
    ),
    raw=st.booleans(),
    keyed=st.booleans(),
)
async def test_any_query(
    shared: Stack, path: str, parameters: dict[str, str], raw: bool, keyed: bool
) -> None:
    query = "&".join(
        f"{quote(name, errors='replace')}={quote(value, errors='replace')}"
        for name, value in parameters.items()
    )
    if raw:
        query = query.replace("%", "")
    if keyed:
        query += "&wk=dk_live_abc123&api_key=YOUR_API_KEY"
    await _check(shared, "GET", f"{path}?{query}", {}, b"")


@settings(_RELAXED, max_examples=100)
@given(
    raw=st.binary(min_size=1, max_size=300)
    | st.builds(lambda tail: b"POST /api/ingest HTTP/1.1\r\n" + tail, st.binary(max_size=200))
)
async def test_what_is_no_http(shared: Stack, raw: bytes) -> None:
    reader, writer = await shared.connect()
    writer.write(raw)
    writer.write_eof()
    async with asyncio.timeout(20):
        answer = await reader.read()
    writer.close()
    assert b"Traceback" not in answer
    assert not answer or answer.startswith(b"HTTP/1.1 ")
    assert b" 500 " not in answer.partition(b"\r\n")[0]


async def test_the_server_goes_on_and_everything_taken_is_stored(shared: Stack) -> None:
    shared.clock.advance(3_600)
    reply = await shared.ask("POST", "/api/ingest", {"X-API-Token": "sec_123"}, _GOOD_EVENT)
    assert reply.body == b'{"success":true}'
    await shared.settle()
    assert (await shared.events())[-1].name == "good"
    # None that the core should have refused.
    assert await shared.quarantined("unwritable") == []
