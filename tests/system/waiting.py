"""Waiting for something to become true, with a deadline."""

import time
from collections.abc import Callable
from typing import TypeVar

Found = TypeVar("Found")


def eventually(
    look: Callable[[], Found | None],
    what: str,
    *,
    within_seconds: float = 10.0,
    every_seconds: float = 0.05,
    despite: tuple[type[Exception], ...] = (),
    context: Callable[[], str] = str,
) -> Found:
    """Look until something true is seen and give it. Fails, with `context`, when the time is over."""
    deadline = time.monotonic() + within_seconds
    last: object = None
    while True:
        try:
            found = look()
        except despite as error:
            found, last = None, error
        else:
            last = found
        if found:
            return found
        if time.monotonic() >= deadline:
            message = f"not within {within_seconds:g} s: {what}; last seen: {last!r}\n{context()}"
            raise AssertionError(message)
        time.sleep(every_seconds)
