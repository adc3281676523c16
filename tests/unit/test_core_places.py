"""Who has a place, and who has to come again."""

from contextlib import ExitStack
from typing import Any, cast

import pytest

from core_service.callers import Caller
from core_service.errors import CoreError
from core_service.places import CallerPlaces


class _Source:
    def __init__(self, source_id: str) -> None:
        self.source_id = source_id


class _Key:
    def __init__(self, source_id: str) -> None:
        self.source = _Source(source_id)


_ADMIN = Caller(True, False, None)


def of(source_id: str) -> Caller:
    return Caller(False, False, cast("Any", _Key(source_id)))


def take(places: CallerPlaces, caller: Caller, count: int, within: ExitStack) -> None:
    for _ in range(count):
        within.enter_context(places.of(caller))


def is_refused(places: CallerPlaces, caller: Caller) -> bool:
    try:
        with places.of(caller):
            return False
    except CoreError:
        return True


def test_a_source_has_half_and_all_have_what_there_is() -> None:
    places = CallerPlaces()
    with ExitStack() as all_taken:
        take(places, of("a"), 500, all_taken)
        assert is_refused(places, of("a"))
        assert not is_refused(places, of("b"))
        take(places, of("b"), 499, all_taken)
        with ExitStack() as last:
            take(places, of("c"), 1, last)
            assert is_refused(places, of("b"))
            assert is_refused(places, of("c"))
            take(places, _ADMIN, 100, last)
            assert is_refused(places, _ADMIN)
        # One who was refused for the others' sake has lost nothing.
        take(places, of("c"), 1, all_taken)
    with ExitStack() as again:
        take(places, of("c"), 500, again)
        take(places, of("a"), 500, again)
        with pytest.raises(CoreError, match="Too many calls at once"):
            take(places, of("d"), 1, again)
