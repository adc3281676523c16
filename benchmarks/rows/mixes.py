"""What costs more than a page or a click: repeated message ids, and identifies; beside the same without."""

from functools import partial

from benchmarks.bench import Bench, Turns, take_turns
from benchmarks.figures import Account, Figure, Line, RowResult
from benchmarks.load import Load
from benchmarks.measuring import (
    Measured,
    after_figures,
    cpu_figures,
    latency_figures,
    median,
    total_account,
)
from benchmarks.payloads import Mix
from benchmarks.rows.batch import CONNECTIONS

_SINGLE_CONNECTIONS = 32
_SIZE = 100
# Single events cost some four times what they do in a batch.
_SINGLES_OF_BATCH_EVENTS = 0.25


def mixed(bench: Bench, name: str, title: str, *, mix: Mix) -> RowResult:
    """Measure Datafly with and without the mix, in turn: one event a request, and in batches."""
    singles = int(bench.pace.batch_events * _SINGLES_OF_BATCH_EVENTS)
    lines = []
    warmed_up = Account()
    for label, size, load in (
        ("one a request", None, Load(_SINGLE_CONNECTIONS, requests=singles)),
        (f"batches of {_SIZE}", _SIZE, Load(CONNECTIONS, requests=max(1, bench.pace.batch_events // _SIZE))),
    ):
        warmed_up.add(bench.warm_up(label, bench.payload("datafly", size), load.connections))
        turns = _turns(bench, mix, size, load)
        lines += [_line(f"{label}, {each}", turns, each) for each in ("plain", mix)]
    return RowResult(name, title, lines, warmed_up)


def _turns(bench: Bench, mix: Mix, size: int | None, load: Load) -> Turns:
    kinds: tuple[Mix, ...] = ("plain", mix)
    things = {each: partial(bench.run, bench.payload("datafly", size, each), load, each) for each in kinds}
    return take_turns(bench.pace.rounds, things)


def _line(label: str, turns: Turns, mix: str) -> Line:
    runs = turns.runs[mix]
    of_plain = None if mix == "plain" else median(turns.beside(mix, "plain", _stored_rate))
    figures = [
        Figure("acknowledged", median([run.acknowledged_rate for run in runs]), "events/s"),
        Figure("stored", median([_stored_rate(run) for run in runs]), "events/s"),
        Figure("of plain", of_plain, "×", 2),
        *latency_figures(runs),
        *cpu_figures(runs),
        *after_figures(runs),
    ]
    return Line(label, figures, total_account(runs), {"runs": [run.as_json() for run in runs]})


def _stored_rate(run: Measured) -> float:
    return run.stored_rate
