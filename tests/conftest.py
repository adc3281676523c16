"""Real Postgres for every test that wants it: one scratch server a session, one database a test."""

import os
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import psycopg
import pytest

from storage.embedded import EmbeddedPostgres
from storage.migrate import migrate

_TEMPLATE = "polylect_template"


def _url_of(server: EmbeddedPostgres, database: str) -> str:
    return f"{server.url.rpartition('/')[0]}/{database}"


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedPostgres]:
    """A scratch server, with a migrated template database.

    It doesn't sync: no test here survives a power cut. Those that kill servers start their own. PG_BIN names
    the binaries of another version than the embedded one, to test over that.
    """
    directory: Path = tmp_path_factory.mktemp("postgres")
    settings = {"fsync": "off", "full_page_writes": "off", "shared_buffers": "32MB", "max_connections": "100"}
    bin_dir = Path(os.environ["PG_BIN"]) if os.environ.get("PG_BIN") else None
    with EmbeddedPostgres(directory, settings=settings, bin_dir=bin_dir) as server:
        with psycopg.connect(server.url, autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {_TEMPLATE}")
        migrate(_url_of(server, _TEMPLATE))
        yield server


def _database(server: EmbeddedPostgres, source: str) -> Iterator[str]:
    name = f"test_{uuid4().hex}"
    with psycopg.connect(server.url, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name} TEMPLATE {source} STRATEGY FILE_COPY")
        yield _url_of(server, name)
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def database_url(postgres: EmbeddedPostgres) -> Iterator[str]:
    """A migrated database of this test's own."""
    yield from _database(postgres, _TEMPLATE)


@pytest.fixture
def empty_database_url(postgres: EmbeddedPostgres) -> Iterator[str]:
    """A database of this test's own, before any migration."""
    yield from _database(postgres, "template0")
