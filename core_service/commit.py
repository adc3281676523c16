"""Group commit; hides how many calls share one row of the queue.

Whatever arrives while a flush is under way becomes the next row. Clients' own messages come one by one, and a
flush ends before a few of them have: where there are many at a time, a row waits a moment for more. Nothing
here knows what an event means.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager

import structlog
from polylect.v1 import error_reason_pb2 as reasons

from core_service.errors import CoreError, Overloaded, StorageUnavailable
from core_service.ports import LedgerLine, Queue

# A row the worker can hold and write in one transaction without trouble.
ROW_ITEMS = 5_000
ROW_BYTES = 8 * 1024 * 1024
# What may wait for the disk: seconds of traffic, and room for the largest single call.
BUFFER_BYTES = 64 * 1024 * 1024
# With one flush the disk idles while the next row is built, and an arrival waits for up to two commits. With
# several, Postgres answers them with one fsync. At 32 and 128 connections 2 gave 12.4k and 17.4k requests/s,
# 4 gave 13.2k and 18.4k, in short runs that differed among themselves by as much.
FLUSHES_IN_FLIGHT = 4

# After a row of more than one parcel, those that may wait begin the next no sooner, unless so many times as
# many do, or enough, or as many as there were when it took too long. A row costs the core 100k
# instructions and Postgres twice that. In turn with twice as many and 2 ms (three runs each, where a flush
# takes 0.03 ms): at 128 connections 9 to 13 calls share a row instead of 4 to 6, 7,354 to 8,317 calls/s
# instead of 6,751 to 7,672; at 16 as many calls/s, with a tenth less CPU each; at 4 no difference.
_PACE_SECONDS = 0.003
_GROWTH = 4
_ENOUGH_PARCELS = 32

Observed = Callable[[int], AbstractContextManager[None]]

log = structlog.get_logger()


class Parcel:
    """What is committed together or not at all."""

    __slots__ = ("items", "received", "size_bytes")

    def __init__(self) -> None:
        """Start empty."""
        self.items: list[bytes] = []
        # What was put in, for the ledger.
        self.received: dict[LedgerLine, int] = {}
        self.size_bytes = 0

    def count(self, line: LedgerLine, items: int) -> None:
        """Count items that were put in."""
        if items:
            self.received[line] = self.received.get(line, 0) + items


class Consignment:
    """All that one call wants durable, cut into parcels that each fit a row."""

    def __init__(self) -> None:
        """Start with one parcel."""
        self.parcels = [Parcel()]

    def add(self, items: Sequence[bytes], line: LedgerLine) -> range:
        """Add what belongs to one answer, each an EventBatch of one item, and where the ledger counts it.

        Give the indexes of its parcels.
        """
        first = len(self.parcels) - 1
        counted = 0
        parcel = self.parcels[-1]
        for item in items:
            size_bytes = parcel.size_bytes + len(item)
            if parcel.items and (size_bytes > ROW_BYTES or len(parcel.items) >= ROW_ITEMS):
                parcel.count(line, counted)
                parcel = Parcel()
                self.parcels.append(parcel)
                size_bytes, counted = len(item), 0
            parcel.items.append(item)
            parcel.size_bytes = size_bytes
            counted += 1
        parcel.count(line, counted)
        return range(first, len(self.parcels))


class GroupCommit:
    """Makes parcels durable, many in one row."""

    def __init__(self, queue: Queue, observed: Observed, pace_seconds: float = _PACE_SECONDS) -> None:
        """Commit to `queue`, each commit within what `observed` gives for its number of items."""
        self._pace_seconds = pace_seconds
        self._queue = queue
        self._observed = observed
        self._waiting: deque[tuple[Parcel, asyncio.Future[None]]] = deque()
        self._held_bytes = 0
        self._flushes: set[asyncio.Task[None]] = set()
        self._failing = False
        # When the last row began, how many parcels begin the next before its time, and what begins it then.
        self._row_began = 0.0
        self._wanted = 1
        self._pause: asyncio.TimerHandle | None = None
        # Whether some wait for a slot that wait for nothing else.
        self._hurried = False

    def is_crowded(self) -> bool:
        """Tell whether so much waits that nobody should bring more than he must."""
        return self._held_bytes > BUFFER_BYTES // 2

    async def commit(self, parcels: Iterable[Parcel], *, may_wait: bool = False) -> list[CoreError | None]:
        """Wait until each parcel is durable (None) or known not to be (why); an empty one always is.

        `may_wait`: they are of one client's message, and wait for those of others if there are many. Raises
        Overloaded when the buffer has no room; then nothing was taken.
        """
        wanted = list(parcels)
        size_bytes = sum(parcel.size_bytes for parcel in wanted)
        if self._held_bytes and self._held_bytes + size_bytes > BUFFER_BYTES:
            raise Overloaded
        loop = asyncio.get_running_loop()
        futures: list[asyncio.Future[None] | None] = []
        for parcel in wanted:
            future = loop.create_future() if parcel.items else None
            futures.append(future)
            if future is not None:
                self._held_bytes += parcel.size_bytes
                self._waiting.append((parcel, future))
        self._hurried = self._hurried or not may_wait
        if self._hurried or self._may_begin(loop.time()):
            self._start_flushes()
        elif self._pause is None:
            self._pause = loop.call_at(self._row_began + self._pace_seconds, self._end_pause)
        return [await _outcome(future) for future in futures]

    async def drain(self) -> None:
        """Wait until nothing is waiting any more."""
        while self._waiting or self._flushes:
            self._start_flushes()
            await asyncio.wait(self._flushes)

    def _may_begin(self, now: float) -> bool:
        # Where one comes at a time rows are not shared, and none waits but the first after a shared one.
        return len(self._waiting) >= self._wanted or now >= self._row_began + self._pace_seconds

    def _end_pause(self) -> None:
        waited = len(self._waiting)
        self._start_flushes()
        # No more came, and perhaps these are all there are: then the next row begins when they wait.
        self._wanted = max(1, waited)

    def _start_flushes(self) -> None:
        if self._pause is not None:
            self._pause.cancel()
            self._pause = None
        while self._waiting and len(self._flushes) < FLUSHES_IN_FLIGHT:
            task = asyncio.create_task(self._flush(self._next_row()))
            self._flushes.add(task)
            task.add_done_callback(self._flush_ended)
        self._hurried = self._hurried and bool(self._waiting)

    def _flush_ended(self, task: asyncio.Task[None]) -> None:
        self._flushes.discard(task)
        if self._pause is None:
            self._start_flushes()

    def _next_row(self) -> list[tuple[Parcel, asyncio.Future[None]]]:
        row: list[tuple[Parcel, asyncio.Future[None]]] = []
        items = size_bytes = 0
        while self._waiting:
            parcel = self._waiting[0][0]
            items += len(parcel.items)
            size_bytes += parcel.size_bytes
            if row and (items > ROW_ITEMS or size_bytes > ROW_BYTES):
                break
            row.append(self._waiting.popleft())
        self._row_began = asyncio.get_running_loop().time()
        self._wanted = min(_GROWTH * len(row), _ENOUGH_PARCELS) if len(row) > 1 else 1
        return row

    async def _flush(self, row: list[tuple[Parcel, asyncio.Future[None]]]) -> None:
        error: Callable[[], CoreError] | None = None
        try:
            items = [item for parcel, _ in row for item in parcel.items]
            received: dict[LedgerLine, int] = {}
            for parcel, _ in row:
                for line, count in parcel.received.items():
                    received[line] = received.get(line, 0) + count
            with self._observed(len(items)):
                await self._queue.append(b"".join(items), len(items), received)
            if self._failing:
                log.info("queue_available")
            self._failing = False
        except ConnectionError as cause:
            error = StorageUnavailable
            if not self._failing:
                log.error("queue_unavailable", error=str(cause))
            self._failing = True
        except Exception:
            error = CommitFailed
            log.exception("commit_failed", items=sum(len(parcel.items) for parcel, _ in row))
        except BaseException:
            # Cancelled: nobody knows, so nobody is told that it is durable.
            error = StorageUnavailable
            raise
        finally:
            for parcel, future in row:
                self._held_bytes -= parcel.size_bytes
                if not future.done():
                    future.set_result(None) if error is None else future.set_exception(error())


class CommitFailed(CoreError):
    """The queue failed in a way of its own: a fault of ours."""

    def __init__(self) -> None:
        """Say so neutrally."""
        super().__init__(reasons.ERROR_REASON_INTERNAL, "Internal error")


async def _outcome(future: asyncio.Future[None] | None) -> CoreError | None:
    if future is not None:
        try:
            await future
        except CoreError as error:
            # Its frame here has the future, and that has it.
            return error.with_traceback(None)
    return None
