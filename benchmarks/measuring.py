"""Measures the product: sends a load, waits until the worker is level, and counts what is in `events`.

Hides how "level" is seen and who used the CPU meanwhile.
"""

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.figures import Account, Figure, Target
from benchmarks.load import Load, Outcome, Progress, Tool, send
from benchmarks.payloads import Payload
from benchmarks.processes import read_cpu
from benchmarks.stack import Source, Stack

_LEVEL_SECONDS = 120.0
_POLL_SECONDS = 0.02
# More than this and a rate says little of the product.
_QUIET_SHARE = 0.1
PARTS = ("facade", "core", "worker", "postgres")


@dataclass(frozen=True)
class Measured:
    """One load on the product, to its last row."""

    outcome: Outcome
    account: Account
    # From the last answer to the last row visible in `events`.
    level_seconds: float
    # Events per second, from the first request to the last row.
    stored_rate: float
    cpu_seconds: dict[str, float]
    # Of the whole machine, taken by others than the system and the bench, 0 to 1.
    others_share: float

    def cpu_micros(self, part: str | None = None) -> float | None:
        """Give the CPU microseconds an event cost, in one part or in all."""
        if not self.account.stored:
            return None
        used = sum(self.cpu_seconds.values()) if part is None else self.cpu_seconds.get(part, 0.0)
        return 1e6 * used / self.account.stored

    def as_json(self) -> dict[str, Any]:
        """Give all of it."""
        return {
            "outcome": self.outcome.as_json(),
            "account": vars(self.account),
            "level_seconds": self.level_seconds,
            "stored_rate": self.stored_rate,
            "cpu_seconds": self.cpu_seconds,
            "cpu_micros_per_event": self.cpu_micros(),
            "others_share": self.others_share,
        }


def measure(
    stack: Stack, tool: Tool, source: Source, payload: Payload, load: Load, progress: Progress
) -> Measured:
    """Send `payload` as that source, and follow every event into `events`."""
    stored_before, quarantined_before = stack.stored(source), stack.quarantined(source)
    cpu_before = read_cpu(stack.pid)
    outcome = send(tool, payload, stack.http_port, load, progress)
    size = payload.events_per_request
    acknowledged = outcome.acknowledged * size
    level_at, stored = _await_level(stack, source, stored_before + acknowledged)
    cpu = read_cpu(stack.pid)
    account = Account(
        acknowledged=acknowledged,
        stored=stored - stored_before,
        refused=outcome.refused,
        broken=outcome.broken,
        quarantined=stack.quarantined(source) - quarantined_before,
        unanswered=outcome.unanswered * size,
    )
    others_share = cpu.others_share(cpu_before)
    if outcome.refused_by_status:
        account.notes.append(f"refused with {outcome.refused_by_status}")
    if others_share > _QUIET_SHARE:
        account.notes.append(
            "other processes used the machine meanwhile (see others): the product needs every CPU"
        )
    return Measured(
        outcome=outcome,
        account=account,
        level_seconds=max(0.0, level_at - outcome.last_answer_at),
        stored_rate=account.stored / max(1e-9, level_at - outcome.first_request_at),
        cpu_seconds=cpu.since(cpu_before),
        others_share=others_share,
    )


def _await_level(stack: Stack, source: Source, expected: int) -> tuple[float, int]:
    """Wait until the queue is empty and the source has the rows; give when, and how many it has.

    Returns what there is when the queue does not shrink any more.
    """
    fewest, silent_since = stack.queued() + 1, time.monotonic()
    while time.monotonic() - silent_since < _LEVEL_SECONDS:
        queued = stack.queued()
        if queued == 0:
            at = time.time()
            stored = stack.stored(source)
            if stored >= expected:
                return at, stored
        if queued < fewest:
            fewest, silent_since = queued, time.monotonic()
        if queued == 0 and time.monotonic() - silent_since > 5:
            break  # an empty queue gives nothing more: the rows are lost
        time.sleep(_POLL_SECONDS)
    return time.time(), stack.stored(source)


def median(values: Sequence[float | None]) -> float | None:
    """Give the median of those that are known."""
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else None


def cpu_figures(runs: Sequence[Measured], target: Target | None = None) -> list[Figure]:
    """Give the CPU microseconds per event of each part, and of all."""
    figures = [
        Figure(f"CPU {part}", median([run.cpu_micros(part) for run in runs]), "µs/event") for part in PARTS
    ]
    figures.append(Figure("CPU all", median([run.cpu_micros() for run in runs]), "µs/event", target=target))
    return figures


def total_account(runs: Sequence[Measured]) -> Account:
    """Add up what was sent and stored."""
    total = Account()
    for run in runs:
        total.add(run.account)
    return total
