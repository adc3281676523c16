"""GET /demo and what it loads, in demo mode only: a page that shows what comes in, and what became of it.

Hides who may look. The page needs no credential, so it is for this machine's own browsers: while the facade
listens on loopback it must be asked for by a name of this machine, or any site whose name points here could.
"""

from collections.abc import Sequence
from ipaddress import ip_address
from typing import Any

from polylect.v1 import error_reason_pb2 as reasons

from rest_facade import body_json
from rest_facade.address import is_plain_localhost
from rest_facade.built_files import BuiltFile, FileResource
from rest_facade.caller import sane_request_id
from rest_facade.core_link import CoreLink
from rest_facade.core_refusal import CoreRefusal
from rest_facade.demo_feed import Feed
from rest_facade.face import Now
from rest_facade.lean_falcon import Request, Response
from rest_facade.metrics import EndpointMetrics, Metrics

PATH = "/demo"
# What leads to it, and where one may come from elsewhere.
_WAYS = ("/", f"{PATH}/")
_FRONT = (*_WAYS, PATH)

_FILES = (
    "page.js",
    "page.css",
    "icon.svg",
    "uPlot.iife.min.js",
    "uPlot.min.css",
    "uPlot.LICENSE",
)
# Asked again each time: what is shown goes with the version that runs.
_CACHE_CONTROL = "no-cache"
_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "form-action 'none'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "same-origin",
}
_STREAM_HEADERS = {
    "Content-Type": "text/event-stream",
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    # nginx would collect it.
    "X-Accel-Buffering": "no",
}
# Of a worker. The core lets 16 follow a source, command lines among them.
_MAX_FEEDS = 8
_BUSY_RETRY_SECONDS = "5"


class _Doorkeeper:
    """Tells who may look, and answers the others."""

    def __init__(self, *, is_local: bool) -> None:
        self._is_local = is_local

    def admits(self, req: Request, resp: Response) -> bool:
        """Tell whether to answer; where not, it is answered."""
        host = (req.get_header("Host") or "").lower()
        if self._is_local and not is_plain_localhost(f"http://{host}"):
            _refuse(resp, 403, "This page is for this machine only: open it by localhost or 127.0.0.1")
        elif req.get_header("Sec-Fetch-Site") not in (None, "none", "same-origin") and req.path not in _FRONT:
            _refuse(resp, 403, "Only the demo page loads this")
        else:
            return True
        return False


class _Resource:
    """What is no file, for those the doorkeeper admits."""

    allowed_methods: str

    def __init__(self, doorkeeper: _Doorkeeper, metrics: EndpointMetrics) -> None:
        self._doorkeeper = doorkeeper
        self._metrics = metrics

    async def on_options(self, req: Request, resp: Response) -> None:
        """Say which methods there are."""
        resp.status = 204
        resp.set_header("Allow", self.allowed_methods)
        resp.set_header("X-Request-Id", _request_id(req))
        self._metrics.count_answer(204)


class _FrontResource(_Resource):
    """Where somebody may look for the page, and nothing else stands."""

    allowed_methods = "GET, HEAD, OPTIONS"

    async def on_get(self, req: Request, resp: Response) -> None:
        """Lead to the page."""
        resp.set_header("X-Request-Id", _request_id(req))
        status = 403
        if self._doorkeeper.admits(req, resp):
            resp.set_header("Location", PATH)
            resp.status = status = 302
        self._metrics.count_answer(status)

    on_head = on_get


class _EventsResource(_Resource):
    """What happens in the demo sources, as server-sent events."""

    allowed_methods = "GET, OPTIONS"

    def __init__(
        self,
        doorkeeper: _Doorkeeper,
        metrics: EndpointMetrics,
        now_us: Now,
        link: CoreLink,
        keys: Sequence[str],
    ) -> None:
        super().__init__(doorkeeper, metrics)
        self._now_us = now_us
        self._link = link
        self._keys = keys
        self._feeds: set[Feed] = set()
        self._stopped = False

    async def on_get(self, req: Request, resp: Response) -> None:
        """Answer a stream without end. `after`, or Last-Event-ID, says from which line on.

        Without one, or with what is none, it begins as for a new page.
        """
        resp.set_header("X-Request-Id", _request_id(req))
        status = await self._answer(req, resp) if self._doorkeeper.admits(req, resp) else 403
        self._metrics.count_answer(status)

    async def _answer(self, req: Request, resp: Response) -> int:
        if self._stopped or len(self._feeds) >= _MAX_FEEDS:
            resp.set_header("Retry-After", _BUSY_RETRY_SECONDS)
            return _refuse(resp, 503, "Too many pages follow already: close one")
        last_id = req.get_header("Last-Event-ID") or req.last_of_each().get("after", "")
        try:
            feed = await self._begin(req, last_id)
        except CoreRefusal as refusal:
            resp.set_header("Retry-After", str(refusal.retry_after_seconds or 1))
            return _refuse(resp, 503, refusal.message)
        resp.set_headers(_STREAM_HEADERS)
        resp.stream = feed.stream()
        return 200

    async def _begin(self, req: Request, last_id: str) -> Feed:
        feed = Feed(self._link, self._keys, last_id, self._now_us() // 1000, self._feeds.discard)
        self._feeds.add(feed)
        try:
            await feed.begin(req.receive)
        except CoreRefusal as refusal:
            if not last_id or refusal.reason != reasons.ERROR_REASON_FIELD_INVALID:
                raise
            # No line's of this system: one that was set up anew since, under a page that is still open.
            return await self._begin(req, "")
        return feed

    def end(self) -> None:
        """End all streams, and begin none."""
        self._stopped = True
        for feed in list(self._feeds):
            feed.end()


class DemoPage:
    """The page, its files and its stream."""

    def __init__(self, link: CoreLink, keys: Sequence[str], metrics: Metrics, now_us: Now, host: str) -> None:
        """Show what these keys may read, on a facade that listens on `host`.

        Raises OSError when the page was not built.
        """
        doorkeeper = _Doorkeeper(is_local=_is_loopback(host))
        files = {PATH: "index.html", **{f"{PATH}/{name}": name for name in _FILES}}
        self._events = _EventsResource(doorkeeper, metrics.of("", f"{PATH}/events"), now_us, link, keys)
        self.routes: dict[str, Any] = {f"{PATH}/events": self._events}
        self.routes |= {path: _FrontResource(doorkeeper, metrics.of("", path)) for path in _WAYS}
        for path, name in files.items():
            file = BuiltFile(f"demo/{name}", _CACHE_CONTROL, _HEADERS)
            self.routes[path] = FileResource(file, metrics.of("", path), _request_id, doorkeeper.admits)

    def end_streams(self) -> None:
        """End all streams: the facade stops."""
        self._events.end()


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _request_id(req: Request) -> str:
    return sane_request_id(req.get_header("X-Request-Id"))


def _refuse(resp: Response, status: int, message: str) -> int:
    resp.status = status
    resp.data = body_json.write({"error": message})
    return status
