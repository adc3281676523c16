"""Batches end to end: PULSE, Apex and Datafly over HTTP, and `IngestStream`, beside ceiling (b)."""

import statistics
from datetime import UTC, datetime
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
from benchmarks.payloads import BATCH_DIALECTS

CONNECTIONS = 8
_STREAM = "IngestStream"
# The size for which there are targets.
_TYPICAL = 100
_WARM_UP_EVENTS = 4000


def batch(bench: Bench, name: str, title: str, *, size: int) -> RowResult:
    """Measure a given number of events in batches of a size."""
    payloads = {dialect: bench.payload(dialect, size) for dialect in BATCH_DIALECTS}
    payloads[_STREAM] = bench.stream(size)
    since = datetime.now(UTC)
    # Not by `warm_up`: ceiling (b) copies what this leaves.
    begin = Load(CONNECTIONS, requests=max(1, min(_WARM_UP_EVENTS, bench.pace.batch_events) // size))
    warmed_up = Account()
    for label, payload in payloads.items():
        warmed_up.add(bench.run(payload, begin, f"warming up {label}").account)
    load = Load(CONNECTIONS, requests=max(1, bench.pace.batch_events // size))
    things = {label: partial(bench.run, payload, load, label) for label, payload in payloads.items()}
    copying = CopyCeiling(bench.stack.database, bench.source.source_id, since)

    def ceiling() -> float:
        bench.step("COPY")
        return copying.measure(bench.pace.copy_rows)

    turns = take_turns(bench.pace.rounds, things, ceiling)
    bench.step("removing the copies")
    copying.remove()
    lines = [_line(label, turns, size) for label in payloads]
    return RowResult(name, title, lines, warmed_up, {"ceilings (b)": turns.ceilings})


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
