"""The body reader alone, fed message by message."""

import asyncio
import gzip
from typing import Any

import pytest
from polylect.v1 import error_reason_pb2 as reasons

from rest_facade.body import BodyReader, ClientGone, ReadingBudget
from rest_facade.vocabulary import ShapeError


class Feed:
    """An ASGI `receive` that gives these parts, each after `turns` turns of the loop; then nothing more."""

    def __init__(self, *parts: bytes, whole: bool = True, turns: int = 0) -> None:
        self._parts = list(parts)
        self._whole = whole
        self._turns = turns

    async def __call__(self) -> dict[str, Any]:
        for _ in range(self._turns):
            await asyncio.sleep(0)
        if not self._parts:
            await asyncio.Event().wait()
        body = self._parts.pop(0)
        return {"type": "http.request", "body": body, "more_body": bool(self._parts) or not self._whole}


def reader(max_bytes: int = 100, budget: int = 1000) -> BodyReader:
    return BodyReader(max_bytes, 0.2, ReadingBudget(budget))


@pytest.mark.parametrize("turns", [0, 1, 5])
@pytest.mark.parametrize(
    "parts", [(b"",), (b"whole",), (b"in ", b"three ", b"parts"), (b"a" * 50, b"b" * 50)]
)
async def test_gives_what_came(parts: tuple[bytes, ...], turns: int) -> None:
    assert await reader().read(Feed(*parts, turns=turns), {}) == b"".join(parts)


@pytest.mark.parametrize("turns", [0, 1])
async def test_a_body_that_stops_coming_has_a_deadline(turns: int) -> None:
    with pytest.raises(ShapeError) as refused:
        await reader().read(Feed(b"begun", whole=False, turns=turns), {})
    assert refused.value.reason == reasons.ERROR_REASON_PAYLOAD_TIMEOUT


async def test_an_outer_cancellation_is_no_timeout() -> None:
    reading = asyncio.create_task(reader().read(Feed(whole=False, turns=1), {}))
    await asyncio.sleep(0)
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading


@pytest.mark.parametrize(
    ("feed", "headers"),
    [
        (Feed(), {"content-length": "101"}),
        (Feed(), {"content-length": "9" * 30}),
        (Feed(b"a" * 101), {}),
        (Feed(b"a" * 60, b"a" * 60, whole=False), {}),
        (Feed(gzip.compress(b"a" * 101)), {"content-encoding": "gzip"}),
        (Feed(gzip.compress(b"a" * 60) * 2), {"content-encoding": "gzip"}),
    ],
)
async def test_too_much_is_refused_as_soon_as_it_shows(feed: Feed, headers: dict[str, str]) -> None:
    with pytest.raises(ShapeError) as refused:
        await reader().read(feed, headers)
    assert refused.value.reason == reasons.ERROR_REASON_PAYLOAD_TOO_LARGE


async def test_exactly_the_limit_is_not_too_much() -> None:
    packed = gzip.compress(b"a" * 100)
    assert await reader().read(Feed(packed), {"content-encoding": "gzip"}) == b"a" * 100
    assert await reader().read(Feed(b"a" * 100), {"content-length": "100"}) == b"a" * 100


async def test_the_budget_is_given_back() -> None:
    budget = ReadingBudget(100)
    reading = BodyReader(200, 0.2, budget)
    for _ in range(3):
        assert len(await reading.read(Feed(b"a" * 60, b"b" * 40), {})) == 100
        with pytest.raises(ShapeError) as refused:
            await reading.read(Feed(b"a" * 60, b"b" * 41), {})
        assert refused.value.reason == reasons.ERROR_REASON_OVERLOADED


@pytest.mark.parametrize("before", [(), (b"some",)])
async def test_a_client_that_left(before: tuple[bytes, ...]) -> None:
    messages = [{"type": "http.request", "body": part, "more_body": True} for part in before]
    messages.append({"type": "http.disconnect"})

    async def receive() -> dict[str, Any]:
        return messages.pop(0)

    with pytest.raises(ClientGone):
        await reader().read(receive, {})


async def test_few_gzip_members_are_taken_and_many_refused() -> None:
    member = gzip.compress(b"x")
    headers = {"content-encoding": "gzip"}
    assert await reader(10_000).read(Feed(member * 16), headers) == b"x" * 16
    # Each costs a copy of the rest: unbounded, a few megabytes of them held the worker for seconds.
    with pytest.raises(ShapeError) as refused:
        await reader(10_000).read(Feed(member * 17), headers)
    assert refused.value.reason == reasons.ERROR_REASON_ENCODING_UNSUPPORTED
