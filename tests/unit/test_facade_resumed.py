"""Coroutines begun by hand."""

import asyncio

import pytest

from rest_facade.resumed import begun


async def test_runs_to_the_first_wait_at_once_and_on_when_awaited() -> None:
    steps: list[str] = []
    door = asyncio.Event()

    async def two_steps() -> str:
        steps.append("first")
        await door.wait()
        steps.append("second")
        await asyncio.sleep(0)
        return "done"

    rest = begun(two_steps())
    assert steps == ["first"]
    door.set()
    assert (await rest, steps) == ("done", ["first", "second"])


async def test_an_end_before_any_wait_is_told_when_awaited() -> None:
    async def returns() -> str:
        return "done"

    async def raises() -> None:
        raise KeyError("no")

    failed = begun(raises())
    assert await begun(returns()) == "done"
    with pytest.raises(KeyError):
        await failed


async def test_a_deadline_reaches_what_was_begun() -> None:
    cancelled: list[bool] = []

    async def waits() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.append(True)

    rest = begun(waits())
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await rest
    assert cancelled == [True]
