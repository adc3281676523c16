"""The queue against real Postgres: durable when it says so, honest when it can't be, a claim its holder's."""

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st
from polylect.v1.event_pb2 import EVENT_KIND_TRACK, Event
from polylect.v1.quarantine_pb2 import QuarantinedEvent
from polylect.v1.queue_pb2 import EventBatch

from storage.database import Database
from storage.embedded import EmbeddedPostgres
from storage.errors import StorageUnavailable
from storage.migrate import migrate
from storage.queue import PostgresQueue, claim, decode_batch, encode_batch, is_waiting

ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    database = Database(database_url, size=2, timeout_seconds=1.0)
    yield database
    await database.aclose()


@pytest.fixture
def queue(database: Database) -> PostgresQueue:
    return PostgresQueue(database)


def make_batch(events: int = 1, quarantined: int = 0, name: str = "signup") -> EventBatch:
    return EventBatch(
        events=[Event(event_id=f"{n}", kind=EVENT_KIND_TRACK, name=name) for n in range(events)],
        quarantined=[QuarantinedEvent(quarantine_id=f"{n}", raw=b"{") for n in range(quarantined)],
    )


async def append(queue: PostgresQueue, batch: EventBatch) -> None:
    await queue.append(batch.SerializeToString(), len(batch.events) + len(batch.quarantined))


def stored(url: str) -> list[tuple[int, EventBatch]]:
    with psycopg.connect(url) as connection:
        rows = connection.execute("SELECT item_count, payload FROM queue ORDER BY queue_id").fetchall()
    return [(item_count, decode_batch(payload)) for item_count, payload in rows]


async def backend_of(database: Database) -> int:
    async with database.connection() as connection:
        return connection.info.backend_pid


async def test_a_batch_is_one_committed_row_when_append_returns(
    queue: PostgresQueue, database_url: str
) -> None:
    batch = make_batch(events=3, quarantined=2)
    await append(queue, batch)
    assert stored(database_url) == [(5, batch)]


async def test_more_appends_at_once_than_connections_all_arrive(
    queue: PostgresQueue, database_url: str
) -> None:
    await asyncio.gather(*(append(queue, make_batch(name=f"event {n}")) for n in range(20)))
    names = {batch.events[0].name for _, batch in stored(database_url)}
    assert names == {f"event {n}" for n in range(20)}


async def test_an_acknowledged_commit_is_synced_whatever_the_default_is(database_url: str) -> None:
    name = database_url.rpartition("/")[2]
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(f"ALTER DATABASE {name} SET synchronous_commit = off")
    database = Database(database_url)
    async with database.connection() as session:
        cursor = await session.execute("SHOW synchronous_commit")
        assert await cursor.fetchone() == {"synchronous_commit": "on"}
    await database.aclose()


async def test_a_silent_database_is_unavailable_within_the_timeout(
    queue: PostgresQueue, database: Database, database_url: str
) -> None:
    await append(queue, make_batch(name="before"))
    backend = await backend_of(database)
    os.kill(backend, signal.SIGSTOP)
    try:
        started = time.monotonic()
        with pytest.raises(StorageUnavailable, match="no answer within 1 s"):
            await append(queue, make_batch(name="while silent"))
        assert time.monotonic() - started < 2
        # Another connection is made in place of the lost one.
        await append(queue, make_batch(name="after"))
    finally:
        os.kill(backend, signal.SIGCONT)
    names = [batch.events[0].name for _, batch in stored(database_url)]
    assert names[0] == "before"
    assert "after" in names


async def test_a_cut_connection_costs_no_append(
    queue: PostgresQueue, database: Database, database_url: str
) -> None:
    backend = await backend_of(database)
    with psycopg.connect(database_url, autocommit=True) as connection:
        # Waits until the backend is gone.
        assert connection.execute("SELECT pg_terminate_backend(%s, 5000)", (backend,)).fetchone() == (True,)
    await append(queue, make_batch())
    assert len(stored(database_url)) == 1


async def test_a_connection_cut_between_two_appends_costs_none(
    queue: PostgresQueue, database: Database, database_url: str
) -> None:
    await append(queue, make_batch(name="before"))
    backend = await backend_of(database)
    with psycopg.connect(database_url, autocommit=True) as connection:
        assert connection.execute("SELECT pg_terminate_backend(%s, 5000)", (backend,)).fetchone() == (True,)
    # The event loop hears of it while nobody asks.
    for _ in range(3):
        await asyncio.sleep(0)
    await append(queue, make_batch(name="after"))
    assert [batch.events[0].name for _, batch in stored(database_url)] == ["before", "after"]


async def test_busy_connections_are_waited_for_but_not_for_ever(
    queue: PostgresQueue, database: Database
) -> None:
    async with database.connection(), database.connection():
        started = time.monotonic()
        with pytest.raises(StorageUnavailable, match="all connections are busy"):
            await append(queue, make_batch())
        assert time.monotonic() - started < 2


async def test_no_driver_error_crosses(queue: PostgresQueue, database_url: str) -> None:
    with psycopg.connect(database_url) as connection:
        connection.execute("DROP TABLE queue")
    with pytest.raises(StorageUnavailable, match='relation "queue" does not exist') as caught:
        await append(queue, make_batch())
    assert isinstance(caught.value.__cause__, psycopg.errors.UndefinedTable)


