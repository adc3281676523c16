"""Arrays in Postgres' binary format: it reads them as what they are."""

from collections.abc import Iterator
from datetime import date, timedelta
from typing import Any
from uuid import UUID

import psycopg
import pytest

from storage.arrays import date_array, time_array, uuid_array, uuid_bytes
from storage.values import EPOCH

_IDS = [UUID(int=0), UUID("01a2022f-a407-7462-a98c-6ab460ca215a"), UUID(int=2**128 - 1)]
_MOMENTS = [
    EPOCH,
    EPOCH - timedelta(microseconds=1),
    EPOCH + timedelta(days=10957),
    EPOCH.replace(year=1),
    EPOCH.replace(year=9989, microsecond=999_999),
]
_DAYS = [date(1970, 1, 1), date(1969, 12, 31), date(2000, 1, 1), date(1, 1, 1), date(9989, 12, 31)]


@pytest.fixture
def connection(database_url: str) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(database_url, options="-c timezone=UTC") as connection:
        yield connection


@pytest.mark.parametrize(
    ("array", "values"),
    [
        (uuid_array([]), []),
        (uuid_array([uuid_bytes(str(one)) for one in _IDS]), _IDS),
        (time_array([]), []),
        (time_array([(one - EPOCH) // timedelta(microseconds=1) for one in _MOMENTS]), _MOMENTS),
        (date_array([]), []),
        (date_array([(one - EPOCH.date()).days for one in _DAYS]), _DAYS),
    ],
)
def test_an_array_is_read_as_what_it_is(
    connection: psycopg.Connection[Any], array: bytes, values: list[Any]
) -> None:
    assert connection.execute("SELECT %s", (array,)).fetchall() == [(values,)]
