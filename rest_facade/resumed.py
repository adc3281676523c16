"""Begins a coroutine by hand, for what should happen now and not at the loop's next turn.

What it does before its first wait runs outside any task: no timeouts there.
"""

from collections.abc import Awaitable, Coroutine, Generator
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class Resumed(Generic[T]):
    """Awaits the rest of a coroutine that has been sent None and has given `pending`."""

    def __init__(self, coroutine: Coroutine[Any, Any, T], pending: Any) -> None:
        self._coroutine = coroutine
        self._pending = pending

    def __await__(self) -> Generator[Any, Any, T]:
        """Give what the coroutine returns."""
        pending = self._pending
        try:
            while True:
                try:
                    sent = yield pending
                except BaseException as error:
                    pending = self._coroutine.throw(error)
                else:
                    pending = self._coroutine.send(sent)
        except StopIteration as end:
            value: T = end.value
            return value


def begun(coroutine: Coroutine[Any, Any, T]) -> Awaitable[T]:
    """Run a coroutine up to its first wait; whatever comes of it comes of awaiting the rest."""
    try:
        pending = coroutine.send(None)
    except StopIteration as end:
        return _ended(end.value, None)
    except BaseException as error:
        return _ended(None, error)
    return Resumed(coroutine, pending)


async def _ended(value: Any, error: BaseException | None) -> Any:
    if error is not None:
        raise error
    return value
