"""GET /tracker.js, /datafly.js, /apex.js, /pulsora.js and their source maps: for any site to load."""

from rest_facade.built_files import BuiltFile, FileResource
from rest_facade.face import Face
from rest_facade.metrics import EndpointMetrics, Metrics

# A new release reaches every page within the hour.
_CACHE_CONTROL = "public, max-age=3600"
_HEADERS = {
    "Access-Control-Allow-Origin": "*",
    # Pages that isolate themselves load nothing from elsewhere without it.
    "Cross-Origin-Resource-Policy": "cross-origin",
}


class ScriptResource(FileResource):
    """A file of a dialect: what else is asked of its address is refused in the dialect's words."""

    def __init__(self, face: Face, file: BuiltFile, metrics: EndpointMetrics) -> None:
        super().__init__(file, metrics, lambda req: face.read_caller(req).request_id)
        self.face = face


def script_routes(face: Face, metrics: Metrics) -> dict[str, ScriptResource]:
    """Give the routes of a dialect's scripts. Raises OSError when one was not built."""
    names = [name for script in face.dialect.scripts for name in (script, f"{script}.map")]
    return {
        f"/{name}": ScriptResource(
            face,
            BuiltFile(name, _CACHE_CONTROL, _HEADERS),
            metrics.of(face.dialect.name, f"/{name}"),
        )
        for name in names
    }
