"""GET /api/v1/stats: PULSE's question, answered by the core under the client's own key.

Period and range are the wire's; the core knows only instants.
"""

from collections.abc import Collection, Mapping
from datetime import UTC, datetime, timedelta
from typing import NamedTuple, NoReturn

from polylect.v1 import error_reason_pb2 as reasons
from polylect.v1.ingest_pb2 import RateLimit
from polylect.v1.query_pb2 import STATS_GROUP_BY_UNSPECIFIED, GetStatsRequest, StatsGroupBy, StatsMetric

from rest_facade import body_json, stats_answer
from rest_facade.caller import Caller
from rest_facade.core_link import CoreLink
from rest_facade.core_refusal import CoreRefusal
from rest_facade.decode import Arrival, credential_lookup
from rest_facade.face import Face
from rest_facade.lean_falcon import Request, Response
from rest_facade.metrics import EndpointMetrics
from rest_facade.render import JSON_TYPE, Answer, x_rate_limit
from rest_facade.vocabulary import ShapeError

PATH = "/api/v1/stats"

_METRICS: Mapping[str, StatsMetric.ValueType] = {
    name.removeprefix("STATS_METRIC_").lower(): number for name, number in StatsMetric.items() if number
}
_GROUPINGS: Mapping[str, StatsGroupBy.ValueType] = {
    name.removeprefix("STATS_GROUP_BY_").lower(): number for name, number in StatsGroupBy.items() if number
}
_PERIODS = {
    "1h": timedelta(hours=1),
    "24h": timedelta(hours=24),
    "7d": timedelta(days=7),
    "30d": timedelta(days=30),
}
_DEFAULT_PERIOD = "24h"
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)
# 9999-12-31, the last a Timestamp holds.
_LAST_MS = 253_402_300_799_999
_WINDOW_SECONDS = 60
# What the core says of a query, as a client of this route reads it.
_TEXTS = {
    reasons.ERROR_REASON_CREDENTIAL_MISSING: "Invalid API key",
    reasons.ERROR_REASON_NOT_FOUND: "Unknown site_id",
}


class _Question(NamedTuple):
    # As the answer repeats them.
    site_id: str
    metric: str
    period: str
    occurred_from: datetime
    occurred_until: datetime
    # "" for none.
    group_by: str
    country: str
    device_type: str
    conversion_event: str


