"""A running system for tests that leave it running."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from .load import Keys, make_source
from .stack import Stack

MakeStack = Callable[..., Stack]


@contextmanager
def running_stack() -> Iterator[Stack]:
    """A system that must stop in order in the end."""
    running = Stack()
    try:
        yield running.start()
        assert running.stop() == 0
    finally:
        running.destroy()


@pytest.fixture(scope="session")
def stack() -> Iterator[Stack]:
    """A system as `make run` gives it, shared by all tests that kill nothing."""
    with running_stack() as running:
        yield running


@pytest.fixture
def make_stack() -> Iterator[MakeStack]:
    """Makes systems of this test's own; the test starts them."""
    made: list[Stack] = []

    def make(**settings: Any) -> Stack:
        made.append(Stack(**settings))
        return made[-1]

    yield make
    for one in made:
        one.destroy()


@pytest.fixture(scope="module")
def own_stack() -> Iterator[Stack]:
    """A system of a module's own: its tests kill parts of it, and leave it ready."""
    with running_stack() as running:
        yield running


@pytest.fixture(scope="module")
def loaded(own_stack: Stack) -> tuple[Stack, Keys]:
    """A system whose parts a module's tests kill, one after another, and a source without rate limit."""
    return own_stack, make_source(own_stack, "load")
