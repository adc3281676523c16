"""How quantities are written on the command line: 100/minute, 24h."""

import re

from polylect_cli.output import EXIT_USAGE, CommandError

_UNIT_SECONDS = {
    "s": 1,
    "second": 1,
    "m": 60,
    "minute": 60,
    "h": 3_600,
    "hour": 3_600,
    "d": 86_400,
    "day": 86_400,
}


def parse_rate(text: str) -> tuple[int, int]:
    """Read N/period; give N and the period's seconds. Raises CommandError."""
    match = re.fullmatch(r"([1-9][0-9]{0,8})/(\w+)", text)
    if not match or match[2] not in _UNIT_SECONDS:
        raise CommandError(
            f"--rate-limit {text}: give off, default, or N/period with period second, minute, hour or day "
            "(also s, m, h, d), as in 100/minute",
            EXIT_USAGE,
        )
    return int(match[1]), _UNIT_SECONDS[match[2]]


def parse_duration(text: str) -> int:
    """Read a duration; give seconds. Raises CommandError."""
    match = re.fullmatch(r"([0-9]{1,9})([smhd])", text)
    if not match:
        raise CommandError(f"--overlap {text}: give a number and s, m, h or d, as in 24h", EXIT_USAGE)
    return int(match[1]) * _UNIT_SECONDS[match[2]]


def rate_text(limit: int, window_seconds: int) -> str:
    """Write a rate as it is read."""
    if limit == 0:
        return "off"
    names = {seconds: name for name, seconds in _UNIT_SECONDS.items() if len(name) > 1}
    return f"{limit}/{names.get(window_seconds, f'{window_seconds} s')}"
