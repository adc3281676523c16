"""How times are given on the command line: a moment, an age before now, a duration."""

import re
from datetime import UTC, datetime, timedelta

from polylect_cli.output import EXIT_USAGE, CommandError

_SPAN = re.compile(r"([0-9]{1,9})([smhd])")
_UNIT_SECONDS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}


def parse_duration(option: str, text: str) -> int:
    """Give the seconds of a duration, as in 24h. Raises CommandError."""
    seconds = _seconds(text)
    if seconds is None:
        raise CommandError(f"{option} {text}: give a number and s, m, h or d, as in 24h", EXIT_USAGE)
    return seconds


def parse_moment(option: str, text: str) -> datetime:
    """Read an ISO 8601 time (without offset UTC), or an age before now. Raises CommandError."""
    age_seconds = _seconds(text)
    try:
        if age_seconds is not None:
            return datetime.now(UTC) - timedelta(seconds=age_seconds)
        given = datetime.fromisoformat(text)
        return given.astimezone(UTC) if given.tzinfo else given.replace(tzinfo=UTC)
    except (ValueError, OverflowError):
        raise CommandError(
            f"{option} {text}: give a time as 2026-05-01T12:00Z, or an age as 90m, 24h or 7d", EXIT_USAGE
        ) from None


def _seconds(text: str) -> int | None:
    match = _SPAN.fullmatch(text)
    return int(match[1]) * _UNIT_SECONDS[match[2]] if match else None
