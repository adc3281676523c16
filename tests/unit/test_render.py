"""What the core said, in the bytes and headers of a dialect."""

import pytest
from polylect.v1 import error_reason_pb2 as reasons
from polylect.v1.error_reason_pb2 import Rejection
from polylect.v1.ingest_pb2 import ClientOutcome, EventResult, RateLimit

from rest_facade.dialects import DIALECTS
from rest_facade.render import Answer, Renderer
from rest_facade.vocabulary import Endpoint

_NOW_MS = 1_714_412_000_123
_JSON = {"content-type": "application/json"}
_RENDERERS = {dialect.name: Renderer(dialect) for dialect in DIALECTS}
_ENDPOINTS = {endpoint.path: endpoint for dialect in DIALECTS for endpoint in dialect.endpoints}

_STORED = EventResult(event_id="019e")
_REFUSED = EventResult(
    rejection=Rejection(reason=reasons.ERROR_REASON_FIELD_MISSING, message="Missing required field: url")
)


def _endpoint(path: str) -> Endpoint:
    return _ENDPOINTS[path]


@pytest.mark.parametrize(
    ("dialect", "path", "results", "as_batch", "status", "body"),
    [
        ("pulsora", "/api/ingest", [_STORED], False, 202, b'{"success":true}'),
        ("pulse", "/collect", [_STORED], False, 200, b'{"success":true,"timestamp":1714412000123}'),
        (
            "pulse",
            "/collect/batch",
            [_STORED, _REFUSED],
            True,
            200,
            b'{"success":true,"accepted":1,"rejected":1,'
            b'"errors":[{"index":1,"error":"Missing required field: url"}],"timestamp":1714412000123}',
        ),
        (
            "pulse",
            "/collect/batch",
            [],
            True,
            200,
            b'{"success":true,"accepted":0,"rejected":0,"errors":[],"timestamp":1714412000123}',
        ),
        ("apex", "/api/events", [_STORED], False, 200, b'{"received":1}'),
        ("apex", "/api/events", [_STORED, _STORED], True, 200, b'{"received":2}'),
        ("apex", "/api/events", [], True, 200, b'{"received":0}'),
        (
            "apex",
            "/api/events",
            [_STORED, _REFUSED],
            True,
            200,
            b'{"received":1,"errors":[{"index":1,"error":"Missing required field: url"}]}',
        ),
        (
            "apex",
            "/api/events",
            [_REFUSED],
            False,
            400,
            b'{"error":"Missing required field: url","code":"VALIDATION_ERROR","status":400}',
        ),
        (
            "apex",
            "/api/events",
            [_REFUSED],
            True,
            400,
            b'{"error":"All events were rejected","code":"VALIDATION_ERROR","status":400,"received":0,'
            b'"errors":[{"index":0,"error":"Missing required field: url"}]}',
        ),
        ("datafly", "/v1/batch", [_STORED], True, 200, b'{"success":true,"accepted":1}'),
        (
            "datafly",
            "/v1/b",
            [_REFUSED, _STORED],
            True,
            200,
            b'{"success":true,"accepted":1,"rejected":1,"errors":[{"index":0,"code":"INVALID_PAYLOAD",'
            b'"message":"Missing required field: url"}]}',
        ),
    ],
)
def test_outcome(
    dialect: str, path: str, results: list[EventResult], as_batch: bool, status: int, body: bytes
) -> None:
    answer = _RENDERERS[dialect].outcome(_endpoint(path), ClientOutcome(results=results), as_batch, _NOW_MS)
    assert answer == Answer(status, _JSON, body)


def test_a_refusal_tells_the_quota_and_when_to_come_back() -> None:
    refusal = Rejection(reason=reasons.ERROR_REASON_RATE_LIMITED, message="core's words")
    rate = RateLimit(limit=10, remaining=0, reset_seconds=60, retry_after_seconds=7, window_seconds=60)
    outcome = ClientOutcome(refusal=refusal, rate_limit=rate)
    fields = {
        **_JSON,
        "ratelimit-policy": '"pulsora";q=10;w=60',
        "ratelimit": '"pulsora";r=0;t=60',
        "retry-after": "7",
    }
    answer = _RENDERERS["pulsora"].outcome(_endpoint("/api/ingest"), outcome, False, _NOW_MS)
    assert answer == Answer(429, fields, b'{"error":"Rate limited"}')


def test_pulse_always_says_60_seconds_and_the_x_fields() -> None:
    rate = RateLimit(limit=10, remaining=0, reset_seconds=30, retry_after_seconds=7, window_seconds=60)
    answer = _RENDERERS["pulse"].refusal(reasons.ERROR_REASON_RATE_LIMITED, "", _NOW_MS, rate)
    assert answer.headers == {
        **_JSON,
        "ratelimit-policy": '"pulse";q=10;w=60',
        "ratelimit": '"pulse";r=0;t=30',
        "x-ratelimit-limit": "10",
        "x-ratelimit-remaining": "0",
        "x-ratelimit-reset": "1714412030",
        "retry-after": "60",
    }


@pytest.mark.parametrize("dialect", DIALECTS, ids=lambda dialect: dialect.name)
def test_every_reason_has_an_answer_in_every_dialect(dialect: object) -> None:
    renderer = _RENDERERS[dialect.name]  # type: ignore[attr-defined]
    never_over_http = {
        reasons.ERROR_REASON_UNSPECIFIED,
        reasons.ERROR_REASON_ALREADY_EXISTS,
        reasons.ERROR_REASON_ARGUMENT_INVALID,
        reasons.ERROR_REASON_UNWRITABLE,
    }
    for reason in set(reasons.ErrorReason.values()) - never_over_http:
        answer = renderer.refusal(reason, "words", _NOW_MS)
        assert 400 <= answer.status < 600
        assert answer.body.startswith(b"{")
        assert ("retry-after" in answer.headers) == (answer.status in (429, 503))
