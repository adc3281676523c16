"""What a request's head says of the one who sent it, read once from the ASGI scope."""

import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from uuid_utils import uuid7

from rest_facade.address import AddressBook

_REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")


class Caller(NamedTuple):
    """Who asks."""

    # Lower-case names; repeated ones joined.
    headers: Mapping[str, str]
    client_ip: str
    # The client's X-Request-Id, or a new one.
    request_id: str
    # "" when it has none.
    origin: str
    # Under which name the client reached the facade; "" when neither origin nor cookie makes it matter.
    own_origin: str


def read_caller(scope: Mapping[str, Any], addresses: AddressBook, *, needs_own_origin: bool) -> Caller:
    """Read an ASGI scope."""
    headers = _headers(scope["headers"])
    client = scope.get("client")
    peer = client[0] if client else ""
    asked_id = headers.get("x-request-id")
    return Caller(
        headers=headers,
        client_ip=addresses.client_ip(peer, headers),
        request_id=asked_id if asked_id and _REQUEST_ID.fullmatch(asked_id) else str(uuid7()),
        origin=headers.get("origin", ""),
        own_origin=addresses.own_origin(peer, scope["scheme"], headers) if needs_own_origin else "",
    )


def _headers(raw: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
    headers: dict[str, str] = {}
    for raw_name, raw_value in raw:
        name = raw_name.decode("latin-1")
        value = raw_value.decode("latin-1")
        if name in headers:
            value = headers[name] + ("; " if name == "cookie" else ", ") + value
        headers[name] = value
    return headers
