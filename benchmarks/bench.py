"""What rows work with: the running system, its sources, the ceilings, and how long to measure.

Hides when each of them comes into being: a source or a ceiling that no row asks for is never made.
"""

import statistics
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from benchmarks import payloads, payloads_grpc
from benchmarks.ceilings.bare_server import bare_server
from benchmarks.ceilings.child import CeilingError
from benchmarks.ceilings.echo_server import echo_server
from benchmarks.figures import Account, RowResult
from benchmarks.load import Load, Progress, Tool, send
from benchmarks.measuring import Door, Measured, measure
from benchmarks.payloads import DISTINCT_REQUESTS, SITE, Mix, Payload
from benchmarks.stack import Source, Stack

Step = Callable[[str], Progress]
"""Starts a step of the current row, by name; gives where its progress is told."""

_KINDS = {
    "pulsora": ("pulsora-public",),
    "pulse": ("pulse", "--site", SITE),
    "apex": ("apex",),
    "datafly": ("datafly",),
    "grpc": ("service",),
}


@dataclass(frozen=True)
class Pace:
    """How long everything takes."""

    seconds: float
    rounds: int
    warm_up_seconds: float
    batch_events: int
    copy_rows: int
    warm_starts: int
    settle_seconds: float
    burst_events: int
    # How many events there are at each step of growth.
    growth: tuple[int, ...]
    hour_events: int
    # Of a payload.
    distinct_requests: int = DISTINCT_REQUESTS
    # Whether to wait after each load until statistics count it, too; else what that costs is in no figure.
    await_counted: bool = True


class Bench:
    """One run's belongings."""

    def __init__(
        self, scratch: Path | None, stack: Stack, tool: Tool, pace: Pace, step: Step, exits: ExitStack
    ) -> None:
        self.scratch = scratch
        self.stack = stack
        self.tool = tool
        self.pace = pace
        self.step = step
        self.exits = exits
        self.start_seconds: dict[str, list[float]] = {"cold": [], "warm": [], "stop": []}
        self._keys: dict[str, str] = {}
        self._workers = 1
        self._warm: set[str] = set()

    def start(self) -> None:
        """Start the system: the first time, and as often as the pace says over existing data."""
        tell = self.step("starting an empty system")
        self.start_seconds["cold"].append(self.stack.start())
        for number in range(self.pace.warm_starts):
            tell(number / self.pace.warm_starts)
            self.start_seconds["stop"].append(self.stack.stop())
            tell = self.step("starting again")
            self.start_seconds["warm"].append(self.stack.start())
        self.stack.connect()

    def on(self, stack: Stack, source: Source) -> "Bench":
        """Give the same for another running system, and a source of it; ceilings are shared."""
        other = Bench(self.scratch, stack, self.tool, self.pace, self.step, self.exits)
        vars(other).update(source=source, bare_port=self.bare_port)
        return other

    @cached_property
    def source(self) -> Source:
        """The source of all events that are sent, whatever the dialect."""
        return self.stack.make_source("bench")

    def key(self, dialect: str) -> str:
        """Give the key for a dialect's events (grpc: for calls), made when first asked for."""
        if dialect not in self._keys:
            self._keys[dialect] = self.stack.make_key(self.source, *_KINDS[dialect])
        return self._keys[dialect]

    def use_workers(self, count: int) -> None:
        """Have so many workers, by another start if need be."""
        if count != self._workers:
            self.step(f"starting again with {count} worker{'s' * (count > 1)}")
            self.stack.restart(POLYLECT_WORKERS=str(count))
            self._workers = count
            self._warm.clear()

    @cached_property
    def bare_port(self) -> int:
        """Where ceiling (a) listens, until the bench ends."""
        return self.exits.enter_context(bare_server())

    @cached_property
    def echo_port(self) -> int:
        """Where ceiling (c) listens, until the bench ends."""
        return self.exits.enter_context(echo_server())

    def warm_up(self, name: str, payload: Payload, connections: int, through: Door | None = None) -> Account:
        """Let caches, connections and specialised code come into being: once for each name."""
        if not self._is_cold(name):
            return Account()
        load = Load(connections, seconds=self.pace.warm_up_seconds)
        return self.run(payload, load, f"warming up {name}", through=through).account

    def warm_up_ceiling(self, name: str, payload: Payload, port: int, connections: int) -> None:
        """The same for a ceiling."""
        if self._is_cold(name):
            load = Load(connections, seconds=self.pace.warm_up_seconds)
            self.ask(payload, port, load, f"warming up {name}")

    def _is_cold(self, name: str) -> bool:
        """Tell whether it is to be warmed up; the next time it is not."""
        known = name in self._warm
        self._warm.add(name)
        return not known and self.pace.warm_up_seconds > 0

    def payload(self, dialect: str, size: int | None = None, mix: Mix = "plain") -> Payload:
        """Give events in a dialect, of its source: one a request, or in batches."""
        return payloads.payload(dialect, self.key(dialect), size, mix, self.pace.distinct_requests)

    def calls(self) -> Payload:
        """Give calls of `Ingest`."""
        return payloads_grpc.calls(self.key("grpc"), self.pace.distinct_requests)

    def stream(self, size: int) -> Payload:
        """Give messages of `IngestStream`."""
        return payloads_grpc.stream(self.key("grpc"), size, self.pace.distinct_requests)

    def transcoded(self) -> Payload:
        """Give calls of `Ingest` for a transcoder."""
        return payloads_grpc.transcoded(self.key("grpc"), self.pace.distinct_requests)

    def run(
        self,
        payload: Payload,
        load: Load,
        name: str,
        *,
        answered: Callable[[], None] | None = None,
        through: Door | None = None,
    ) -> Measured:
        """Measure the product once; the rest as `measure` has it."""
        return measure(
            self.stack,
            self.tool,
            self.source,
            payload,
            load,
            self.step(name),
            answered=answered,
            through=through,
            await_counted=self.pace.await_counted,
        )

    def ask(self, payload: Payload, port: int, load: Load, name: str) -> float:
        """Measure something else once: requests per second. Raises CeilingError when it refuses some."""
        outcome = send(self.tool, payload, port, load, self.step(name))
        if outcome.refused or outcome.broken:
            raise CeilingError(f"the {name} refused {outcome.refused} and broke off {outcome.broken}")
        return outcome.rate


