"""Which CORS headers a dialect's answers carry.

Without them a browser takes an answer for a network failure, and an SDK repeats what it should drop.
"""

from collections.abc import Mapping

from rest_facade.vocabulary import Cors, Origins

Headers = Mapping[str, str]
"""By lower-case name."""

# Browsers hide it from scripts otherwise.
_EXPOSE: Headers = {"access-control-expose-headers": "Retry-After"}
# The longest Chromium keeps a preflight.
_MAX_AGE: Headers = {"access-control-max-age": "7200"}


class CorsHeaders:
    """Gives the headers of one dialect, made beforehand as far as they can be."""

    def __init__(self, cors: Cors) -> None:
        self._cors = cors
        # Whether the core must be asked about an origin.
        self.asks_source = cors.origins is Origins.SOURCE
        self._methods = {"access-control-allow-methods": ", ".join(cors.methods)}
        self._on_request = {name.lower(): name for name in cors.headers_on_request}
        self._always: Headers = {**self._methods, **self._allowed_headers("")} if cors.always else {}
        self._any: Headers = {"access-control-allow-origin": "*", **self._always, **_EXPOSE}

    def for_answer(self, origin: str, allowed: bool) -> Headers:
        """Give the headers of an answer; `allowed` counts only where sources decide."""
        if self._cors.origins is Origins.ANY:
            return self._any
        if not origin or (self.asks_source and not allowed):
            return _EXPOSE
        return {**_echo(origin), **self._always, **_EXPOSE}

    def for_preflight(self, origin: str, requested_headers: str, methods: str) -> Headers:
        """Give the headers of the 204 to a preflight from an allowed origin; `methods` are the path's."""
        allow_origin = self._any if self._cors.origins is Origins.ANY else _echo(origin)
        allowed_headers = self._allowed_headers(requested_headers)
        allow_methods = {"access-control-allow-methods": methods}
        return {**allow_origin, **allow_methods, **allowed_headers, **_MAX_AGE, **_EXPOSE}

    def _allowed_headers(self, requested: str) -> Headers:
        asked = {name.strip().lower() for name in requested.split(",")} if self._on_request else set()
        extra = [name for lower, name in self._on_request.items() if lower in asked]
        return {"access-control-allow-headers": ", ".join((*self._cors.headers, *extra))}


def _echo(origin: str) -> Headers:
    return {
        "access-control-allow-origin": origin,
        "access-control-allow-credentials": "true",
        "vary": "Origin",
    }
