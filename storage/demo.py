"""The demo sources: the credentials of the documents' own examples, so that their curl lines work verbatim.

Each has a key besides that may read its events and nothing else, for the demo page. They are flagged, and
exist for a core in demo mode only.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256

import psycopg

from storage.demo_readers import DEMO_READERS
from storage.errors import driver_errors_wrapped

_CONNECT_TIMEOUT_SECONDS = 10
_HINT_CHARACTERS = 4


@dataclass(frozen=True)
class DemoKey:
    """A credential as its document prints it."""

    key_id: str
    kind: str
    secret: str
    scopes: Sequence[str] = ("events:write",)
    sites: Sequence[str] = ()


@dataclass(frozen=True)
class DemoSource:
    """A source as its document's examples take it to be."""

    source_id: str
    name: str
    keys: Sequence[DemoKey]
    origins: Sequence[str] = ()
    vendor_cookies: Sequence[str] = ()


_EVERYTHING = ("events:write", "revenue:write", "events:read", "stats:read")
_PULSE_SCOPES = ("events:write", "stats:read")
_PULSE_SITES = ("site_abc123",)


def _reader(key_id: str, source_name: str) -> DemoKey:
    return DemoKey(key_id, "service", DEMO_READERS[source_name], ("events:read",))


# The ids are fixed, and UUIDv7 in form, so that making them again finds them.
DEMO_SOURCES = (
    DemoSource(
        source_id="01900000-0000-7000-8000-000000000001",
        name="demo-pulsora",
        keys=(
            DemoKey("01900000-0000-7000-8000-000000000101", "pulsora-public", "pub_123"),
            DemoKey("01900000-0000-7000-8000-000000000102", "pulsora-secret", "sec_123", _EVERYTHING),
            _reader("01900000-0000-7000-8000-000000000109", "demo-pulsora"),
        ),
    ),
    DemoSource(
        source_id="01900000-0000-7000-8000-000000000002",
        name="demo-pulse",
        keys=(
            DemoKey(
                "01900000-0000-7000-8000-000000000201", "pulse", "YOUR_API_KEY", _PULSE_SCOPES, _PULSE_SITES
            ),
            DemoKey(
                "01900000-0000-7000-8000-000000000202", "pulse", "pulse_dev_demo", _PULSE_SCOPES, _PULSE_SITES
            ),
            _reader("01900000-0000-7000-8000-000000000209", "demo-pulse"),
        ),
    ),
    DemoSource(
        source_id="01900000-0000-7000-8000-000000000003",
        name="demo-apex",
        keys=(
            DemoKey("01900000-0000-7000-8000-000000000301", "apex", "pk_live_xyz"),
            _reader("01900000-0000-7000-8000-000000000309", "demo-apex"),
        ),
    ),
    DemoSource(
        source_id="01900000-0000-7000-8000-000000000004",
        name="demo-datafly",
        keys=(
            DemoKey("01900000-0000-7000-8000-000000000401", "datafly", "dk_live_abc123"),
            _reader("01900000-0000-7000-8000-000000000409", "demo-datafly"),
        ),
        origins=("https://shop.example.com",),
        vendor_cookies=("_ga", "_fbp", "_fbc", "_ttp", "_pin_unauth", "_scid"),
    ),
)

_INSERT_SOURCE = """
INSERT INTO sources (source_id, name, origins, vendor_cookies, demo) VALUES (%s, %s, %s, %s, true)
ON CONFLICT DO NOTHING
"""
# Only for a source that is there: its name may have been taken by a real one.
_INSERT_KEY = """
INSERT INTO keys (source_id, key_id, kind, secret_hash, hint, scopes, sites)
SELECT source_id, %s::uuid, %s, %b, %s, %s::text[], %s::text[] FROM sources WHERE source_id = %s AND demo
ON CONFLICT DO NOTHING
"""


def create_demo(database_url: str) -> None:
    """Make the demo sources and keys that are not there; what is there stays as it is, ended keys too.

    Raises StorageUnavailable.
    """
    with (
        driver_errors_wrapped(),
        psycopg.connect(database_url, connect_timeout=_CONNECT_TIMEOUT_SECONDS) as connection,
    ):
        for source in DEMO_SOURCES:
            settings = (source.source_id, source.name, list(source.origins), list(source.vendor_cookies))
            connection.execute(_INSERT_SOURCE, settings)
            for key in source.keys:
                secret_hash = sha256(key.secret.encode()).digest()
                hint = key.secret[-_HINT_CHARACTERS:]
                values = (key.key_id, key.kind, secret_hash, hint, list(key.scopes), list(key.sites))
                connection.execute(_INSERT_KEY, (*values, source.source_id))
