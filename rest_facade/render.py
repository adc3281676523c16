"""Turns what the core said into the bytes and headers a dialect documents.

The only place where a rejection becomes a status. Reply tables are compiled once: what has no blank is
encoded at start-up.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import msgspec
from polylect.v1 import error_reason_pb2 as reasons
from polylect.v1.error_reason_pb2 import Rejection
from polylect.v1.ingest_pb2 import ClientOutcome, RateLimit

from rest_facade import body_json
from rest_facade.vocabulary import Blank, Dialect, Endpoint, Reason, Refusal, Reply, Template

JSON_TYPE: Mapping[str, str] = {"content-type": "application/json"}


class Answer(msgspec.Struct, frozen=True):
    """An HTTP answer but for CORS, cookies and the request id."""

    status: int
    # By lower-case name.
    headers: Mapping[str, str]
    body: bytes


_Fill = Mapping[Blank, Any]


class _CompiledReply(NamedTuple):
    status: int
    fill: Callable[[_Fill], bytes]
    # The answer whole, where nothing is left to be filled in.
    constant: Answer | None


class Renderer:
    """Renders the answers of one dialect."""

    def __init__(self, dialect: Dialect) -> None:
        self._dialect = dialect
        self._error_body = _compile(dialect.error_body)
        self._batch_error = dialect.batch_error
        self._batch_refused = _compile_reply(dialect.batch_refused) if dialect.batch_refused else None
        self._bodies = {
            reason: _compile(refusal.body) for reason, refusal in dialect.errors.items() if refusal.body
        }
        replies = [reply for e in dialect.endpoints for reply in (e.accepted, e.batch_accepted) if reply]
        self._replies = {id(reply): _compile_reply(reply) for reply in replies}

    def outcome(self, endpoint: Endpoint, outcome: ClientOutcome, as_batch: bool, now_ms: int) -> Answer:
        """Render what became of a request; `as_batch` as Decoder.decode told it."""
        rate = outcome.rate_limit if outcome.HasField("rate_limit") else None
        if outcome.HasField("refusal"):
            return self.refusal(outcome.refusal.reason, outcome.refusal.message, now_ms, rate)
        if not as_batch:
            first = outcome.results[0]
            if first.HasField("rejection"):
                return self.refusal(first.rejection.reason, first.rejection.message, now_ms, rate)
            reply = self._replies[id(endpoint.accepted)]
            if rate is None and reply.constant is not None:
                return reply.constant
            headers = self._headers(rate, now_ms)
            return Answer(reply.status, headers, reply.fill({Blank.NOW_MS: now_ms, Blank.ACCEPTED: 1}))
        return self._batch_outcome(endpoint, outcome, self._headers(rate, now_ms), now_ms)

    def _batch_outcome(
        self, endpoint: Endpoint, outcome: ClientOutcome, headers: Mapping[str, str], now_ms: int
    ) -> Answer:
        errors = [
            self._error_entry(index, result.rejection)
            for index, result in enumerate(outcome.results)
            if not result.event_id
        ]
        accepted = len(outcome.results) - len(errors)
        fill = {
            Blank.NOW_MS: now_ms,
            Blank.ACCEPTED: accepted,
            Blank.REJECTED: len(errors),
            Blank.ERRORS: errors,
            Blank.REJECTED_IF_ANY: len(errors) or None,
            Blank.ERRORS_IF_ANY: errors or None,
        }
        none_accepted = errors and not accepted
        reply = self._batch_refused if none_accepted else None
        reply = reply or self._replies[id(endpoint.batch_accepted)]
        return Answer(reply.status, headers, reply.fill(fill))

    def refusal(
        self,
        reason: Reason,
        message: str,
        now_ms: int,
        rate: RateLimit | None = None,
        retry_after_seconds: int = 0,
    ) -> Answer:
        """Render a no to the whole request; `message` is used where the dialect has no words of its own."""
        refusal = self._refusal_for(reason)
        body = self._bodies.get(reason, self._error_body)
        headers = self._headers(rate, now_ms)
        if refusal.status == 429:
            waits = rate.retry_after_seconds if rate else 0
            headers = {**headers, "retry-after": str(max(waits, self._dialect.retry_after_seconds, 1))}
        elif refusal.status == 503 or retry_after_seconds:
            headers = {**headers, "retry-after": str(max(retry_after_seconds, 1))}
        return Answer(refusal.status, headers, body({Blank.NOW_MS: now_ms, **_blanks(refusal, message)}))

    def _refusal_for(self, reason: Reason) -> Refusal:
        # A newer core may know reasons that this facade does not.
        errors = self._dialect.errors
        return errors.get(reason) or errors[reasons.ERROR_REASON_INTERNAL]

    def _error_entry(self, index: int, rejection: Rejection) -> Any:
        refusal = self._refusal_for(rejection.reason)
        return _filled(self._batch_error, {Blank.INDEX: index, **_blanks(refusal, rejection.message)})

    def _headers(self, rate: RateLimit | None, now_ms: int) -> Mapping[str, str]:
        if rate is None:
            return JSON_TYPE
        name = self._dialect.name
        limit, reset_seconds = rate.limit, rate.reset_seconds
        headers = {
            **JSON_TYPE,
            "ratelimit-policy": f'"{name}";q={limit};w={rate.window_seconds}',
            "ratelimit": f'"{name}";r={rate.remaining};t={reset_seconds}',
        }
        return {**headers, **x_rate_limit(rate, now_ms // 1000)} if self._dialect.x_rate_limit else headers


def x_rate_limit(rate: RateLimit, now_seconds: int) -> Mapping[str, str]:
    """Give the quota in the headers used before there was RateLimit."""
    return {
        "x-ratelimit-limit": str(rate.limit),
        "x-ratelimit-remaining": str(rate.remaining),
        "x-ratelimit-reset": str(now_seconds + rate.reset_seconds),
    }


def _blanks(refusal: Refusal, message: str) -> dict[Blank, Any]:
    return {
        Blank.MESSAGE: refusal.message if refusal.message is not None else message,
        Blank.CODE: refusal.code,
        Blank.STATUS: refusal.status,
    }


def _compile_reply(reply: Reply) -> _CompiledReply:
    fill = _compile(reply.body)
    constant = None if _has_blank(reply.body) else Answer(reply.status, JSON_TYPE, fill({}))
    return _CompiledReply(reply.status, fill, constant)


def _compile(template: Template) -> Callable[[_Fill], bytes]:
    if not _has_blank(template):
        constant = body_json.write(template)
        return lambda fill: constant
    return lambda fill: body_json.write(_filled(template, fill))


def _has_blank(value: Any) -> bool:
    if isinstance(value, Mapping):
        return any(_has_blank(member) for member in value.values())
    return isinstance(value, Blank)


def _filled(template: Any, fill: _Fill) -> Any:
    if isinstance(template, Blank):
        return fill[template]
    if isinstance(template, Mapping):
        members = ((key, _filled(value, fill)) for key, value in template.items())
        return {key: value for key, value in members if value is not None}
    return template
