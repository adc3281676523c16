"""PULSE: POST /collect and /collect/batch, after "Send Your First Event" (seed 001) and spec/dialects.md.

GET /api/v1/stats, which answers instead of taking events, is `rest_facade/stats.py`, in these errors.
"""

from polylect.v1 import error_reason_pb2 as reasons
from polylect.v1.event_pb2 import EVENT_KIND_PAGE
from polylect.v1.ingest_pb2 import KEY_KIND_PULSE, QUOTA_SCOPE_KEY, Quota

from rest_facade.values import anything, country, strict_milliseconds, text
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

_EVENT = Shape(
    kind=None,
    kind_words={"page_view": EVENT_KIND_PAGE},
    fields=(
        Field("site_id", "provenance.site_id", text(64), required=True),
        Field("event_type", "type", text(64), required=True),
        Field("timestamp", "occurred_at", strict_milliseconds, required=True),
        Field("session_id", "session_id", text(64), required=True),
        Field("user_id", "user_id", text(64)),
        Field("url", "page.url", text(2048)),
        Field("referrer", "page.referrer", text(2048)),
        Field("device_type", "device.type", text(32)),
        Field("country", "geo.country", country),
        # Stays a property of that name where it is no object.
        Field("properties", "properties", anything),
    ),
    wording=Wording(missing="Missing required field: {field}", invalid="Invalid field: {field} {problem}"),
)

PULSE = Dialect(
    name="pulse",
    credentials=(Credential(Place.BEARER), Credential(Place.QUERY, "api_key")),
    key_kinds=(KEY_KIND_PULSE,),
    endpoints=(
        Endpoint(
            path="/collect",
            single=_EVENT,
            accepted=Reply(200, {"success": True, "timestamp": Blank.NOW_MS}),
            max_bytes=256 * 1024,
        ),
        Endpoint(
            path="/collect/batch",
            # The key's only site is the default; without a timestamp it is the time of receipt.
            batch=Batch("events", _EVENT.relaxed("site_id", "timestamp"), max_events=500),
            accepted=Reply(200, {"success": True, "timestamp": Blank.NOW_MS}),
            batch_accepted=Reply(
                200,
                {
                    "success": True,
                    "accepted": Blank.ACCEPTED,
                    "rejected": Blank.REJECTED,
                    "errors": Blank.ERRORS,
                    "timestamp": Blank.NOW_MS,
                },
            ),
            max_bytes=5 * 1024 * 1024,
        ),
    ),
    errors=refusals(
        {
            reasons.ERROR_REASON_CREDENTIAL_MISSING: Refusal(401, "Invalid API key"),
            reasons.ERROR_REASON_CREDENTIAL_INVALID: Refusal(401, "Invalid API key"),
            reasons.ERROR_REASON_SCOPE_MISSING: Refusal(403, "Insufficient scope"),
            reasons.ERROR_REASON_RATE_LIMITED: Refusal(429, "Rate limit exceeded"),
        }
    ),
    error_body={
        "success": False,
        "error": Blank.MESSAGE,
        "status": Blank.STATUS,
        "timestamp": Blank.NOW_MS,
    },
    batch_error={"index": Blank.INDEX, "error": Blank.MESSAGE},
    batch_refused=Reply(
        400,
        {
            "success": False,
            "error": "All events were rejected",
            "status": 400,
            "accepted": Blank.ACCEPTED,
            "rejected": Blank.REJECTED,
            "errors": Blank.ERRORS,
            "timestamp": Blank.NOW_MS,
        },
    ),
    cors=Cors(Origins.ANY, methods=("POST", "OPTIONS"), headers=("Content-Type", "Authorization")),
    quota=Quota(name="pulse", limit=10_000, window_seconds=60, scope=QUOTA_SCOPE_KEY, counts_events=True),
    max_age_seconds=30 * 86_400,
    x_rate_limit=True,
    # "Wait 60 seconds and retry."
    retry_after_seconds=60,
    scripts=("tracker.js",),
)
