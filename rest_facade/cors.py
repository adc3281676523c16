"""Which CORS headers a dialect's answers carry.

Without them a browser takes an answer for a network failure, and an SDK repeats what it should drop.
"""

from rest_facade.vocabulary import Cors, Origins

Headers = tuple[tuple[str, str], ...]

# Browsers hide it from scripts otherwise.
_EXPOSE = ("Access-Control-Expose-Headers", "Retry-After")
# The longest Chromium keeps a preflight.
_MAX_AGE = ("Access-Control-Max-Age", "7200")


class CorsHeaders:
    """Gives the headers of one dialect, made beforehand as far as they can be."""

    def __init__(self, cors: Cors) -> None:
        self._cors = cors
        # Whether the core must be asked about an origin.
        self.asks_source = cors.origins is Origins.SOURCE
        self._methods = ("Access-Control-Allow-Methods", ", ".join(cors.methods))
        self._headers = ("Access-Control-Allow-Headers", ", ".join(cors.headers))
        self._always: Headers = (self._methods, self._headers) if cors.always else ()
        self._on_request = {name.lower(): name for name in cors.headers_on_request}
        self._any: Headers = (("Access-Control-Allow-Origin", "*"), *self._always, _EXPOSE)

    def for_answer(self, origin: str, allowed: bool) -> Headers:
        """Give the headers of an answer; `allowed` counts only where sources decide."""
        if self._cors.origins is Origins.ANY:
            return self._any
        if not origin or (self.asks_source and not allowed):
            return (_EXPOSE,)
        return (*_echo(origin), *self._always, _EXPOSE)

    def for_preflight(self, origin: str, requested_headers: str) -> Headers:
        """Give the headers of the 204 to a preflight from an allowed origin."""
        allow_origin = (
            (("Access-Control-Allow-Origin", "*"),) if self._cors.origins is Origins.ANY else _echo(origin)
        )
        return (*allow_origin, self._methods, self._allowed_headers(requested_headers), _MAX_AGE, _EXPOSE)

    def _allowed_headers(self, requested: str) -> tuple[str, str]:
        asked = {name.strip().lower() for name in requested.split(",")} if self._on_request else set()
        extra = [name for lower, name in self._on_request.items() if lower in asked]
        return ("Access-Control-Allow-Headers", ", ".join((*self._cors.headers, *extra)))


def _echo(origin: str) -> Headers:
    return (
        ("Access-Control-Allow-Origin", origin),
        ("Access-Control-Allow-Credentials", "true"),
        ("Vary", "Origin"),
    )
