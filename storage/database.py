"""Connections of the asynchronous half of storage: a small pool, and a deadline on everything.

Hides how a hanging or restarted database is noticed. It must not know any table.
psycopg's own pool would make callers wait while it reconnects in the background, at growing intervals; here a
lost connection is replaced when next needed, and a refusal is told at once.
"""

import asyncio
import os
import select
import socket
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator
from contextlib import aclosing, asynccontextmanager, contextmanager, suppress
from typing import Any, cast

import psycopg
from psycopg.pq import TransactionStatus
from psycopg.rows import dict_row
from sqlalchemy import Executable
from sqlalchemy.dialects.postgresql.psycopg import PGDialect_psycopg
from sqlalchemy.sql import ClauseElement

from storage.errors import StorageUnavailable, driver_errors_wrapped
from storage.roundtrip import Connection

# A commit acknowledged to a client must be on disk, whatever the server's default.
_SESSION = """
SELECT set_config('synchronous_commit', 'on', false),
       set_config('TimeZone', 'UTC', false),
       set_config('statement_timeout', %s, false)
"""
Rows = Callable[[Executable], Awaitable[list[dict[str, Any]]]]
"""Runs one statement and gives its rows."""

_DIALECT = PGDialect_psycopg()  # type: ignore[no-untyped-call]


@contextmanager
def deadline(connection: Connection, seconds: float) -> Iterator[None]:
    """Let what waits on `connection` raise TimeoutError after that time, even if the server is silent."""
    loop = asyncio.get_running_loop()
    timer = loop.call_later(seconds, _cut, connection)
    try:
        yield
    except psycopg.Error as error:
        if loop.time() >= timer.when():
            raise TimeoutError(f"no answer within {seconds:g} s") from error
        raise
    finally:
        timer.cancel()


def _cut(connection: Connection) -> None:
    # Cancelling would have psycopg ask the silent server to cancel, and closing would leave the task waiting
    # on a descriptor that is gone; a socket shut down reads as its end, which the driver reports by itself.
    with suppress(OSError, psycopg.Error), socket.socket(fileno=os.dup(connection.pgconn.socket)) as line:
        line.shutdown(socket.SHUT_RDWR)


async def connect(url: str, timeout_seconds: float) -> Connection:
    """Open a connection in autocommit, its statements bounded by the server too.

    Raises psycopg.Error and OSError.
    """
    connection = await Connection.connect(
        url,
        autocommit=True,
        row_factory=dict_row,
        client_encoding="UTF8",
        connect_timeout=max(2, round(timeout_seconds)),
        fallback_application_name="polylect",
        keepalives_idle=5,
        keepalives_interval=2,
        keepalives_count=3,
        tcp_user_timeout=round(timeout_seconds * 1000),
    )
    try:
        with deadline(connection, timeout_seconds):
            await connection.execute(_SESSION, (str(round(timeout_seconds * 1000)),))
    except BaseException:
        await connection.close()
        raise
    return connection


class Database:
    """At most `size` connections to one database, made when needed.

    `timeout_seconds` bounds each of: waiting for a free connection, connecting, and one use of it.
    """

    def __init__(self, url: str, *, size: int = 3, timeout_seconds: float = 5.0) -> None:
        self.url = url
        self._timeout_seconds = timeout_seconds
        self._slots = asyncio.Semaphore(size)
        self._idle: list[Connection] = []
        self._closed = False

    async def aclose(self) -> None:
        """Close idle connections now, and those in use when they are given back."""
        self._closed = True
        while self._idle:
            await self._idle.pop().close()

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        """Lend a connection in autocommit. Whatever the driver raises in the block is StorageUnavailable."""
        with driver_errors_wrapped():
            await self._take_slot()
            try:
                connection = await self._take()
                try:
                    with deadline(connection, self._timeout_seconds):
                        yield connection
                finally:
                    await self._give_back(connection)
            finally:
                self._slots.release()

    async def ping(self) -> None:
        """Answer when the database does. Raises StorageUnavailable."""
        async with self.connection() as connection:
            await connection.execute("SELECT 1")

    async def rows(self, statement: Executable) -> list[dict[str, Any]]:
        """Run one statement, give its rows. Raises StorageUnavailable."""
        async with self.connection() as connection:
            cursor = await connection.execute(*compiled(statement))
            return await cursor.fetchall()

    @asynccontextmanager
    async def snapshot(self) -> AsyncIterator[Rows]:
        """Lend what runs a statement and gives its rows: all see the data of one moment.

        Raises StorageUnavailable.
        """
        async with self.connection() as connection, connection.transaction():
            await connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")

            async def rows(statement: Executable) -> list[dict[str, Any]]:
                return await (await connection.execute(*compiled(statement))).fetchall()

            yield rows

    async def stream(self, statement: Executable) -> AsyncGenerator[dict[str, Any]]:
        """Run one statement, yield its rows one by one as they come, however many and large they are.

        Close it (`aclosing`) when done: that cancels the rest, and gives the connection back. Raises
        StorageUnavailable.
        """
        async with self.connection() as connection, connection.cursor() as cursor:
            rows = cast("AsyncGenerator[dict[str, Any]]", cursor.stream(*compiled(statement)))
            async with aclosing(rows):
                async for row in rows:
                    yield row

    async def run(self, statement: Executable) -> int:
        """Run one statement, give the number of rows it touched. Raises StorageUnavailable."""
        async with self.connection() as connection:
            return (await connection.execute(*compiled(statement))).rowcount

    async def _take_slot(self) -> None:
        if not self._slots.locked():
            await self._slots.acquire()
            return
        try:
            async with asyncio.timeout(self._timeout_seconds):
                await self._slots.acquire()
        except TimeoutError as error:
            raise StorageUnavailable("the database is not available: all connections are busy") from error

    async def _take(self) -> Connection:
        while self._idle:
            connection = self._idle.pop()
            if _is_alive(connection):
                return connection
            await connection.close()
        return await connect(self.url, self._timeout_seconds)

    async def _give_back(self, connection: Connection) -> None:
        if self._closed or connection.pgconn.transaction_status != TransactionStatus.IDLE:
            await connection.close()
        else:
            self._idle.append(connection)


def _is_alive(connection: Connection) -> bool:
    """Tell whether an idle connection's server has not hung up: a look at the socket, no round trip.

    Anything it says unasked counts as that: a farewell comes before the end, the rest is rare.
    """
    try:
        poll = select.poll()
        poll.register(connection.pgconn.socket, select.POLLIN)
        return not poll.poll(0)
    except (psycopg.Error, OSError):
        return False


def compiled(statement: Executable) -> tuple[str, dict[str, Any]]:
    """Give the text and parameters of a statement, as psycopg takes them."""
    # SQLAlchemy writes the statement, psycopg runs it: the asyncio engine would bring greenlets and a pool.
    assert isinstance(statement, ClauseElement)
    compiled = statement.compile(dialect=_DIALECT)
    return str(compiled), dict(compiled.params)
