"""Datafly: POST /v1/t, /v1/p, /v1/i, /v1/g, /v1/batch, /v1/b and the pixel.

After "HTTP Endpoints" (seed 003) and spec/dialects.md, in their order.
"""

from polylect.v1 import error_reason_pb2 as reasons
from polylect.v1.event_pb2 import (
    EVENT_KIND_GROUP,
    EVENT_KIND_IDENTIFY,
    EVENT_KIND_PAGE,
    EVENT_KIND_TRACK,
    Event,
)
from polylect.v1.ingest_pb2 import KEY_KIND_DATAFLY, QUOTA_SCOPE_SOURCE, Quota

from rest_facade.values import identifier, iso_time, json_object, milliseconds_in_text, text
from rest_facade.vocabulary import (
    Batch,
    Blank,
    Choice,
    Cors,
    Credential,
    Dialect,
    Endpoint,
    Extras,
    Field,
    Json,
    Kind,
    Origins,
    Pixel,
    Place,
    Refusal,
    Reply,
    Shape,
    VisitorCookie,
    Wording,
    refusals,
)

_FIELDS = (
    Field("userId", "user_id", identifier),
    Field("anonymousId", "anonymous_id", identifier),
    Field("properties", "properties", json_object),
    Field("traits", "traits", json_object),
    Field("context", "context", json_object),
    Field("timestamp", "occurred_at", iso_time),
    Field("sentAt", "sent_at", iso_time),
    Field("messageId", "message_id", text(128)),
)
_COPIES = (
    ("context.page.url", "page.url"),
    ("context.page.path", "page.path"),
    ("context.page.search", "page.search"),
    ("context.page.title", "page.title"),
    ("context.page.referrer", "page.referrer"),
    ("context.campaign.source", "campaign.source"),
    ("context.campaign.medium", "campaign.medium"),
    ("context.campaign.name", "campaign.name"),
    ("context.campaign.term", "campaign.term"),
    ("context.campaign.content", "campaign.content"),
    ("context.traits", "traits"),
    ("context.userAgent", "device.user_agent"),
    ("context.locale", "device.locale"),
    ("context.timezone", "device.timezone"),
)
_PAGE_COPIES = tuple(
    (f"properties.{name}", f"page.{name}") for name in ("url", "path", "search", "title", "referrer")
)


def _name_library(event: Event, values: Json) -> None:
    library = values.get("context", {}).get("library")
    if type(library) is not dict:
        return
    parts = [part for part in (library.get("name"), library.get("version")) if type(part) is str and part]
    event.provenance.library = "/".join(parts)[:256]


def _shape(kind: Kind, *own: Field, copies: tuple[tuple[str, str], ...] = ()) -> Shape:
    return Shape(
        kind=kind,
        fields=(*own, *(row for row in _FIELDS if row.wire not in {field.wire for field in own})),
        wording=Wording(missing="{field} is required", invalid="{field} {problem}"),
        extras=Extras.CONTEXT,
        copies=(*copies, *_COPIES),
        finish=_name_library,
    )


_TRACK = _shape(EVENT_KIND_TRACK, Field("event", "name", text(1024), required=True))
_PAGE = _shape(EVENT_KIND_PAGE, Field("name", "name", text(1024)), copies=_PAGE_COPIES)
_IDENTIFY = _shape(EVENT_KIND_IDENTIFY, Field("userId", "user_id", identifier, required=True))
_GROUP = _shape(EVENT_KIND_GROUP, Field("groupId", "group_id", identifier, required=True))

_SHAPES = {"track": _TRACK, "page": _PAGE, "identify": _IDENTIFY, "group": _GROUP}
_MISSING_TYPE = "type is required"
_ACCEPTED = Reply(200, {"success": True})
_PIXEL = {
    "uid": "userId",
    "aid": "anonymousId",
    "gid": "groupId",
    "ts": "timestamp",
    "mid": "messageId",
}


def _single(path: str, word: str) -> Endpoint:
    return Endpoint(
        path=path,
        single=Choice("type", {word: _SHAPES[word]}, missing=_MISSING_TYPE, unknown=f"type must be {word}"),
        accepted=_ACCEPTED,
        max_bytes=512 * 1024,
    )


