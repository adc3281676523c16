"""GET /tracker.js, /datafly.js, /apex.js, /pulsora.js and their source maps: built from sdk/, for any site.

Hides how they are cached and compressed. The files are read once, when a worker starts.
"""

import gzip
import re
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

from rest_facade.face import Face
from rest_facade.lean_falcon import Request, Response
from rest_facade.metrics import EndpointMetrics, Metrics

_BUILT = Path(__file__).parent / "browser"
_SCRIPT_TYPE = "text/javascript; charset=utf-8"
_MAP_TYPE = "application/json"
# As one of the codings a client accepts, and not with the weight that says never.
_ACCEPTS_GZIP = re.compile(r"(?:^|,)\s*(?:x-)?gzip\s*(?:$|,|;(?!\s*q=0(?:\.0*)?\s*(?:$|,)))", re.IGNORECASE)


class _Variant(NamedTuple):
    """A file as it goes out."""

    content: bytes
    tag: str
    headers: dict[str, str]


class ScriptResource:
    """One file, the same for everybody."""

    allowed_methods = "GET, HEAD, OPTIONS"

    def __init__(self, face: Face, metrics: EndpointMetrics, content: bytes, content_type: str) -> None:
        self.face = face
        self.metrics = metrics
        tag = sha256(content).hexdigest()[:32]
        headers = {
            "Content-Type": content_type,
            # A new release reaches every page within the hour.
            "Cache-Control": "public, max-age=3600",
            "Vary": "Accept-Encoding",
            "X-Content-Type-Options": "nosniff",
            "Access-Control-Allow-Origin": "*",
            # Pages that isolate themselves load nothing from elsewhere without it.
            "Cross-Origin-Resource-Policy": "cross-origin",
        }
        self._plain = _Variant(content, tag, {**headers, "ETag": f'"{tag}"'})
        zipped = {**headers, "ETag": f'"{tag}-gzip"', "Content-Encoding": "gzip"}
        self._gzipped = _Variant(gzip.compress(content, 9, mtime=0), f"{tag}-gzip", zipped)

    async def on_get(self, req: Request, resp: Response) -> None:
        """Answer the file, or that the client's copy is still good."""
        accepted = req.get_header("Accept-Encoding") or ""
        variant = self._gzipped if _ACCEPTS_GZIP.search(accepted) else self._plain
        resp.set_headers(variant.headers)
        resp.set_header("X-Request-Id", self.face.read_caller(req).request_id)
        held = req.if_none_match or ()
        if any(tag in {"*", variant.tag} for tag in held):
            resp.status = 304
        else:
            resp.data = variant.content
        self.metrics.count_answer(304 if resp.data is None else 200)

    on_head = on_get

    async def on_options(self, req: Request, resp: Response) -> None:
        """Say which methods there are."""
        resp.status = 204
        resp.set_header("Allow", self.allowed_methods)
        resp.set_header("X-Request-Id", self.face.read_caller(req).request_id)
        self.metrics.count_answer(204)


def script_routes(face: Face, metrics: Metrics) -> dict[str, ScriptResource]:
    """Give the routes of a dialect's scripts. Raises OSError when one was not built."""
    names = [name for script in face.dialect.scripts for name in (script, f"{script}.map")]
    return {
        f"/{name}": ScriptResource(
            face,
            metrics.of(face.dialect.name, f"/{name}"),
            (_BUILT / name).read_bytes(),
            _MAP_TYPE if name.endswith(".map") else _SCRIPT_TYPE,
        )
        for name in names
    }
