"""SourceService: administers sources and keys; hides how secrets are made and which settings are acceptable.

A change is effective here when the answer leaves, and in every other core as soon as the store tells it.
"""

import re
import secrets
import string
from collections.abc import Callable, Iterable
from datetime import datetime, timedelta
from hashlib import sha256
from uuid import UUID

import structlog
from google.protobuf.timestamp_pb2 import Timestamp
from polylect.v1 import error_reason_pb2 as reasons
from polylect.v1 import ingest_pb2, source_pb2
from polylect.v1.source_pb2 import Key, Source, SourceRateLimit, UpdateSourceRequest
from polylect.v1.source_pb2_grpc import SourceServiceServicer
from uuid_utils import uuid7

from core_service.callers import Callers, Context
from core_service.errors import CoreError, no_source
from core_service.keys import KeyRing
from core_service.moments import timestamp_of
from core_service.origins import normalize_entry
from core_service.ports import SourceStore

_WRITE = ("events:write",)
_SECRET = ("events:write", "revenue:write", "events:read", "stats:read")
# Prefix of the secret, and scopes, as documented at KeyKind.
_KINDS = {
    ingest_pb2.KEY_KIND_PULSORA_PUBLIC: ("pub_", _WRITE),
    ingest_pb2.KEY_KIND_PULSORA_SECRET: ("sec_", _SECRET),
    ingest_pb2.KEY_KIND_PULSE: ("pulse_prod_", ("events:write", "stats:read")),
    ingest_pb2.KEY_KIND_APEX: ("pk_live_", _WRITE),
    ingest_pb2.KEY_KIND_DATAFLY: ("dk_live_", _WRITE),
    ingest_pb2.KEY_KIND_SERVICE: ("svc_", _SECRET),
}
_SCOPES = frozenset({*_SECRET, "admin"})
_VENDOR_COOKIES = ("_ga", "_fbp", "_fbc", "_ttp", "_pin_unauth", "_scid")

_SECRET_LENGTH = 32
_SECRET_ALPHABET = string.ascii_letters + string.digits
_HINT_LENGTH = 4
_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}", re.ASCII)
_DOMAIN = re.compile(
    r"\.?(?:[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\.)*[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?", re.ASCII
)
_DOMAIN_LENGTH = 253
_SITE_LENGTH = 64
_LIST_LENGTH = 1_000
_MAX_LIMIT = 2**31 - 1
_MAX_WINDOW_SECONDS = 86_400
_DEFAULT_OVERLAP = timedelta(hours=24)
_MAX_OVERLAP_SECONDS = 30 * 86_400

log = structlog.get_logger()


