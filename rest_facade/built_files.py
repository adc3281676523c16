"""Files built from sdk/, for browsers; hides how they are cached and compressed.

Each is read once, when a worker starts.
"""

import gzip
import re
from collections.abc import Callable, Mapping
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

from rest_facade.lean_falcon import Request, Response
from rest_facade.metrics import EndpointMetrics

_BUILT = Path(__file__).parent / "browser"
_TYPES = {
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".svg": "image/svg+xml",
    ".map": "application/json",
}
_OTHER_TYPE = "text/plain; charset=utf-8"
# As one of the codings a client accepts, and not with the weight that says never.
_ACCEPTS_GZIP = re.compile(r"(?:^|,)\s*(?:x-)?gzip\s*(?:$|,|;(?!\s*q=0(?:\.0*)?\s*(?:$|,)))", re.IGNORECASE)


class _Variant(NamedTuple):
    """A file as it goes out."""

    content: bytes
    tag: str
    headers: dict[str, str]


class BuiltFile:
    """One file, the same for everybody."""

    def __init__(self, name: str, cache_control: str, headers: Mapping[str, str]) -> None:
        """Read a file of the build, to be sent with these headers. Raises OSError when it was not built."""
        content = (_BUILT / name).read_bytes()
        tag = sha256(content).hexdigest()[:32]
        common = {
            "Content-Type": _TYPES.get(Path(name).suffix, _OTHER_TYPE),
            "Cache-Control": cache_control,
            "Vary": "Accept-Encoding",
            "X-Content-Type-Options": "nosniff",
            **headers,
        }
        self._plain = _Variant(content, tag, {**common, "ETag": f'"{tag}"'})
        zipped = {**common, "ETag": f'"{tag}-gzip"', "Content-Encoding": "gzip"}
        self._gzipped = _Variant(gzip.compress(content, 9, mtime=0), f"{tag}-gzip", zipped)

    def answer(self, req: Request, resp: Response) -> int:
        """Answer the file, or that the client's copy is still good; give the status."""
        accepted = req.get_header("Accept-Encoding") or ""
        variant = self._gzipped if _ACCEPTS_GZIP.search(accepted) else self._plain
        resp.set_headers(variant.headers)
        if any(tag in {"*", variant.tag} for tag in req.if_none_match or ()):
            resp.status = 304
            return 304
        resp.data = variant.content
        return 200


class FileResource:
    """A file at its address."""

    allowed_methods = "GET, HEAD, OPTIONS"

    def __init__(
        self,
        file: BuiltFile,
        metrics: EndpointMetrics,
        read_request_id: Callable[[Request], str],
        admits: Callable[[Request, Response], bool] | None = None,
    ) -> None:
        """Give the file to all, or to those that `admits` is true of; it answers the others, 403."""
        self.metrics = metrics
        self._file = file
        self._read_request_id = read_request_id
        self._admits = admits

    async def on_get(self, req: Request, resp: Response) -> None:
        """Answer the file, or that the client's copy is still good."""
        resp.set_header("X-Request-Id", self._read_request_id(req))
        admitted = self._admits is None or self._admits(req, resp)
        self.metrics.count_answer(self._file.answer(req, resp) if admitted else 403)

    on_head = on_get

    async def on_options(self, req: Request, resp: Response) -> None:
        """Say which methods there are."""
        resp.status = 204
        resp.set_header("Allow", self.allowed_methods)
        resp.set_header("X-Request-Id", self._read_request_id(req))
        self.metrics.count_answer(204)
