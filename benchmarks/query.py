"""`python -m benchmarks.query`: how long questions of statistics take, over many events of one source.

Every metric at every documented period, and every grouping at the shortest and the longest, over gRPC as
anybody asks. Exit code 0 when all could be asked, however slow; 2 when it could not be measured.
"""

import json
import statistics
import time
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any

import grpc
import psycopg
import typer
from polylect.v1.query_pb2 import GetStatsRequest, StatsGroupBy, StatsMetric
from polylect.v1.query_pb2_grpc import QueryServiceStub
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from benchmarks import query_data
from benchmarks.options import Keep, Scratch
from benchmarks.spawning import HOST
from benchmarks.stack import Stack, StackError

_PERIODS = {"1h": 1, "24h": 24, "7d": 168, "30d": 720}
_TARGET_MS = 150.0
_TIMEOUT_SECONDS = 60.0

Timings = dict[tuple[str, str, str], list[float]]


def main(
    events: Annotated[int, typer.Option(min=1_000, help="How many events to build.")] = 10_000_000,
    repeats: Annotated[int, typer.Option(min=1, help="How often each question is asked.")] = 20,
    groups: Annotated[bool, typer.Option(help="Ask for groups too.")] = True,
    json_path: Annotated[Path, typer.Option("--json", help="Where the figures go.")] = Path(
        "build/bench-query.json"
    ),
    scratch: Scratch = None,
    keep: Keep = False,
) -> None:
    """Build a data set in a scratch database and time questions of statistics over it."""
    console = Console()
    stack = Stack(scratch)
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
    try:
        with ExitStack() as exits:
            exits.callback(stack.stop_and_keep if keep else stack.remove)
            progress = exits.enter_context(Progress(*columns, console=console, transient=True))
            task = progress.add_task("starting", total=1.0)
            stack.start()
            stack.connect()
            source = stack.make_source("bench")
            secret = stack.make_key(source, "pulse", "--site", "bench")
            progress.update(task, description="building the data set")
            began = time.monotonic()
            count = query_data.build(
                stack.database, source.source_id, events, lambda share: progress.update(task, completed=share)
            )
            console.print(
                f"{count:,} events in {query_data.DAYS} days, built in {time.monotonic() - began:.0f} s"
            )
            progress.update(task, description="asking", completed=0.0)
            timings = _ask_all(
                stack, secret, repeats, groups, lambda share: progress.update(task, completed=share)
            )
    except (StackError, psycopg.Error) as error:
        console.print(f"[bold red]can't be measured:[/] {error}", highlight=False)
        raise typer.Exit(2) from error
    _show(console, timings)
    _write(json_path, count, timings)
    console.print(f"\nwritten to {json_path}")


def _questions(groups: bool) -> list[tuple[str, str, str]]:
    metrics = [name.removeprefix("STATS_METRIC_").lower() for name, number in StatsMetric.items() if number]
    asked = [(metric, period, "") for metric in metrics for period in _PERIODS]
    if groups:
        for name, number in StatsGroupBy.items():
            if number:
                grouping = name.removeprefix("STATS_GROUP_BY_").lower()
                asked += [(metric, period, grouping) for metric in metrics for period in ("24h", "30d")]
    return asked


def _ask_all(stack: Stack, secret: str, repeats: int, groups: bool, tell: Any) -> Timings:
    timings: Timings = {}
    questions = _questions(groups)
    metadata = (("authorization", f"Bearer {secret}"),)
    with grpc.insecure_channel(f"{HOST}:{stack.grpc_port}") as channel:
        stub = QueryServiceStub(channel)
        for number, (metric, period, grouping) in enumerate(questions):
            for _ in range(repeats):
                until = datetime.now(UTC) + timedelta(milliseconds=1)
                request = GetStatsRequest(
                    site_id="bench",
                    metric=StatsMetric.Value(f"STATS_METRIC_{metric.upper()}"),
                    group_by=StatsGroupBy.Value(f"STATS_GROUP_BY_{(grouping or 'unspecified').upper()}"),
                )
                request.occurred_until.FromDatetime(until)
                request.occurred_from.FromDatetime(until - timedelta(hours=_PERIODS[period]))
                begun = time.perf_counter()
                try:
                    stub.GetStats(request, metadata=metadata, timeout=_TIMEOUT_SECONDS)
                    took_ms = 1000 * (time.perf_counter() - begun)
                except grpc.RpcError as error:
                    if error.code() is not grpc.StatusCode.DEADLINE_EXCEEDED:
                        raise StackError(f"{metric} can't be asked: {error.details()}") from error
                    took_ms = float("inf")
                timings.setdefault((metric, period, grouping), []).append(took_ms)
                if took_ms == float("inf"):
                    break
            tell((number + 1) / len(questions))
    return timings


def _p95(timings: list[float]) -> float:
    return sorted(timings)[max(0, -(-95 * len(timings) // 100) - 1)]


def _show(console: Console, timings: Timings) -> None:
    groupings = list(dict.fromkeys(grouping for _, _, grouping in timings))
    for grouping in groupings:
        periods = [period for period in _PERIODS if any(key[1:] == (period, grouping) for key in timings)]
        title = f"p50 / p95 in ms{f', by {grouping}' if grouping else ''} (target: p95 ≤ {_TARGET_MS:.0f})"
        table = Table("metric", *periods, title=title, title_justify="left", box=None, pad_edge=False)
        for metric in dict.fromkeys(key[0] for key in timings):
            cells = [_cell(timings[metric, period, grouping]) for period in periods]
            table.add_row(metric, *cells)
        console.print(table)


def _cell(timings: list[float]) -> str:
    p95 = _p95(timings)
    style = "green" if p95 <= _TARGET_MS else "red"
    return f"[{style}]{statistics.median(timings):,.0f} / {p95:,.0f}[/]"


def _write(path: Path, count: int, timings: Timings) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [
        # null: not within the deadline.
        {
            "metric": metric,
            "period": period,
            "group_by": grouping or None,
            "ms": [ms if ms < float("inf") else None for ms in taken],
        }
        for (metric, period, grouping), taken in timings.items()
    ]
    path.write_text(json.dumps({"events": count, "target_ms": _TARGET_MS, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    typer.run(main)
