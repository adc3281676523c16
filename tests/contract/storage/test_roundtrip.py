"""A statement under way ends when its server does, on the event loop the core runs on."""

import asyncio
import random

import psycopg
import pytest
import uvloop

from storage.roundtrip import Connection

# More than the socket's buffer takes, so that the end comes while there is still something to send.
_LARGE = b"x" * (8 << 20)
_ROUNDS = 30


async def _until_killed(
    url: str, admin: "psycopg.AsyncConnection[tuple[object, ...]]", seconds: float
) -> None:
    connection = await Connection.connect(url, autocommit=True)
    await connection.execute("CREATE TEMP TABLE heap (payload bytea)")
    await connection.prepare(b"fill", b"INSERT INTO heap VALUES ($1)")

    async def fill() -> None:
        while True:
            await connection.run_prepared(b"fill", [_LARGE])

    filling = asyncio.create_task(fill())
    await asyncio.sleep(seconds)
    await admin.execute("SELECT pg_terminate_backend(%s)", (connection.info.backend_pid,))
    done, _ = await asyncio.wait({filling}, timeout=20)
    assert done, "it waits for a server that is gone"
    with pytest.raises(psycopg.Error):
        filling.result()
    await connection.close()


def test_a_statement_does_not_wait_for_a_server_that_is_gone(database_url: str) -> None:
    async def rounds() -> None:
        admin = await psycopg.AsyncConnection.connect(database_url, autocommit=True)
        for _ in range(_ROUNDS):
            await _until_killed(database_url, admin, random.uniform(0, 0.03))
        await admin.close()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(rounds())
