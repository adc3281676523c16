"""The rows of the bench: what is measured, beside which ceiling, and what it should reach.

A row is a function in the registry at the end. Ceiling and product take turns, ceiling first and last,
because a shared machine is not equally fast from one minute to the next; a ratio is to the mean of its two
neighbours.
"""

import statistics
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property, partial

from benchmarks.ceilings.bare_server import bare_server
from benchmarks.ceilings.copying import CopyCeiling
from benchmarks.figures import Account, Figure, RowResult, Target, at_least, at_most
from benchmarks.load import Load, Progress, Tool, send
from benchmarks.measuring import Measured, cpu_figures, measure, median, total_account
from benchmarks.payloads import Payload, pulse_batch, pulsora_single
from benchmarks.processes import MemoryUnknownError, memory_by_part
from benchmarks.stack import Source, Stack

_MEGABYTE = 1_000_000
_SITE = "bench"
_BATCH_CONNECTIONS = 8

Step = Callable[[str], Progress]
"""Starts a step of the current row, by name; gives where its progress is told."""


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


class Bench:
    """What rows work with: the running system, its sources, the ceilings, and how long to measure."""

    def __init__(self, stack: Stack, tool: Tool, pace: Pace, step: Step, exits: ExitStack) -> None:
        self.stack = stack
        self.tool = tool
        self.pace = pace
        self.step = step
        self._exits = exits
        self.start_seconds: dict[str, list[float]] = {"cold": [], "warm": [], "stop": []}

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

    @cached_property
    def bare_port(self) -> int:
        """Where ceiling (a) listens, until the bench ends."""
        return self._exits.enter_context(bare_server())

    @cached_property
    def pulsora(self) -> Source:
        """The source of single events."""
        return self.stack.make_source("bench-pulsora", "pulsora-public")

    @cached_property
    def pulse(self) -> Source:
        """The source of batches."""
        return self.stack.make_source("bench-pulse", "pulse", "--site", _SITE)

    @property
    def sources(self) -> dict[str, Source]:
        """All sources made so far."""
        made = vars(self)
        return {name: made[name] for name in ("pulsora", "pulse") if name in made}

    @cached_property
    def warm_up(self) -> Account:
        """Let caches, connections and specialised code come into being, in product and ceiling."""
        load = Load(connections=32, seconds=self.pace.warm_up_seconds)
        payload = pulsora_single(self.pulsora.secret)
        send(self.tool, payload, self.bare_port, load, self.step("warming up the bare route"))
        return self.run(self.pulsora, payload, load, "warming up").account

    def run(self, source: Source, payload: Payload, load: Load, name: str) -> Measured:
        """Measure the product once."""
        tool: Tool = self.tool if load.requests is None else "own"
        return measure(self.stack, tool, source, payload, load, self.step(name))


@dataclass(frozen=True)
class Row:
    """A row: its title, and how it is measured."""

    title: str
    measure: Callable[[Bench, str, str], RowResult]


def start_up(bench: Bench, name: str, title: str) -> RowResult:
    """Tell how long starting took: it was measured when the bench began."""
    seconds = bench.start_seconds
    figures = [
        Figure("cold start", median(seconds["cold"]), "s", 2),
        Figure("warm start", median(seconds["warm"]), "s", 2, at_most(5.0)),
        Figure("stop", median(seconds["stop"]), "s", 2),
    ]
    return RowResult(name, title, figures, detail=dict(seconds))


def idle_memory(bench: Bench, name: str, title: str) -> RowResult:
    """Read what every process holds after nothing has happened for a while."""
    tell = bench.step("letting it settle")
    begun = time.monotonic()
    while (passed := time.monotonic() - begun) < bench.pace.settle_seconds:
        tell(passed / bench.pace.settle_seconds)
        time.sleep(0.1)
    return _memory(bench, name, title, at_most(450.0))


def loaded_memory(bench: Bench, name: str, title: str) -> RowResult:
    """Read the same after all the load of this run."""
    bench.step("reading memory")
    return _memory(bench, name, title, None)


def _memory(bench: Bench, name: str, title: str, target: Target | None) -> RowResult:
    try:
        memory = memory_by_part(bench.stack.pid)
    except MemoryUnknownError as error:
        account = Account(notes=[f"memory unknown: {error}"])
        return RowResult(name, title, [Figure("all", None, "MB", target=target)], account)
    sums = {part: sum(processes.values()) / _MEGABYTE for part, processes in memory.items()}
    figures = [Figure(part, megabytes, "MB") for part, megabytes in sorted(sums.items())]
    figures.append(Figure("all", sum(sums.values()), "MB", target=target))
    return RowResult(name, title, figures, detail={"pss_bytes": memory})


