"""Who calls; hides how `authorization` metadata is read and compared.

A caller is the admin, the facade, or the holder of a client key. The first two have tokens the operator set.
"""

from collections.abc import Callable, Iterable
from datetime import datetime
from hmac import compare_digest
from typing import Any, NamedTuple, TypeAlias, cast
from urllib.parse import unquote

import grpc
from polylect.v1 import error_reason_pb2 as reasons
from uuid_utils import uuid7

from core_service.errors import INVALID_CREDENTIAL, MISSING_CREDENTIAL, CoreError
from core_service.keys import KeyEntry, KeyRing

_REQUEST_ID_CHARACTERS = 128

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any] | KnownContext"
Metadata = Iterable[tuple[str, str | bytes]]


class Caller(NamedTuple):
    """Exactly one of the three is true or set."""

    is_admin: bool
    is_facade: bool
    key: KeyEntry | None


class KnownContext:
    """A call's context whose metadata were read once; all else it has from that."""

    __slots__ = ("_context", "_metadata", "token")

    def __init__(self, context: Context) -> None:
        """Read the metadata."""
        self._context = context
        self._metadata = cast("Metadata", context.invocation_metadata() or ())
        self.token = _bearer(self._metadata)

    def invocation_metadata(self) -> Metadata:
        """Give what was read."""
        return self._metadata

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)


class Callers:
    """Tells callers apart and holds them to their role."""

    def __init__(
        self, keys: KeyRing, clock: Callable[[], datetime], *, admin_token: str, facade_token: str
    ) -> None:
        """Know both roles' tokens; an empty one is nobody's."""
        self._keys = keys
        self._clock = clock
        self._admin_token = admin_token.encode()
        self._facade_token = facade_token.encode()

    def key_of(self, secret: str) -> KeyEntry:
        """Give the valid key of that secret. Raises CoreError."""
        key = self._keys.find(secret, self._clock().timestamp())
        if key is None:
            raise CoreError(*INVALID_CREDENTIAL[:2])
        return key

    def source_id_of(self, context: Context) -> str:
        """Give the source the call's key belongs to; "" when it has no valid one."""
        return self._keys.source_id_of(bearer_token(context), self._clock().timestamp())

    def is_facade(self, metadata: Metadata) -> bool:
        """Tell whether a call with that metadata is the facade's."""
        return _same(_bearer(metadata), self._facade_token)

    def admit(self, context: Context) -> tuple[KnownContext, Caller]:
        """Give the context of a call with a valid credential, its metadata read once for all, and whose.

        A credential may end while the call goes on, so who asks for the caller again finds that anew. Raises
        CoreError.
        """
        known = KnownContext(context)
        return known, self._resolve(known)

    def require_admin(self, context: Context) -> None:
        """Raise CoreError unless the admin calls."""
        if not self._resolve(context).is_admin:
            raise _forbidden("This call needs the admin credential")

    def require_facade(self, context: Context) -> None:
        """Raise CoreError unless the facade calls."""
        # The one hot call: no look at the keys when the token is right.
        if not _same(bearer_token(context), self._facade_token) and not self._resolve(context).is_facade:
            raise _forbidden("This call needs the facade's credential")

    def require_facade_or_admin(self, context: Context) -> None:
        """Raise CoreError unless one of the two calls."""
        caller = self._resolve(context)
        if not caller.is_facade and not caller.is_admin:
            raise _forbidden("This call needs the facade's or the admin credential")

    def require_key(self, context: Context) -> KeyEntry:
        """Give the calling key. Raises CoreError."""
        key = self._resolve(context).key
        if key is None:
            raise _forbidden("This call needs the key of a source")
        return key

    def require_admin_or_key(self, context: Context) -> KeyEntry | None:
        """Give the calling key; None when the admin calls. Raises CoreError."""
        caller = self._resolve(context)
        if caller.is_facade:
            raise _forbidden("This call needs the admin credential or a key")
        return caller.key

    def _resolve(self, context: Context) -> Caller:
        token = bearer_token(context)
        if not token:
            raise CoreError(*MISSING_CREDENTIAL[:2])
        is_admin = _same(token, self._admin_token)
        is_facade = _same(token, self._facade_token)
        if is_admin or is_facade:
            return Caller(is_admin, not is_admin, None)
        return Caller(False, False, self.key_of(token))


def require_scope(key: KeyEntry | None, scope: str) -> None:
    """Raise CoreError unless the key has the scope; None is the admin, who has all."""
    if key is not None and not key.allows(scope):
        raise _forbidden(f"The key lacks the scope {scope}")


def bearer_token(context: Context) -> str:
    """Give what follows Bearer in the call's `authorization`; "" when there is none."""
    if isinstance(context, KnownContext):
        return context.token
    return _bearer(cast("Metadata", context.invocation_metadata() or ()))


def metadata_value(context: Context, name: str) -> str:
    """Give the first value of that name; "" when there is none."""
    return _first(cast("Metadata", context.invocation_metadata() or ()), name)


def request_id_of(context: Context) -> str:
    """Give the caller's own request id; a new one when it gave none."""
    return given_request_id(context) or str(uuid7())


def given_request_id(context: Context) -> str:
    """Give the caller's own request id; "" when it gave none."""
    return metadata_value(context, "x-request-id")[:_REQUEST_ID_CHARACTERS]


def client_ip_of(context: Context) -> str:
    """Give the address a call comes from; "" when it has none, as over a socket file."""
    kind, _, address = context.peer().partition(":")
    if kind not in ("ipv4", "ipv6"):
        return ""
    return unquote(address.rpartition(":")[0]).strip("[]")


def _bearer(metadata: Metadata) -> str:
    scheme, _, token = _first(metadata, "authorization").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""


def _first(metadata: Metadata, name: str) -> str:
    for key, value in metadata:
        if key == name:
            return value if isinstance(value, str) else value.decode("latin-1")
    return ""


def _same(token: str, expected: bytes) -> bool:
    return bool(expected) and compare_digest(token.encode(), expected)


def _forbidden(message: str) -> CoreError:
    return CoreError(reasons.ERROR_REASON_SCOPE_MISSING, message)
