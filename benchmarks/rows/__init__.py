"""The rows of the bench: what is measured, and by what. A row is a function and a line here."""

from collections.abc import Mapping
from functools import partial

from benchmarks.bench import Row
from benchmarks.rows.batch import CONNECTIONS, batch
from benchmarks.rows.burst import burst
from benchmarks.rows.growth import growth
from benchmarks.rows.mixes import mixed
from benchmarks.rows.peer import peer
from benchmarks.rows.single import single
from benchmarks.rows.states import HOUR_RATE, hour_memory, idle_memory, start_up


def _single(connections: int, *, quick: bool = False, smoke: bool = False) -> Row:
    many = "connections" if connections > 1 else "connection"
    title = f"One event a request, {connections} {many}: dialects beside (a), gRPC beside (c)"
    return Row(title, partial(single, connections=connections), quick=quick, smoke=smoke)


def _batch(size: int, *, quick: bool = False, smoke: bool = False) -> Row:
    title = f"Batches of {size} over {CONNECTIONS} connections, end to end, beside (b)"
    return Row(title, partial(batch, size=size), quick=quick, smoke=smoke)


ROWS: Mapping[str, Row] = {
    "start": Row("Starting to ready", start_up, quick=True, smoke=True),
    "idle": Row("Idle memory (PSS)", idle_memory, quick=True, smoke=True),
    "single-1": _single(1),
    "single-32": _single(32, quick=True, smoke=True),
    "single-128": _single(128, quick=True),
    "batch-10": _batch(10),
    "batch-100": _batch(100, quick=True, smoke=True),
    "batch-500": _batch(500),
    "duplicates": Row("30 % repeated message ids", partial(mixed, mix="repeats"), smoke=True),
    "identify": Row("20 % identify", partial(mixed, mix="identify"), smoke=True),
    "peer": Row("The same single events through Envoy's transcoder, 128 connections", peer, smoke=True),
    "growth": Row("PULSE, with so many events there already", growth, smoke=True),
    "memory": Row(
        f"Memory (PSS) after an hour's events at {HOUR_RATE}/s, sent as fast as it goes",
        hour_memory,
        smoke=True,
    ),
    # At the end: it leaves two workers.
    "burst": Row("A burst of PULSE batches of 100", burst, smoke=True),
}
