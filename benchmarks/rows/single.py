"""One event a request: each dialect beside ceiling (a), calls of `Ingest` beside ceiling (c)."""

import statistics
from dataclasses import replace
from functools import partial

from benchmarks.bench import Bench, Turns, take_turns
from benchmarks.figures import (
    CALL_OF_CEILING,
    DIALECT_OF_SINGLE,
    KEEPS_UP_SECONDS,
    SINGLE_CPU_MICROS,
    SINGLE_OF_CEILING,
    SINGLE_P99_MS,
    Account,
    Figure,
    Line,
    RowResult,
    Target,
)
from benchmarks.load import Load
from benchmarks.measuring import (
    Measured,
    after_figures,
    cpu_figures,
    latency_figures,
    median,
    total_account,
)
from benchmarks.payloads import DIALECTS

_FIRST = DIALECTS[0]
_WARM_UP_CONNECTIONS = 32


def single(bench: Bench, name: str, title: str, *, connections: int) -> RowResult:
    """Measure one event a request over so many connections."""
    warmed_up = Account()
    load = Load(connections=connections, seconds=bench.pace.seconds)
    http = _dialects(bench, load, warmed_up)
    lines = [_dialect_line(http, dialect, connections) for dialect in DIALECTS]
    calls = _calls(bench, load, warmed_up)
    lines.append(_call_line(calls, connections))
    detail = {"ceilings (a)": http.ceilings, "ceilings (c)": calls.ceilings}
    return RowResult(name, title, lines, warmed_up, detail)


def _dialects(bench: Bench, load: Load, warmed_up: Account) -> Turns:
    payloads = {dialect: bench.payload(dialect) for dialect in DIALECTS}
    for dialect, payload in payloads.items():
        warmed_up.add(bench.warm_up(dialect, payload, _WARM_UP_CONNECTIONS))
    bench.warm_up_ceiling("bare route", payloads[_FIRST], bench.bare_port, _WARM_UP_CONNECTIONS)
    things = {dialect: partial(bench.run, payload, load, dialect) for dialect, payload in payloads.items()}
    ceiling = partial(bench.ask, payloads[_FIRST], bench.bare_port, load, "bare route")
    return take_turns(bench.pace.rounds, things, ceiling)


def _calls(bench: Bench, load: Load, warmed_up: Account) -> Turns:
    payload = bench.calls()
    warmed_up.add(bench.warm_up("Ingest", payload, _WARM_UP_CONNECTIONS))
    # What it gives back is what it got.
    echoed = replace(payload, answer_bytes=None)
    bench.warm_up_ceiling("bare echo", echoed, bench.echo_port, _WARM_UP_CONNECTIONS)
    ceiling = partial(bench.ask, echoed, bench.echo_port, load, "bare echo")
    thing = partial(bench.run, payload, load, "Ingest")
    return take_turns(bench.pace.rounds, {"Ingest": thing}, ceiling)


def _dialect_line(turns: Turns, dialect: str, connections: int) -> Line:
    first = dialect == _FIRST
    ratio = SINGLE_OF_CEILING.get(connections) if first else None
    p99 = SINGLE_P99_MS.get(connections) if first else None
    of_first = None if first else median(turns.beside(dialect, _FIRST, _rate))
    target = DIALECT_OF_SINGLE if connections > 1 and not first else None
    of_ceiling = Figure("of ceiling", median(turns.ratios(dialect, _rate)), "×", 2, ratio)
    return _line(
        dialect, turns, connections, p99, of_ceiling, Figure(f"of {_FIRST}", of_first, "×", 2, target)
    )


def _call_line(turns: Turns, connections: int) -> Line:
    target = CALL_OF_CEILING if connections > 1 else None
    ratio = Figure("of ceiling", median(turns.ratios("Ingest", _rate)), "×", 2, target)
    return _line("Ingest", turns, connections, None, ratio, Figure(f"of {_FIRST}", None, "×", 2))


def _line(label: str, turns: Turns, connections: int, p99: Target | None, *ratios: Figure) -> Line:
    runs = turns.runs[label]
    many = connections > 1
    figures = [
        Figure("rate", median([_rate(run) for run in runs]), "req/s"),
        *latency_figures(runs, p99),
        Figure("ceiling", statistics.median(turns.ceilings), "req/s"),
        *ratios,
        *cpu_figures(runs, SINGLE_CPU_MICROS if many else None),
        *after_figures(runs, level=KEEPS_UP_SECONDS if many and label == _FIRST else None),
    ]
    return Line(label, figures, total_account(runs), {"runs": [run.as_json() for run in runs]})


def _rate(run: Measured) -> float:
    return run.acknowledged_rate
