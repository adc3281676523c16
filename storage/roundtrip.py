"""A prepared statement in one round trip, straight on libpq.

Hides how a result is waited for. psycopg's own way (a cursor, a generator, a task and six calls of epoll_ctl)
took a fourth of the core's time under load.
"""

import asyncio
import select
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import psycopg
from psycopg.errors import error_from_result
from psycopg.pq import ExecStatus, Format
from psycopg.pq.abc import PGresult

_CANCEL_SECONDS = 2.0


class Connection(psycopg.AsyncConnection[dict[str, Any]]):
    """A connection that also runs prepared statements.

    Its socket is watched from one to the next: to watch it anew each time took 25k of the 146k instructions
    of an append, its calls of the kernel included.
    """

    _watched: int | None = None
    _answer: "_Answer | None" = None

    async def prepare(self, name: bytes, statement: bytes) -> None:
        """Prepare a statement, parameters as $1, for the life of the connection; else as `run_prepared`."""
        self.pgconn.send_prepare(name, statement)
        await self._finish()

    async def run_prepared(self, name: bytes, parameters: Sequence[bytes | None]) -> None:
        """Run the prepared statement of that name, its parameters in binary form; rows it gives are dropped.

        The connection must be in autocommit and used by nobody else. Cancelled, it cancels the statement and
        waits for its end. Raises psycopg.Error.
        """
        self.pgconn.send_query_prepared(name, parameters, [Format.BINARY] * len(parameters))
        await self._finish()

    async def wait(self, *arguments: Any, **named: Any) -> Any:
        """Let psycopg do anything else, which watches the socket itself."""
        self._unwatch()
        return await super().wait(*arguments, **named)

    async def close(self) -> None:
        """Close it, watched no more: its descriptor may be another's next."""
        self._unwatch()
        await super().close()

    async def _finish(self) -> None:
        answer = self._answer = _Answer()
        try:
            self._watch()
            if self.pgconn.flush():
                asyncio.get_running_loop().add_writer(self.pgconn.socket, self._write)
            try:
                await answer.ended
            except asyncio.CancelledError:
                answer.expect()
                with suppress(psycopg.Error):
                    await self.cancel_safe(timeout=_CANCEL_SECONDS)
                    await answer.ended
                raise
        finally:
            self._answer = None
        for result in answer.results:
            if result.status not in {ExecStatus.COMMAND_OK, ExecStatus.TUPLES_OK}:
                raise error_from_result(result, self.info.encoding)

    def _watch(self) -> None:
        if self._watched is None:
            self._watched = self.pgconn.socket
            asyncio.get_running_loop().add_reader(self._watched, self._read)

    def _unwatch(self) -> None:
        if self._watched is not None:
            loop = asyncio.get_running_loop()
            loop.remove_reader(self._watched)
            loop.remove_writer(self._watched)
            self._watched = None

    def _read(self) -> None:
        answer = self._answer
        if answer is None:
            # What comes unasked is a farewell. It stays unread: so the pool finds out, at the next use.
            self._unwatch()
        elif not answer.ended.done():
            try:
                self._take_results(answer)
                # uvloop tells of a broken socket once, and watches it no more: all that is left is read now.
                while not answer.ended.done() and _is_broken(self.pgconn.socket):
                    self._take_results(answer)
            except psycopg.Error as error:
                self._fail(answer, error)

    def _take_results(self, answer: "_Answer") -> None:
        self.pgconn.consume_input()
        while not self.pgconn.is_busy():
            result = self.pgconn.get_result()
            if result is None:
                answer.ended.set_result(None)
                return
            answer.results.append(result)

    def _fail(self, answer: "_Answer", error: psycopg.Error) -> None:
        self._unwatch()
        answer.ended.set_exception(error)

    def _write(self) -> None:
        try:
            unsent = self.pgconn.flush()
        except psycopg.Error as error:
            # It may have closed the socket, and then nothing more is read.
            answer, unsent = self._answer, 0
            if answer is not None and not answer.ended.done():
                self._fail(answer, error)
        if not unsent and self._watched is not None:
            asyncio.get_running_loop().remove_writer(self._watched)


def _is_broken(descriptor: int) -> bool:
    poll = select.poll()
    poll.register(descriptor, 0)
    return bool(poll.poll(0))


class _Answer:
    """What comes back for a query that was sent: `results`, complete when `ended`."""

    def __init__(self) -> None:
        self.results: list[PGresult] = []
        self.expect()

    def expect(self) -> None:
        """Make an end to wait for; a cancelled wait takes the old one with it."""
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
