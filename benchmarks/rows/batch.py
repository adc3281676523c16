"""Batches end to end: PULSE, Apex and Datafly over HTTP, and `IngestStream`, beside ceiling (b)."""

import statistics
from functools import partial

from benchmarks.bench import Bench, Turns, take_turns
from benchmarks.ceilings.copying import CopyCeiling
from benchmarks.figures import (
    BATCH_CPU_MICROS,
    BATCH_OF_CEILING,
    BATCH_STORED,
    STREAM_ACKNOWLEDGED,
    Account,
    Figure,
    Line,
    RowResult,
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
from benchmarks.payloads import BATCH_DIALECTS, Payload
from benchmarks.stack import Source

CONNECTIONS = 8
_STREAM = "IngestStream"
# The size for which there are targets.
_TYPICAL = 100
_WARM_UP_EVENTS = 4000


def batch(bench: Bench, name: str, title: str, *, size: int) -> RowResult:
    """Measure a given number of events in batches of a size."""
    sent = {dialect: _batches(bench, dialect, size) for dialect in (*BATCH_DIALECTS, _STREAM)}
    warm_up_load = Load(CONNECTIONS, requests=max(1, _WARM_UP_EVENTS // size))
    warmed_up = Account()
    for label, each in sent.items():
        warmed_up.add(bench.warm_up(*each, warm_up_load, label))
    load = Load(CONNECTIONS, requests=max(1, bench.pace.batch_events // size))
    copying = CopyCeiling(bench.stack.database, sent[BATCH_DIALECTS[0]][0].source_id)

    def ceiling() -> float:
        bench.step("COPY")
        return copying.measure(bench.pace.copy_rows)

    things = {label: partial(bench.run, *each, load, label) for label, each in sent.items()}
    turns = take_turns(bench.pace.rounds, ceiling, things)
    bench.step("removing the copies")
    copying.remove()
    lines = [_line(label, turns, size) for label in sent]
    return RowResult(name, title, lines, warmed_up, {"ceilings (b)": turns.ceilings})


def _batches(bench: Bench, label: str, size: int) -> tuple[Source, Payload]:
    if label == _STREAM:
        return bench.source("grpc"), bench.stream(size)
    return bench.source(label), bench.payload(label, size)


def _line(label: str, turns: Turns, size: int) -> Line:
    runs = turns.runs[label]
    typical, streamed = size == _TYPICAL, label == _STREAM
    acknowledged = median([run.acknowledged_rate for run in runs])
    stored = median([run.stored_rate for run in runs])
    ratio = median(turns.ratios(label, _stored_rate))
    figures = [
        Figure(
            "acknowledged",
            acknowledged,
            "events/s",
            target=STREAM_ACKNOWLEDGED if typical and streamed else None,
        ),
        Figure("stored", stored, "events/s", target=BATCH_STORED if typical else None),
        *latency_figures(runs),
        Figure("ceiling", statistics.median(turns.ceilings), "rows/s"),
        Figure("of ceiling", ratio, "×", 2, BATCH_OF_CEILING if typical else None),
        *cpu_figures(runs, BATCH_CPU_MICROS if typical else None),
        *after_figures(runs),
    ]
    return Line(label, figures, total_account(runs), {"runs": [run.as_json() for run in runs]})


def _stored_rate(run: Measured) -> float:
    return run.stored_rate
