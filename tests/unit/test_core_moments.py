"""Times between Timestamp and datetime, those no datetime can hold included."""

from datetime import UTC, datetime, timedelta, timezone

import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from core_service.moments import hour_of, moment_of, timestamp_of

NOON = datetime(2026, 5, 4, 12, tzinfo=UTC)
NOON_SECONDS = int(NOON.timestamp())


@pytest.mark.parametrize(
    ("timestamp", "moment"),
    [
        (Timestamp(seconds=NOON_SECONDS, nanos=1_999), NOON + timedelta(microseconds=1)),
        (Timestamp(seconds=NOON_SECONDS, nanos=-1_000), NOON - timedelta(microseconds=1)),
        (Timestamp(seconds=-1), datetime(1969, 12, 31, 23, 59, 59, tzinfo=UTC)),
    ],
)
def test_a_moment(timestamp: Timestamp, moment: datetime) -> None:
    assert moment_of(timestamp) == moment


@pytest.mark.parametrize(("seconds", "year"), [(2**62, 9987), (-(2**62), 5)])
def test_what_no_datetime_can_hold_is_cut(seconds: int, year: int) -> None:
    for nanos in (2**31 - 1, -(2**31)):
        assert moment_of(Timestamp(seconds=seconds, nanos=nanos)).year == year


def test_a_timestamp_is_of_utc() -> None:
    elsewhere = NOON.astimezone(timezone(timedelta(hours=5)))
    assert timestamp_of(elsewhere) == Timestamp(seconds=NOON_SECONDS)


@pytest.mark.parametrize(("seconds", "hour"), [(0, 0), (3_599, 0), (3_600, 3_600), (-1, -3_600)])
def test_an_hour(seconds: int, hour: int) -> None:
    assert hour_of(Timestamp(seconds=seconds)) == hour