async def test_a_batch_larger_than_any_socket_buffer_arrives(queue: PostgresQueue, database_url: str) -> None:
    batch = EventBatch(quarantined=[QuarantinedEvent(raw=os.urandom(8 * 1024 * 1024))])
    await append(queue, batch)
    assert stored(database_url) == [(1, batch)]


async def test_a_connection_that_forgot_its_statements_costs_one_append_at_most(
    queue: PostgresQueue, database: Database, database_url: str
) -> None:
    await append(queue, make_batch(name="before"))
    async with database.connection() as connection:
        await connection.execute("DISCARD ALL")
    with pytest.raises(StorageUnavailable, match="does not exist"):
        await append(queue, make_batch(name="lost"))
    await append(queue, make_batch(name="after"))
    assert [batch.events[0].name for _, batch in stored(database_url)] == ["before", "after"]


async def test_a_cancelled_append_leaves_its_connection_usable(
    queue: PostgresQueue, database: Database, database_url: str
) -> None:
    with psycopg.connect(database_url) as blocker:
        blocker.execute("LOCK TABLE queue")
        appending = asyncio.ensure_future(append(queue, make_batch(name="cancelled")))
        while not blocker.execute("SELECT 1 FROM pg_locks WHERE NOT granted").fetchall():  # noqa: ASYNC110
            await asyncio.sleep(0)
        appending.cancel()
        with pytest.raises(asyncio.CancelledError):
            await appending
    await append(queue, make_batch(name="kept"))
    assert [batch.events[0].name for _, batch in stored(database_url)] == ["kept"]


async def test_a_restarted_server_is_found_again(tmp_path: Path) -> None:
    server = EmbeddedPostgres(tmp_path / "postgres").start()
    migrate(server.url)
    database = Database(server.url)
    queue = PostgresQueue(database)
    try:
        await append(queue, make_batch(name="before"))
        server.stop()
        with pytest.raises(StorageUnavailable):
            await append(queue, make_batch(name="while down"))
        server.start()
        await append(queue, make_batch(name="after"))
        assert [batch.events[0].name for _, batch in stored(server.url)] == ["before", "after"]
    finally:
        await database.aclose()
        server.stop()


def test_a_large_batch_is_compressed_and_a_small_one_is_not() -> None:
    assert encode_batch(make_batch().SerializeToString()) == make_batch().SerializeToString()
    large = make_batch(events=500, name="the same name again and again")
    payload = encode_batch(large.SerializeToString())
    assert payload.startswith(ZSTD_MAGIC)
    assert len(payload) < large.ByteSize() / 10
    assert decode_batch(payload) == large


def test_what_does_not_shrink_stays_as_it_is() -> None:
    batch = EventBatch(quarantined=[QuarantinedEvent(raw=os.urandom(10_000))])
    assert encode_batch(batch.SerializeToString()) == batch.SerializeToString()


@given(st.lists(st.binary(max_size=4000), max_size=5))
def test_every_batch_comes_back(raws: list[bytes]) -> None:
    batch = EventBatch(quarantined=[QuarantinedEvent(raw=raw) for raw in raws])
    assert decode_batch(encode_batch(batch.SerializeToString())) == batch


@pytest.mark.parametrize("payload", [ZSTD_MAGIC, ZSTD_MAGIC + b"\x00" * 20, b"\xff\xff\xff", b"\x0a\x7f"])
def test_what_is_no_payload_is_a_value_error(payload: bytes) -> None:
    with pytest.raises(ValueError, match="not the payload of a batch"):
        decode_batch(payload)


def test_a_claim_is_its_holders_until_it_is_settled(database_url: str) -> None:
    batches = [make_batch(name="first", quarantined=1), make_batch(name="second")]

    def enqueue(batch: EventBatch) -> None:
        with psycopg.connect(database_url) as core:
            values = (len(batch.events) + len(batch.quarantined), encode_batch(batch.SerializeToString()))
            core.execute("INSERT INTO queue (item_count, payload) VALUES (%s, %b)", values)

    with psycopg.connect(database_url) as one, psycopg.connect(database_url) as other:
        enqueue(batches[0])
        first = claim(one, max_items=100, max_bytes=1 << 20)
        enqueue(batches[1])
        second = claim(other, max_items=100, max_bytes=1 << 20)
        assert first is not None
        assert second is not None
        assert [first.events, first.refused] == [list(batches[0].events), list(batches[0].quarantined)]
        assert [second.events, second.refused] == [list(batches[1].events), []]
        assert (first.items, first.emptied, second.items, second.emptied) == (2, True, 1, True)
        first.settle()
        one.commit()
        # Given up, it is there again.
        other.rollback()
        assert is_waiting(one)
        assert stored(database_url) == [(1, batches[1])]
        again = claim(one, max_items=100, max_bytes=1 << 20)
        assert again is not None
        again.settle()
        one.commit()
        assert not is_waiting(one)
        assert claim(one, max_items=100, max_bytes=1 << 20) is None
