"""Falcon, without what nobody here asks it for.

What is left out is measured: together 27,000 of the 60,000 instructions Falcon takes for a small request.
"""

from collections.abc import Awaitable
from typing import Any

from falcon import asgi
from falcon.routing import CompiledRouter
from falcon.uri import parse_query_string

from rest_facade.body import Receive
from rest_facade.caller import Headers

_RECEIVE = "polylect.receive"
_PRINTABLE_ASCII = bytes(range(0x21, 0x7F))


class Request(asgi.Request):
    """Falcon's request, which copies no headers, and leaves the body to `receive`."""

    __slots__ = ("receive",)

    def __init__(
        self, scope: dict[str, Any], receive: Any, first_event: Any = None, options: Any = None
    ) -> None:
        # The server's own. Left in the scope it would hold the request's objects in a circle, for the garbage
        # collector to find: a fifth of all work.
        self.receive: Receive = scope.pop(_RECEIVE)
        self.scope = scope
        self.options = options
        self.is_websocket = False
        self.method = scope["method"]
        self.path = scope["path"] or "/"
        self.uri_template = None
        self.query_string = ""
        self._params = {}
        if query := scope["query_string"]:
            self.query_string = (query if query.isascii() else _percent_encoded(query)).decode()
            self._params = parse_query_string(
                self.query_string, options.keep_blank_qs_values, options.auto_parse_qs_csv
            )

    def last_of_each(self) -> dict[str, str]:
        """Give the query's parameters; of one that was repeated the last."""
        return {name: value if isinstance(value, str) else value[-1] for name, value in self._params.items()}

    @property
    def _asgi_headers(self) -> dict[bytes, bytes]:  # type: ignore[override]
        return Headers(self.scope["headers"]).raw


class Response(asgi.Response):
    """Falcon's response, with a way to set all headers that costs nothing for each."""

    __slots__ = ()

    def take_headers(self, headers: dict[str, str]) -> None:
        """Send these headers, by lower-case name, and forget those set before."""
        self._headers = headers

    def whole(self, media_type: str) -> tuple[list[tuple[bytes, bytes]], bytes]:
        """Give the headers, with the length, and the body: `data`, as nothing else is looked at."""
        assert self.text is self._media is self.stream is None
        body = self._data or b""
        self._headers["content-length"] = str(len(body))
        return self._asgi_headers(media_type), body


class _Router(CompiledRouter):
    """Falcon's router, which finds a path it has found before by one look-up."""

    def __init__(self) -> None:
        super().__init__()
        # No more than there are routes.
        self._found: dict[str, Any] = {}

    def find(self, uri: str, req: Any = None) -> Any:
        """Find the route of a path."""
        route = self._found.get(uri)
        if route is None:
            route = super().find(uri, req)
            if route is not None and route[3] == uri:
                self._found[uri] = route
        return route


class App(asgi.App[Request, Response]):
    """Falcon, but for the moment it waits for the body, and what it does around a POST.

    A POST has a responder, error handlers, and an answer in bytes: no middleware, stream or callback.
    """

    def __init__(self, middleware: Any) -> None:
        super().__init__(
            request_type=Request, response_type=Response, middleware=[middleware], router=_Router()
        )

    def __call__(  # type: ignore[override]
        self, scope: dict[str, Any], receive: Receive, send: Any
    ) -> Awaitable[None]:
        """Serve one ASGI scope. No coroutine of its own, for a frame less to resume."""
        if scope["type"] != "http":
            return super().__call__(scope, receive, send)
        scope[_RECEIVE] = receive
        if scope["method"] == "POST":
            return self._take(scope, send)
        # Falcon awaits the first part of the body before it looks at the path: without deadline, and a client
        # that sent `Expect: 100-continue` is told to go on whatever it announced.
        return super().__call__(scope, _nothing_yet, send)

    async def _take(self, scope: dict[str, Any], send: Any) -> None:
        """Serve a POST."""
        request = Request(scope, None, options=self.req_options)
        response = Response(options=self.resp_options)
        try:
            responder: Any
            responder, params, _, request.uri_template = self._get_responder(request)
            await responder(request, response, **params)
        except Exception as error:
            if not await self._handle_exception(request, response, error, {}):
                raise
        headers, body = response.whole(self.resp_options.default_media_type)
        await send({"type": "http.response.start", "status": response.status_code, "headers": headers})
        await send({"type": "http.response.body", "body": body})


async def _nothing_yet() -> dict[str, Any]:
    return {"type": "http.request", "body": b"", "more_body": True}


def _percent_encoded(raw: bytes) -> bytes:
    return b"".join(bytes((octet,)) if octet in _PRINTABLE_ASCII else b"%%%02X" % octet for octet in raw)
