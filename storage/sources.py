"""Sources and keys in Postgres, and hearing of their changes.

Hides the demo rows, which exist for a store only when it was opened for demo mode, and how changes are heard.
What a key may do, or whether it is still good, is the core's to judge.
"""

import asyncio
import secrets
from collections.abc import AsyncIterator, Mapping
from datetime import date, datetime
from typing import Any, NamedTuple

import psycopg
import structlog
from polylect.v1.ingest_pb2 import KeyKind
from polylect.v1.source_pb2 import Key, Source, UpdateSourceRequest
from sqlalchemy import ColumnElement, Update, func, literal, or_, select, true, update
from sqlalchemy.dialects.postgresql import insert

from storage.database import Database, connect, deadline
from storage.roundtrip import Connection
from storage.schema import daily_salts, keys, sources
from storage.values import datetime_of, selected, timestamp_of, uuid_text

CHANNEL = "polylect_sources"
"""Where the triggers on sources and keys tell the id of the source that changed."""

_SALT_BYTES = 32
_CONNECT_SECONDS = 5.0
_QUIET_SECONDS = 0.5
_LIVENESS_SECONDS = 0.5
_RECONNECT_SECONDS = 0.25

_KIND_PREFIX = "KEY_KIND_"
_KIND_TEXTS = {
    number: name.removeprefix(_KIND_PREFIX).lower().replace("_", "-") for name, number in KeyKind.items()
}
_KINDS = {text: KeyKind.ValueType(number) for number, text in _KIND_TEXTS.items()}

_SOURCE_COLUMNS = tuple(selected(column) for column in sources.columns)
_KEY_COLUMNS = tuple(selected(column) for column in keys.columns)
_KEY_LABEL = "key_"

log = structlog.get_logger()


class StoredKey(NamedTuple):
    """A key and the SHA-256 of its secret."""

    key: Key
    secret_hash: bytes


class StoredSource(NamedTuple):
    """A source with all its keys, ended ones included."""

    source: Source
    keys: list[StoredKey]


