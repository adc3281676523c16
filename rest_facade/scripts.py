"""GET /tracker.js, /datafly.js and their source maps: browser scripts, built from sdk/, for any site to load.

Hides how they are cached. The files are read once, when a worker starts.
"""

from hashlib import sha256
from pathlib import Path

from rest_facade.face import Face
from rest_facade.lean_falcon import Request, Response
from rest_facade.metrics import EndpointMetrics, Metrics

_BUILT = Path(__file__).parent / "browser"
_SCRIPT_TYPE = "text/javascript; charset=utf-8"
_MAP_TYPE = "application/json"


class ScriptResource:
    """One file, the same for everybody."""

    allowed_methods = "GET, HEAD, OPTIONS"

    def __init__(self, face: Face, metrics: EndpointMetrics, content: bytes, content_type: str) -> None:
        self.face = face
        self.metrics = metrics
        self._content = content
        self._etag = f'"{sha256(content).hexdigest()[:32]}"'
        self._headers = {
            "Content-Type": content_type,
            "ETag": self._etag,
            # A new release reaches every page within the hour.
            "Cache-Control": "public, max-age=3600",
            "X-Content-Type-Options": "nosniff",
            "Access-Control-Allow-Origin": "*",
            # Pages that isolate themselves load nothing from elsewhere without it.
            "Cross-Origin-Resource-Policy": "cross-origin",
        }

    async def on_get(self, req: Request, resp: Response) -> None:
        """Answer the file, or that the client's copy is still good."""
        resp.set_headers(self._headers)
        resp.set_header("X-Request-Id", self.face.read_caller(req).request_id)
        held = req.if_none_match or ()
        if any(tag in {"*", self._etag[1:-1]} for tag in held):
            resp.status = 304
        else:
            resp.data = self._content
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
