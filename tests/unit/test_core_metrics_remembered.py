"""What is dear to ask is asked a twentieth of the time at most, however often somebody scrapes."""

import asyncio

import pytest

from core_service.metrics import Remembered


class Dear:
    """A question that takes a while by its own clock, and counts how often it is asked."""

    def __init__(self, takes_seconds: float) -> None:
        self.now = 0.0
        self.asked = 0
        self.takes_seconds = takes_seconds
        self.error: Exception | None = None
        self.gate = asyncio.Event()
        self.gate.set()
        self.begun, self.ended = asyncio.Event(), asyncio.Event()

    def clock(self) -> float:
        return self.now

    async def __call__(self) -> int:
        self.asked += 1
        self.begun.set()
        await self.gate.wait()
        self.now += self.takes_seconds
        self.ended.set()
        if self.error:
            raise self.error
        return self.asked


async def test_a_quick_one_is_asked_each_time() -> None:
    question = Dear(0.01)
    remembered = Remembered(question, question.clock)
    assert [await remembered.answer() for _ in range(3)] == [1, 2, 3]


async def test_a_slow_one_pauses() -> None:
    question = Dear(3)
    remembered = Remembered(question, question.clock)
    assert [await remembered.answer() for _ in range(3)] == [1, 1, 1]
    question.now = 3 + 59
    assert await remembered.answer() == 1
    question.now = 3 + 60
    assert await remembered.answer() == 2


async def test_those_who_come_meanwhile_share_the_answer() -> None:
    question = Dear(3)
    question.gate.clear()
    remembered = Remembered(question, question.clock)
    asking = [asyncio.create_task(remembered.answer()) for _ in range(5)]
    await question.begun.wait()
    question.gate.set()
    assert await asyncio.gather(*asking) == [1] * 5


async def test_the_last_answer_stands_for_one_that_is_late() -> None:
    question = Dear(3)
    question.gate.clear()
    remembered = Remembered(question, question.clock, patience_seconds=0)
    with pytest.raises(TimeoutError):
        await remembered.answer()
    question.gate.set()
    await question.ended.wait()
    assert await remembered.answer() == 1
    question.gate.clear()
    question.ended.clear()
    question.now = 1_000
    assert await remembered.answer() == 1
    question.gate.set()
    await question.ended.wait()
    assert question.asked == 2


async def test_what_can_not_be_asked_is_not_known() -> None:
    question = Dear(0.01)
    remembered = Remembered(question, question.clock)
    assert await remembered.answer() == 1
    question.error = ConnectionError("away")
    with pytest.raises(TimeoutError):
        await remembered.answer()
    question.error = None
    assert await remembered.answer() == 3
