"""Salts are forgotten an hour after their day, whether requests come or not."""

from datetime import date

import pytest

from core_service.fingerprint import Fingerprints

DAY = 86_400
NOON = 20_000 * DAY + DAY // 2
MIDNIGHT = 20_001 * DAY


class Salts:
    """Gives a salt for each day, and notes which were asked for."""

    def __init__(self) -> None:
        self.asked: list[date] = []

    async def salt(self, day: date) -> bytes:
        self.asked.append(day)
        return day.isoformat().encode()


@pytest.mark.parametrize(
    ("now", "kept"), [(NOON, True), (MIDNIGHT, True), (MIDNIGHT + 3_599, True), (MIDNIGHT + 3_600, False)]
)
async def test_a_salt_is_kept_until_an_hour_after_its_day(now: int, kept: bool) -> None:
    fingerprints = Fingerprints(Salts())  # type: ignore[arg-type] - the one method it asks
    await fingerprints.prepare(NOON)
    fingerprints.forget(now)
    assert fingerprints.ready(NOON) is kept


async def test_of_two_days_the_first_is_forgotten() -> None:
    fingerprints = Fingerprints(Salts())  # type: ignore[arg-type] - likewise
    await fingerprints.prepare(NOON)
    await fingerprints.prepare(MIDNIGHT)
    fingerprints.forget(MIDNIGHT + 3_600)
    assert (fingerprints.ready(NOON), fingerprints.ready(MIDNIGHT)) == (False, True)
