"""Ids made in the order of time, and the moments they tell."""

from datetime import UTC, datetime, timedelta

import pytest

from storage.values import END_OF_TIME_SECONDS, EPOCH, first_uuid7, moment_of_uuid7

_NOW = datetime(2026, 7, 25, 9, 30, 15, 250_000, tzinfo=UTC)
_LAST = EPOCH + timedelta(seconds=END_OF_TIME_SECONDS, milliseconds=-1)


@pytest.mark.parametrize("moment", [EPOCH, _NOW, _LAST])
def test_the_first_id_of_a_moment_tells_it(moment: datetime) -> None:
    assert moment_of_uuid7(first_uuid7(moment)) == moment


def test_an_id_tells_when_it_was_made() -> None:
    # The example of RFC 9562, A.6.
    assert moment_of_uuid7("017f22e2-79b0-7cc3-98c4-dc0c0c07398f") == datetime(
        2022, 2, 22, 19, 22, 22, tzinfo=UTC
    )


@pytest.mark.parametrize(
    "other",
    [
        "a1b2c3d4-e5f6-4890-abcd-ef1234567890",
        "017f22e2-79b0-7cc3-18c4-dc0c0c07398f",
        "ffffffff-ffff-7fff-bfff-ffffffffffff",
        first_uuid7(_LAST + timedelta(milliseconds=1)),
    ],
    ids=["random", "of no variant with versions", "past the years", "of the end of time"],
)
def test_other_ids_tell_none(other: str) -> None:
    assert moment_of_uuid7(other) is None
