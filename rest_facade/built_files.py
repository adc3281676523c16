"""Files built from sdk/, for browsers; hides how they are cached and compressed.

Each is read once, when a worker starts.
"""

import gzip
import re
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

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
