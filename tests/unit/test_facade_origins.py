import asyncio

import pytest
from polylect.v1 import error_reason_pb2 as reasons

from rest_facade.core_refusal import CoreRefusal
from rest_facade.origins import OriginBook


class Core:
    def __init__(self, *allowed: str) -> None:
        self.allowed = allowed
        self.asked: list[str] = []
        self.away = False

    async def check_origin(self, origin: str) -> bool:
        self.asked.append(origin)
        await asyncio.sleep(0)
        if self.away:
            raise CoreRefusal(reasons.ERROR_REASON_STORAGE_UNAVAILABLE, "away")
        return origin in self.allowed


async def test_asks_once_for_all_who_want_to_know() -> None:
    core = Core("https://a")
    book = OriginBook(core.check_origin, ttl_seconds=60)
    assert await asyncio.gather(*(book.allows("https://a") for _ in range(10))) == [True] * 10
    assert await book.allows("https://b") is False
    assert await book.allows("https://b") is False
    assert core.asked == ["https://a", "https://b"]


async def test_asks_again_after_a_while() -> None:
    core = Core("https://a")
    book = OriginBook(core.check_origin, ttl_seconds=0)
    assert await book.allows("https://a") is True
    core.allowed = ()
    assert await book.allows("https://a") is False


async def test_an_old_answer_stands_while_there_is_no_new_one() -> None:
    core = Core("https://a")
    book = OriginBook(core.check_origin, ttl_seconds=0)
    assert await book.allows("https://a") is True
    core.away = True
    assert await book.allows("https://a") is True
    with pytest.raises(CoreRefusal):
        await book.allows("https://b")


async def test_one_that_stops_waiting_does_not_stop_the_others() -> None:
    core = Core("https://a")
    book = OriginBook(core.check_origin, ttl_seconds=60)
    first = asyncio.create_task(book.allows("https://a"))
    second = asyncio.create_task(book.allows("https://a"))
    await asyncio.sleep(0)
    first.cancel()
    assert await second is True


async def test_made_up_origins_are_forgotten_and_absurd_ones_not_asked_about() -> None:
    core = Core()
    book = OriginBook(core.check_origin, ttl_seconds=60, max_origins=3)
    for number in range(10):
        await book.allows(f"https://{number}")
    asked = len(core.asked)
    assert await book.allows("https://9") is False
    assert len(core.asked) == asked
    await book.allows("https://0")
    assert len(core.asked) == asked + 1
    assert await book.allows("https://" + "a" * 1000) is False
    assert len(core.asked) == asked + 1
