"""What a row of the bench says: figures, what they should be, and whether anything was lost on the way.

Knows neither how a figure was got nor how it is shown.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal


@dataclass(frozen=True)
class Target:
    """A bound a figure should keep."""

    bound: float
    sense: Literal["at least", "at most"]

    def reached_by(self, value: float) -> bool:
        """Tell whether a value keeps it."""
        return value >= self.bound if self.sense == "at least" else value <= self.bound


def at_least(bound: float) -> Target:
    """Give a lower bound."""
    return Target(bound, "at least")


def at_most(bound: float) -> Target:
    """Give an upper bound."""
    return Target(bound, "at most")


# What should be reached, on 2 shared cores with all processes on them, in one run.
IDLE_MEGABYTES = at_most(450.0)
WARM_START_SECONDS = at_most(5.0)
# One event a request, by the number of connections: of ceiling (a), and the 99th percentile in ms.
SINGLE_OF_CEILING = {32: at_least(0.38), 128: at_least(0.5)}
SINGLE_P99_MS = {32: at_most(15.0), 128: at_most(40.0)}
# Each other dialect's rate, of that of /api/ingest.
DIALECT_OF_SINGLE = at_least(0.75)
SINGLE_CPU_MICROS = at_most(130.0)
# A worker that keeps up has next to nothing left to do when the load ends.
KEEPS_UP_SECONDS = at_most(1.0)
CALL_OF_CEILING = at_least(0.6)
# Batches of 100.
BATCH_STORED = at_least(25_000)
BATCH_OF_CEILING = at_least(0.17)
BATCH_CPU_MICROS = at_most(60.0)
STREAM_ACKNOWLEDGED = at_least(30_000)
# A burst of batches of 100.
BURST_ACKNOWLEDGED = at_least(60_000)
BURST_LEVEL_SECONDS = at_most(25.0)
# At the most events there are, of the rate on an empty database.
GROWTH_OF_EMPTY = at_least(0.9)
# What the parts in Python hold after an hour's load, of what they held after half of it.
HOUR_OF_HALF = at_most(1.1)
OF_PEER = at_least(4.0)

BUSY_PERCENT = 10.0
"""Where others took more of the machine, no figure is judged."""


@dataclass(frozen=True)
class Figure:
    """One number. None: could not be measured."""

    name: str
    value: float | None
    unit: str = ""
    digits: int = 0
    target: Target | None = None

    @property
    def reached(self) -> bool | None:
        """Tell whether the target is reached; None without one, or without a value."""
        if self.target is None or self.value is None:
            return None
        return self.target.reached_by(self.value)


@dataclass
class Account:
    """What was sent and what came of it, in events. Everything that was acknowledged must be stored, once."""

    acknowledged: int = 0
    # Of the acknowledged: their message id had been sent before.
    repeated: int = 0
    stored: int = 0
    # Answered, but not with all events accepted; in requests.
    refused: int = 0
    broken: int = 0
    quarantined: int = 0
    # May be stored, need not: under way when the loader hung up, or answered that the service failed.
    unanswered: int = 0
    notes: list[str] = field(default_factory=list)

    @property
    def balanced(self) -> bool:
        """Tell whether nothing was lost and nothing stored that nobody sent, or twice."""
        due = self.acknowledged - self.repeated
        return due <= self.stored <= due + self.unanswered

    def add(self, other: "Account") -> None:
        """Add another's counts."""
        for name, value in vars(other).items():
            setattr(self, name, getattr(self, name) + value)


@dataclass
class Line:
    """One line of a row's table: figures, one a column."""

    label: str
    figures: Sequence[Figure]
    account: Account = field(default_factory=Account)
    # Everything measured on the way, for the file.
    detail: dict[str, Any] = field(default_factory=dict)

    @property
    def others_percent(self) -> float:
        """Give what processes of neither the system nor the bench took of the machine; 0 if unknown."""
        return next((figure.value or 0.0 for figure in self.figures if figure.name == "others"), 0.0)

    def as_json(self) -> dict[str, Any]:
        """Give all of it."""
        return {
            "label": self.label,
            "figures": [{**asdict(figure), "reached": figure.reached} for figure in self.figures],
            "account": {**asdict(self.account), "balanced": self.account.balanced},
            "detail": self.detail,
        }


@dataclass
class RowResult:
    """One row of the bench: lines that belong together."""

    name: str
    title: str
    lines: Sequence[Line]
    # Of what is in no line: warming up.
    besides: Account = field(default_factory=Account)
    detail: dict[str, Any] = field(default_factory=dict)

    @property
    def balanced(self) -> bool:
        """Tell whether every event of every line is accounted for."""
        return self.besides.balanced and all(line.account.balanced for line in self.lines)

    def as_json(self) -> dict[str, Any]:
        """Give all of it."""
        return {
            "name": self.name,
            "title": self.title,
            "lines": [line.as_json() for line in self.lines],
            "besides": {**asdict(self.besides), "balanced": self.besides.balanced},
            "balanced": self.balanced,
            "detail": self.detail,
        }
