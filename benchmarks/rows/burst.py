"""A burst: how fast it is acknowledged, queue only and end to end; how long until the workers are level."""

import contextlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import psutil  # type: ignore[import-untyped]

from benchmarks.bench import Bench
from benchmarks.figures import BURST_ACKNOWLEDGED, BURST_LEVEL_SECONDS, Account, Figure, Line, RowResult
from benchmarks.load import Load
from benchmarks.measuring import Measured, cpu_figures, latency_figures, total_account
from benchmarks.processes import processes_of
from benchmarks.rows.batch import CONNECTIONS

_SIZE = 100


def burst(bench: Bench, name: str, title: str) -> RowResult:
    """Send a burst of PULSE batches to workers that stand still, to one worker and to two."""
    lines = []
    warmed_up = Account()
    for workers, label, held in ((1, "queue only", True), (1, "1 worker", False), (2, "2 workers", False)):
        bench.use_workers(workers)
        warmed_up.add(bench.warm_up(name, bench.payload("pulse", _SIZE), CONNECTIONS))
        lines.append(_line(label, _measure(bench, label, held=held), held=held))
    return RowResult(name, title, lines, warmed_up)


def _measure(bench: Bench, name: str, *, held: bool) -> Measured:
    payload = bench.payload("pulse", _SIZE)
    load = Load(CONNECTIONS, requests=max(1, bench.pace.burst_events // _SIZE))
    if not held:
        return bench.run(payload, load, name)
    with _held_back(bench) as let_go:
        return bench.run(payload, load, name, answered=let_go)


@contextmanager
def _held_back(bench: Bench) -> Iterator[Callable[[], None]]:
    """Stop the worker in its tracks; lend what lets it go, at the latest at the end of the block."""
    workers = [process for part, process in processes_of(bench.stack.pid) if part == "worker"]

    def let_go() -> None:
        for worker in workers:
            with contextlib.suppress(psutil.NoSuchProcess):
                worker.resume()

    for worker in workers:
        worker.suspend()
    try:
        yield let_go
    finally:
        let_go()


def _line(label: str, run: Measured, *, held: bool) -> Line:
    # With the worker still it is what the queue could; the figure to reach is with all at work.
    acknowledged, level = (None, None) if held else (BURST_ACKNOWLEDGED, BURST_LEVEL_SECONDS)
    figures = [
        Figure("acknowledged", run.acknowledged_rate, "events/s", target=acknowledged),
        *latency_figures([run]),
        Figure("left", run.backlog, "events"),
        Figure("level after", run.level_seconds, "s", 1, level),
        Figure("counted", run.counted_seconds, "s", 1),
        Figure("stored", run.stored_rate, "events/s"),
        *cpu_figures([run]),
        Figure("others", 100 * run.others_share, "% CPU"),
    ]
    return Line(label, figures, total_account([run]), {"run": run.as_json()})
