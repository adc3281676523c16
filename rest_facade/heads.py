"""What heads say: of the address of a request, of offers, and in an answer to what is no request."""

from collections.abc import Iterable
from typing import Any
from urllib.parse import unquote

import httptools
from uvicorn.protocols.http.httptools_impl import STATUS_LINE

_TEXTS = {400: b"Bad request", 431: b"Request head too large", 503: b"Too many connections"}
# What an offer of another protocol consists of, and what else Connection may say.
_OFFERING = frozenset((b"upgrade", b"http2-settings"))
_KEEPING = frozenset((b"close", b"keep-alive"))


def refusal(status: int, request_id: str) -> bytes:
    """Give an answer in no dialect's words, after which the connection ends; `status` 400, 431 or 503."""
    body = b'{"error":"%s"}' % _TEXTS[status]
    lines = [
        b"content-type: application/json",
        b"x-request-id: %s" % request_id.encode(),
        b"content-length: %d" % len(body),
        b"connection: close",
    ]
    if status == 503:
        lines.append(b"retry-after: 1")
    return STATUS_LINE[status] + b"\r\n".join([*lines, b"", body])


def without_offer(method: bytes, url: bytes, headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Give a head as if no other protocol had been offered; header names are in lower case."""
    lines = [b"%s %s HTTP/1.1" % (method, url)]
    for name, value in headers:
        if name == b"connection":
            options = [option.strip() for option in value.lower().split(b",")]
            kept = b", ".join(option for option in options if option in _KEEPING)
            lines.append(b"connection: " + (kept or b"keep-alive"))
        elif name not in _OFFERING:
            lines.append(b"%s: %s" % (name, value))
    return b"\r\n".join([*lines, b"", b""])


def taken_apart(url: bytes) -> dict[str, Any]:
    """Give what an ASGI scope has of an address. Raises httptools' HttpParserInvalidURLError."""
    parsed = httptools.parse_url(url)
    path = parsed.path.decode("ascii")
    return {
        "path": unquote(path) if "%" in path else path,
        "raw_path": parsed.path,
        "query_string": parsed.query or b"",
    }
