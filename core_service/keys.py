"""Every source and key in memory; hides how they are kept current.

A lookup costs no query and awaits nothing, for a wrong key too. A change is heard by `SourceStore.watch`;
when the listener had to reconnect, everything is loaded again. While the store is away, keys stay as known.
"""

import asyncio
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from hashlib import sha256

import structlog
from polylect.v1.event_pb2 import Event
from polylect.v1.ingest_pb2 import KeyKind
from polylect.v1.source_pb2 import Key, Source

from core_service.errors import StorageUnavailable
from core_service.origins import OriginRules
from core_service.ports import SourceStore, StoredSource

_RETRY_SECONDS = 0.2
_NEVER = float("inf")

log = structlog.get_logger()


@dataclass(frozen=True, slots=True, eq=False)
class SourceEntry:
    """A source as the hot path wants it."""

    source_id: str
    name: str
    enabled: bool
    origins: OriginRules
    # Units and window in seconds instead of the dialect's; None: the dialect's.
    rate_limit: tuple[int, int] | None
    vendor_cookies: tuple[str, ...]
    cookie_domain: str
    # What every event of it gets, as an Event's bytes.
    stamp: bytes


@dataclass(frozen=True, slots=True, eq=False)
class KeyEntry:
    """A key as the hot path wants it."""

    key_id: str
    source: SourceEntry
    kind: KeyKind.ValueType
    scopes: frozenset[str]
    may_write: bool
    may_write_revenue: bool
    # Site as the client says it → site as stored.
    sites: dict[str, str]
    # The key's only site; "" when it has none or several.
    only_site: str
    # Unix seconds.
    ends_at: float

    def allows(self, scope: str) -> bool:
        """Tell whether the key has the scope; `admin` is every scope on its source."""
        return scope in self.scopes or "admin" in self.scopes


class KeyRing:
    """All sources and keys, current within a second of any change."""

    def __init__(self, store: SourceStore, *, localhost_origins: bool) -> None:
        """Start empty. `localhost_origins`: every source lets local ones in too (development)."""
        self._store = store
        self._localhost_origins = localhost_origins
        self._sources: dict[str, SourceEntry] = {}
        self._keys: dict[bytes, KeyEntry] = {}
        self._hashes: dict[str, Sequence[bytes]] = {}
        self._origin_entries: dict[str, Sequence[str]] = {}
        self._any_origin: OriginRules | None = None
        # One load at a time, so that an older answer never overwrites a newer one.
        self._loading = asyncio.Lock()
        self.loaded = False

    def find(self, secret: str, now: float) -> KeyEntry | None:
        """Give the key of that secret if it is valid at `now`, in Unix seconds.

        What is compared is the secret's hash, so that the time taken tells nothing of it. Raises
        StorageUnavailable before the first load, when nobody can tell a good key from a bad one.
        """
        entry = self._keys.get(sha256(secret.encode()).digest())
        if entry is None:
            if not self.loaded:
                raise StorageUnavailable
            return None
        return entry if now < entry.ends_at else None

    def source_id_of(
        self, secret: str, now: float, kinds: Collection[KeyKind.ValueType] | None = None
    ) -> str:
        """Give the source of the key `find` gives, if it is of one of `kinds`; "" when nobody can tell."""
        key = self.find(secret, now) if secret and self.loaded else None
        if key is None or (kinds is not None and key.kind not in kinds):
            return ""
        return key.source.source_id

    def all_granted(self, source_id: str, now: float) -> KeyEntry | None:
        """Give a key of no one: every permission, and the sites of all keys of the source valid at `now`.

        None for a source nobody knows.
        """
        source = self._sources.get(source_id)
        if source is None:
            return None
        keys = [self._keys[one] for one in self._hashes[source_id]]
        sites = {site for key in keys if now < key.ends_at for site in key.sites.values()}
        return _compile_key(Key(scopes=["admin"], sites=sorted(sites)), source)

    def any_source_allows(self, origin: str) -> bool:
        """Tell whether any enabled source lets the origin in."""
        rules = self._any_origin
        if rules is None:
            enabled = [source_id for source_id, source in self._sources.items() if source.enabled]
            lists = [self._origin_entries[source_id] for source_id in enabled]
            rules = OriginRules(
                (entry for entries in lists for entry in entries), localhost=self._localhost_origins
            )
            self._any_origin = rules
        return rules.allow(origin)

    async def reload(self, source_id: str | None = None) -> None:
        """Load one source, or all. Raises ConnectionError and keeps what is known."""
        async with self._loading:
            stored = await self._store.load_sources(source_id)
            stale = list(self._sources) if source_id is None else [source_id]
            for known_id in stale:
                self._drop(known_id)
            for one in stored:
                self._add(one)
            self._any_origin = None
            self.loaded = self.loaded or source_id is None

    async def follow(self) -> None:
        """Apply changes for ever."""
        async for source_id in self._store.watch():
            scope, failing = source_id, False
            while True:
                try:
                    await self.reload(scope)
                    break
                except ConnectionError as error:
                    if not failing:
                        log.warning("keys_not_reloaded", error=str(error))
                    scope, failing = None, True
                    await asyncio.sleep(_RETRY_SECONDS)

    def _drop(self, source_id: str) -> None:
        self._sources.pop(source_id, None)
        self._origin_entries.pop(source_id, None)
        for secret_hash in self._hashes.pop(source_id, ()):
            self._keys.pop(secret_hash, None)

    def _add(self, stored: StoredSource) -> None:
        source = self._compile_source(stored.source)
        self._sources[source.source_id] = source
        self._origin_entries[source.source_id] = tuple(stored.source.origins)
        valid = [one for one in stored.keys if source.enabled and not one.key.HasField("revoked_at")]
        for one in valid:
            self._keys[one.secret_hash] = _compile_key(one.key, source)
        self._hashes[source.source_id] = [one.secret_hash for one in valid]

    def _compile_source(self, source: Source) -> SourceEntry:
        own = source.rate_limit
        return SourceEntry(
            source_id=source.source_id,
            name=source.name,
            enabled=source.enabled,
            origins=OriginRules(source.origins, localhost=self._localhost_origins),
            rate_limit=(own.limit, own.window_seconds) if source.HasField("rate_limit") else None,
            vendor_cookies=tuple(source.vendor_cookies),
            cookie_domain=source.cookie_domain,
            stamp=Event(source_id=source.source_id).SerializeToString(),
        )


def _compile_key(key: Key, source: SourceEntry) -> KeyEntry:
    scopes = frozenset(key.scopes)
    sites = {site: site for site in key.sites}
    only_site = key.sites[0] if len(key.sites) == 1 else ""
    if only_site:
        sites.setdefault(source.source_id, only_site)
    return KeyEntry(
        key_id=key.key_id,
        source=source,
        kind=key.kind,
        scopes=scopes,
        may_write=not scopes.isdisjoint({"events:write", "admin"}),
        may_write_revenue=not scopes.isdisjoint({"revenue:write", "admin"}),
        sites=sites,
        only_site=only_site,
        ends_at=key.expires_at.seconds + key.expires_at.nanos / 1e9 if key.HasField("expires_at") else _NEVER,
    )
