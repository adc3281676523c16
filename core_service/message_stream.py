"""A stream of messages, each answered by itself; hides how far it is read ahead of its answers.

Knows nothing of what a message means.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine
from typing import Any, TypeAlias, TypeVar

from core_service.errors import CoreError

_READ_AHEAD = 64

Message = TypeVar("Message")
Answer = TypeVar("Answer")
# What a message comes to; an error ends the stream.
Outcome: TypeAlias = Coroutine[Any, Any, Answer | CoreError]
_Task: TypeAlias = asyncio.Task[Answer | CoreError]


class _Room:
    """How many messages are read and not answered yet, the one that is waited for among them."""

    def __init__(self, is_crowded: Callable[[], bool]) -> None:
        self._is_crowded = is_crowded
        self._unanswered = 0
        self._answered = asyncio.Event()
        self.is_refused = False

    async def enter(self) -> None:
        while self._unanswered and (self._unanswered >= _READ_AHEAD or self._is_crowded()):
            self._answered.clear()
            await self._answered.wait()
        self._unanswered += 1

    def leave(self) -> None:
        self._unanswered -= 1
        self._answered.set()


async def answered_in_order(
    messages: AsyncIterator[Message],
    take: Callable[[Message], Outcome[Answer]],
    *,
    is_crowded: Callable[[], bool],
    stopping: asyncio.Event,
) -> AsyncGenerator[Answer]:
    """Take messages as they come, and give their answers in order; to be closed.

    Reads until there are no more, one is refused, or `stopping` is set: what was read is answered. While it
    `is_crowded`, one message at a time. Raises the CoreError a message came to, in its turn.
    """
    tasks: asyncio.Queue[_Task[Answer] | None] = asyncio.Queue()
    room = _Room(is_crowded)
    reader = asyncio.create_task(_read(messages, take, tasks, room, stopping))
    task: _Task[Answer] | None = None
    try:
        while (task := await tasks.get()) is not None:
            answer = await task
            if isinstance(answer, CoreError):
                raise answer
            yield answer
            room.leave()
        await reader
    finally:
        await _end(reader)
        while task is not None:
            await _end(task)
            task = tasks.get_nowait()


async def _read(
    messages: AsyncIterator[Message],
    take: Callable[[Message], Outcome[Answer]],
    tasks: "asyncio.Queue[_Task[Answer] | None]",
    room: _Room,
    stopping: asyncio.Event,
) -> None:
    """Begin to take each message, and put that into `tasks`; in the end None."""

    def note(task: _Task[Answer]) -> None:
        if task.cancelled() or task.exception() or isinstance(task.result(), CoreError):
            room.is_refused = True

    stopped = asyncio.create_task(stopping.wait())
    try:
        while True:
            await room.enter()
            if room.is_refused:
                return
            arriving = asyncio.ensure_future(anext(messages, None))
            try:
                await asyncio.wait({arriving, stopped}, return_when=asyncio.FIRST_COMPLETED)
                message = arriving.result() if arriving.done() else None
            finally:
                await _end(arriving)
            if message is None or room.is_refused:
                return
            task = asyncio.create_task(take(message))
            task.add_done_callback(note)
            tasks.put_nowait(task)
            # A stream that waits keeps none.
            del message, arriving
    finally:
        stopped.cancel()
        tasks.put_nowait(None)


async def _end(task: asyncio.Future[Any]) -> None:
    """Cancel a task, or see that nobody misses what it failed with."""
    task.cancel()
    await asyncio.wait({task})
    if not task.cancelled():
        task.exception()
