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
    """What was sent and what came of it, in events. Everything that was acknowledged must be stored."""

    acknowledged: int = 0
    stored: int = 0
    # Answered with another status than 2xx; in requests.
    refused: int = 0
    broken: int = 0
    quarantined: int = 0
    # Under way when the loader hung up: may be stored, need not.
    unanswered: int = 0
    notes: list[str] = field(default_factory=list)

    @property
    def balanced(self) -> bool:
        """Tell whether nothing was lost and nothing stored that nobody sent."""
        return self.acknowledged <= self.stored <= self.acknowledged + self.unanswered

    def add(self, other: "Account") -> None:
        """Add another's counts."""
        for name in ("acknowledged", "stored", "refused", "broken", "quarantined", "unanswered"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.notes += other.notes


@dataclass
class RowResult:
    """One row of the bench."""

    name: str
    title: str
    figures: Sequence[Figure]
    account: Account = field(default_factory=Account)
    # Everything measured on the way, for the file.
    detail: dict[str, Any] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """Give all of it."""
        return {
            "name": self.name,
            "title": self.title,
            "figures": [{**asdict(figure), "reached": figure.reached} for figure in self.figures],
            "account": {**asdict(self.account), "balanced": self.account.balanced},
            "detail": self.detail,
        }
