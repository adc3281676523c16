"""Apex: POST /api/events, after its Events API page (seed 002) and spec/dialects.md, in their order."""

from polylect.v1 import error_reason_pb2 as reasons
from polylect.v1.event_pb2 import EVENT_KIND_PAGE
from polylect.v1.ingest_pb2 import KEY_KIND_APEX, QUOTA_SCOPE_KEY, Quota

from rest_facade.values import absolute_url, identifier, iso_time, json_object, text, url
from rest_facade.vocabulary import (
    Batch,
    Blank,
    Cors,
    Credential,
    Dialect,
    Endpoint,
    Field,
    Origins,
    Place,
    Refusal,
    Reply,
    Shape,
    Wording,
    refusals,
)

_SNIPPET = Shape(
    kind=None,
    kind_words={"pageview": EVENT_KIND_PAGE},
    fields=(
        Field("type", "type", text(1024), required=True),
        Field("visitorId", "anonymous_id", identifier, required=True),
        Field("url", "page.url", absolute_url, required=True),
        Field("data", "properties", json_object),
        Field("referrer", "page.referrer", url),
        Field("timestamp", "occurred_at", iso_time),
        Field("userId", "user_id", identifier),
    ),
    wording=Wording(missing="Missing required field: {field}", invalid="Invalid field: {field} {problem}"),
)

_BATCHED = _SNIPPET.relaxed("visitorId").with_parser("url", url)

APEX = Dialect(
    name="apex",
    credentials=(Credential(Place.BODY, "projectKey"),),
    key_kinds=(KEY_KIND_APEX,),
    endpoints=(
        Endpoint(
            path="/api/events",
            single=_SNIPPET,
            batch=Batch("events", _BATCHED, max_events=1000),
            accepted=Reply(200, {"received": Blank.ACCEPTED}),
            batch_accepted=Reply(200, {"received": Blank.ACCEPTED, "errors": Blank.ERRORS_IF_ANY}),
            max_bytes=1024 * 1024,
        ),
    ),
    errors=refusals(
        {
            reasons.ERROR_REASON_CREDENTIAL_MISSING: Refusal(400, "Missing required field: projectKey"),
            reasons.ERROR_REASON_CREDENTIAL_INVALID: Refusal(
                400, "Invalid projectKey", code="INVALID_PROJECT_KEY"
            ),
            reasons.ERROR_REASON_BATCH_TOO_LARGE: Refusal(413),
            reasons.ERROR_REASON_RATE_LIMITED: Refusal(429, "Rate limit exceeded"),
        },
        codes={400: "VALIDATION_ERROR", 403: "FORBIDDEN"},
    ),
    error_body={"error": Blank.MESSAGE, "code": Blank.CODE, "status": Blank.STATUS},
    batch_error={"index": Blank.INDEX, "error": Blank.MESSAGE},
    batch_refused=Reply(
        400,
        {
            "error": "All events were rejected",
            "code": "VALIDATION_ERROR",
            "status": 400,
            "received": Blank.ACCEPTED,
            "errors": Blank.ERRORS,
        },
    ),
    # The snippet uses sendBeacon with JSON, which is a credentialed request.
    cors=Cors(Origins.ECHO, methods=("POST", "OPTIONS"), headers=("Content-Type",)),
    # A batch is one request.
    quota=Quota(name="apex", limit=1000, window_seconds=60, scope=QUOTA_SCOPE_KEY),
    scripts=("apex.js",),
)
