"""Serves any endpoint of any dialect: reads, decodes, asks the core, renders. It knows no dialect by name."""

import base64
from collections.abc import Mapping
from time import monotonic
from types import MappingProxyType

import structlog
from polylect.v1 import error_reason_pb2 as reasons
from polylect.v1.ingest_pb2 import ClientOutcome, ClientRequest

from rest_facade.address import is_plain_localhost
from rest_facade.body import BodyReader, ClientGone
from rest_facade.caller import Caller
from rest_facade.coalescer import Coalescer
from rest_facade.cookies import NO_OFFER, CookieJar, Visitor
from rest_facade.core_refusal import CoreRefusal
from rest_facade.decode import Arrival, Decoder
from rest_facade.face import Face
from rest_facade.lean_falcon import Request, Response
from rest_facade.metrics import EndpointMetrics, reason_word
from rest_facade.refusals import Refusals
from rest_facade.vocabulary import Endpoint, ShapeError

_log = structlog.get_logger()

_NO_COOKIES_FOR = frozenset(
    (
        reasons.ERROR_REASON_CREDENTIAL_MISSING,
        reasons.ERROR_REASON_CREDENTIAL_INVALID,
        reasons.ERROR_REASON_ORIGIN_NOT_ALLOWED,
    )
)
_NO_QUERY: Mapping[str, str] = MappingProxyType({})
_GIF = base64.b64decode("R0lGODlhAQABAIAAAAAAAP///yH5BAEAAAAALAAAAAABAAEAAAIBRAA7")
_GIF_HEADERS = MappingProxyType(
    {
        "content-type": "image/gif",
        "cache-control": "no-store, no-cache, must-revalidate, private",
        "pragma": "no-cache",
        "expires": "0",
    }
)


class TakesEvents:
    """What POST endpoints and pixels share."""

    allowed_methods: str

    def __init__(
        self,
        face: Face,
        endpoint: Endpoint,
        coalescer: Coalescer,
        reader: BodyReader,
        metrics: EndpointMetrics,
        *,
        refusals: Refusals,
        development: bool,
    ) -> None:
        self.face = face
        self.metrics = metrics
        self._endpoint = endpoint
        self._coalescer = coalescer
        self._reader = reader
        self._refusals = refusals
        self._decoder = Decoder(face.dialect, endpoint)
        cookie = face.dialect.visitor_cookie
        self._jar = CookieJar(cookie) if cookie else None
        self._development = development

    async def on_options(self, req: Request, resp: Response) -> None:
        """Answer a preflight, or say which methods there are."""
        await self.face.answer_options(req, resp, self.metrics, self.allowed_methods)

    def _visitor(self, caller: Caller) -> Visitor | None:
        visitor = self._jar.read(caller.headers) if self._jar else None
        if visitor and not visitor.known and self._endpoint.batch and not caller.origin:
            # A server's: its events are many visitors', and with one cookie they would be one.
            return None
        return visitor

    async def take(self, req: Request, resp: Response) -> None:
        """Take one request's events and answer what became of them."""
        face = self.face
        received_us = face.now_us()
        caller = face.read_caller(req)
        jar, visitor = self._jar, self._visitor(caller)
        request = ClientRequest()
        try:
            body = await self._reader.read(req.receive, caller.headers)
            started = monotonic()
            arrival = Arrival(
                caller.headers,
                req.last_of_each() if req.query_string else _NO_QUERY,
                caller.client_ip,
                caller.request_id,
                received_us,
                visitor.visitor_id if visitor else "",
            )
            as_batch = self._decoder.decode(body, arrival, request)
            is_own = not caller.origin or self._name_origin(caller, request)
            serialized = self._decoder.serialize(request)
            offer = NO_OFFER
            if jar and visitor:
                offer = jar.offer(visitor, request, serialized, received_us // 1000)
                serialized += offer.serialized
            outcome = await self._coalescer.submit(serialized)
        except ClientGone:
            return
        except ShapeError as error:
            await self._refuse(resp, caller, request, received_us, CoreRefusal(error.reason, error.message))
            return
        except CoreRefusal as refusal:
            self.metrics.time(started)
            await self._refuse(resp, caller, request, received_us, refusal)
            return
        self.metrics.time(started)
        answer = face.renderer.outcome(self._endpoint, outcome, as_batch, received_us // 1000)
        cookies: list[str] = []
        if jar and visitor and _may_set_cookies(outcome):
            cookies = jar.to_set(visitor, offer, outcome, secure=self._is_secure(caller))
            jar.take_back(offer, outcome)
        face.send(resp, answer, caller, is_own or outcome.origin_allowed, cookies)
        if refused := self.metrics.count_outcome(answer.status, outcome, as_batch=as_batch):
            self._log_refused(caller, answer.status, refused)

    def _name_origin(self, caller: Caller, request: ClientRequest) -> bool:
        """Say where a browser's request comes from; tell whether no source need allow that."""
        request.from_browser = True
        if not self.face.cors.asks_source or self.face.is_own(caller):
            return True
        request.origin = caller.origin
        return False

    def _is_secure(self, caller: Caller) -> bool:
        return not (self._development and is_plain_localhost(caller.own_origin))

    def _log_refused(self, caller: Caller, status: int, refused: Mapping[int, int]) -> None:
        """Log what the core refused, of a batch perhaps some events only."""
        for reason, events in refused.items():
            _log.info(
                "events_refused",
                request_id=caller.request_id,
                dialect=self.face.dialect.name,
                endpoint=self._endpoint.path,
                status=status,
                reason=reason_word(reason),
                events=events,
            )

    async def _refuse(
        self, resp: Response, caller: Caller, request: ClientRequest, received_us: int, refusal: CoreRefusal
    ) -> None:
        """Answer a request of which the core gave no outcome, and have it counted."""
        self._refusals.note(
            refusal.reason,
            refusal.message,
            received_us,
            request_id=caller.request_id,
            client_ip=caller.client_ip,
            dialect=self.face.dialect.name,
            endpoint=self._endpoint.path,
            events=len(request.items) or 1,
        )
        await self.face.refuse(
            resp,
            caller,
            self.metrics,
            refusal.reason,
            refusal.message,
            retry_after_seconds=refusal.retry_after_seconds,
        )


class PostEndpoint(TakesEvents):
    """An endpoint with a body."""

    allowed_methods = "POST, OPTIONS"

    on_post = TakesEvents.take


class PixelEndpoint(TakesEvents):
    """An endpoint whose every verdict looks the same: an image. The status tells, 2xx still means stored."""

    allowed_methods = "GET, OPTIONS"

    async def on_get(self, req: Request, resp: Response) -> None:
        """Take the query's event."""
        await self.take(req, resp)
        resp.data = _GIF
        resp.set_headers(_GIF_HEADERS)


def _may_set_cookies(outcome: ClientOutcome) -> bool:
    """Tell whether the answer is for an allowed origin with a good key: the rest learns and keeps nothing."""
    return not outcome.HasField("refusal") or outcome.refusal.reason not in _NO_COOKIES_FOR
