"""A prepared statement in one round trip, straight on libpq.

Hides how a result is waited for. psycopg's own way (a cursor, a generator, a task and six calls of epoll_ctl)
took a fourth of the core's time under load.
"""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress

import psycopg
from psycopg.errors import error_from_result
from psycopg.pq import ExecStatus, Format
from psycopg.pq.abc import PGconn, PGresult

from storage.database import Connection

_CANCEL_SECONDS = 2.0


async def prepare(connection: Connection, name: bytes, statement: bytes) -> None:
    """Prepare a statement, parameters as $1, for the life of the connection. Otherwise as `run_prepared`."""
    connection.pgconn.send_prepare(name, statement)
    await _finish(connection)


async def run_prepared(connection: Connection, name: bytes, parameters: Sequence[bytes | None]) -> None:
    """Run the prepared statement of that name, its parameters in binary form; rows it gives are dropped.

    The connection must be in autocommit and used by nobody else. Cancelled, it cancels the statement and
    waits for its end. Raises psycopg.Error.
    """
    connection.pgconn.send_query_prepared(name, parameters, [Format.BINARY] * len(parameters))
    await _finish(connection)


async def _finish(connection: Connection) -> None:
    answer = _Answer(connection.pgconn)
    try:
        try:
            await answer.ended
        except asyncio.CancelledError:
            answer.expect()
            with suppress(psycopg.Error):
                await connection.cancel_safe(timeout=_CANCEL_SECONDS)
                await answer.ended
            raise
    finally:
        answer.close()
    for result in answer.results:
        if result.status not in {ExecStatus.COMMAND_OK, ExecStatus.TUPLES_OK}:
            raise error_from_result(result, connection.info.encoding)


class _Answer:
    """What comes back for a query that was sent: `results`, complete when `ended`."""

    def __init__(self, pgconn: PGconn) -> None:
        self.results: list[PGresult] = []
        self._pgconn = pgconn
        self._loop = asyncio.get_running_loop()
        self._line = pgconn.socket
        self.expect()
        unsent = pgconn.flush()
        self._loop.add_reader(self._line, self._step, self._read)
        if unsent:
            self._loop.add_writer(self._line, self._step, self._write)

    def expect(self) -> None:
        """Make an end to wait for; a cancelled wait takes the old one with it."""
        self.ended: asyncio.Future[None] = self._loop.create_future()

    def close(self) -> None:
        """Look at the connection no more."""
        self._loop.remove_reader(self._line)
        self._loop.remove_writer(self._line)

    def _step(self, step: Callable[[], None]) -> None:
        if not self.ended.done():
            try:
                step()
            except psycopg.Error as error:
                self.ended.set_exception(error)

    def _read(self) -> None:
        self._pgconn.consume_input()
        while not self._pgconn.is_busy():
            result = self._pgconn.get_result()
            if result is None:
                self.ended.set_result(None)
                return
            self.results.append(result)

    def _write(self) -> None:
        if not self._pgconn.flush():
            self._loop.remove_writer(self._line)
