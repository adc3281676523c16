"""Group commit: what shares a row, what happens when a row fails, and what is too much."""

import asyncio
from collections.abc import Callable, Mapping
from contextlib import nullcontext

import pytest
from polylect.v1.event_pb2 import Event
from polylect.v1.queue_pb2 import EventBatch

from core_service.commit import (
    BUFFER_BYTES,
    FLUSHES_IN_FLIGHT,
    ROW_BYTES,
    ROW_ITEMS,
    CommitFailed,
    Consignment,
    GroupCommit,
    Parcel,
)
from core_service.errors import Overloaded, StorageUnavailable
from core_service.ports import LedgerLine

LINE = ("01941f29-7c00-7000-8000-000000000001", "grpc", 3_600)


class GatedQueue:
    """A queue in memory whose appends wait until the gate is open."""

    def __init__(self) -> None:
        self.rows: list[EventBatch] = []
        self.received: list[dict[LedgerLine, int]] = []
        self.begun = 0
        self.gate = asyncio.Event()
        self.error: Exception | None = None

    async def append(
        self, batch: bytes, item_count: int, received: Mapping[LedgerLine, int] | None = None
    ) -> None:
        self.begun += 1
        await self.gate.wait()
        if self.error:
            raise self.error
        row = EventBatch.FromString(batch)
        assert item_count == len(row.events)
        self.rows.append(row)
        self.received.append(dict(received or {}))


def parcel(*names: str, size_bytes: int = 100) -> Parcel:
    made = Parcel()
    made.items = [item(name) for name in names]
    made.size_bytes = size_bytes
    return made


def item(name: str) -> bytes:
    return EventBatch(events=[Event(name=name)]).SerializeToString()


def names_in(batch: EventBatch) -> list[str]:
    return [event.name for event in batch.events]


async def wait_all(tasks: list[asyncio.Task[object]]) -> list[object]:
    async with asyncio.timeout(5):
        return await asyncio.gather(*tasks, return_exceptions=True)


async def started(*commits: object) -> list[asyncio.Task[object]]:
    tasks = [asyncio.create_task(commit) for commit in commits]  # type: ignore[arg-type]
    for _ in range(3):
        await asyncio.sleep(0)
    return tasks


async def test_some_flushes_go_and_the_rest_shares_the_next_row() -> None:
    queue = GatedQueue()
    group = GroupCommit(queue, lambda items: nullcontext())
    tasks = await started(*(group.commit([parcel(str(n))]) for n in range(50)))
    assert queue.begun == FLUSHES_IN_FLIGHT
    assert not any(task.done() for task in tasks)
    queue.gate.set()
    assert await wait_all(tasks) == [[None]] * 50
    alone = [1] * FLUSHES_IN_FLIGHT
    assert [len(row.events) for row in queue.rows] == [*alone, 50 - FLUSHES_IN_FLIGHT]
    assert [name for row in queue.rows for name in names_in(row)] == [str(n) for n in range(50)]


async def test_single_calls_wait_for_each_other_once_they_share_a_row() -> None:
    queue = GatedQueue()
    queue.gate.set()
    group = GroupCommit(queue, lambda items: nullcontext(), pace_seconds=60)
    assert await wait_all(await started(group.commit([parcel("lone")], may_wait=True))) == [[None]]
    assert await wait_all(await started(group.commit([parcel("a"), parcel("b")]))) == [[None, None]]
    waiting = await started(*(group.commit([parcel(name)], may_wait=True) for name in "cdefghi"))
    assert queue.begun == 2
    waiting += await started(group.commit([parcel("j")], may_wait=True))
    assert await wait_all(waiting) == [[None]] * 8
    waiting = await started(group.commit([parcel("k")], may_wait=True))
    assert await wait_all([*waiting, *await started(group.commit([parcel("l")]))]) == [[None]] * 2
    waiting = await started(group.commit([parcel("m")], may_wait=True))
    await wait_all([*waiting, *await started(group.drain())])
    assert [names_in(row) for row in queue.rows] == [["lone"], ["a", "b"], [*"cdefghij"], [*"kl"], ["m"]]