class StatsResource:
    """Answers in the PULSE dialect."""

    allowed_methods = "GET, OPTIONS"

    def __init__(self, face: Face, link: CoreLink, metrics: EndpointMetrics) -> None:
        self.face = face
        self.metrics = metrics
        self._link = link
        self._lookups = [
            lookup for place in face.dialect.credentials if (lookup := credential_lookup(place)) is not None
        ]

    async def on_options(self, req: Request, resp: Response) -> None:
        """Answer a preflight, or say which methods there are."""
        await self.face.answer_options(req, resp, self.metrics, self.allowed_methods)

    async def on_get(self, req: Request, resp: Response) -> None:
        """Answer one figure."""
        now_us = self.face.now_us()
        caller = self.face.read_caller(req)
        query = req.last_of_each()
        try:
            credential = self._credential(caller, query)
            try:
                question = _read_question(query, now_us // 1000)
            except ShapeError as error:
                await self._refuse_caller_first(credential, caller.request_id, error)
            answer, metadata = await self._link.get_stats(_asked(question), credential, caller.request_id)
        except ShapeError as error:
            await self._refuse(resp, caller, error.reason, error.message)
            return
        except CoreRefusal as refusal:
            await self._refuse_for_core(resp, caller, refusal)
            return
        body = {
            "success": True,
            "data": stats_answer.as_document(
                answer,
                metric=question.metric,
                period=question.period,
                site_id=question.site_id,
                group_by=question.group_by,
            ),
            "timestamp": now_us // 1000,
        }
        rate = _rate_limit(metadata)
        headers = {**JSON_TYPE, **x_rate_limit(rate, now_us // 1_000_000)} if rate else JSON_TYPE
        self.face.send(resp, Answer(200, headers, body_json.write(body)), caller, origin_allowed=True)
        self.metrics.count_answer(200)

    def _credential(self, caller: Caller, query: Mapping[str, str]) -> str:
        arrival = Arrival(caller.headers, query, caller.client_ip, caller.request_id, 0, "")
        for lookup in self._lookups:
            credential = lookup(arrival)
            # What gRPC metadata can't carry is no key.
            if credential and credential.isascii() and credential.isprintable():
                return credential
        raise ShapeError(reasons.ERROR_REASON_CREDENTIAL_MISSING, "Invalid API key")

    async def _refuse_caller_first(self, credential: str, request_id: str, error: ShapeError) -> NoReturn:
        """Raise the core's refusal of the caller, or `error`: a bad credential learns nothing of shape."""
        try:
            await self._link.get_stats(GetStatsRequest(), credential, request_id)
        except CoreRefusal as refusal:
            if refusal.reason != reasons.ERROR_REASON_METRIC_UNKNOWN:
                raise
        raise error

    async def _refuse_for_core(self, resp: Response, caller: Caller, refusal: CoreRefusal) -> None:
        reason = refusal.reason
        if reason == reasons.ERROR_REASON_SITE_UNKNOWN:
            # 404 on this route, as for anything asked for by name.
            reason = reasons.ERROR_REASON_NOT_FOUND
        message = _TEXTS.get(reason, refusal.message)
        await self._refuse(
            resp,
            caller,
            reason,
            message,
            retry_after_seconds=refusal.retry_after_seconds,
            rate=_rate_limit(refusal.metadata),
        )

    async def _refuse(
        self,
        resp: Response,
        caller: Caller,
        reason: reasons.ErrorReason.ValueType,
        message: str,
        *,
        retry_after_seconds: int = 0,
        rate: RateLimit | None = None,
    ) -> None:
        await self.face.refuse(
            resp, caller, self.metrics, reason, message, retry_after_seconds=retry_after_seconds, rate=rate
        )


def _asked(question: _Question) -> GetStatsRequest:
    request = GetStatsRequest(
        site_id=question.site_id,
        metric=_METRICS[question.metric],
        group_by=_GROUPINGS.get(question.group_by, STATS_GROUP_BY_UNSPECIFIED),
        country=question.country,
        device_type=question.device_type,
        conversion_event=question.conversion_event,
    )
    request.occurred_from.FromDatetime(question.occurred_from)
    request.occurred_until.FromDatetime(question.occurred_until)
    return request


def _read_question(query: Mapping[str, str], now_ms: int) -> _Question:
    for name in ("site_id", "metric"):
        if not query.get(name):
            raise ShapeError(reasons.ERROR_REASON_FIELD_MISSING, f"Missing required field: {name}", name)
    metric = query["metric"]
    if metric not in _METRICS:
        message = f"Unknown metric: {metric[:64]}; metric must be one of: {', '.join(_METRICS)}"
        raise ShapeError(reasons.ERROR_REASON_METRIC_UNKNOWN, message, "metric")
    period = _read_word(query, "period", _PERIODS) or _DEFAULT_PERIOD
    # The present millisecond is within the range.
    until_ms = _read_ms(query, "end_date", now_ms + 1)
    from_ms = _read_ms(query, "start_date", until_ms - _PERIODS[period] // _MILLISECOND)
    if from_ms >= until_ms:
        raise _invalid("start_date", "start_date must be before end_date")
    country = query.get("country", "")
    if country and not (len(country) == 2 and country.isascii() and country.isalpha()):
        raise _invalid("country", "country must be a code of two letters")
    return _Question(
        site_id=query["site_id"],
        metric=metric,
        period=period,
        occurred_from=_EPOCH + from_ms * _MILLISECOND,
        occurred_until=_EPOCH + until_ms * _MILLISECOND,
        group_by=_read_word(query, "group_by", _GROUPINGS),
        country=country.upper(),
        device_type=query.get("device_type", ""),
        conversion_event=query.get("conversion_event", ""),
    )


def _read_word(query: Mapping[str, str], name: str, words: Collection[str]) -> str:
    word = query.get(name)
    if word is not None and word not in words:
        raise _invalid(name, f"{name} must be one of: {', '.join(words)}")
    return word or ""


def _invalid(name: str, message: str) -> ShapeError:
    return ShapeError(reasons.ERROR_REASON_FIELD_INVALID, message, name)


def _read_ms(query: Mapping[str, str], name: str, default: int) -> int:
    text = query.get(name)
    if text is None:
        return max(default, 0)
    if not (text.isascii() and text.isdigit() and len(text) <= 15 and int(text) <= _LAST_MS):
        raise _invalid(name, f"{name} must be a Unix timestamp in milliseconds")
    return int(text)


def _rate_limit(metadata: Mapping[str, str]) -> RateLimit | None:
    try:
        return RateLimit(
            limit=int(metadata["ratelimit-limit"]),
            remaining=int(metadata["ratelimit-remaining"]),
            reset_seconds=int(metadata["ratelimit-reset"]),
            window_seconds=_WINDOW_SECONDS,
        )
    except (KeyError, ValueError):
        return None