def single(
    bench: Bench,
    name: str,
    title: str,
    *,
    connections: int,
    ratio: Target | None = None,
    p99: Target | None = None,
) -> RowResult:
    """POST /api/ingest, one event a request, beside ceiling (a)."""
    warm_up = bench.warm_up
    payload = pulsora_single(bench.pulsora.secret)
    load = Load(connections=connections, seconds=bench.pace.seconds)

    def ceiling() -> float:
        return send(bench.tool, payload, bench.bare_port, load, bench.step("bare route")).rate

    ceilings, runs = [ceiling()], []
    for _ in range(bench.pace.rounds):
        runs.append(bench.run(bench.pulsora, payload, load, "product"))
        ceilings.append(ceiling())
    rates = [run.outcome.acknowledged / run.outcome.seconds for run in runs]
    figures = [
        Figure("rate", median(rates), "req/s"),
        Figure("p50", median([run.outcome.p50_ms for run in runs]), "ms", 1),
        Figure("p95", median([run.outcome.p95_ms for run in runs]), "ms", 1),
        Figure("p99", median([run.outcome.p99_ms for run in runs]), "ms", 1, p99),
        Figure("ceiling (a)", statistics.median(ceilings), "req/s"),
        Figure("of ceiling", median(_ratios(rates, ceilings)), "×", 2, ratio),
        *cpu_figures(runs),
        Figure("level after", median([run.level_seconds for run in runs]), "s", 2),
        Figure("others", 100 * max(run.others_share for run in runs), "% CPU"),
    ]
    detail = {
        "product": [run.as_json() for run in runs],
        "ceilings": ceilings,
    }
    account = total_account(runs)
    if not warm_up.balanced:
        account.add(warm_up)
    return RowResult(name, title, figures, account, detail)


def batch(bench: Bench, name: str, title: str, *, size: int, stored: Target | None = None) -> RowResult:
    """POST /collect/batch, a given number of events end to end, beside ceiling (b)."""
    payload = pulse_batch(bench.pulse.secret, _SITE, size)
    begin = Load(_BATCH_CONNECTIONS, requests=max(1, 4000 // size))
    warm_up = bench.run(bench.pulse, payload, begin, "warming up")
    copying = CopyCeiling(bench.stack.database, bench.pulse.source_id)

    def ceiling() -> float:
        bench.step("COPY")
        return copying.measure(bench.pace.copy_rows)

    load = Load(_BATCH_CONNECTIONS, requests=max(1, bench.pace.batch_events // size))
    ceilings, runs = [ceiling()], []
    for _ in range(bench.pace.rounds):
        runs.append(bench.run(bench.pulse, payload, load, "product"))
        ceilings.append(ceiling())
    bench.step("removing the copies")
    copying.remove()
    rates = [run.stored_rate for run in runs]
    figures = [
        Figure("acknowledged", median([size * run.outcome.rate for run in runs]), "events/s"),
        Figure("stored", median(rates), "events/s", target=stored),
        Figure("p50", median([run.outcome.p50_ms for run in runs]), "ms", 1),
        Figure("p99", median([run.outcome.p99_ms for run in runs]), "ms", 1),
        Figure("ceiling (b)", statistics.median(ceilings), "rows/s"),
        Figure("of ceiling", median(_ratios(rates, ceilings)), "×", 2),
        *cpu_figures(runs),
        Figure("level after", median([run.level_seconds for run in runs]), "s", 2),
        Figure("others", 100 * max(run.others_share for run in runs), "% CPU"),
    ]
    detail = {"product": [run.as_json() for run in runs], "ceilings": ceilings}
    account = total_account(runs)
    if not warm_up.account.balanced:
        account.add(warm_up.account)
    return RowResult(name, title, figures, account, detail)


def _ratios(rates: list[float], ceilings: list[float]) -> list[float]:
    """Relate each rate to the mean of the ceilings measured before and after it."""
    pairs = zip(rates, ceilings, ceilings[1:], strict=False)
    return [rate / statistics.mean((before, after)) for rate, before, after in pairs]


def _single(connections: int, ratio: Target | None = None, p99: Target | None = None) -> Row:
    many = "connections" if connections > 1 else "connection"
    title = f"POST /api/ingest, one event a request, {connections} {many}"
    return Row(title, partial(single, connections=connections, ratio=ratio, p99=p99))


ROWS: Mapping[str, Row] = {
    "start": Row("Starting to ready", start_up),
    "idle": Row("Idle memory (PSS)", idle_memory),
    "single-1": _single(1),
    "single-32": _single(32, ratio=at_least(0.33), p99=at_most(30.0)),
    "single-128": _single(128, ratio=at_least(0.45)),
    "batch-100": Row(
        f"POST /collect/batch, 100 events a request, {_BATCH_CONNECTIONS} connections",
        partial(batch, size=100, stored=at_least(15_000)),
    ),
    "memory": Row("Memory after the load (PSS)", loaded_memory),
}
