"""A stream is read ahead of its answers, and not too far."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing

import pytest

from core_service.errors import CoreError, Overloaded
from core_service.message_stream import answered_in_order


class Messages:
    """Numbers, as they are asked for."""

    def __init__(self, count: int) -> None:
        self.read = 0
        self._count = count

    def __aiter__(self) -> AsyncIterator[int]:
        return self

    async def __anext__(self) -> int:
        if self.read == self._count:
            raise StopAsyncIteration
        self.read += 1
        return self.read


class Taking:
    """Answers messages when let go, with themselves but for those to be refused."""

    def __init__(self, *refused: int) -> None:
        self.let_go = asyncio.Event()
        self._refused = refused

    async def __call__(self, message: int) -> int | CoreError:
        if message not in self._refused:
            await self.let_go.wait()
            return message
        return Overloaded()


async def settle() -> None:
    for _ in range(500):
        await asyncio.sleep(0)


@pytest.mark.parametrize(("crowded", "read"), [(False, 64), (True, 1)])
async def test_answers_in_order_and_reads_ahead_as_far_as_there_is_room(crowded: bool, read: int) -> None:
    messages, taking = Messages(200), Taking()
    stream = answered_in_order(messages, taking, is_crowded=lambda: crowded, stopping=asyncio.Event())
    async with aclosing(stream) as answers:
        first = asyncio.ensure_future(anext(answers))
        await settle()
        assert messages.read == read
        taking.let_go.set()
        assert [await first, *[answer async for answer in answers]] == list(range(1, 201))


async def test_reads_no_more_after_a_refusal_and_answers_what_came_before() -> None:
    messages, taking = Messages(200), Taking(3)
    stream = answered_in_order(messages, taking, is_crowded=lambda: False, stopping=asyncio.Event())
    async with aclosing(stream) as answers:
        first = asyncio.ensure_future(anext(answers))
        await settle()
        assert messages.read < 10
        taking.let_go.set()
        assert [await first, await anext(answers)] == [1, 2]
        with pytest.raises(Overloaded):
            await anext(answers)


async def test_takes_nothing_that_comes_after_a_refusal() -> None:
    taking, come = Taking(2), asyncio.Queue[int]()
    taken: list[int] = []

    async def messages() -> AsyncIterator[int]:
        while True:
            yield await come.get()

    async def take(message: int) -> int | CoreError:
        taken.append(message)
        return await taking(message)

    for message in (1, 2):
        come.put_nowait(message)
    stream = answered_in_order(messages(), take, is_crowded=lambda: False, stopping=asyncio.Event())
    async with aclosing(stream) as answers:
        first = asyncio.ensure_future(anext(answers))
        await settle()
        come.put_nowait(3)
        await settle()
        taking.let_go.set()
        assert await first == 1
        with pytest.raises(Overloaded):
            await anext(answers)
    assert taken == [1, 2]


async def test_stops_reading_when_told_and_answers_what_was_read() -> None:
    stopping, taking = asyncio.Event(), Taking()
    silent: asyncio.Queue[int] = asyncio.Queue()

    async def messages() -> AsyncIterator[int]:
        while True:
            yield await silent.get()

    silent.put_nowait(1)
    stream = answered_in_order(messages(), taking, is_crowded=lambda: False, stopping=stopping)
    async with aclosing(stream) as answers:
        first = asyncio.ensure_future(anext(answers))
        await settle()
        stopping.set()
        taking.let_go.set()
        assert [await first, *[answer async for answer in answers]] == [1]
