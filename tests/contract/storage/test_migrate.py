"""Migrations against real Postgres: safe to start together, and the schema they leave is the one in code."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psycopg
import pytest
from sqlalchemy import create_engine

from storage import rollup_schema
from storage.embedded import EmbeddedPostgres
from storage.errors import MigrationFailed, StorageUnavailable
from storage.migrate import HEAD, is_current, migrate
from storage.migrations.upgrade import script_directory

_CATALOGUE = {
    "columns": """
        SELECT relname, attname, format_type(atttypid, atttypmod), attnotnull, attidentity::text,
               pg_get_expr(adbin, adrelid)
        FROM pg_attribute JOIN pg_class ON pg_class.oid = attrelid
        LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum
        WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p') AND attnum > 0
        ORDER BY relname, attnum""",
    "constraints": """
        SELECT conrelid::regclass::text, conname, pg_get_constraintdef(oid)
        FROM pg_constraint WHERE connamespace = 'public'::regnamespace ORDER BY 1, 2""",
    "indexes": """
        SELECT tablename, indexname, indexdef FROM pg_indexes WHERE schemaname = 'public' ORDER BY 1, 2""",
    "partitioning": "SELECT partrelid::regclass::text, pg_get_partkeydef(partrelid) FROM pg_partitioned_table"
    " ORDER BY 1",
}


def _schema_of(url: str) -> dict[str, list[tuple[Any, ...]]]:
    with psycopg.connect(url) as connection:
        connection.execute("DROP TABLE IF EXISTS alembic_version")
        schema = {part: connection.execute(query).fetchall() for part, query in _CATALOGUE.items()}
        connection.rollback()
    return schema


def test_a_fresh_database_is_not_current_until_it_is_migrated(empty_database_url: str) -> None:
    assert not is_current(empty_database_url)
    assert migrate(empty_database_url)
    assert is_current(empty_database_url)
    assert not migrate(empty_database_url)
    assert is_current(empty_database_url)


def test_several_processes_may_migrate_at_once(empty_database_url: str) -> None:
    with ThreadPoolExecutor(4) as starters:
        list(starters.map(migrate, [empty_database_url] * 4))
    assert is_current(empty_database_url)


def test_the_migrated_schema_is_the_one_in_code(database_url: str, empty_database_url: str) -> None:
    engine = create_engine("postgresql+psycopg://", creator=lambda: psycopg.connect(empty_database_url))
    rollup_schema.metadata.create_all(engine)
    engine.dispose()
    assert _schema_of(database_url) == _schema_of(empty_database_url)


def test_the_code_is_written_for_the_newest_revision() -> None:
    assert script_directory().get_heads() == [HEAD]


def test_a_newer_database_is_left_alone(database_url: str) -> None:
    with psycopg.connect(database_url) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    assert not is_current(database_url)
    with pytest.raises(MigrationFailed, match="9999"):
        migrate(database_url)


def test_a_failing_migration_leaves_nothing_and_says_why(empty_database_url: str) -> None:
    with psycopg.connect(empty_database_url) as connection:
        connection.execute("CREATE TABLE quarantine (occupied text)")
    with pytest.raises(MigrationFailed, match='"quarantine" already exists'):
        migrate(empty_database_url)
    with psycopg.connect(empty_database_url) as connection:
        tables = connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'").fetchall()
    assert tables == [("quarantine",)]


def test_an_unreachable_database_is_unavailable() -> None:
    with pytest.raises(StorageUnavailable) as caught:
        migrate("postgresql://nobody@127.0.0.1:1/nothing")
    assert isinstance(caught.value.__cause__, psycopg.OperationalError)


def test_a_unix_socket_url_will_do(tmp_path: Path) -> None:
    sockets = tmp_path / "s"
    sockets.mkdir()
    sockets.chmod(0o777)
    for parent in tmp_path.parents[:2]:
        parent.chmod(0o755)
    tmp_path.chmod(0o755)
    with EmbeddedPostgres(tmp_path / "p", settings={"unix_socket_directories": str(sockets)}) as server:
        credentials, _, place = server.url.removeprefix("postgresql://").rpartition("@")
        port, _, name = place.rpartition(":")[2].partition("/")
        url = f"postgresql://{credentials}@/{name}?host={sockets}&port={port}"
        migrate(url)
        assert is_current(url)


def test_asking_is_cheap() -> None:
    program = "import sys, storage.migrate, storage.demo; print({'alembic', 'sqlalchemy'} & set(sys.modules))"
    asked = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert asked.stdout == "set()\n"