class PostgresSources:
    """Sources and keys. Every method but `watch` may raise StorageUnavailable."""

    def __init__(self, database: Database, *, include_demo: bool) -> None:
        self._database = database
        self._visible: ColumnElement[bool] = true() if include_demo else sources.c.demo.is_(False)

    async def load_sources(self, source_id: str | None = None) -> list[StoredSource]:
        """Give all sources by name, or the one of that id, as of one moment."""
        statement = (
            select(*_SOURCE_COLUMNS, *(column.label(f"{_KEY_LABEL}{column.name}") for column in _KEY_COLUMNS))
            .select_from(sources.outerjoin(keys, keys.c.source_id == sources.c.source_id))
            .where(self._visible)
            .order_by(sources.c.name, keys.c.created_at, keys.c.key_id)
        )
        if source_id is not None:
            if (canonical := uuid_text(source_id)) is None:
                return []
            statement = statement.where(sources.c.source_id == canonical)
        found: dict[str, StoredSource] = {}
        for row in await self._database.rows(statement):
            stored = found.setdefault(row["source_id"], StoredSource(_source_of(row), []))
            if row[f"{_KEY_LABEL}key_id"] is not None:
                key = _key_of(row, label=_KEY_LABEL)
                stored.keys.append(StoredKey(key, row[f"{_KEY_LABEL}secret_hash"]))
        return list(found.values())

    async def watch(self) -> AsyncIterator[str | None]:
        """Yield the source_id of each change; None when changes may have been missed: after each (re)connect.

        A connection that died without a word is noticed after about a second. Reconnects by itself, for ever.
        """
        while True:
            try:
                connection = await connect(self._database.url, _CONNECT_SECONDS)
                try:
                    with deadline(connection, _CONNECT_SECONDS):
                        await connection.execute(f"LISTEN {CHANNEL}")
                    yield None
                    while True:
                        for source_id in await _changes(connection):
                            yield source_id
                finally:
                    await connection.close()
            except (psycopg.Error, OSError) as error:
                log.warning("key_changes_unheard", error=str(error).strip())
            await asyncio.sleep(_RECONNECT_SECONDS)

    async def find_source(self, name_or_id: str) -> Source | None:
        """Give one source by id or name; an id goes before a name that looks like one."""
        if "\0" in name_or_id:
            return None
        is_meant: ColumnElement[bool] = sources.c.name == name_or_id
        statement = select(*_SOURCE_COLUMNS).where(self._visible).limit(1)
        if canonical := uuid_text(name_or_id):
            has_id = sources.c.source_id == canonical
            statement = statement.where(or_(is_meant, has_id)).order_by(has_id.desc())
        else:
            statement = statement.where(is_meant)
        return next(map(_source_of, await self._database.rows(statement)), None)

    async def create_source(self, source: Source) -> bool:
        """Insert; False when the name is taken, be it by a source that is not visible."""
        values = {"source_id": source.source_id, **_settings_of(source), **_times_of(source, "created_at")}
        statement = insert(sources).values(values).on_conflict_do_nothing(index_elements=[sources.c.name])
        return await self._database.run(statement) == 1

    async def update_source(self, source_id: str, change: UpdateSourceRequest) -> Source | None:
        """Write the settings `change` holds, leaving the others; give the source as it then stands."""
        if (canonical := uuid_text(source_id)) is None:
            return None
        if not (values := _changed(change)):
            return await self.find_source(canonical)
        statement = update(sources).where(self._visible, sources.c.source_id == canonical).values(values)
        rows = await self._database.rows(statement.returning(*_SOURCE_COLUMNS))
        return next(map(_source_of, rows), None)

    async def create_key(self, key: Key, secret_hash: bytes) -> None:
        """Insert."""
        await self._database.run(insert(keys).values(_key_values(key, secret_hash)))

    async def replace_key(
        self, old_key_id: str, key: Key, secret_hash: bytes, *, expires_at: datetime
    ) -> Key | None:
        """Insert `key` and let the old one expire, both or neither; give the old key as it then stands.

        None, and nothing done, when the old key has an end already, or there is none.
        """
        if (canonical := uuid_text(old_key_id)) is None:
            return None
        old = self._end(canonical, keys.c.expires_at, expires_at)
        endless = old.where(keys.c.expires_at.is_(None), keys.c.revoked_at.is_(None))
        ended = endless.returning(*_KEY_COLUMNS).cte("ended")
        values = {keys.c[name]: value for name, value in _key_values(key, secret_hash).items()}
        new = select(*(literal(value, column.type) for column, value in values.items())).select_from(ended)
        made = insert(keys).from_select(list(values), new).cte("made")
        return next(map(_key_of, await self._database.rows(select(ended).add_cte(made))), None)

    async def revoke_key(self, key_id: str, revoked_at: datetime) -> Key | None:
        """End a key, if it was not revoked earlier; give it as it then stands, None when there is none."""
        if (canonical := uuid_text(key_id)) is None:
            return None
        statement = self._end(canonical, keys.c.revoked_at, revoked_at).returning(*_KEY_COLUMNS)
        return next(map(_key_of, await self._database.rows(statement)), None)

    async def list_keys(self, source_id: str) -> list[Key]:
        """Give the keys of a source, newest first."""
        return await self._keys(keys.c.source_id, source_id)

    async def find_key(self, key_id: str) -> Key | None:
        """Give one key."""
        return next(iter(await self._keys(keys.c.key_id, key_id)), None)

    async def salt(self, day: date) -> bytes:
        """Give the 32-byte salt of a UTC day, made at first asking, the same for all cores."""
        stored = select(daily_salts.c.salt).where(daily_salts.c.day == day)
        if not (rows := await self._database.rows(stored)):
            fresh = insert(daily_salts).values(day=day, salt=secrets.token_bytes(_SALT_BYTES))
            await self._database.run(fresh.on_conflict_do_nothing())
            rows = await self._database.rows(stored)
        salt: bytes = rows[0]["salt"]
        return salt

    def _end(self, key_id: str, column: ColumnElement[datetime], moment: datetime) -> Update:
        is_visible = keys.c.source_id.in_(select(sources.c.source_id).where(self._visible))
        # LEAST passes over NULLs.
        return (
            update(keys)
            .where(keys.c.key_id == key_id, is_visible)
            .values({column: func.least(column, literal(moment))})
        )

    async def _keys(self, column: ColumnElement[str], wanted: str) -> list[Key]:
        if (canonical := uuid_text(wanted)) is None:
            return []
        statement = (
            select(*_KEY_COLUMNS)
            .select_from(keys.join(sources, sources.c.source_id == keys.c.source_id))
            .where(self._visible, column == canonical)
            .order_by(keys.c.created_at.desc(), keys.c.key_id.desc())
        )
        return [_key_of(row) for row in await self._database.rows(statement)]


