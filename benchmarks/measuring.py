"""Measures the product: sends a load, waits until the worker is level, and counts what is in `events`.

Hides how "level" is seen and who used the CPU meanwhile.
"""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from benchmarks.figures import BUSY_PERCENT, Account, Figure, Target
from benchmarks.load import Load, Outcome, Progress, Tool, send
from benchmarks.payloads import Payload
from benchmarks.processes import read_cpu
from benchmarks.stack import Source, Stack, StackError

# How long a queue that does not shrink is waited for.
_STUCK_SECONDS = 60.0
_POLL_SECONDS = 0.02
# After so many looks at an empty queue the missing rows are lost.
_LOOKS_FOR_LOST = 50
# Received by another process of the same machine.
_CLOCK_SLACK = timedelta(seconds=1)
PARTS = ("facade", "core", "worker", "postgres")


@dataclass(frozen=True)
class Door:
    """Another way into the system: a process that is no part of it."""

    part: str
    port: int
    pid: int


@dataclass(frozen=True)
class Measured:
    """One load on the product, to its last row."""

    outcome: Outcome
    account: Account
    # Events in the queue at the last answer.
    backlog: int
    # From the last answer to the last row visible in `events`.
    level_seconds: float
    # From the last answer until statistics count the last event, too; None: that was not waited for.
    counted_seconds: float | None
    # Events per second, from the first request to the last row; repeated ones count.
    stored_rate: float
    cpu_seconds: dict[str, float]
    # Of the whole machine, taken by others than the system and the bench, 0 to 1.
    others_share: float

    @property
    def acknowledged_rate(self) -> float:
        """Events acknowledged per second, until the last answer."""
        return self.account.acknowledged / max(1e-9, self.outcome.seconds)

    def cpu_micros(self, part: str | None = None) -> float | None:
        """Give the CPU microseconds an event cost, repeated ones included, in one part or in all."""
        events = self.account.stored + self.account.repeated
        if not events:
            return None
        used = sum(self.cpu_seconds.values()) if part is None else self.cpu_seconds.get(part, 0.0)
        return 1e6 * used / events

    def as_json(self) -> dict[str, Any]:
        """Give all of it."""
        return {
            "outcome": self.outcome.as_json(),
            "account": vars(self.account),
            "backlog": self.backlog,
            "level_seconds": self.level_seconds,
            "counted_seconds": self.counted_seconds,
            "stored_rate": self.stored_rate,
            "cpu_seconds": self.cpu_seconds,
            "cpu_micros_per_event": self.cpu_micros(),
            "others_share": self.others_share,
        }


def measure(
    stack: Stack,
    tool: Tool,
    source: Source,
    payload: Payload,
    load: Load,
    progress: Progress,
    *,
    answered: Callable[[], None] | None = None,
    through: Door | None = None,
    await_counted: bool = True,
) -> Measured:
    """Send `payload` as that source, and follow every event into `events` and into statistics.

    Calls `answered` after the last answer. Goes in by the system's own ports, or `through` another door.
    """
    since = datetime.now(UTC) - _CLOCK_SLACK
    stored_before, quarantined_before = stack.stored(source, since), stack.quarantined(source)
    besides = {through.part: through.pid} if through else {}
    port = through.port if through else stack.port(payload.protocol)
    cpu_before = read_cpu(stack.pid, besides)
    outcome = send(tool, payload, port, load, progress)
    if payload.repeats and (outcome.refused or outcome.broken):
        # Which of them an acknowledged one repeats is not known.
        raise StackError(f"can't tell what is due: {outcome.refused} refused, {outcome.broken} broken")
    size = payload.events_per_request
    acknowledged = outcome.acknowledged * size
    distinct = payload.distinct_events(outcome.acknowledged)
    backlog = stack.queued()
    if answered:
        answered()
    level_at, stored = _await_level(stack, source, since, stored_before + distinct)
    counted_at, uncounted = _await_empty(stack.uncounted) if await_counted else (None, 0)
    cpu = read_cpu(stack.pid, besides)
    account = Account(
        acknowledged=acknowledged,
        repeated=acknowledged - distinct,
        stored=stored - stored_before,
        refused=outcome.refused,
        broken=outcome.broken,
        quarantined=stack.quarantined(source) - quarantined_before,
        unanswered=(outcome.unanswered + outcome.failed) * size,
    )
    if ended := cpu.ended(cpu_before):
        account.notes.append(f"{', '.join(ended)} ended during a load: its figures say nothing")
        if account.balanced:
            raise StackError(f"{account.notes[-1]}\n{stack.log_end()}")
    others_share = cpu.others_share(cpu_before)
    if outcome.refused_by_status:
        account.notes.append(f"refused with {outcome.refused_by_status}")
    if uncounted:
        account.notes.append(f"statistics stopped counting: {uncounted:,} wait")
    if 100 * others_share > BUSY_PERCENT:
        account.notes.append("other processes used the machine meanwhile (see others): no figure is reliable")
    return Measured(
        outcome=outcome,
        account=account,
        backlog=backlog,
        level_seconds=max(0.0, level_at - outcome.last_answer_at),
        counted_seconds=(
            max(0.0, counted_at - outcome.last_answer_at) if counted_at and not uncounted else None
        ),
        stored_rate=(account.stored + account.repeated) / max(1e-9, level_at - outcome.first_request_at),
        cpu_seconds=cpu.since(cpu_before),
        others_share=others_share,
    )