class SourceServicer(SourceServiceServicer):
    """Administers sources and keys."""

    def __init__(
        self, callers: Callers, store: SourceStore, keys: KeyRing, clock: Callable[[], datetime]
    ) -> None:
        """Write to `store`, and have `keys` hear of it at once."""
        self._callers = callers
        self._store = store
        self._keys = keys
        self._clock = clock

    async def CreateSource(  # noqa: N802 - the proto's name
        self, request: source_pb2.CreateSourceRequest, context: Context
    ) -> source_pb2.CreateSourceResponse:
        """Make a source."""
        self._callers.require_admin(context)
        if not _NAME.fullmatch(request.name) or _is_uuid(request.name):
            raise _bad("name", "A name has 1 to 64 of a–z, A–Z, 0–9, dot, dash, underscore, and is no UUID")
        now = timestamp_of(self._clock())
        source = Source(source_id=str(uuid7()), name=request.name, enabled=True, created_at=now)
        if not await self._store.create_source(source):
            message = f"There is a source {request.name!r} already"
            raise CoreError(reasons.ERROR_REASON_ALREADY_EXISTS, message, field="name")
        await self._apply(source.source_id)
        return source_pb2.CreateSourceResponse(source=source)

    async def GetSource(  # noqa: N802 - the proto's name
        self, request: source_pb2.GetSourceRequest, context: Context
    ) -> source_pb2.GetSourceResponse:
        """Give one source."""
        self._callers.require_admin(context)
        return source_pb2.GetSourceResponse(source=await self._source(request.source))

    async def ListSources(  # noqa: N802 - the proto's name
        self, request: source_pb2.ListSourcesRequest, context: Context
    ) -> source_pb2.ListSourcesResponse:
        """Give all sources by name."""
        self._callers.require_admin(context)
        sources = [stored.source for stored in await self._store.load_sources()]
        return source_pb2.ListSourcesResponse(sources=sorted(sources, key=lambda source: source.name))

    async def UpdateSource(  # noqa: N802 - the proto's name
        self, request: UpdateSourceRequest, context: Context
    ) -> source_pb2.UpdateSourceResponse:
        """Change the settings that are given."""
        self._callers.require_admin(context)
        known = await self._source(request.source)
        source = await self._store.update_source(known.source_id, _normalized(request))
        if source is None:
            raise no_source(request.source)
        await self._apply(source.source_id)
        return source_pb2.UpdateSourceResponse(source=source)

    async def CreateKey(  # noqa: N802 - the proto's name
        self, request: source_pb2.CreateKeyRequest, context: Context
    ) -> source_pb2.CreateKeyResponse:
        """Make a key."""
        self._callers.require_admin(context)
        if request.kind not in _KINDS:
            raise _bad("kind", "A key needs a kind")
        _check_scopes_and_sites(request)
        source = await self._source(request.source)
        sites = list(dict.fromkeys(request.sites))
        if request.kind == ingest_pb2.KEY_KIND_PULSE and not sites:
            sites = [source.name]
        scopes = list(dict.fromkeys(request.scopes)) or list(_KINDS[request.kind][1])
        key = Key(source_id=source.source_id, kind=request.kind, scopes=scopes, sites=sites)
        secret = self._mint(key)
        await self._store.create_key(key, _hash(secret))
        await self._apply(key.source_id)
        return source_pb2.CreateKeyResponse(key=key, secret=secret)

    async def ListKeys(  # noqa: N802 - the proto's name
        self, request: source_pb2.ListKeysRequest, context: Context
    ) -> source_pb2.ListKeysResponse:
        """Give the keys of a source, newest first."""
        self._callers.require_admin(context)
        source = await self._source(request.source)
        return source_pb2.ListKeysResponse(keys=await self._store.list_keys(source.source_id))

    async def RotateKey(  # noqa: N802 - the proto's name
        self, request: source_pb2.RotateKeyRequest, context: Context
    ) -> source_pb2.RotateKeyResponse:
        """Replace a key, the old one staying valid for a while."""
        self._callers.require_admin(context)
        overlap = _DEFAULT_OVERLAP
        if request.HasField("overlap"):
            if not 0 <= request.overlap.seconds <= _MAX_OVERLAP_SECONDS or request.overlap.nanos < 0:
                raise _bad("overlap", "The overlap is at most 30 days, and not negative")
            overlap = timedelta(seconds=request.overlap.seconds, microseconds=request.overlap.nanos // 1_000)
        now = self._clock()
        old = await self._key(request.key_id)
        _check_endless(old, now)
        key = Key(source_id=old.source_id, kind=old.kind, scopes=old.scopes, sites=old.sites)
        secret = self._mint(key)
        ended = await self._store.replace_key(old.key_id, key, _hash(secret), expires_at=now + overlap)
        if ended is None:
            # Somebody else was faster.
            _check_endless(await self._key(old.key_id), now)
            raise _no_key(old.key_id)
        await self._apply(key.source_id)
        return source_pb2.RotateKeyResponse(key=key, secret=secret, old_key=ended)

    async def RevokeKey(  # noqa: N802 - the proto's name
        self, request: source_pb2.RevokeKeyRequest, context: Context
    ) -> source_pb2.RevokeKeyResponse:
        """End a key now."""
        self._callers.require_admin(context)
        now = self._clock()
        key = await self._store.revoke_key(request.key_id, now)
        if key is None:
            raise _no_key(request.key_id)
        await self._apply(key.source_id)
        return source_pb2.RevokeKeyResponse(key=key, already_revoked=key.revoked_at != timestamp_of(now))

    async def CheckOrigin(  # noqa: N802 - the proto's name
        self, request: source_pb2.CheckOriginRequest, context: Context
    ) -> source_pb2.CheckOriginResponse:
        """Tell whether any enabled source lists the origin."""
        self._callers.require_facade_or_admin(context)
        return source_pb2.CheckOriginResponse(allowed=self._keys.any_source_allows(request.origin))

    async def _apply(self, source_id: str) -> None:
        try:
            await self._keys.reload(source_id)
        except ConnectionError as error:
            # The change is made, and a new secret must still be told; the listener brings it.
            log.warning("change_not_yet_effective", source_id=source_id, error=str(error))

    async def _source(self, name_or_id: str) -> Source:
        source = await self._store.find_source(name_or_id)
        if source is None:
            raise no_source(name_or_id)
        return source

    async def _key(self, key_id: str) -> Key:
        key = await self._store.find_key(key_id)
        if key is None:
            raise _no_key(key_id)
        return key

    def _mint(self, key: Key) -> str:
        """Give `key` its id, hint and time of making; give its secret."""
        prefix = _KINDS[key.kind][0]
        secret = prefix + "".join(secrets.choice(_SECRET_ALPHABET) for _ in range(_SECRET_LENGTH))
        key.key_id = str(uuid7())
        key.hint = secret[-_HINT_LENGTH:]
        key.created_at.CopyFrom(timestamp_of(self._clock()))
        return secret


def _normalized(request: UpdateSourceRequest) -> UpdateSourceRequest:
    """Give the change with its settings as they are kept. Raises CoreError."""
    change = UpdateSourceRequest()
    change.CopyFrom(request)
    if request.HasField("rate_limit"):
        if request.clear_rate_limit:
            raise _bad("rate_limit", "Either set the rate limit or clear it")
        _check_rate_limit(request.rate_limit)
    if request.HasField("origins"):
        change.origins.values[:] = _origins_of(request.origins.values)
    if request.HasField("vendor_cookies"):
        if set(request.vendor_cookies.values) - set(_VENDOR_COOKIES):
            raise _bad("vendor_cookies", f"Vendor cookies are {', '.join(_VENDOR_COOKIES)}")
        change.vendor_cookies.values[:] = dict.fromkeys(request.vendor_cookies.values)
    if request.HasField("cookie_domain"):
        domain = change.cookie_domain = request.cookie_domain.lower()
        if domain and (len(domain) > _DOMAIN_LENGTH or not _DOMAIN.fullmatch(domain)):
            raise _bad("cookie_domain", "A cookie domain is a host name")
    return change


def _origins_of(entries: Iterable[str]) -> list[str]:
    origins: dict[str, None] = {}
    for entry in entries:
        origin = normalize_entry(entry)
        if origin is None:
            raise _bad("origins", f"{entry!r} is neither scheme://host[:port], nor a host, nor *.host")
        origins[origin] = None
    if len(origins) > _LIST_LENGTH:
        raise _bad("origins", f"At most {_LIST_LENGTH} origins")
    return list(origins)


def _check_rate_limit(rate_limit: SourceRateLimit) -> None:
    if not 1 <= rate_limit.window_seconds <= _MAX_WINDOW_SECONDS:
        raise _bad("rate_limit.window_seconds", f"A window has 1 to {_MAX_WINDOW_SECONDS} seconds")
    if rate_limit.limit > _MAX_LIMIT:
        raise _bad("rate_limit.limit", f"A limit is at most {_MAX_LIMIT}")


def _check_scopes_and_sites(request: source_pb2.CreateKeyRequest) -> None:
    if not _SCOPES.issuperset(request.scopes):
        raise _bad("scopes", f"Scopes are {', '.join(sorted(_SCOPES))}")
    if request.sites and request.kind != ingest_pb2.KEY_KIND_PULSE:
        raise _bad("sites", "Only a PULSE key has sites")
    if len(request.sites) > _LIST_LENGTH:
        raise _bad("sites", f"At most {_LIST_LENGTH} sites")
    if any(not 1 <= len(site) <= _SITE_LENGTH or "\0" in site for site in request.sites):
        raise _bad("sites", f"A site has 1 to {_SITE_LENGTH} characters")


def _check_endless(key: Key, now: datetime) -> None:
    """See that a key has no end yet. Raises CoreError.

    Rotated twice, it would leave a key that nobody asked for, and as good as the one that replaced it.
    """
    if key.HasField("revoked_at") or (key.HasField("expires_at") and _has_passed(key.expires_at, now)):
        raise _bad("key_id", "The key has ended; make a new one")
    if key.HasField("expires_at"):
        end = key.expires_at.ToJsonString()
        message = f"The key was rotated already and ends at {end}; rotate the key that replaced it"
        raise _bad("key_id", f"{message}, or revoke this one to end it sooner")


def _has_passed(moment: Timestamp, now: datetime) -> bool:
    return moment.seconds + moment.nanos / 1e9 <= now.timestamp()


def _is_uuid(text: str) -> bool:
    try:
        UUID(text)
    except ValueError:
        return False
    return True


def _hash(secret: str) -> bytes:
    return sha256(secret.encode()).digest()


def _no_key(key_id: str) -> CoreError:
    return CoreError(reasons.ERROR_REASON_NOT_FOUND, f"No key {key_id!r}", field="key_id")


def _bad(field: str, message: str) -> CoreError:
    return CoreError(reasons.ERROR_REASON_ARGUMENT_INVALID, message, field=field)
