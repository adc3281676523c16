"""Starting, and what every process holds: idle, under load, and after an hour's worth of it."""

import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from benchmarks.bench import Bench
from benchmarks.figures import (
    HOUR_OF_HALF,
    IDLE_MEGABYTES,
    WARM_START_SECONDS,
    Account,
    Figure,
    Line,
    RowResult,
    Target,
)
from benchmarks.load import Load
from benchmarks.measuring import Measured, median, total_account
from benchmarks.processes import MemoryUnknownError, memory_by_part

HOUR_RATE = 200
"""Events a second whose hour is sent: as fast as it goes."""

_MEGABYTE = 1_000_000
_HOUR_CONNECTIONS = 64
_LOOK_SECONDS = 0.5
_PARTS = ("supervisor", "facade", "core", "worker", "postgres")
# What Postgres holds grows until its shared buffers are full, which says nothing.
_PYTHON_PARTS = ("supervisor", "facade", "core", "worker")

Megabytes = Mapping[str, float]


def start_up(bench: Bench, name: str, title: str) -> RowResult:
    """Tell how long starting took: it was measured when the bench began."""
    seconds = bench.start_seconds
    figures = [
        Figure("cold start", median(seconds["cold"]), "s", 2),
        Figure("warm start", median(seconds["warm"]), "s", 2, WARM_START_SECONDS),
        Figure("stop", median(seconds["stop"]), "s", 2),
    ]
    return RowResult(name, title, [Line("", figures)], detail=dict(seconds))


def idle_memory(bench: Bench, name: str, title: str) -> RowResult:
    """Read what every process holds after nothing has happened for a while."""
    _settle(bench)
    return _result(name, title, {"idle": _megabytes(bench)}, target=IDLE_MEGABYTES)


def hour_memory(bench: Bench, name: str, title: str) -> RowResult:
    """Send the events of an hour at a moderate rate, in two halves, and read what every process holds."""
    payload = bench.payload("pulsora")
    load = Load(_HOUR_CONNECTIONS, requests=max(1, bench.pace.hour_events // 2))
    held = {"before": _megabytes(bench)}
    runs: list[Measured] = []
    peak: dict[str, float] = {}
    for half, label in (("first half", "after half"), ("second half", "after the hour")):
        with _watched(bench, peak):
            runs.append(bench.run(payload, load, f"the hour's {half}"))
        _settle(bench)
        held[label] = _megabytes(bench)
    lines = {"before": held["before"], "most under load": peak, **held}
    result = _result(name, title, lines)
    if held["after half"] and held["after the hour"]:
        grown = _python(held["after the hour"]) / _python(held["after half"])
        last = result.lines[-1]
        last.figures = [*last.figures, Figure("of half", grown, "×", 2, HOUR_OF_HALF)]
        last.account.add(total_account(runs))
    else:
        result.besides.add(total_account(runs))
    hour = HOUR_RATE * 3600
    if bench.pace.hour_events < hour:
        result.besides.notes.append(f"shortened: {bench.pace.hour_events:,} of {hour:,} events")
    result.detail = {"runs": [run.as_json() for run in runs], "events": bench.pace.hour_events}
    return result


def _settle(bench: Bench) -> None:
    tell = bench.step("letting it settle")
    begun = time.monotonic()
    while (passed := time.monotonic() - begun) < bench.pace.settle_seconds:
        tell(passed / bench.pace.settle_seconds)
        time.sleep(0.1)


@contextmanager
def _watched(bench: Bench, peak: dict[str, float]) -> Iterator[None]:
    """Keep in `peak` the most of each part, and of all at one time, seen within the block."""
    done = threading.Event()

    def watch() -> None:
        while not done.wait(_LOOK_SECONDS):
            for part, megabytes in _megabytes(bench).items():
                peak[part] = max(megabytes, peak.get(part, 0.0))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield
    finally:
        done.set()
        watcher.join()


def _megabytes(bench: Bench) -> dict[str, float]:
    """Give the PSS of each part and of all; nothing where it can't be read."""
    try:
        memory = memory_by_part(bench.stack.pid)
    except MemoryUnknownError:
        return {}
    sums = {part: sum(processes.values()) / _MEGABYTE for part, processes in memory.items()}
    return {**sums, "all": sum(sums.values())}


def _python(megabytes: Megabytes) -> float:
    return sum(megabytes.get(part, 0.0) for part in _PYTHON_PARTS)


def _result(name: str, title: str, lines: Mapping[str, Megabytes], target: Target | None = None) -> RowResult:
    result = []
    for label, megabytes in lines.items():
        figures = [Figure(part, megabytes.get(part), "MB") for part in _PARTS]
        figures.append(Figure("all", megabytes.get("all"), "MB", target=target))
        notes = [] if megabytes else ["memory can't be read here, or there was no time to"]
        result.append(Line(label, figures, Account(notes=notes)))
    return RowResult(name, title, result)