async def _changes(connection: Connection) -> list[str | None]:
    """Wait a little for changes; when there are none, make sure that the server is still there."""
    notifies = connection.notifies(timeout=_QUIET_SECONDS, stop_after=1)
    changes = [notify.payload or None async for notify in notifies]
    if not changes:
        with deadline(connection, _LIVENESS_SECONDS):
            await connection.execute("SELECT 1")
    return changes


def _times_of(message: Source | Key, *fields: str) -> dict[str, datetime]:
    """Give the times that are set; the others are the table's to default."""
    return {field.name: datetime_of(moment) for field, moment in message.ListFields() if field.name in fields}


def _changed(change: UpdateSourceRequest) -> dict[str, Any]:
    values: dict[str, Any] = {}
    if change.HasField("enabled"):
        values["enabled"] = change.enabled
    if change.HasField("rate_limit"):
        values["rate_limit"] = change.rate_limit.limit
        values["rate_limit_window_seconds"] = change.rate_limit.window_seconds
    elif change.clear_rate_limit:
        values |= {"rate_limit": None, "rate_limit_window_seconds": None}
    if change.HasField("origins"):
        values["origins"] = list(change.origins.values)
    if change.HasField("vendor_cookies"):
        values["vendor_cookies"] = list(change.vendor_cookies.values)
    if change.HasField("cookie_domain"):
        values["cookie_domain"] = change.cookie_domain
    return values


def _key_values(key: Key, secret_hash: bytes) -> dict[str, Any]:
    return {
        "source_id": key.source_id,
        "key_id": key.key_id,
        "kind": _KIND_TEXTS[key.kind],
        "secret_hash": secret_hash,
        "hint": key.hint,
        "scopes": list(key.scopes),
        "sites": list(key.sites),
        **_times_of(key, "created_at", "expires_at", "revoked_at"),
    }


def _settings_of(source: Source) -> dict[str, Any]:
    limited = source.HasField("rate_limit")
    return {
        "name": source.name,
        "enabled": source.enabled,
        "rate_limit": source.rate_limit.limit if limited else None,
        "rate_limit_window_seconds": source.rate_limit.window_seconds if limited else None,
        "origins": list(source.origins),
        "vendor_cookies": list(source.vendor_cookies),
        "cookie_domain": source.cookie_domain,
    }


def _source_of(row: Mapping[str, Any]) -> Source:
    source = Source(
        source_id=row["source_id"],
        name=row["name"],
        enabled=row["enabled"],
        origins=row["origins"],
        vendor_cookies=row["vendor_cookies"],
        cookie_domain=row["cookie_domain"],
        created_at=timestamp_of(row["created_at"]),
    )
    if row["rate_limit"] is not None:
        source.rate_limit.limit = row["rate_limit"]
        source.rate_limit.window_seconds = row["rate_limit_window_seconds"] or 0
    return source


def _key_of(row: Mapping[str, Any], label: str = "") -> Key:
    key = Key(
        key_id=row[f"{label}key_id"],
        source_id=row[f"{label}source_id"],
        kind=_KINDS[row[f"{label}kind"]],
        scopes=row[f"{label}scopes"],
        sites=row[f"{label}sites"],
        hint=row[f"{label}hint"],
        created_at=timestamp_of(row[f"{label}created_at"]),
    )
    if (expires_at := row[f"{label}expires_at"]) is not None:
        key.expires_at.CopyFrom(timestamp_of(expires_at))
    if (revoked_at := row[f"{label}revoked_at"]) is not None:
        key.revoked_at.CopyFrom(timestamp_of(revoked_at))
    return key
