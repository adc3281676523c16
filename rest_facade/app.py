"""The facade as an ASGI application: Falcon, a resource for each endpoint, and an answer for everything else.

Routes are made when the server starts the worker's event loop, because what they need (the channel to the
core) belongs to that loop. Nothing is shared between workers but the counters' directory.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import falcon
import structlog
from polylect.v1 import error_reason_pb2 as reasons

from rest_facade import body_json
from rest_facade.address import AddressBook
from rest_facade.body import BodyReader, ReadingBudget
from rest_facade.caller import Caller, read_caller
from rest_facade.coalescer import Coalescer
from rest_facade.connections import COUNT_UNPARSED
from rest_facade.core_link import CoreLink, read_tls
from rest_facade.demo import DemoPage
from rest_facade.dialects import DIALECTS
from rest_facade.endpoint import PixelEndpoint, PostEndpoint, TakesEvents
from rest_facade.face import Clock, Face, Now, is_preflight, now_by
from rest_facade.health import HealthResource, MetricsResource, ReadyResource
from rest_facade.lean_falcon import App, Request, Response
from rest_facade.metrics import Metrics
from rest_facade.options import FacadeOptions
from rest_facade.origins import OriginBook
from rest_facade.refusals import Refusals
from rest_facade.scripts import script_routes
from rest_facade.stalls import END_STREAMS
from rest_facade.stats import PATH as STATS_PATH
from rest_facade.stats import StatsResource
from rest_facade.vocabulary import Dialect

_log = structlog.get_logger()

# The dialect GET /api/v1/stats belongs to.
_STATS_DIALECT = "pulse"
# Of what the server refused before there was a request.
_UNPARSED_REASONS = {
    400: reasons.ERROR_REASON_PAYLOAD_UNREADABLE,
    431: reasons.ERROR_REASON_PAYLOAD_TOO_LARGE,
    503: reasons.ERROR_REASON_OVERLOADED,
}
_UNPARSED_MESSAGES = {
    400: "The request is no HTTP",
    431: "The request's head is too large",
    503: "Too many connections",
}
# With these an event may have come.
_SENDING_METHODS = ("POST", "PUT", "PATCH")


def create_app(
    options: FacadeOptions, clock: Clock | None = None, dialects: Sequence[Dialect] = DIALECTS
) -> App:
    """Make the application. It has no routes before the lifespan's start-up."""
    lifespan = _Lifespan(options, clock, dialects)
    app = App(lifespan)
    lifespan.app = app
    return app


class _Lifespan:
    """Builds what a worker needs, and takes it down when every request has been answered."""

    app: App

    def __init__(self, options: FacadeOptions, clock: Clock | None, dialects: Sequence[Dialect]) -> None:
        self._options = options
        self._now_us = now_by(clock)
        self._dialects = dialects
        self._link: CoreLink | None = None
        self._coalescer: Coalescer | None = None
        self._metrics: Metrics | None = None
        self._refusals: Refusals | None = None
        self._tasks: list[asyncio.Task[None]] = []

    async def process_startup(self, scope: Mapping[str, Any], event: Mapping[str, Any]) -> None:
        """Connect and add the routes."""
        options = self._options
        link = self._link = CoreLink(
            options.core_address,
            options.facade_token,
            options.core_timeout_seconds,
            read_tls(options.core_tls_ca, options.core_tls_cert, options.core_tls_key),
        )
        metrics = self._metrics = Metrics(options.metrics_dir)
        coalescer = self._coalescer = Coalescer(
            link.batch_ingest,
            max_waiting_bytes=options.max_waiting_bytes,
            max_waiting_requests=options.max_waiting_requests,
            note_message=metrics.note_message,
        )
        refusals = self._refusals = Refusals(link.report_refusals)
        self._tasks = [
            asyncio.create_task(metrics.keep_flushing()),
            asyncio.create_task(refusals.keep_telling()),
        ]
        state = scope.get("state", {})
        state[COUNT_UNPARSED] = self._unparsed_counter(metrics, refusals)
        addresses = AddressBook(options.trusted_proxies)
        origins = OriginBook(link.check_origin)
        routes: dict[str, Any] = {
            "/healthz": HealthResource(),
            "/readyz": ReadyResource(link),
            "/metrics": MetricsResource(metrics),
        }
        budget = ReadingBudget(options.max_reading_bytes)
        for dialect in self._dialects:
            face = Face(dialect, self._now_us, addresses, origins)
            routes |= self._endpoints(face, coalescer, budget, metrics, refusals)
            routes |= script_routes(face, metrics)
            if dialect.name == _STATS_DIALECT:
                routes[STATS_PATH] = StatsResource(face, link, metrics.of(dialect.name, STATS_PATH))
        if options.demo_keys:
            page = DemoPage(link, options.demo_keys, metrics, self._now_us, host=options.host)
            routes |= page.routes
            state[END_STREAMS] = page.end_streams
        for path, resource in routes.items():
            self.app.add_route(path, resource)
        everything_else = _EverythingElse(routes, addresses, metrics, refusals, self._now_us)
        self.app.add_error_handler(falcon.HTTPError, everything_else.answer_unrouted)
        self.app.add_error_handler(Exception, everything_else.answer_fault)

    def _unparsed_counter(self, metrics: Metrics, refusals: Refusals) -> Callable[[int, str, str], None]:
        unparsed = metrics.of("", "")

        def count(status: int, request_id: str, client_ip: str) -> None:
            reason = _UNPARSED_REASONS[status]
            unparsed.count_answer(status, reason)
            message = _UNPARSED_MESSAGES[status]
            refusals.note(reason, message, self._now_us(), request_id=request_id, client_ip=client_ip)

        return count

    def _endpoints(
        self,
        face: Face,
        coalescer: Coalescer,
        budget: ReadingBudget,
        metrics: Metrics,
        refusals: Refusals,
    ) -> dict[str, TakesEvents]:
        return {
            endpoint.path: (PixelEndpoint if endpoint.pixel else PostEndpoint)(
                face,
                endpoint,
                coalescer,
                BodyReader(endpoint.max_bytes, self._options.body_timeout_seconds, budget),
                metrics.of(face.dialect.name, endpoint.path),
                refusals=refusals,
                development=self._options.development,
            )
            for endpoint in face.dialect.endpoints
        }

    async def process_shutdown(self, scope: Mapping[str, Any], event: Mapping[str, Any]) -> None:
        """Disconnect, when nothing is under way any more."""
        if self._coalescer is not None:
            await self._coalescer.drain()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._refusals is not None:
            await self._refusals.tell()
        if self._metrics is not None:
            self._metrics.flush()
        if self._link is not None:
            await self._link.close()


