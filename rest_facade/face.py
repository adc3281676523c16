"""One dialect towards HTTP: what each of its answers carries beside status and body, whoever made the answer.

That is the request id, the CORS headers the origin is entitled to, and a line in the counters.
"""

import time
from collections.abc import Callable, Iterable
from datetime import datetime

from polylect.v1 import error_reason_pb2 as reasons
from polylect.v1.error_reason_pb2 import ErrorReason
from polylect.v1.ingest_pb2 import RateLimit

from rest_facade.address import AddressBook
from rest_facade.caller import Caller, read_caller
from rest_facade.core_refusal import CoreRefusal
from rest_facade.cors import CorsHeaders
from rest_facade.lean_falcon import Request, Response
from rest_facade.metrics import EndpointMetrics
from rest_facade.origins import OriginBook
from rest_facade.render import Answer, Renderer
from rest_facade.vocabulary import Dialect

Clock = Callable[[], datetime]
Now = Callable[[], int]
"""Gives the time in microseconds since the epoch."""


def now_by(clock: Clock | None) -> Now:
    """Read a clock in microseconds. None is the system's, at a quarter of the cost: no datetime between."""
    if clock is None:
        return lambda: time.time_ns() // 1000
    # A double tells a quarter of a microsecond until 2100.
    return lambda: round(clock().timestamp() * 1_000_000)


def is_preflight(caller: Caller) -> bool:
    """Tell whether an OPTIONS is a browser's question before another request."""
    return bool(caller.origin) and "access-control-request-method" in caller.headers


class Face:
    """Sends one dialect's answers."""

    def __init__(self, dialect: Dialect, now_us: Now, addresses: AddressBook, origins: OriginBook) -> None:
        self.dialect = dialect
        self.renderer = Renderer(dialect)
        self.cors = CorsHeaders(dialect.cors)
        # The time in microseconds since the epoch.
        self.now_us = now_us
        self._addresses = addresses
        self._origins = origins
        self._needs_own_origin = self.cors.asks_source or dialect.visitor_cookie is not None

    def read_caller(self, request: Request) -> Caller:
        """Read who asks."""
        return read_caller(request.scope, self._addresses, needs_own_origin=self._needs_own_origin)

    def is_own(self, caller: Caller) -> bool:
        """Tell whether the request comes from a page of the facade itself."""
        return caller.origin.lower() == caller.own_origin

    async def answer_options(
        self, request: Request, response: Response, metrics: EndpointMetrics, allowed_methods: str
    ) -> None:
        """Answer a preflight, or say which methods a path has."""
        caller = self.read_caller(request)
        if not is_preflight(caller):
            answer = Answer(204, {"allow": allowed_methods}, b"")
            self.send(response, answer, caller, await self._surely_allows(caller))
            metrics.count_answer(204)
            return
        try:
            allowed = await self._allows(caller)
        except CoreRefusal as refusal:
            reason = reasons.ERROR_REASON_STORAGE_UNAVAILABLE
            await self.refuse(response, caller, metrics, reason, refusal.message, retry_after_seconds=1)
            return
        if not allowed:
            reason = reasons.ERROR_REASON_ORIGIN_NOT_ALLOWED
            await self.refuse(response, caller, metrics, reason, "Origin not allowed")
            return
        requested = caller.headers.get("access-control-request-headers", "")
        self.send(response, Answer(204, {}, b""), caller, origin_allowed=True)
        response.set_headers(self.cors.for_preflight(caller.origin, requested, allowed_methods))
        metrics.count_answer(204)

    async def _allows(self, caller: Caller) -> bool:
        """Tell whether the origin may read answers, without a source to go by. Raises CoreRefusal."""
        if not self.cors.asks_source or not caller.origin or self.is_own(caller):
            return True
        return await self._origins.allows(caller.origin)

    async def _surely_allows(self, caller: Caller) -> bool:
        try:
            return await self._allows(caller)
        except CoreRefusal:
            return False

    def send(
        self,
        response: Response,
        answer: Answer,
        caller: Caller,
        origin_allowed: bool,
        cookies: Iterable[str] = (),
    ) -> None:
        """Fill the HTTP response."""
        response.status = answer.status
        response.data = answer.body
        response.take_headers(
            {
                **answer.headers,
                **self.cors.for_answer(caller.origin, origin_allowed),
                "x-request-id": caller.request_id,
            }
        )
        for cookie in cookies:
            response.append_header("Set-Cookie", cookie)

    async def refuse(
        self,
        response: Response,
        caller: Caller,
        metrics: EndpointMetrics,
        reason: ErrorReason.ValueType,
        message: str,
        *,
        retry_after_seconds: int = 0,
        rate: RateLimit | None = None,
    ) -> None:
        """Answer a request that got no verdict of the core."""
        answer = self.renderer.refusal(reason, message, self.now_us() // 1000, rate, retry_after_seconds)
        self.send(response, answer, caller, await self._surely_allows(caller))
        metrics.count_answer(answer.status, reason)
