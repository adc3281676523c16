"""Pulsora: POST /api/ingest, after its REST API page (seed 000) and spec/dialects.md, in their order."""

from dataclasses import replace
from decimal import Decimal

from polylect.v1 import error_reason_pb2 as reasons
from polylect.v1.event_pb2 import (
    EVENT_KIND_IDENTIFY,
    EVENT_KIND_PAGE,
    EVENT_KIND_REVENUE,
    EVENT_KIND_TRACK,
    Event,
)
from polylect.v1.ingest_pb2 import (
    KEY_KIND_PULSORA_PUBLIC,
    KEY_KIND_PULSORA_SECRET,
    QUOTA_SCOPE_CLIENT_IP,
    Quota,
)

from rest_facade.values import (
    boolean,
    currency,
    identifier,
    json_object,
    milliseconds_or_iso,
    money,
    one_of,
    set_money,
    text,
    url,
)
from rest_facade.vocabulary import (
    Blank,
    Choice,
    Cors,
    Credential,
    Dialect,
    Endpoint,
    Field,
    Json,
    OnNull,
    Origins,
    Place,
    Refusal,
    Reply,
    Shape,
    ShapeError,
    Wording,
    refusals,
)

_WORDING = Wording(missing="The data.{field} field is required.", invalid="The data.{field} field {problem}.")
# @pulsora/core 1.0.1 sends null here and leaves the fingerprint to the service.
_VISITOR = Field("visitor_fingerprint", "anonymous_id", identifier, required=True, null=OnNull.FINGERPRINT)
_SESSION = Field("session_id", "session_id", identifier, required=True)
_TIMESTAMP = Field("timestamp", "occurred_at", milliseconds_or_iso)
_PAGE = (
    Field("url", "page.url", url),
    Field("path", "page.path", url),
    Field("referrer", "page.referrer", url),
    Field("referrer_source", "page.referrer_source", text(256)),
    Field("title", "page.title", text()),
    Field("locale", "device.locale", text(64)),
    Field("utm_source", "campaign.source", text()),
    Field("utm_medium", "campaign.medium", text()),
    Field("utm_campaign", "campaign.name", text()),
    Field("utm_term", "campaign.term", text()),
    Field("utm_content", "campaign.content", text()),
)

_PAGEVIEW = Shape(EVENT_KIND_PAGE, (_VISITOR, _SESSION, *_PAGE, _TIMESTAMP), _WORDING)
_EVENT = Shape(
    EVENT_KIND_TRACK,
    (
        _VISITOR,
        _SESSION,
        Field("event_name", "name", text(1024), required=True),
        Field("event_data", "properties", json_object),
        *_PAGE,
        _TIMESTAMP,
    ),
    _WORDING,
)
_IDENTIFY = Shape(
    EVENT_KIND_IDENTIFY,
    (_VISITOR, _SESSION, Field("customer_id", "user_id", identifier, required=True), *_PAGE, _TIMESTAMP),
    _WORDING,
)

_CHANGES = ("downgrade", "churn")
_REVENUE_TYPES = ("purchase", "subscription", "renewal", "upgrade", *_CHANGES, "refund")
_POSITIVE = "amount must be a positive number."


def _finish_revenue(event: Event, values: Json) -> None:
    amount: Decimal = values["amount"]
    event_type = event.revenue.event_type = event.revenue.event_type or "purchase"
    # A refund may be given with either sign; only a subscription that shrinks or ends may move nothing.
    size = abs(amount) if event_type == "refund" else amount
    if size < 0 or (size == 0 and event_type not in _CHANGES):
        raise ShapeError(reasons.ERROR_REASON_FIELD_INVALID, _POSITIVE, "amount")
    code: str = values.get("currency", "USD")
    set_money(event.revenue.amount, -abs(amount) if event_type == "refund" else amount, code)
    if (mrr_impact := values.get("mrr_impact")) is not None:
        set_money(event.revenue.mrr_impact, mrr_impact, code)


_REVENUE = Shape(
    EVENT_KIND_REVENUE,
    (
        replace(_VISITOR, null=OnNull.ABSENT),
        _SESSION,
        Field("customer_id", "user_id", identifier, required=True),
        Field("amount", "", money, required=True, missing=_POSITIVE, invalid=_POSITIVE),
        Field("transaction_id", "revenue.transaction_id", identifier, required=True),
        Field("event_type", "revenue.event_type", one_of(_REVENUE_TYPES)),
        Field("currency", "", currency),
        Field("payment_processor", "revenue.processor", text(256)),
        Field("customer_subscription_id", "revenue.subscription_id", identifier),
        Field("mrr_impact", "", money, invalid="mrr_impact must be a number."),
        Field("is_recurring", "revenue.recurring", boolean),
        Field("metadata", "properties", json_object),
        *_PAGE,
        _TIMESTAMP,
    ),
    Wording(missing="{field} is required.", invalid="{field} {problem}."),
    finish=_finish_revenue,
)

PULSORA = Dialect(
    name="pulsora",
    credentials=(Credential(Place.HEADER, "x-api-token"), Credential(Place.BODY, "token", secret=True)),
    key_kinds=(KEY_KIND_PULSORA_PUBLIC, KEY_KIND_PULSORA_SECRET),
    endpoints=(
        Endpoint(
            path="/api/ingest",
            single=Choice(
                "type",
                {"pageview": _PAGEVIEW, "event": _EVENT, "identify": _IDENTIFY, "revenue": _REVENUE},
                missing="The type field is required.",
                unknown="The selected type is invalid.",
                within="data",
                within_missing="The data field is required.",
                within_invalid="The data field must be an object.",
            ),
            accepted=Reply(202, {"success": True}),
            max_bytes=256 * 1024,
        ),
    ),
    errors=refusals(
        {
            reasons.ERROR_REASON_CREDENTIAL_MISSING: Refusal(401, "Missing API token"),
            reasons.ERROR_REASON_CREDENTIAL_INVALID: Refusal(401, "Invalid API token"),
            reasons.ERROR_REASON_REVENUE_NOT_PERMITTED: Refusal(403, "Revenue events require secret token"),
            reasons.ERROR_REASON_RATE_LIMITED: Refusal(429, "Rate limited"),
        },
        bodies={400: {"message": Blank.MESSAGE}},
    ),
    error_body={"error": Blank.MESSAGE},
    cors=Cors(Origins.ANY, methods=("POST", "OPTIONS"), headers=("Content-Type", "X-API-Token")),
    # Every request counts, whatever becomes of it.
    quota=Quota(name="pulsora", limit=2000, window_seconds=3600, scope=QUOTA_SCOPE_CLIENT_IP),
    scripts=("pulsora.js",),
)
