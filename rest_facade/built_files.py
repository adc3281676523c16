"""Files built from sdk/, for browsers; hides how they are cached. Each is read once, when a worker starts."""

from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path

from rest_facade.lean_falcon import Request, Response

_BUILT = Path(__file__).parent / "browser"
_TYPES = {
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".svg": "image/svg+xml",
    ".map": "application/json",
}
_OTHER_TYPE = "text/plain; charset=utf-8"


class BuiltFile:
    """One file, the same for everybody."""

    def __init__(self, name: str, cache_control: str, headers: Mapping[str, str]) -> None:
        """Read a file of the build, to be sent with these headers. Raises OSError when it was not built."""
        self._content = (_BUILT / name).read_bytes()
        self._etag = f'"{sha256(self._content).hexdigest()[:32]}"'
        self._headers = {
            "Content-Type": _TYPES.get(Path(name).suffix, _OTHER_TYPE),
            "ETag": self._etag,
            "Cache-Control": cache_control,
            "X-Content-Type-Options": "nosniff",
            **headers,
        }

    def answer(self, req: Request, resp: Response) -> int:
        """Answer the file, or that the client's copy is still good; give the status."""
        resp.set_headers(self._headers)
        if any(tag in {"*", self._etag[1:-1]} for tag in req.if_none_match or ()):
            resp.status = 304
            return 304
        resp.data = self._content
        return 200
