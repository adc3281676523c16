"""Days are made ahead and on demand, and everything past its time goes."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime, timedelta
from typing import Any
from uuid import UUID

import psycopg
import pytest
from alembic.migration import MigrationContext
from alembic.operations import Operations
from sqlalchemy import create_engine, text
from worker_factory import NOW, SOURCE, column, enqueue, make_event, select

from storage.errors import StorageUnavailable
from storage.migrate import migrate
from storage.migrations.upgrade import script_directory
from storage.partitions import Lock, Partitions, try_lock
from storage.purging import purge_many
from storage.retention import Retention

TODAY = NOW.date()
WINDOW = timedelta(days=7)

_BOUNDS = """
SELECT child.relname AS name, pg_get_expr(child.relpartbound, child.oid) AS bounds
FROM pg_inherits JOIN pg_class AS child ON child.oid = inhrelid
WHERE inhparent = 'events'::regclass ORDER BY 1
"""


@pytest.fixture
def connection(database_url: str) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("SET TIME ZONE 'UTC'")
        yield connection


@pytest.fixture
def partitions(database_url: str) -> Partitions:
    return make_partitions(database_url)


def make_partitions(database_url: str, settings: str = "") -> Partitions:
    return Partitions(lambda: psycopg.connect(database_url, autocommit=True, options=settings))


def days(connection: psycopg.Connection[Any]) -> list[str]:
    return [row["name"].removeprefix("events_p") for row in select(connection, _BOUNDS)]


def test_a_week_ahead_and_a_day_behind_are_made(
    partitions: Partitions, connection: psycopg.Connection[Any]
) -> None:
    partitions.make_ahead(TODAY)
    expected = [f"{TODAY + timedelta(days=offset):%Y%m%d}" for offset in range(-1, 8)]
    assert days(connection) == expected
    partitions.make_ahead(TODAY + timedelta(days=1))
    assert days(connection) == [*expected, "20260208"]


@pytest.mark.parametrize("zone", ["UTC", "Asia/Kolkata", "America/New_York"])
def test_days_are_utc_in_any_session(
    database_url: str, connection: psycopg.Connection[Any], zone: str
) -> None:
    make_partitions(database_url, f"-c timezone={zone}").ensure([date(2026, 3, 8)])
    assert select(connection, _BOUNDS) == [
        {
            "name": "events_p20260308",
            "bounds": "FOR VALUES FROM ('2026-03-08 00:00:00+00') TO ('2026-03-09 00:00:00+00')",
        }
    ]


def test_a_partition_has_the_keys_and_indexes_of_its_table_once(
    partitions: Partitions, connection: psycopg.Connection[Any]
) -> None:
    partitions.ensure([TODAY])

    def indexes(table: str) -> list[str]:
        query = f"SELECT indexdef FROM pg_indexes WHERE tablename = '{table}'"
        definitions = column(connection, query)
        return sorted(definition.partition(" USING ")[2] for definition in definitions)

    assert indexes("events_p20260131") == indexes("events")
    (primary,) = column(
        connection,
        "SELECT count(*) FROM pg_constraint WHERE conrelid = 'events_p20260131'::regclass AND contype = 'p'",
    )
    assert primary == 1


def test_making_a_day_waits_for_no_writer(
    database_url: str, partitions: Partitions, connection: psycopg.Connection[Any]
) -> None:
    partitions.ensure([TODAY])
    with psycopg.connect(database_url) as writing:
        writing.execute("LOCK TABLE events IN ROW EXCLUSIVE MODE")
        make_partitions(database_url, "-c lock_timeout=2s").ensure([TODAY + timedelta(days=1)])
    assert days(connection) == ["20260131", "20260201"]


def test_workers_that_want_the_same_days_agree(
    database_url: str, connection: psycopg.Connection[Any]
) -> None:
    with ThreadPoolExecutor(4) as pool:
        for made in [pool.submit(make_partitions(database_url).make_ahead, TODAY) for _ in range(4)]:
            made.result()
    assert len(days(connection)) == 9


def test_known_days_cost_no_connection(database_url: str) -> None:
    opened = []

    def connect() -> psycopg.Connection[Any]:
        opened.append(1)
        return psycopg.connect(database_url, autocommit=True)

    partitions = Partitions(connect)
    partitions.make_ahead(TODAY)
    partitions.make_ahead(TODAY)
    partitions.ensure([TODAY])
    assert len(opened) == 1


def test_without_a_database_it_says_so(database_url: str) -> None:
    nowhere = database_url.rpartition("/")[0] + "/nowhere"
    with pytest.raises(StorageUnavailable):
        make_partitions(nowhere).ensure([TODAY])


# -- what goes


def make_retention(database_url: str, retention_days: int) -> Retention:
    partitions = make_partitions(database_url)
    return Retention(
        lambda: psycopg.connect(database_url, autocommit=True), partitions, retention_days, WINDOW
    )


@pytest.mark.parametrize(
    ("now", "oldest"),
    [
        (datetime(2026, 1, 31, 0, 0, tzinfo=UTC), "20260129"),
        (datetime(2026, 1, 31, 23, 59, tzinfo=UTC), "20260129"),
        (datetime(2026, 2, 1, 0, 0, tzinfo=UTC), "20260130"),
    ],
)
def test_days_wholly_past_retention_are_dropped(
    database_url: str, partitions: Partitions, connection: psycopg.Connection[Any], now: datetime, oldest: str
) -> None:
    partitions.ensure(date(2026, 1, 31) - timedelta(days=back) for back in range(10))
    assert make_retention(database_url, 2).apply(now)
    assert days(connection)[0] == oldest
    assert days(connection)[-1] == "20260131"


def test_retention_zero_keeps_everything(
    database_url: str, partitions: Partitions, connection: psycopg.Connection[Any]
) -> None:
    partitions.ensure([date(2001, 1, 1)])
    assert make_retention(database_url, 0).apply(NOW)
    assert days(connection) == ["20010101"]


def test_partitions_of_other_names_are_left_alone(
    database_url: str, connection: psycopg.Connection[Any]
) -> None:
    connection.execute(
        "CREATE TABLE events_before PARTITION OF events"
        " FOR VALUES FROM (MINVALUE) TO ('2020-01-01 00:00:00+00')"
    )
    make_retention(database_url, 1).apply(NOW)
    assert column(connection, "SELECT to_regclass('events_before') IS NOT NULL") == [True]


def test_a_reader_makes_dropping_wait_for_the_next_time(
    database_url: str, partitions: Partitions, connection: psycopg.Connection[Any]
) -> None:
    partitions.ensure([date(2025, 1, 1)])
    retention = make_retention(database_url, 1)
    with psycopg.connect(database_url) as reader:
        reader.execute("SELECT count(*) FROM events")
        with pytest.raises(StorageUnavailable, match="lock timeout"):
            retention.apply(NOW)
    assert days(connection) == ["20250101"]
    assert retention.apply(NOW)
    assert days(connection) == []


def add_keys(connection: psycopg.Connection[Any], received_at: datetime, count: int = 1) -> None:
    connection.execute(
        "INSERT INTO dedup_keys"
        " SELECT %s, gen_random_uuid(), gen_random_uuid(), %s FROM generate_series(1, %s)",
        (SOURCE, received_at, count),
    )


def test_keys_past_the_window_are_purged(database_url: str, connection: psycopg.Connection[Any]) -> None:
    kept = [NOW, NOW - WINDOW]
    for received_at in (*kept, NOW - WINDOW - timedelta(hours=2)):
        add_keys(connection, received_at)
    assert make_retention(database_url, 0).apply(NOW)
    assert column(connection, "SELECT received_at FROM dedup_keys ORDER BY 1 DESC") == kept


def test_keys_are_purged_in_chunks(database_url: str, connection: psycopg.Connection[Any]) -> None:
    add_keys(connection, NOW - timedelta(days=30), 7_000)
    retention = make_retention(database_url, 0)
    assert not retention.apply(NOW)
    assert column(connection, "SELECT count(*) FROM dedup_keys") == [2_000]
    assert retention.apply(NOW)
    assert column(connection, "SELECT count(*) FROM dedup_keys") == [0]


def test_keys_wait_for_what_the_queue_still_holds(
    database_url: str, connection: psycopg.Connection[Any]
) -> None:
    add_keys(connection, NOW - timedelta(days=9))
    enqueue(connection, make_event(NOW - timedelta(days=4)))
    connection.execute("UPDATE queue SET enqueued_at = %s", (NOW - timedelta(days=4),))
    retention = make_retention(database_url, 0)
    retention.apply(NOW)
    assert column(connection, "SELECT count(*) FROM dedup_keys") == [1]
    connection.execute("DELETE FROM queue")
    retention.apply(NOW)
    assert column(connection, "SELECT count(*) FROM dedup_keys") == [0]


def test_yesterdays_salts_are_deleted(database_url: str, connection: psycopg.Connection[Any]) -> None:
    for back in range(3):
        connection.execute("INSERT INTO daily_salts VALUES (%s, '')", (TODAY - timedelta(days=back),))
    make_retention(database_url, 0).apply(NOW)
    assert column(connection, "SELECT day FROM daily_salts") == [TODAY]


def test_of_all_workers_one_is_at_it(database_url: str, connection: psycopg.Connection[Any]) -> None:
    add_keys(connection, NOW - timedelta(days=30))
    assert try_lock(connection, Lock.RETENTION)
    assert make_retention(database_url, 0).apply(NOW)
    assert column(connection, "SELECT count(*) FROM dedup_keys") == [1]
    connection.execute("SELECT pg_advisory_unlock_all()")
    make_retention(database_url, 0).apply(NOW)
    assert column(connection, "SELECT count(*) FROM dedup_keys") == [0]


def test_of_too_many_of_a_source_the_newest_stay(connection: psycopg.Connection[Any]) -> None:
    many, few = str(UUID(int=1)), str(UUID(int=2))
    for source_id in (many, few):
        connection.execute("INSERT INTO sources (source_id, name) VALUES (%s, %s)", (source_id, source_id))
    connection.execute(
        "INSERT INTO duplicates (source_id, event_id, received_at, duplicate_of)"
        " SELECT source, uuidv7(number * interval '1 s'), %s, uuidv7()"
        " FROM (VALUES (%s::uuid, 5), (%s, 2)) AS asked (source, rows), generate_series(1, rows) AS number",
        (NOW, many, few),
    )
    newest_first = "SELECT event_id::text FROM duplicates ORDER BY source_id, event_id DESC"
    before = column(connection, newest_first)
    assert purge_many(connection, "duplicates", "event_id", 3)
    assert column(connection, newest_first) == [*before[:3], *before[5:]]


def without_statistics(connection: psycopg.Connection[Any]) -> list[Any]:
    return column(
        connection,
        "SELECT relname || '.' || attname"
        " FROM pg_inherits JOIN pg_attribute ON attrelid = inhrelid JOIN pg_class ON pg_class.oid = inhrelid"
        " WHERE inhparent = 'events'::regclass AND attstattarget = 0 ORDER BY 1",
    )


def test_no_statistics_are_made_of_json(connection: psycopg.Connection[Any], partitions: Partitions) -> None:
    partitions.ensure([TODAY])
    json = ("context", "properties", "traits")
    assert without_statistics(connection) == [f"events_p20260131.{name}" for name in json]


def test_nor_in_the_partitions_an_upgrade_finds(
    database_url: str, connection: psycopg.Connection[Any], partitions: Partitions
) -> None:
    partitions.ensure([TODAY])
    connection.execute(
        'CREATE TABLE "Events before" PARTITION OF events'
        " FOR VALUES FROM (MINVALUE) TO ('2020-01-01 00:00:00+00')"
    )
    engine = create_engine("postgresql+psycopg://", creator=lambda: psycopg.connect(database_url))
    revision = script_directory().get_revision("0007")
    with engine.begin() as alembics, Operations.context(MigrationContext.configure(alembics)):
        revision.module.downgrade()
        alembics.execute(text("UPDATE alembic_version SET version_num = '0006'"))
    engine.dispose()
    assert without_statistics(connection) == []
    assert migrate(database_url)
    assert len(without_statistics(connection)) == 6