@dataclass(frozen=True)
class Row:
    """A row: its title, how it is measured, and in which of the short ways, too."""

    title: str
    measure: Callable[[Bench, str, str], RowResult]
    quick: bool = False
    smoke: bool = False


@dataclass(frozen=True)
class Turns:
    """Several things measured in turn beside a ceiling."""

    ceilings: Sequence[float]
    runs: Mapping[str, Sequence[Measured]]

    def ratios(self, label: str, rate: Callable[[Measured], float]) -> list[float]:
        """Relate each rate to the mean of the ceilings measured before and after it."""
        pairs = zip(self.runs[label], self.ceilings, self.ceilings[1:], strict=False)
        return [rate(run) / statistics.mean((before, after)) for run, before, after in pairs]

    def beside(self, label: str, other: str, rate: Callable[[Measured], float]) -> list[float]:
        """Relate each rate to that of another thing in the same round."""
        pairs = zip(self.runs[label], self.runs[other], strict=True)
        return [rate(run) / max(1e-9, rate(reference)) for run, reference in pairs]


def take_turns(
    rounds: int, things: Mapping[str, Callable[[], Measured]], ceiling: Callable[[], float] | None = None
) -> Turns:
    """Measure things in turn, and the ceiling, where there is one, before and after each round.

    A shared machine is not equally fast from one minute to the next.
    """
    ceilings = [ceiling()] if ceiling else []
    runs: dict[str, list[Measured]] = {label: [] for label in things}
    for _ in range(rounds):
        for label, thing in things.items():
            runs[label].append(thing())
        if ceiling:
            ceilings.append(ceiling())
    return Turns(ceilings, runs)
