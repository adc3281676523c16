"""GET /tracker.js, /datafly.js, /apex.js, /pulsora.js and their source maps: for any site to load."""

from rest_facade.built_files import BuiltFile
from rest_facade.face import Face
from rest_facade.lean_falcon import Request, Response
from rest_facade.metrics import EndpointMetrics, Metrics

# A new release reaches every page within the hour.
_CACHE_CONTROL = "public, max-age=3600"
_HEADERS = {
    "Access-Control-Allow-Origin": "*",
    # Pages that isolate themselves load nothing from elsewhere without it.
    "Cross-Origin-Resource-Policy": "cross-origin",
}


class ScriptResource:
    """One file, the same for everybody."""

    allowed_methods = "GET, HEAD, OPTIONS"

    def __init__(self, face: Face, metrics: EndpointMetrics, file: BuiltFile) -> None:
        self.face = face
        self.metrics = metrics
        self._file = file

    async def on_get(self, req: Request, resp: Response) -> None:
        """Answer the file, or that the client's copy is still good."""
        self.metrics.count_answer(self._file.answer(req, resp))
        resp.set_header("X-Request-Id", self.face.read_caller(req).request_id)

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
            BuiltFile(name, _CACHE_CONTROL, _HEADERS),
        )
        for name in names
    }