@pytest.fixture
async def pass_time(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Moves the loop's clock on, which the test's own timeouts follow."""
    loop = asyncio.get_running_loop()
    real, passed = loop.time, [0.0]
    monkeypatch.setattr(loop, "time", lambda: real() + passed[0])

    def move(seconds: float) -> None:
        passed[0] += seconds

    return move


async def test_a_single_call_waits_no_longer_than_the_pace(pass_time: Callable[[float], None]) -> None:
    queue = GatedQueue()
    queue.gate.set()
    group = GroupCommit(queue, lambda items: nullcontext(), pace_seconds=60)
    await group.commit([parcel("a"), parcel("b")])
    tasks = await started(group.commit([parcel("c")], may_wait=True))
    assert queue.begun == 1
    pass_time(60)
    assert await wait_all(tasks) == [[None]]


async def test_as_many_as_waited_in_vain_for_more_begin_the_next_row(
    pass_time: Callable[[float], None],
) -> None:
    queue = GatedQueue()
    queue.gate.set()
    group = GroupCommit(queue, lambda items: nullcontext(), pace_seconds=60)
    await group.commit([parcel("a"), parcel("b")])
    tasks = await started(*(group.commit([parcel(name)], may_wait=True) for name in "cde"))
    assert queue.begun == 1
    pass_time(60)
    assert await wait_all(tasks) == [[None]] * 3
    tasks = await started(*(group.commit([parcel(name)], may_wait=True) for name in "fg"))
    assert queue.begun == 2
    tasks += await started(group.commit([parcel("h")], may_wait=True))
    assert queue.begun == 3
    assert await wait_all(tasks) == [[None]] * 3
    assert [names_in(row) for row in queue.rows] == [["a", "b"], [*"cde"], [*"fgh"]]


async def test_one_that_may_wait_keeps_nobody_from_a_free_slot() -> None:
    queue = GatedQueue()
    group = GroupCommit(queue, lambda items: nullcontext(), pace_seconds=60)
    in_flight = await started(
        *(group.commit([parcel(name)]) for name in "abc"), group.commit([parcel("d"), parcel("e")])
    )
    assert queue.begun == FLUSHES_IN_FLIGHT
    late = await started(group.commit([parcel("f")]), group.commit([parcel("g")], may_wait=True))
    queue.gate.set()
    await wait_all([*in_flight, *late])
    assert names_in(queue.rows[-1]) == ["f", "g"]
    # Nobody hurries any more.
    waiting = await started(group.commit([parcel("h")], may_wait=True))
    assert queue.begun == FLUSHES_IN_FLIGHT + 1
    await wait_all([*waiting, *await started(group.drain())])


async def test_nothing_to_commit_waits_for_nothing() -> None:
    queue = GatedQueue()
    assert await GroupCommit(queue, lambda items: nullcontext()).commit([Parcel()]) == [None]
    assert queue.begun == 0


@pytest.mark.parametrize(
    ("error", "told"),
    [(ConnectionError("gone"), StorageUnavailable), (ValueError("a bug"), CommitFailed)],
)
async def test_a_failed_row_fails_its_waiters_only(error: Exception, told: type[Exception]) -> None:
    queue = GatedQueue()
    group = GroupCommit(queue, lambda items: nullcontext())
    queue.error = error
    queue.gate.set()
    (failed,) = await group.commit([parcel("a")])
    assert type(failed) is told
    queue.error = None
    assert await group.commit([parcel("b")]) == [None]
    assert [names_in(row) for row in queue.rows] == [["b"]]


async def test_a_full_buffer_takes_nothing_more_until_it_has_room() -> None:
    queue = GatedQueue()
    group = GroupCommit(queue, lambda items: nullcontext())
    half = BUFFER_BYTES // 2
    first = await started(
        group.commit([parcel("a", size_bytes=half)]), group.commit([parcel("b", size_bytes=half)])
    )
    with pytest.raises(Overloaded):
        await group.commit([parcel("c", size_bytes=1)])
    queue.gate.set()
    assert await wait_all(first) == [[None], [None]]
    # However large, one call alone is always taken.
    assert await group.commit([parcel("d", size_bytes=2 * BUFFER_BYTES)]) == [None]
    assert sorted(name for row in queue.rows for name in names_in(row)) == ["a", "b", "d"]


async def test_room_comes_back_after_failures_too() -> None:
    queue = GatedQueue()
    group = GroupCommit(queue, lambda items: nullcontext())
    queue.gate.set()
    queue.error = ConnectionError("gone")
    for _ in range(5):
        (failed,) = await group.commit([parcel("a", size_bytes=BUFFER_BYTES)])
        assert isinstance(failed, StorageUnavailable)


async def test_one_who_goes_away_holds_nobody_up() -> None:
    queue = GatedQueue()
    group = GroupCommit(queue, lambda items: nullcontext())
    gone, *others = await started(*(group.commit([parcel(str(n))]) for n in range(4)))
    gone.cancel()
    queue.gate.set()
    assert await wait_all(others) == [[None]] * 3
    await group.drain()
    assert sorted(name for row in queue.rows for name in names_in(row)) == ["0", "1", "2", "3"]


async def test_drain_waits_for_everything() -> None:
    queue = GatedQueue()
    group = GroupCommit(queue, lambda items: nullcontext())
    tasks = await started(*(group.commit([parcel(str(n))]) for n in range(10)))
    (draining,) = await started(group.drain())
    assert not draining.done()
    queue.gate.set()
    await wait_all([draining])
    assert sum(len(row.events) for row in queue.rows) == 10
    await wait_all(tasks)


async def test_a_row_is_bounded() -> None:
    queue = GatedQueue()
    group = GroupCommit(queue, lambda items: nullcontext())
    tasks = await started(
        *(group.commit([parcel("a", size_bytes=ROW_BYTES // 2)]) for _ in range(FLUSHES_IN_FLIGHT + 5)),
        group.commit([parcel(*["b"] * (ROW_ITEMS - 1), size_bytes=1)]),
        group.commit([parcel("c", "d", size_bytes=1)]),
    )
    queue.gate.set()
    await wait_all(tasks)
    assert [len(row.events) for row in queue.rows] == [*[1] * FLUSHES_IN_FLIGHT, 2, 2, ROW_ITEMS, 2]


def test_a_consignment_that_fits_is_one_parcel() -> None:
    consignment = Consignment()
    assert consignment.add([b"a", b"bc"], LINE) == range(0, 1)
    assert consignment.add([b"d"], LINE) == range(0, 1)
    (only,) = consignment.parcels
    assert (only.items, only.size_bytes) == ([b"a", b"bc", b"d"], 4)


def test_a_consignment_is_cut_by_number_and_by_size() -> None:
    by_number = Consignment()
    assert by_number.add([b"a"] * (ROW_ITEMS - 1), LINE) == range(0, 1)
    assert by_number.add([b"b"] * 2, LINE) == range(0, 2)
    assert by_number.add([b"c"], LINE) == range(1, 2)
    assert [len(one.items) for one in by_number.parcels] == [ROW_ITEMS, 2]
    assert [one.received for one in by_number.parcels] == [{LINE: ROW_ITEMS}, {LINE: 2}]

    wide = b"w" * (ROW_BYTES // 3)
    by_size = Consignment()
    assert by_size.add([wide] * 7, LINE) == range(0, 3)
    assert [len(one.items) for one in by_size.parcels] == [3, 3, 1]
    assert [one.received for one in by_size.parcels] == [{LINE: 3}, {LINE: 3}, {LINE: 1}]
    assert all(one.size_bytes <= ROW_BYTES for one in by_size.parcels)
