"""Group commit; hides how many calls share one row of the queue.

Whatever arrives while a flush is under way becomes the next row. Nothing here knows what an event means.
"""

import asyncio
from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence

import structlog
from polylect.v1 import error_reason_pb2 as reasons
from polylect.v1.event_pb2 import Event
from polylect.v1.quarantine_pb2 import QuarantinedEvent
from polylect.v1.queue_pb2 import EventBatch

from core_service.errors import CoreError, Overloaded, StorageUnavailable
from core_service.ports import LedgerLine, Queue

# A row the worker can hold and write in one transaction without trouble.
ROW_ITEMS = 5_000
ROW_BYTES = 8 * 1024 * 1024
# What may wait for the disk: seconds of traffic, and room for the largest single call.
BUFFER_BYTES = 64 * 1024 * 1024
# With one flush the disk idles while the next row is built, and an arrival waits for up to two commits. With
# several, Postgres answers them with one fsync. At 32 and 128 connections 2 gave 12.4k and 17.4k requests/s,
# 4 gave 13.2k and 18.4k, in short runs that differ among themselves by as much: see benchmarks/README.md.
FLUSHES_IN_FLIGHT = 4

log = structlog.get_logger()


class Parcel:
    """What is committed together or not at all."""

    __slots__ = ("events", "quarantined", "received", "size_bytes")

    def __init__(self) -> None:
        """Start empty."""
        self.events: list[Event] = []
        self.quarantined: list[QuarantinedEvent] = []
        # What was put in, for the ledger.
        self.received: dict[LedgerLine, int] = {}
        self.size_bytes = 0

    def count(self, line: LedgerLine, items: int) -> None:
        """Count items that are put in."""
        self.received[line] = self.received.get(line, 0) + items

    def __len__(self) -> int:
        """Count the items."""
        return len(self.events) + len(self.quarantined)


class Consignment:
    """All that one call wants durable, cut into parcels that each fit a row."""

    def __init__(self, size_bytes: int) -> None:
        """Take the size of the whole call, an upper bound of what will be added."""
        self.parcels = [Parcel()]
        self._fits_one_row = size_bytes <= ROW_BYTES
        if self._fits_one_row:
            self.parcels[0].size_bytes = size_bytes

    def add(
        self, events: Sequence[Event], quarantined: Sequence[QuarantinedEvent], line: LedgerLine
    ) -> range:
        """Add what belongs to one answer, and where the ledger counts it; give the indexes of its parcels."""
        parcel = self.parcels[-1]
        first = len(self.parcels) - 1
        if self._fits_one_row and len(parcel) + len(events) + len(quarantined) <= ROW_ITEMS:
            parcel.events += events
            parcel.quarantined += quarantined
            parcel.count(line, len(events) + len(quarantined))
        else:
            for event in events:
                parcel = self._room_for(event.ByteSize())
                parcel.events.append(event)
                parcel.count(line, 1)
            for refused in quarantined:
                parcel = self._room_for(refused.ByteSize())
                parcel.quarantined.append(refused)
                parcel.count(line, 1)
        return range(first, len(self.parcels))

    def _room_for(self, size_bytes: int) -> Parcel:
        parcel = self.parcels[-1]
        if len(parcel) and (len(parcel) >= ROW_ITEMS or parcel.size_bytes + size_bytes > ROW_BYTES):
            parcel = Parcel()
            self.parcels.append(parcel)
        parcel.size_bytes += size_bytes
        return parcel


class GroupCommit:
    """Makes parcels durable, many in one row."""

    def __init__(self, queue: Queue) -> None:
        """Commit to `queue`."""
        self._queue = queue
        self._waiting: deque[tuple[Parcel, asyncio.Future[None]]] = deque()
        self._held_bytes = 0
        self._flushes: set[asyncio.Task[None]] = set()
        self._failing = False

    async def commit(self, parcels: Iterable[Parcel]) -> list[CoreError | None]:
        """Wait until each parcel is durable (None) or known not to be (why); an empty one always is.

        Raises Overloaded when the buffer has no room; then nothing was taken.
        """
        wanted = list(parcels)
        size_bytes = sum(parcel.size_bytes for parcel in wanted)
        if self._held_bytes and self._held_bytes + size_bytes > BUFFER_BYTES:
            raise Overloaded
        loop = asyncio.get_running_loop()
        futures: list[asyncio.Future[None] | None] = []
        for parcel in wanted:
            future = loop.create_future() if len(parcel) else None
            futures.append(future)
            if future is not None:
                self._held_bytes += parcel.size_bytes
                self._waiting.append((parcel, future))
        self._start_flushes()
        return [await _outcome(future) for future in futures]

    async def drain(self) -> None:
        """Wait until nothing is waiting any more."""
        while self._flushes:
            await asyncio.wait(self._flushes)

    def _start_flushes(self) -> None:
        while self._waiting and len(self._flushes) < FLUSHES_IN_FLIGHT:
            task = asyncio.create_task(self._flush(self._next_row()))
            self._flushes.add(task)
            task.add_done_callback(self._flush_ended)

    def _flush_ended(self, task: asyncio.Task[None]) -> None:
        self._flushes.discard(task)
        self._start_flushes()

    def _next_row(self) -> list[tuple[Parcel, asyncio.Future[None]]]:
        row: list[tuple[Parcel, asyncio.Future[None]]] = []
        items = size_bytes = 0
        while self._waiting:
            parcel = self._waiting[0][0]
            items += len(parcel)
            size_bytes += parcel.size_bytes
            if row and (items > ROW_ITEMS or size_bytes > ROW_BYTES):
                break
            row.append(self._waiting.popleft())
        return row

    async def _flush(self, row: list[tuple[Parcel, asyncio.Future[None]]]) -> None:
        error: Callable[[], CoreError] | None = None
        try:
            batch = EventBatch()
            received: Counter[LedgerLine] = Counter()
            for parcel, _ in row:
                batch.events.extend(parcel.events)
                batch.quarantined.extend(parcel.quarantined)
                received.update(parcel.received)
            await self._queue.append(batch, received)
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
            log.exception("commit_failed", items=sum(len(parcel) for parcel, _ in row))
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
            return error
    return None
