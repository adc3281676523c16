"""What a request's head says of the one who sent it, read once from the ASGI scope."""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec
from uuid_utils import uuid7

from rest_facade.address import AddressBook

_REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")


class Headers(Mapping[str, str]):
    """Headers by lower-case name, repeated ones joined. Decoded when asked for: most never are."""

    __slots__ = ("raw",)

    def __init__(self, raw: Sequence[tuple[bytes, bytes]]) -> None:
        self.raw = dict(raw)
        if len(self.raw) < len(raw):
            self.raw = _joined(raw)

    def __getitem__(self, name: str) -> str:
        return self.raw[name.encode()].decode("latin-1")

    def get(self, name: str, default: Any = None) -> Any:
        """Give a header, or the default: the parent's way by an exception costs ten times as much."""
        value = self.raw.get(name.encode())
        return default if value is None else value.decode("latin-1")

    def __iter__(self) -> Iterator[str]:
        return (name.decode("latin-1") for name in self.raw)

    def __len__(self) -> int:
        return len(self.raw)


class Caller(msgspec.Struct, frozen=True):
    """Who asks."""

    headers: Headers
    client_ip: str
    # The client's X-Request-Id, or a new one.
    request_id: str
    # "" when it has none.
    origin: str
    # Under which name the client reached the facade; "" when neither origin nor cookie makes it matter.
    own_origin: str


def read_caller(scope: Mapping[str, Any], addresses: AddressBook, *, needs_own_origin: bool) -> Caller:
    """Read an ASGI scope."""
    headers = Headers(scope["headers"])
    client = scope.get("client")
    peer = client[0] if client else ""
    asked_id = headers.get("x-request-id")
    return Caller(
        headers,
        addresses.client_ip(peer, headers),
        sane_request_id(asked_id),
        headers.get("origin", ""),
        addresses.own_origin(peer, scope["scheme"], headers) if needs_own_origin else "",
    )


def sane_request_id(asked_id: str | None) -> str:
    """Give the client's own id for its request, if it gave a sane one; else a new one."""
    return asked_id if asked_id and _REQUEST_ID.fullmatch(asked_id) else str(uuid7())


def _joined(raw: Sequence[tuple[bytes, bytes]]) -> dict[bytes, bytes]:
    headers: dict[bytes, bytes] = {}
    for name, value in raw:
        headers[name] = headers[name] + _separator(name) + value if name in headers else value
    return headers


def _separator(name: bytes) -> bytes:
    return b"; " if name == b"cookie" else b", "
