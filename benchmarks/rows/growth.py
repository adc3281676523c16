"""The same load on an empty database, and on ones with many events: a system of its own that grows.

The events there already are those the bench of queries is asked about, of the last thirty days, and of the
source that the load is of.
"""

from benchmarks import query_data
from benchmarks.bench import Bench
from benchmarks.figures import GROWTH_OF_EMPTY, Account, Figure, Line, RowResult
from benchmarks.load import Load
from benchmarks.measuring import Measured, after_figures, cpu_figures, latency_figures, median, total_account
from benchmarks.rows.batch import CONNECTIONS
from benchmarks.stack import Stack

_SINGLE_CONNECTIONS = 32
_SIZE = 100


def growth(bench: Bench, name: str, title: str) -> RowResult:
    """Measure single events and batches at each number of events, each beside ceiling (a)."""
    stack = Stack(bench.scratch)
    bench.exits.callback(stack.remove)
    bench.step("starting an empty system")
    stack.start()
    stack.connect()
    lines: list[Line] = []
    warmed_up = Account()
    there = 0
    for step, events in enumerate(bench.pace.growth):
        # Each has a source of its own: one can be given a past only while it has no events.
        source = stack.make_source(f"bench-{step}")
        if events > there:
            tell = bench.step(f"writing {events:,} events of thirty days")
            there += query_data.build(stack.database, source.source_id, events - there, tell)
        lines += _measure(bench.on(stack, source), events, lines[:2], warmed_up)
    bench.step("stopping it")
    stack.remove()
    return RowResult(name, title, lines, warmed_up)


def _measure(bench: Bench, events: int, empty: list[Line], warmed_up: Account) -> list[Line]:
    single_load = Load(_SINGLE_CONNECTIONS, seconds=bench.pace.seconds)
    batch_load = Load(CONNECTIONS, requests=max(1, bench.pace.batch_events // _SIZE))
    single = bench.payload("pulse")
    kinds = (
        ("one a request", single, single_load),
        (f"batches of {_SIZE}", bench.payload("pulse", _SIZE), batch_load),
    )
    lines = []
    for number, (label, payload, load) in enumerate(kinds):
        warmed_up.add(bench.warm_up(label, payload, load.connections))
        runs, ceilings = [], []
        for _ in range(bench.pace.rounds):
            ceilings.append(bench.ask(single, bench.bare_port, single_load, "bare route"))
            runs.append(bench.run(payload, load, f"{label}, {events:,} events there"))
        lines.append(_line(f"{events:,}: {label}", runs, ceilings, empty[number] if empty else None))
    return lines


def _line(label: str, runs: list[Measured], ceilings: list[float], empty: Line | None) -> Line:
    of_ceiling = median([run.stored_rate / ceiling for run, ceiling in zip(runs, ceilings, strict=True)])
    at_first = empty.detail["of_ceiling"] if empty else of_ceiling
    of_empty = of_ceiling / at_first if of_ceiling and at_first else None
    figures = [
        Figure("acknowledged", median([run.acknowledged_rate for run in runs]), "events/s"),
        Figure("stored", median([run.stored_rate for run in runs]), "events/s"),
        Figure("of empty", of_empty, "×", 2, GROWTH_OF_EMPTY if empty else None),
        *latency_figures(runs),
        *cpu_figures(runs),
        *after_figures(runs),
    ]
    detail = {"of_ceiling": of_ceiling, "ceilings (a)": ceilings, "runs": [run.as_json() for run in runs]}
    return Line(label, figures, total_account(runs), detail)
