"""The coalescer alone, with a core that is a function."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from polylect.v1 import error_reason_pb2 as reasons
from polylect.v1.ingest_pb2 import (
    BatchIngestStreamRequest,
    BatchIngestStreamResponse,
    ClientOutcome,
    ClientRequest,
)

from rest_facade.coalescer import Coalescer
from rest_facade.core_refusal import CoreRefusal

Answer = Callable[[BatchIngestStreamRequest], Awaitable[BatchIngestStreamResponse]]


def request(number: int, size: int = 0) -> bytes:
    return ClientRequest(request_id=f"r{number}", credential="x" * size).SerializeToString()


def echo(batch: BatchIngestStreamRequest) -> BatchIngestStreamResponse:
    return BatchIngestStreamResponse(
        outcomes=[ClientOutcome(cookie_domain=r.request_id) for r in batch.requests]
    )


class Core:
    """Keeps the calls it got; answers each when told to."""

    def __init__(self) -> None:
        self.calls: list[list[str]] = []
        self.open = asyncio.Event()
        self.error: Exception | None = None

    async def batch_ingest(self, serialized: bytes) -> BatchIngestStreamResponse:
        batch = BatchIngestStreamRequest.FromString(serialized)
        self.calls.append([r.request_id for r in batch.requests])
        await self.open.wait()
        if self.error is not None:
            raise self.error
        return echo(batch)


def coalescer(core: Core, **limits: int) -> Coalescer:
    bounds = {"max_waiting_bytes": 1_000_000, "max_waiting_requests": 1000, "max_calls": 1, **limits}
    return Coalescer(core.batch_ingest, **bounds)


def ids(numbers: range) -> list[str]:
    return [f"r{number}" for number in numbers]


async def test_what_arrives_together_goes_together_and_the_rest_next() -> None:
    core = Core()
    coalescing = coalescer(core)
    first = [coalescing.submit(request(number)) for number in range(5)]
    async with asyncio.timeout(5):
        while not core.calls:  # noqa: ASYNC110 - until its task has run
            await asyncio.sleep(0)
        later = [coalescing.submit(request(number)) for number in range(5, 12)]
        core.open.set()
        outcomes = await asyncio.gather(*first, *later)
    assert core.calls == [ids(range(5)), ids(range(5, 12))]
    assert [outcome.cookie_domain for outcome in outcomes] == ids(range(12))


async def test_as_many_as_are_worth_a_message_go_at_once() -> None:
    sent: list[list[str]] = []

    def at_once(serialized: bytes) -> Awaitable[BatchIngestStreamResponse]:
        batch = BatchIngestStreamRequest.FromString(serialized)
        sent.append([r.request_id for r in batch.requests])
        return asyncio.sleep(0, echo(batch))

    coalescing = Coalescer(
        at_once, max_waiting_bytes=1000, max_waiting_requests=10, ready_requests=2, max_calls=2
    )
    answers = [coalescing.submit(request(number)) for number in range(5)]
    assert sent == [ids(range(2)), ids(range(2, 4))]
    outcomes = await asyncio.gather(*answers)
    assert sent[2:] == [ids(range(4, 5))]
    assert [outcome.cookie_domain for outcome in outcomes] == ids(range(5))


async def test_beside_a_call_under_way_goes_half_as_many_and_after_it_whoever_waits() -> None:
    core = Core()
    coalescing = coalescer(core, max_calls=8)
    waits = [coalescing.submit(request(number)) for number in range(4)]
    async with asyncio.timeout(5):
        while not core.calls:  # noqa: ASYNC110 - until its task has run
            await asyncio.sleep(0)
        waits.append(coalescing.submit(request(4)))
        for _ in range(10):
            await asyncio.sleep(0)
        assert core.calls == [ids(range(4))]
        waits.append(coalescing.submit(request(5)))
        while len(core.calls) < 2:  # noqa: ASYNC110 - likewise
            await asyncio.sleep(0)
        waits.append(coalescing.submit(request(6)))
        core.open.set()
        await asyncio.gather(*waits)
    assert core.calls == [ids(range(4)), ids(range(4, 6)), ids(range(6, 7))]


@pytest.mark.parametrize("size", [0, 1, 126, 127, 128, 16_383, 16_384, 3_000_000])
async def test_frames_any_length(size: int) -> None:
    core = Core()
    core.open.set()
    outcome = await coalescer(core, max_waiting_bytes=10_000_000).submit(request(7, size))
    assert outcome.cookie_domain == "r7"


async def test_calls_are_bounded_in_requests_and_bytes_but_one_goes_at_any_size() -> None:
    core = Core()
    core.open.set()
    coalescing = coalescer(core, max_call_requests=3, max_call_bytes=5000)
    sizes = [0, 0, 0, 0, 4000, 4000, 9000, 0]
    await asyncio.gather(*(coalescing.submit(request(n, size)) for n, size in enumerate(sizes)))
    assert core.calls == [["r0", "r1", "r2"], ["r3", "r4"], ["r5"], ["r6"], ["r7"]]


@pytest.mark.parametrize("limits", [{"max_waiting_requests": 2}, {"max_waiting_bytes": 2200}])
async def test_waiting_is_bounded_and_room_comes_back(limits: dict[str, int]) -> None:
    core = Core()
    coalescing = coalescer(core, **limits)
    waiting = [coalescing.submit(request(number, 1000)) for number in range(2)]
    with pytest.raises(CoreRefusal) as refused:
        coalescing.submit(request(2, 1000))
    assert (refused.value.reason, refused.value.retry_after_seconds) == (reasons.ERROR_REASON_OVERLOADED, 1)
    core.open.set()
    await asyncio.gather(*waiting)
    await coalescing.drain()
    assert (await coalescing.submit(request(3, 1000))).cookie_domain == "r3"


async def test_one_that_goes_away_costs_the_others_nothing() -> None:
    core = Core()
    coalescing = coalescer(core)
    gone, there = coalescing.submit(request(0)), coalescing.submit(request(1))
    gone.cancel()
    core.open.set()
    assert (await there).cookie_domain == "r1"


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (reasons.ERROR_REASON_STORAGE_UNAVAILABLE, reasons.ERROR_REASON_STORAGE_UNAVAILABLE),
        (reasons.ERROR_REASON_CREDENTIAL_INVALID, reasons.ERROR_REASON_STORAGE_UNAVAILABLE),
        (reasons.ERROR_REASON_INTERNAL, reasons.ERROR_REASON_STORAGE_UNAVAILABLE),
        (reasons.ERROR_REASON_OVERLOADED, reasons.ERROR_REASON_OVERLOADED),
    ],
)
async def test_a_failed_call_refuses_all_in_it_and_no_other(
    error: reasons.ErrorReason.ValueType, reason: reasons.ErrorReason.ValueType
) -> None:
    core = Core()
    core.open.set()
    core.error = CoreRefusal(error, "no")
    coalescing = coalescer(core)
    failed = await asyncio.gather(
        *(coalescing.submit(request(number)) for number in range(3)), return_exceptions=True
    )
    assert [(no.reason, no.retry_after_seconds) for no in failed if isinstance(no, CoreRefusal)] == [
        (reason, 1)
    ] * 3
    core.error = None
    assert (await coalescing.submit(request(4))).cookie_domain == "r4"


async def test_an_answer_of_another_length_is_no_answer() -> None:
    async def too_short(_: bytes) -> BatchIngestStreamResponse:
        return BatchIngestStreamResponse()

    coalescing = Coalescer(too_short, max_waiting_bytes=1000, max_waiting_requests=10)
    with pytest.raises(CoreRefusal) as refused:
        await coalescing.submit(request(0))
    assert refused.value.reason == reasons.ERROR_REASON_STORAGE_UNAVAILABLE


async def test_drains() -> None:
    core = Core()
    core.open.set()
    coalescing = coalescer(core, max_call_requests=1)
    answers = [coalescing.submit(request(number)) for number in range(10)]
    async with asyncio.timeout(5):
        await coalescing.drain()
    assert [answer.result().cookie_domain for answer in answers] == ids(range(10))


async def test_a_call_that_is_cancelled_refuses_all_in_it_and_is_cancelled() -> None:
    core = Core()
    coalescing = coalescer(core)
    before = asyncio.all_tasks()
    answer = coalescing.submit(request(0))
    async with asyncio.timeout(5):
        while not core.calls:  # noqa: ASYNC110 - until its task has run
            await asyncio.sleep(0)
        (call,) = asyncio.all_tasks() - before
        call.cancel()
        with pytest.raises(CoreRefusal):
            await answer
        await asyncio.wait({call})
    assert call.cancelled()
    core.open.set()
    assert (await coalescing.submit(request(1))).cookie_domain == "r1"


async def test_a_silent_core_is_waited_for_once() -> None:
    core = Core()
    coalescing = coalescer(core)
    first = coalescing.submit(request(0))
    async with asyncio.timeout(5):
        while not core.calls:  # noqa: ASYNC110 - until its task has run
            await asyncio.sleep(0)
    waiting = [coalescing.submit(request(number)) for number in range(1, 4)]
    core.error = TimeoutError()
    core.open.set()
    for answer in (first, *waiting):
        with pytest.raises(CoreRefusal) as refused:
            await answer
        assert refused.value.retry_after_seconds >= 1
    assert core.calls == [["r0"]]
    core.error = None
    assert (await coalescing.submit(request(9))).cookie_domain == "r9"
