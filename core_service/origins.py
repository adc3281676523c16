"""Which browser origins a source lets in; hides how an origin is compared with an entry.

Scheme, host and port are compared exactly; an entry may also be a bare host (any scheme, any port) or
`*.example.com` (any host below it). `null` never matches.
"""

import re
from collections.abc import Iterable
from typing import NamedTuple

_HOST = r"(?:\[[0-9a-f:.]+\]|[a-z0-9_](?:[a-z0-9_-]*[a-z0-9_])?(?:\.[a-z0-9_](?:[a-z0-9_-]*[a-z0-9_])?)*)"
_ORIGIN = re.compile(rf"([a-z][a-z0-9+.-]*)://({_HOST})(?::([0-9]{{1,5}}))?", re.ASCII)
_BARE_HOST = re.compile(_HOST, re.ASCII)
_DEFAULT_PORTS = {"http": "80", "https": "443"}
_LOCAL_HOSTS = frozenset({"localhost", "127.0.0.1", "[::1]"})
_HOST_MAX_LENGTH = 253
# The longest origin worth reading: a scheme, a host name at its limit, a port.
_ORIGIN_MAX_LENGTH = 300


class Origin(NamedTuple):
    """A parsed origin; the scheme's own port stands as ""."""

    scheme: str
    host: str
    port: str


def parse_origin(text: str) -> Origin | None:
    """Read `scheme://host[:port]`; None when it is not that."""
    if len(text) > _ORIGIN_MAX_LENGTH:
        return None
    match = _ORIGIN.fullmatch(text.lower())
    if match is None or len(match[2]) > _HOST_MAX_LENGTH:
        return None
    scheme, host, port = match[1], match[2], match[3] or ""
    return Origin(scheme, host, "" if port == _DEFAULT_PORTS.get(scheme) else port)


def normalize_entry(entry: str) -> str | None:
    """Give a source's origin entry in its stored form; None when it is none of the three forms."""
    text = entry.strip().lower()
    if text == "null" or len(text) > _ORIGIN_MAX_LENGTH:
        return None
    host = text.removeprefix("*.")
    if _BARE_HOST.fullmatch(host):
        return text
    return text if "://" in text and parse_origin(text) is not None else None


class OriginRules:
    """The compiled entries of one or more sources."""

    __slots__ = ("_exact", "_hosts", "_localhost", "_suffixes")

    def __init__(self, entries: Iterable[str], *, localhost: bool = False) -> None:
        """Compile `entries`; `localhost` lets local origins in besides. What can't be read never matches."""
        exact, hosts, suffixes = set(), set(), set()
        for entry in entries:
            text = entry.strip().lower()
            if text.startswith("*."):
                suffixes.add(text[1:])
            elif "://" not in text:
                hosts.add(text)
            elif (origin := parse_origin(text)) is not None:
                exact.add(origin)
        self._exact = frozenset(exact)
        self._hosts = frozenset(hosts - {"null", ""})
        self._suffixes = tuple(suffixes)
        self._localhost = localhost

    def allow(self, text: str) -> bool:
        """Tell whether the Origin header `text` is let in."""
        origin = parse_origin(text)
        if origin is None:
            return False
        if origin in self._exact or origin.host in self._hosts:
            return True
        if self._suffixes and origin.host.endswith(self._suffixes):
            return True
        return self._localhost and (origin.host in _LOCAL_HOSTS or origin.host.endswith(".localhost"))
