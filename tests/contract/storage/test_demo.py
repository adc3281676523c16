"""The demo sources: the documents' own credentials, and nothing of them that a user changed is undone."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from hashlib import sha256

import pytest
from polylect.v1.ingest_pb2 import (
    KEY_KIND_APEX,
    KEY_KIND_DATAFLY,
    KEY_KIND_PULSE,
    KEY_KIND_PULSORA_PUBLIC,
    KEY_KIND_PULSORA_SECRET,
    KEY_KIND_SERVICE,
)
from polylect.v1.source_pb2 import Source, SourceRateLimit, StringList, UpdateSourceRequest

from storage.database import Database
from storage.demo import create_demo
from storage.demo_readers import DEMO_READERS
from storage.sources import PostgresSources

WRITE, REVENUE, READ, STATS = "events:write", "revenue:write", "events:read", "stats:read"
EXAMPLES = {
    "pub_123": ("demo-pulsora", KEY_KIND_PULSORA_PUBLIC, [WRITE], [], "_123"),
    "sec_123": ("demo-pulsora", KEY_KIND_PULSORA_SECRET, [WRITE, REVENUE, READ, STATS], [], "_123"),
    "YOUR_API_KEY": ("demo-pulse", KEY_KIND_PULSE, [WRITE, STATS], ["site_abc123"], "_KEY"),
    "pulse_dev_demo": ("demo-pulse", KEY_KIND_PULSE, [WRITE, STATS], ["site_abc123"], "demo"),
    "pk_live_xyz": ("demo-apex", KEY_KIND_APEX, [WRITE], [], "_xyz"),
    "dk_live_abc123": ("demo-datafly", KEY_KIND_DATAFLY, [WRITE], [], "c123"),
}
# May read, and nothing else.
READERS = {
    secret: (source, KEY_KIND_SERVICE, [READ], [], secret[-4:]) for source, secret in DEMO_READERS.items()
}


@pytest.fixture
async def sources(database_url: str) -> AsyncIterator[PostgresSources]:
    database = Database(database_url)
    yield PostgresSources(database, include_demo=True)
    await database.aclose()


async def test_every_example_credential_exists(sources: PostgresSources, database_url: str) -> None:
    create_demo(database_url)
    found = {
        secret_hash: (stored.source.name, key.kind, list(key.scopes), list(key.sites), key.hint)
        for stored in await sources.load_sources()
        for key, secret_hash in stored.keys
    }
    assert found == {
        sha256(secret.encode()).digest(): example for secret, example in (EXAMPLES | READERS).items()
    }


async def test_the_datafly_source_is_as_its_document_takes_it(
    sources: PostgresSources, database_url: str
) -> None:
    create_demo(database_url)
    source = await sources.find_source("demo-datafly")
    assert source is not None
    assert list(source.origins) == ["https://shop.example.com"]
    assert list(source.vendor_cookies) == ["_ga", "_fbp", "_fbc", "_ttp", "_pin_unauth", "_scid"]
    assert source.enabled


async def test_again_changes_nothing(sources: PostgresSources, database_url: str) -> None:
    create_demo(database_url)
    datafly = await sources.find_source("demo-datafly")
    assert datafly is not None
    mine = UpdateSourceRequest(
        enabled=False,
        origins=StringList(values=["https://mine.example"]),
        rate_limit=SourceRateLimit(limit=5, window_seconds=1),
    )
    await sources.update_source(datafly.source_id, mine)
    _, key = await sources.list_keys(datafly.source_id)
    await sources.revoke_key(key.key_id, datetime(2026, 2, 25, tzinfo=UTC))
    before = await sources.load_sources()

    create_demo(database_url)
    assert await sources.load_sources() == before


async def test_a_real_source_of_that_name_gets_no_example_key(
    sources: PostgresSources, database_url: str
) -> None:
    real = Source(source_id="01900000-0000-7000-8000-0000000000aa", name="demo-apex", enabled=True)
    await sources.create_source(real)
    create_demo(database_url)
    found = {stored.source.name: stored for stored in await sources.load_sources()}
    assert found["demo-apex"].source.source_id == real.source_id
    assert found["demo-apex"].keys == []
    assert len(found["demo-pulsora"].keys) == 3
