"""Sources and keys in real Postgres, and hearing of their changes."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, aclosing
from datetime import UTC, date, datetime, timedelta
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from polylect.v1.ingest_pb2 import KEY_KIND_APEX, KEY_KIND_PULSE, KEY_KIND_PULSORA_PUBLIC, KeyKind
from polylect.v1.source_pb2 import Key, Source, SourceRateLimit, StringList, UpdateSourceRequest

from storage.database import Database
from storage.demo import DEMO_SOURCES, create_demo
from storage.errors import StorageUnavailable
from storage.sources import PostgresSources, StoredKey, StoredSource
from storage.values import timestamp_of

NOW = datetime(2026, 2, 25, 14, 30, 0, 123456, tzinfo=UTC)
NOTICED_WITHIN_SECONDS = 5


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    database = Database(database_url)
    yield database
    await database.aclose()


@pytest.fixture
def sources(database: Database) -> PostgresSources:
    return PostgresSources(database, include_demo=False)


def make_source(name: str = "shop", **settings: Any) -> Source:
    return Source(
        **{"source_id": str(uuid4()), "name": name, "enabled": True, "created_at": timestamp_of(NOW)}
        | settings
    )


def make_key(source: Source, *, age: timedelta = timedelta(), **fields: Any) -> Key:
    return Key(
        **{
            "key_id": str(uuid4()),
            "source_id": source.source_id,
            "kind": KEY_KIND_PULSORA_PUBLIC,
            "scopes": ["events:write"],
            "hint": "x123",
            "created_at": timestamp_of(NOW - age),
        }
        | fields
    )


async def create(sources: PostgresSources, source: Source, *keys: Key) -> list[StoredKey]:
    assert await sources.create_source(source)
    stored = [StoredKey(key, os.urandom(32)) for key in keys]
    for key, secret_hash in stored:
        await sources.create_key(key, secret_hash)
    return stored


async def test_a_source_comes_back_as_it_was_made(sources: PostgresSources) -> None:
    source = make_source(
        "shop.example-1",
        enabled=False,
        rate_limit=SourceRateLimit(limit=10, window_seconds=60),
        origins=["https://shop.example.com", "*.example.org"],
        vendor_cookies=["_ga", "_fbp"],
        cookie_domain=".example.com",
    )
    await create(sources, source)
    assert await sources.find_source("shop.example-1") == source
    assert await sources.find_source(source.source_id) == source
    assert await sources.find_source(source.source_id.upper()) == source
    assert await sources.load_sources() == [StoredSource(source, [])]


@pytest.mark.parametrize(
    "nobody", ["nobody", "", "01900000-0000-7000-8000-00000000ffff", "n\0body", "é" * 100]
)
async def test_an_unknown_source_is_none(sources: PostgresSources, nobody: str) -> None:
    assert await sources.find_source(nobody) is None
    assert await sources.load_sources(nobody) == []
    assert await sources.list_keys(nobody) == []
    assert await sources.find_key(nobody) is None
    assert await sources.update_source(nobody, UpdateSourceRequest(enabled=False)) is None
    assert await sources.revoke_key(nobody, NOW) is None


async def test_an_id_goes_before_a_name_that_looks_like_one(sources: PostgresSources) -> None:
    source = make_source("shop")
    await create(sources, source)
    await create(sources, make_source(source.source_id))
    assert await sources.find_source(source.source_id) == source


async def test_a_name_is_taken_once(sources: PostgresSources) -> None:
    first = make_source("shop")
    assert await sources.create_source(first)
    assert not await sources.create_source(make_source("shop"))
    assert await sources.load_sources() == [StoredSource(first, [])]


_LIMIT = SourceRateLimit(limit=10, window_seconds=60)
_NO_LIMIT = SourceRateLimit(limit=0, window_seconds=1)


@pytest.mark.parametrize(
    ("change", "after"),
    [
        ({}, {}),
        ({"enabled": False}, {"enabled": False}),
        ({"rate_limit": _NO_LIMIT}, {"rate_limit": _NO_LIMIT}),
        ({"clear_rate_limit": True}, {"rate_limit": None}),
        ({"origins": StringList(values=["b.example"])}, {"origins": ["b.example"]}),
        ({"origins": StringList()}, {"origins": []}),
        ({"vendor_cookies": StringList(values=["_fbp"])}, {"vendor_cookies": ["_fbp"]}),
        ({"vendor_cookies": StringList()}, {"vendor_cookies": []}),
        ({"cookie_domain": ""}, {"cookie_domain": ""}),
    ],
)
async def test_an_update_writes_what_is_given(
    sources: PostgresSources, change: dict[str, Any], after: dict[str, Any]
) -> None:
    other = make_source("other")
    settings: dict[str, Any] = {
        "rate_limit": _LIMIT,
        "origins": ["https://a.example"],
        "vendor_cookies": ["_ga"],
        "cookie_domain": ".a.example",
    }
    before = make_source("shop", **settings)
    expected = make_source("shop", source_id=before.source_id, **(settings | after))
    await create(sources, other)
    await create(sources, before)
    given = await sources.update_source(before.source_id.upper(), UpdateSourceRequest(**change))
    assert given == expected
    assert await sources.find_source("shop") == expected
    assert await sources.find_source("other") == other


async def test_times_default_to_now(sources: PostgresSources) -> None:
    source = make_source()
    source.ClearField("created_at")
    key = make_key(source)
    key.ClearField("created_at")
    await create(sources, source, key)
    [stored] = await sources.load_sources()
    assert stored.source.created_at.seconds > NOW.timestamp() - 400 * 86_400
    assert stored.keys[0].key.HasField("created_at")
    assert not stored.keys[0].key.HasField("expires_at")


async def test_all_sources_are_loaded_with_all_their_keys(sources: PostgresSources) -> None:
    shop, blog, empty = make_source("shop"), make_source("blog"), make_source("empty")
    ended = make_key(shop, age=timedelta(days=2), expires_at=timestamp_of(NOW), revoked_at=timestamp_of(NOW))
    pulse = make_key(shop, kind=KEY_KIND_PULSE, scopes=["events:write", "stats:read"], sites=["site_a"])
    apex = make_key(blog, kind=KEY_KIND_APEX, hint="")
    shop_keys = await create(sources, shop, ended, pulse)
    blog_keys = await create(sources, blog, apex)
    await create(sources, empty)
    everything = [StoredSource(blog, blog_keys), StoredSource(empty, []), StoredSource(shop, shop_keys)]
    assert await sources.load_sources() == everything
    assert await sources.load_sources(shop.source_id) == [everything[2]]


@pytest.mark.parametrize("kind", [kind for kind in KeyKind.values() if kind])
async def test_every_kind_of_key_comes_back(sources: PostgresSources, kind: int) -> None:
    source = make_source()
    key = make_key(source, kind=kind)
    await create(sources, source, key)
    assert await sources.find_key(key.key_id) == key


async def test_keys_are_listed_newest_first(sources: PostgresSources) -> None:
    source, other = make_source("shop"), make_source("other")
    keys = [make_key(source, age=timedelta(days=days)) for days in (1, 3, 2)]
    await create(sources, source, *keys)
    await create(sources, other, make_key(other))
    assert await sources.list_keys(source.source_id) == [keys[0], keys[2], keys[1]]


async def test_a_key_is_replaced_once_and_its_earlier_end_stays(sources: PostgresSources) -> None:
    source = make_source()
    key, neighbour = make_key(source), make_key(source)
    await create(sources, source, key, neighbour)
    later = NOW + timedelta(hours=1)

    async def replace(expires_at: datetime) -> Key | None:
        return await sources.replace_key(key.key_id, make_key(source), os.urandom(32), expires_at=expires_at)

    key.expires_at.FromDatetime(later)
    assert await replace(later) == key
    for again in (later + timedelta(hours=1), NOW):
        assert await replace(again) is None
    assert len(await sources.list_keys(source.source_id)) == 3
    key.revoked_at.FromDatetime(NOW)
    assert await sources.revoke_key(key.key_id, NOW) == key
    assert await sources.revoke_key(key.key_id, later) == key
    assert await sources.find_key(key.key_id) == key
    assert await sources.find_key(neighbour.key_id) == neighbour


async def test_a_replacement_comes_back_as_it_was_made(sources: PostgresSources) -> None:
    source = make_source()
    old, revoked = make_key(source), make_key(source, revoked_at=timestamp_of(NOW))
    await create(sources, source, old, revoked)
    new = make_key(source, kind=KEY_KIND_PULSE, scopes=["stats:read"], sites=["a", "b"], hint="y456")
    secret_hash = os.urandom(32)
    nobody = str(uuid4())
    for ended in (revoked.key_id, nobody, "nobody"):
        assert await sources.replace_key(ended, new, secret_hash, expires_at=NOW) is None
    assert await sources.find_key(new.key_id) is None
    await sources.replace_key(old.key_id, new, secret_hash, expires_at=NOW)
    [stored] = await sources.load_sources()
    assert StoredKey(new, secret_hash) in stored.keys


async def test_demo_rows_exist_in_demo_mode_only(
    sources: PostgresSources, database: Database, database_url: str
) -> None:
    create_demo(database_url)
    demo, demo_key = DEMO_SOURCES[0], DEMO_SOURCES[0].keys[0]
    real = make_source("real")
    await create(sources, real)

    assert await sources.load_sources() == [StoredSource(real, [])]
    assert await sources.load_sources(demo.source_id) == []
    assert await sources.find_source(demo.name) is None
    assert await sources.find_source(demo.source_id) is None
    assert await sources.list_keys(demo.source_id) == []
    assert await sources.find_key(demo_key.key_id) is None
    assert not await sources.create_source(make_source(demo.name))
    assert await sources.update_source(demo.source_id, UpdateSourceRequest(enabled=False)) is None
    assert await sources.revoke_key(demo_key.key_id, NOW) is None
    new = make_key(real)
    assert await sources.replace_key(demo_key.key_id, new, os.urandom(32), expires_at=NOW) is None
    assert await sources.list_keys(real.source_id) == []

    in_demo_mode = PostgresSources(database, include_demo=True)
    loaded = await in_demo_mode.load_sources()
    assert [stored.source.name for stored in loaded] == sorted(
        [real.name, *(source.name for source in DEMO_SOURCES)]
    )
    key = await in_demo_mode.find_key(demo_key.key_id)
    assert key is not None
    assert not key.HasField("revoked_at")
    assert not key.HasField("expires_at")


async def test_a_day_has_one_salt_for_all(sources: PostgresSources, database: Database) -> None:
    other_core = PostgresSources(database, include_demo=True)
    today, tomorrow = date(2026, 2, 25), date(2026, 2, 26)
    salts = await asyncio.gather(sources.salt(today), other_core.salt(today), sources.salt(today))
    assert len(salts[0]) == 32
    assert set(salts) == {await sources.salt(today)}
    assert await sources.salt(tomorrow) != salts[0]


def watching(sources: PostgresSources) -> AbstractAsyncContextManager[AsyncIterator[str | None]]:
    return aclosing(sources.watch())  # type: ignore[type-var, return-value]


async def heard(changes: AsyncIterator[str | None]) -> str | None:
    return await asyncio.wait_for(anext(changes), NOTICED_WITHIN_SECONDS)


async def test_every_change_of_a_source_or_key_is_heard(sources: PostgresSources, database_url: str) -> None:
    source = make_source()
    key = make_key(source)
    async with watching(sources) as changes:
        assert await heard(changes) is None
        await sources.create_source(source)
        assert await heard(changes) == source.source_id
        await sources.create_key(key, os.urandom(32))
        assert await heard(changes) == source.source_id
        await sources.update_source(source.source_id, UpdateSourceRequest(enabled=False))
        assert await heard(changes) == source.source_id
        await sources.revoke_key(key.key_id, NOW)
        assert await heard(changes) == source.source_id
        with psycopg.connect(database_url, autocommit=True) as operator:
            operator.execute("DELETE FROM keys")
            assert await heard(changes) == source.source_id
            operator.execute("DELETE FROM sources")
            assert await heard(changes) == source.source_id
            operator.execute("TRUNCATE keys")
            assert await heard(changes) is None


async def test_changes_that_come_together_are_all_heard(sources: PostgresSources) -> None:
    made = [make_source(f"source-{n}") for n in range(10)]
    async with watching(sources) as changes:
        assert await heard(changes) is None
        await asyncio.gather(*(sources.create_source(source) for source in made))
        assert {await heard(changes) for _ in made} == {source.source_id for source in made}


def listener_of(database_url: str) -> int:
    with psycopg.connect(database_url) as operator:
        [(pid,)] = operator.execute(
            "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
        ).fetchall()
    return int(pid)


async def test_a_cut_listener_comes_back_and_says_that_it_was_away(
    sources: PostgresSources, database_url: str
) -> None:
    async with watching(sources) as changes:
        assert await heard(changes) is None
        listener = listener_of(database_url)
        with psycopg.connect(database_url, autocommit=True) as operator:
            operator.execute("SELECT pg_terminate_backend(%s, 5000)", (listener,))
        assert await heard(changes) is None
        source = make_source()
        await sources.create_source(source)
        assert await heard(changes) == source.source_id


async def test_a_silent_listener_is_noticed(sources: PostgresSources, database_url: str) -> None:
    async with watching(sources) as changes:
        assert await heard(changes) is None
        silent = listener_of(database_url)
        os.kill(silent, signal.SIGSTOP)
        try:
            assert await heard(changes) is None
        finally:
            os.kill(silent, signal.SIGCONT)


async def test_an_unreachable_database_is_unavailable() -> None:
    database = Database("postgresql://nobody@127.0.0.1:1/nothing")
    sources = PostgresSources(database, include_demo=False)
    with pytest.raises(StorageUnavailable):
        await sources.load_sources()