def _await_level(stack: Stack, source: Source, since: datetime, expected: int) -> tuple[float, int]:
    """Wait until the queue is empty and the source has the rows; give when, and how many it has.

    Returns what there is when the queue does not shrink any more.
    """
    for _ in range(_LOOKS_FOR_LOST):
        at, left = _await_empty(stack.queued)
        stored = stack.stored(source, since)
        if left or stored >= expected:
            break
        time.sleep(_POLL_SECONDS)  # an empty queue gives nothing more, but another look
    return at, stored


def _await_empty(waiting: Callable[[], int]) -> tuple[float, int]:
    """Wait until nothing waits, or no less than before for long; give when, by the clock, and what does."""
    fewest, fewest_since = waiting() + 1, time.monotonic()
    while (left := waiting()) and time.monotonic() - fewest_since < _STUCK_SECONDS:
        if left < fewest:
            fewest, fewest_since = left, time.monotonic()
        time.sleep(_POLL_SECONDS)
    return time.time(), left


def median(values: Sequence[float | None]) -> float | None:
    """Give the median of those that are known."""
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else None


def latency_figures(runs: Sequence[Measured], p99: Target | None = None) -> list[Figure]:
    """Give the percentiles of an answer's time."""
    return [
        Figure("p50", median([run.outcome.p50_ms for run in runs]), "ms", 1),
        Figure("p95", median([run.outcome.p95_ms for run in runs]), "ms", 1),
        Figure("p99", median([run.outcome.p99_ms for run in runs]), "ms", 1, p99),
    ]


def cpu_figures(
    runs: Sequence[Measured], target: Target | None = None, parts: Sequence[str] = PARTS
) -> list[Figure]:
    """Give the CPU microseconds per event of each part, and of all."""
    figures = [
        Figure(f"CPU {part}", median([run.cpu_micros(part) for run in runs]), "µs/ev") for part in parts
    ]
    figures.append(Figure("CPU all", median([run.cpu_micros() for run in runs]), "µs/ev", target=target))
    return figures


def after_figures(
    runs: Sequence[Measured], level: Target | None = None, counted: Target | None = None
) -> list[Figure]:
    """Give how long after the last answer all was stored, and counted; and who else used the machine."""
    return [
        Figure("level after", median([run.level_seconds for run in runs]), "s", 2, level),
        Figure("counted", median([run.counted_seconds for run in runs]), "s", 1, counted),
        Figure("others", 100 * max(run.others_share for run in runs), "% CPU"),
    ]


def total_account(runs: Sequence[Measured]) -> Account:
    """Add up what was sent and stored."""
    total = Account()
    for run in runs:
        total.add(run.account)
    return total