class _EverythingElse:
    """Answers what no endpoint does, in the words of the dialect whose path is nearest."""

    def __init__(
        self,
        routes: dict[str, Any],
        addresses: AddressBook,
        metrics: Metrics,
        refusals: Refusals,
        now_us: Now,
    ) -> None:
        self._refusals = refusals
        self._now_us = now_us
        self._routes = routes
        self._addresses = addresses
        self._neutral_metrics = metrics.of("", "")
        self._metrics = metrics
        self._faces = {
            tuple(path.split("/")[1:]): route.face for path, route in routes.items() if hasattr(route, "face")
        }

    async def answer_unrouted(
        self, req: Request, resp: Response, error: falcon.HTTPError, params: dict[str, Any]
    ) -> None:
        """Answer an unknown path, or a method the path has not: nothing else is raised as HTTPError."""
        route = self._routes.get(req.path)
        face = self._nearest_face(req.path)
        if route is None and req.method == "OPTIONS" and face and is_preflight(face.read_caller(req)):
            # Refused, it would hide the 404 to come from the script, which then repeats what it should drop.
            methods = ", ".join(face.dialect.cors.methods)
            await face.answer_options(req, resp, self._metrics.of(face.dialect.name, ""), methods)
        elif route is None:
            await self._refuse(req, resp, reasons.ERROR_REASON_NOT_FOUND, 404, "Not found")
        else:
            await self._refuse(req, resp, reasons.ERROR_REASON_METHOD_NOT_ALLOWED, 405, "Method not allowed")
            resp.set_header("Allow", route.allowed_methods)

    async def answer_fault(
        self, req: Request, resp: Response, error: Exception, params: dict[str, Any]
    ) -> None:
        """Answer after a fault of ours; the trace is for the log only."""
        request_id = await self._refuse(req, resp, reasons.ERROR_REASON_INTERNAL, 500, "Internal error")
        _log.error("request_failed", request_id=request_id, path=req.path, exc_info=error)

    async def _refuse(
        self,
        req: Request,
        resp: Response,
        reason: reasons.ErrorReason.ValueType,
        status: int,
        message: str,
    ) -> str:
        """Refuse, and give the request's id."""
        route = self._routes.get(req.path)
        face = getattr(route, "face", None) or self._nearest_face(req.path)
        if face is not None:
            metrics = getattr(route, "metrics", None) or self._metrics.of(face.dialect.name, "")
            caller = face.read_caller(req)
            self._note_refused(req, caller, reason, message, face.dialect.name)
            await face.refuse(resp, caller, metrics, reason, message)
            return caller.request_id
        caller = read_caller(req.scope, self._addresses, needs_own_origin=False)
        self._note_refused(req, caller, reason, message, "")
        resp.status = status
        resp.data = body_json.write({"error": message})
        resp.set_header("X-Request-Id", caller.request_id)
        self._neutral_metrics.count_answer(status, reason)
        return caller.request_id

    def _note_refused(
        self,
        req: Request,
        caller: Caller,
        reason: reasons.ErrorReason.ValueType,
        message: str,
        dialect: str,
    ) -> None:
        if req.method in _SENDING_METHODS:
            # A path that is none of ours may hold anything, a key too.
            self._refusals.note(
                reason,
                f"{req.method}: {message}",
                self._now_us(),
                request_id=caller.request_id,
                client_ip=caller.client_ip,
                dialect=dialect,
                endpoint=req.path if req.path in self._routes else "",
            )

    def _nearest_face(self, path: str) -> Face | None:
        """Give the face of the route that shares most first segments with the path, if it shares any."""
        # No route is deeper.
        segments = path.split("/", 5)[1:]
        best: Face | None = None
        longest = 0
        for route, face in self._faces.items():
            shared = 0
            for ours, theirs in zip(route, segments, strict=False):
                if ours != theirs:
                    break
                shared += 1
            if shared > longest:
                best, longest = face, shared
        return best
