"""Quantities on the command line."""

from datetime import UTC, datetime, timedelta

import pytest

from polylect_cli.output import CommandError
from polylect_cli.sources import parse_rate, rate_text
from polylect_cli.times import parse_duration, parse_moment


@pytest.mark.parametrize(
    ("text", "rate", "shown"),
    [
        ("5/second", (5, 1), "5/second"),
        ("5/s", (5, 1), "5/second"),
        ("100/minute", (100, 60), "100/minute"),
        ("100/m", (100, 60), "100/minute"),
        ("2000/hour", (2_000, 3_600), "2000/hour"),
        ("2000/h", (2_000, 3_600), "2000/hour"),
        ("7/day", (7, 86_400), "7/day"),
        ("7/d", (7, 86_400), "7/day"),
    ],
)
def test_rates(text: str, rate: tuple[int, int], shown: str) -> None:
    assert parse_rate(text) == rate
    assert rate_text(*rate) == shown


def test_rates_of_other_windows_are_shown_as_they_are() -> None:
    assert rate_text(3, 90) == "3/90 s"
    assert rate_text(0, 1) == "off"


@pytest.mark.parametrize(
    "text", ["", "5", "0/second", "-1/second", "5/", "5/fortnight", "5 / second", "1e3/hour"]
)
def test_rates_that_are_none(text: str) -> None:
    with pytest.raises(CommandError, match="as in 100/minute"):
        parse_rate(text)


@pytest.mark.parametrize(
    ("text", "seconds"), [("0s", 0), ("90s", 90), ("5m", 300), ("24h", 86_400), ("30d", 2_592_000)]
)
def test_durations(text: str, seconds: int) -> None:
    assert parse_duration("--overlap", text) == seconds


@pytest.mark.parametrize("text", ["", "24", "h", "-1h", "1w", "1.5h"])
def test_durations_that_are_none(text: str) -> None:
    with pytest.raises(CommandError, match="as in 24h"):
        parse_duration("--overlap", text)


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2026-05-01", datetime(2026, 5, 1, tzinfo=UTC)),
        ("2026-05-01T12:00", datetime(2026, 5, 1, 12, tzinfo=UTC)),
        ("2026-05-01T12:00Z", datetime(2026, 5, 1, 12, tzinfo=UTC)),
        ("2026-05-01T12:00+02:00", datetime(2026, 5, 1, 10, tzinfo=UTC)),
    ],
)
def test_moments(text: str, moment: datetime) -> None:
    assert parse_moment("--since", text) == moment


@pytest.mark.parametrize(("text", "seconds"), [("0h", 0), ("90m", 5_400), ("7d", 604_800)])
def test_ages(text: str, seconds: int) -> None:
    before = datetime.now(UTC)
    moment = parse_moment("--since", text)
    assert before <= moment + timedelta(seconds=seconds) <= datetime.now(UTC)


@pytest.mark.parametrize("text", ["", "1w", "h", "-1d", "yesterday", "999999999d", "0001-01-01T00:00+05:00"])
def test_moments_that_are_none(text: str) -> None:
    with pytest.raises(CommandError, match=r"--since .*: give a time as .* or an age as 90m"):
        parse_moment("--since", text)
