"""What a browser on the demo page follows: the demo sources' tails, merged into one stream of events.

Hides that a source has a tail of its own, at which one may go on, and what bounds a stream: of each source
the newest few lines of a moment are told, the others counted. It ends with its browser, with any of its
tails, and with the facade.
"""

import asyncio
import re
from collections import Counter, deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import aclosing
from functools import partial
from typing import Any

from polylect.v1 import error_reason_pb2 as reasons
from polylect.v1.query_pb2 import TailEventsRequest, TailEventsResponse

from rest_facade.core_link import CoreLink
from rest_facade.core_refusal import CoreRefusal
from rest_facade.demo_lines import dialect_of, is_stored, line, received_second_of, server_sent

# A new page begins with what its plot shows: the events of its own loading are among it.
_LOOK_BACK_MS = 120_000
_LINES_HELD = 32
_TICK_SECONDS = 0.25
# Of each source.
_LINES_PER_TICK = 25
_BYTES_PER_TICK = 1024 * 1024
# Proxies give up on a silent connection after 30 s and more.
_TICKS_PER_HEARTBEAT = 60
_HEARTBEAT = b": still here\n\n"
# Until a browser whose stream broke asks again.
_RETRY = b"retry: 1000\n\n"
_TOKEN = re.compile(r"[\w=-]{16,128}", re.ASCII)
_MOMENT = re.compile(r"\d{1,14}", re.ASCII)

_Work = Callable[[], Awaitable[None]]


class Feed:
    """One stream. Its id of a line says, for each source, a tail's resume token or when to begin."""

    def __init__(
        self, link: CoreLink, keys: Sequence[str], last_id: str, now_ms: int, on_end: Callable[["Feed"], None]
    ) -> None:
        """Follow what each key may read, from a line's id on; from two minutes ago where there is none.

        `on_end` is called once, when nothing is followed any more.
        """
        self._link = link
        self._on_end = on_end
        self._keys = keys
        self._now_ms = now_ms
        self._positions = _positions(last_id, len(keys)) or [str(now_ms - _LOOK_BACK_MS)] * len(keys)
        # None is the end.
        self._lines: asyncio.Queue[bytes | None] = asyncio.Queue(_LINES_HELD)
        self._ended = False
        self._tasks: list[asyncio.Task[None]] = []
        # For each source, whether the core lets it be followed.
        self._begun: list[asyncio.Future[None]] = []
        # What came in this tick, by source.
        self._fresh = [_Newest() for _ in keys]
        # What was more than a tick tells, by dialect, verdict and the second it was received in.
        self._beyond: Counter[tuple[str, str, int]] = Counter()

    async def begin(self, receive: Callable[[], Awaitable[Any]]) -> None:
        """Start, when the core has said yes for every source. Raises CoreRefusal.

        `receive` is the request's: it tells when the browser is gone.
        """
        self._begun = [asyncio.get_running_loop().create_future() for _ in self._keys]
        works: list[_Work] = [partial(self._follow, number) for number in range(len(self._keys))]
        works += [partial(_gone, receive), self._tick]
        self._tasks = [asyncio.create_task(self._until_end(work)) for work in works]
        await asyncio.gather(*self._begun)

    def end(self) -> None:
        """Let the stream end, without what it still holds."""
        if self._ended:
            return
        self._ended = True
        for task in self._tasks:
            task.cancel()
        for begun in self._begun:
            if not begun.done():
                begun.set_exception(_over())
        while not self._lines.empty():
            self._lines.get_nowait()
        self._lines.put_nowait(None)
        self._on_end(self)

    async def stream(self) -> AsyncIterator[bytes]:
        """Give what to send, until the end."""
        yield _RETRY
        # By which a page tells what came before it was opened.
        yield server_sent("now", self._now_ms, self._position())
        while (held := await self._lines.get()) is not None:
            yield held

    async def _until_end(self, work: _Work) -> None:
        try:
            await work()
        except CoreRefusal as refusal:
            for begun in self._begun:
                if not begun.done():
                    begun.set_exception(refusal)
        finally:
            self.end()

    async def _follow(self, number: int) -> None:
        answers = await self._link.follow(self._request(number), self._keys[number])
        self._begun[number].set_result(None)
        async with aclosing(answers):
            async for answer in answers:
                for oldest in self._fresh[number].add(answer):
                    self._positions[number] = oldest.resume_token
                    verdict = "stored" if is_stored(oldest) else "refused"
                    self._beyond[dialect_of(oldest), verdict, received_second_of(oldest)] += 1

    def _request(self, number: int) -> TailEventsRequest:
        position = self._positions[number]
        request = TailEventsRequest()
        if _MOMENT.fullmatch(position):
            request.received_from.FromMilliseconds(int(position))
        else:
            request.resume_token = position
        return request

    async def _tick(self) -> None:
        ticks = 0
        while True:
            await asyncio.sleep(_TICK_SECONDS)
            ticks += 1
            for number, fresh in enumerate(self._fresh):
                for _ in range(len(fresh)):
                    answer = fresh.take()
                    self._positions[number] = answer.resume_token
                    await self._lines.put(line(answer, self._position()))
            if self._beyond:
                beyond, self._beyond = self._beyond, Counter()
                told = [[*received, number] for received, number in beyond.items()]
                await self._lines.put(server_sent("beyond", told, self._position()))
            if ticks % _TICKS_PER_HEARTBEAT == 0 and self._lines.empty():
                self._lines.put_nowait(_HEARTBEAT)

    def _position(self) -> str:
        return ".".join(self._positions)


class _Newest:
    """The newest of one source, as many as a tick tells."""

    def __init__(self) -> None:
        self._answers: deque[tuple[TailEventsResponse, int]] = deque()
        self._held_bytes = 0

    def __len__(self) -> int:
        return len(self._answers)

    def add(self, answer: TailEventsResponse) -> Iterator[TailEventsResponse]:
        """Keep one; give those there is no room for any more, oldest first."""
        size_bytes = answer.ByteSize()
        self._answers.append((answer, size_bytes))
        self._held_bytes += size_bytes
        while len(self) > 1 and (len(self) > _LINES_PER_TICK or self._held_bytes > _BYTES_PER_TICK):
            yield self.take()

    def take(self) -> TailEventsResponse:
        """Take the oldest out."""
        answer, size_bytes = self._answers.popleft()
        self._held_bytes -= size_bytes
        return answer


def _positions(last_id: str, number: int) -> list[str] | None:
    """Read a line's id; None for what is none of a stream of so many tails."""
    positions = last_id.split(".", number)
    known = (_TOKEN.fullmatch(each) or _MOMENT.fullmatch(each) for each in positions)
    return positions if len(positions) == number and all(known) else None


def _over() -> CoreRefusal:
    return CoreRefusal(reasons.ERROR_REASON_STORAGE_UNAVAILABLE, "The stream is over")


async def _gone(receive: Callable[[], Awaitable[Any]]) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