def _batch(path: str) -> Endpoint:
    known = ", ".join(_SHAPES)
    return Endpoint(
        path=path,
        batch=Batch(
            "batch",
            Choice("type", _SHAPES, missing=_MISSING_TYPE, unknown=f"type must be one of: {known}"),
            max_events=500,
            max_event_bytes=64 * 1024,
        ),
        accepted=_ACCEPTED,
        batch_accepted=Reply(
            200,
            {
                "success": True,
                "accepted": Blank.ACCEPTED,
                "rejected": Blank.REJECTED_IF_ANY,
                "errors": Blank.ERRORS_IF_ANY,
            },
        ),
        max_bytes=5 * 1024 * 1024,
    )


def _pixel(path: str, word: str, event_parameter: str) -> Endpoint:
    shape = _SHAPES[word].with_parser("timestamp", milliseconds_in_text)
    return Endpoint(
        path=path,
        single=Choice("type", {word: shape}, missing=_MISSING_TYPE, unknown=_MISSING_TYPE),
        pixel=Pixel(
            parameters={**_PIXEL, "e": event_parameter},
            prefixes={"p": "properties", "t": "traits"},
            constants={"type": word},
        ),
        accepted=_ACCEPTED,
        max_bytes=0,
    )


_ERROR = {
    "error": {"code": Blank.CODE, "message": Blank.MESSAGE},
    # Stops one SDK family from retrying what will never be taken.
    "code": Blank.CODE,
    "message": Blank.MESSAGE,
}
_INVALID_KEY = Refusal(401, "Invalid or missing pipeline key")

DATAFLY = Dialect(
    name="datafly",
    credentials=(
        Credential(Place.BEARER),
        Credential(Place.BASIC),
        Credential(Place.QUERY, "wk"),
        Credential(Place.BODY, "writeKey"),
    ),
    key_kinds=(KEY_KIND_DATAFLY,),
    endpoints=(
        _single("/v1/t", "track"),
        _single("/v1/p", "page"),
        _single("/v1/i", "identify"),
        _single("/v1/g", "group"),
        _batch("/v1/batch"),
        _batch("/v1/b"),
        _pixel("/v1/pixel/t", "track", "event"),
        _pixel("/v1/pixel/p", "page", "name"),
        _pixel("/v1/pixel/i", "identify", "event"),
        _pixel("/v1/pixel/g", "group", "event"),
    ),
    errors=refusals(
        {
            reasons.ERROR_REASON_CREDENTIAL_MISSING: _INVALID_KEY,
            reasons.ERROR_REASON_CREDENTIAL_INVALID: _INVALID_KEY,
            reasons.ERROR_REASON_PAYLOAD_TOO_LARGE: Refusal(400),
            reasons.ERROR_REASON_RATE_LIMITED: Refusal(429, "Rate limit exceeded"),
        },
        codes={400: "INVALID_PAYLOAD", 401: "INVALID_PIPELINE_KEY", 403: "FORBIDDEN"},
    ),
    error_body=_ERROR,
    batch_error={"index": Blank.INDEX, "code": Blank.CODE, "message": Blank.MESSAGE},
    batch_refused=Reply(
        400,
        {
            "error": {"code": "INVALID_PAYLOAD", "message": "All events were rejected"},
            "code": "INVALID_PAYLOAD",
            "message": "All events were rejected",
            "accepted": Blank.ACCEPTED,
            "rejected": Blank.REJECTED,
            "errors": Blank.ERRORS,
        },
    ),
    cors=Cors(
        Origins.SOURCE,
        methods=("POST", "OPTIONS"),
        headers=("Content-Type", "Authorization"),
        headers_on_request=("X-Retry-Count",),
        always=True,
    ),
    # 400 days, the longest browsers keep a cookie.
    visitor_cookie=VisitorCookie("_dfid", max_age_seconds=34_560_000, vendor_cookies=True),
    makes_message_ids=True,
    quota=Quota(name="datafly", limit=1000, window_seconds=1, scope=QUOTA_SCOPE_SOURCE),
    scripts=("datafly.js",),
)
