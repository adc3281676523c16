"""Ceiling (d): what a team would put there otherwise, a gRPC-JSON transcoder before our own core."""

import statistics
from functools import partial
from itertools import pairwise

from benchmarks.bench import Bench
from benchmarks.ceilings.child import CeilingError
from benchmarks.ceilings.envoy import EnvoyMissingError, transcoder
from benchmarks.figures import OF_PEER, Account, Figure, Line, RowResult
from benchmarks.load import Load
from benchmarks.measuring import (
    PARTS,
    Door,
    Measured,
    after_figures,
    cpu_figures,
    latency_figures,
    median,
    total_account,
)

_CONNECTIONS = 128


def peer(bench: Bench, name: str, title: str) -> RowResult:
    """Measure /api/ingest, and the same events through Envoy into `Ingest` of the same core, in turn."""
    bench.step("installing and starting Envoy")
    try:
        with transcoder(bench.stack.grpc_port) as envoy:
            return _measure(bench, name, title, Door("envoy", envoy.port, envoy.pid))
    except (EnvoyMissingError, CeilingError) as error:
        figures = [Figure("of peer", None, "×", 1, OF_PEER)]
        return RowResult(name, title, [Line("", figures, Account(notes=[str(error)]))])


def _measure(bench: Bench, name: str, title: str, door: Door) -> RowResult:
    load = Load(_CONNECTIONS, seconds=bench.pace.seconds)
    ours = partial(bench.run, bench.payload("pulsora"))
    theirs = partial(bench.run, bench.transcoded(), through=door)
    warmed_up = Account()
    warmed_up.add(bench.warm_up("Envoy", bench.transcoded(), _CONNECTIONS, door))
    warmed_up.add(bench.warm_up("pulsora", bench.payload("pulsora"), _CONNECTIONS))
    peers, runs = [theirs(load, "Envoy")], []
    for _ in range(bench.pace.rounds):
        runs.append(ours(load, "facade"))
        peers.append(theirs(load, "Envoy"))
    rates = [run.acknowledged_rate for run in runs]
    around = [
        statistics.mean((before.acknowledged_rate, after.acknowledged_rate))
        for before, after in pairwise(peers)
    ]
    ratio = median([rate / peer for rate, peer in zip(rates, around, strict=True) if peer])
    lines = [_line("the facade", runs, Figure("of peer", ratio, "×", 1, OF_PEER))]
    lines.append(_line("Envoy, transcoding", peers, Figure("of peer", None, "×", 1)))
    return RowResult(name, title, lines, warmed_up)


def _line(label: str, runs: list[Measured], of_peer: Figure) -> Line:
    figures = [
        Figure("rate", median([run.acknowledged_rate for run in runs]), "req/s"),
        Figure("stored", median([run.stored_rate for run in runs]), "events/s"),
        of_peer,
        *latency_figures(runs),
        *cpu_figures(runs, parts=("envoy", *PARTS)),
        *after_figures(runs),
    ]
    return Line(label, figures, total_account(runs), {"runs": [run.as_json() for run in runs]})
