"""`python -m benchmarks`: starts a system of its own, measures, tells.

Exit code 0 when every acknowledged event was stored, however slowly; 1 when not; 2 when it could not be
measured.
"""

import os
import signal
import subprocess
import sys
import time
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import psycopg
import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

from benchmarks.bench import Bench, Pace
from benchmarks.ceilings.child import ROOT, CeilingError
from benchmarks.disk import describe_disk
from benchmarks.figures import RowResult
from benchmarks.load import LoadError, choose_tool
from benchmarks.options import Keep, Scratch
from benchmarks.processes import describe_machine
from benchmarks.report import show_row, show_targets, write_json
from benchmarks.rows import ROWS
from benchmarks.rows.states import HOUR_RATE
from benchmarks.stack import Stack, StackError

_FULL = Pace(
    seconds=5,
    rounds=3,
    warm_up_seconds=2,
    batch_events=150_000,
    copy_rows=120_000,
    warm_starts=3,
    settle_seconds=5,
    burst_events=500_000,
    growth=(0, 1_000_000, 10_000_000),
    hour_events=HOUR_RATE * 3600,
)
_QUICK = Pace(
    seconds=3,
    rounds=1,
    warm_up_seconds=1,
    batch_events=60_000,
    copy_rows=60_000,
    warm_starts=1,
    settle_seconds=2,
    burst_events=200_000,
    growth=(0, 200_000),
    hour_events=60_000,
)
_SMOKE = Pace(
    seconds=0.2,
    rounds=1,
    warm_up_seconds=0,
    batch_events=2_000,
    copy_rows=4_000,
    warm_starts=0,
    settle_seconds=0,
    burst_events=4_000,
    growth=(0, 1_000),
    hour_events=1_000,
    distinct_requests=20,
    await_counted=False,
)

_LOADERS = {
    "wrk": "wrk, where a load ends by the clock and is HTTP/1.1, else the own one",
    "own": "the own one (wrk is not used)",
}


def main(
    quick: Annotated[
        bool, typer.Option("--quick", help="Fewer rows, each thing once: under two minutes.")
    ] = False,
    smoke: Annotated[bool, typer.Option("--smoke", help="Only see that the bench works.")] = False,
    rows: Annotated[
        str | None, typer.Option(metavar="NAME,…", help=f"Which rows, of: {', '.join(ROWS)}. Default: all.")
    ] = None,
    loader: Annotated[str, typer.Option(help="wrk, own, or auto: wrk where it is installed.")] = "auto",
    json_path: Annotated[
        Path, typer.Option("--json", dir_okay=False, help="Where the figures go, in place of what is there.")
    ] = Path("build/bench.json"),
    scratch: Scratch = None,
    keep: Keep = False,
) -> None:
    """Measure Polylect beside what bounds it, and count every row: some 25 minutes for all.

    Speed is reported, never asserted. Exit code 1: an acknowledged event is not in `events`, or one is there
    that nobody sent, or twice. 2: it could not be measured.
    """
    console = Console(width=None if os.isatty(1) else 160)
    if rows is None:
        chosen = [
            name for name, row in ROWS.items() if not (quick or smoke) or (row.smoke if smoke else row.quick)
        ]
    else:
        chosen = list(dict.fromkeys(name.strip() for name in rows.split(",")))
    unknown = [name for name in chosen if name not in ROWS]
    if unknown:
        console.print(f"[red]no such row: {', '.join(map(repr, unknown))}[/]; there are {', '.join(ROWS)}")
        raise typer.Exit(2)
    if loader not in ("auto", "wrk", "own"):
        console.print("[red]--loader is wrk, own or auto[/]")
        raise typer.Exit(2)
    # As Ctrl-C: the system stops in order and the scratch directory goes.
    for ending in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(ending, lambda number, _: sys.exit(128 + number))
    pace = _SMOKE if smoke else _QUICK if quick else _FULL
    try:
        results, lost = _run(console, chosen, pace, loader, scratch, keep, json_path)
    except (StackError, LoadError, CeilingError, OSError) as error:
        console.print(f"[bold red]can't be measured:[/] {escape(str(error))}", highlight=False)
        raise typer.Exit(2) from error
    if smoke:
        console.print("\nonly to see that the bench works: such short loads give no figures")
    else:
        show_targets(console, results)
    console.print(f"\nwritten to {json_path}")
    if lost:
        console.print("[bold red]acknowledged and stored are not the same: see above[/]")
        raise typer.Exit(1)


def _run(
    console: Console,
    chosen: list[str],
    pace: Pace,
    loader: Any,
    scratch: Path | None,
    keep: bool,
    json_path: Path,
) -> tuple[list[RowResult], bool]:
    begun = time.monotonic()
    tool = choose_tool(loader)
    stack = Stack(scratch)
    results: list[RowResult] = []
    with ExitStack() as exits:
        exits.callback(stack.stop_and_keep if keep else stack.remove)
        about = {
            "at": datetime.now(UTC).isoformat(),
            "loader": tool,
            "pace": vars(pace),
            "version": _version(),
            **describe_machine(),
        }
        about["disk"] = describe_disk(stack.directory)
        progress = exits.enter_context(_progress(console))
        row_task = progress.add_task("", total=len(chosen) + 1)
        step_task = progress.add_task("", total=1.0)

        def step(name: str) -> Any:
            if not console.is_terminal:
                console.print(f"{time.monotonic() - begun:5.0f} s: {name}", highlight=False)
            progress.update(step_task, description=name, completed=0)
            return lambda share: progress.update(step_task, completed=share)

        bench = Bench(scratch, stack, tool, pace, step, exits)
        progress.update(row_task, description="starting")
        bench.start()
        about["durability"] = stack.durability()
        _show_about(console, about)
        for number, name in enumerate(chosen):
            progress.update(row_task, description=name, completed=number + 1)
            bench.use_workers(1)
            try:
                results.append(ROWS[name].measure(bench, name, ROWS[name].title))
            except psycopg.Error as error:
                # Why is in the log, which goes with the scratch directory.
                raise StackError(f"{error}\n{stack.log_end()}") from error
            show_row(console, results[-1])
            # After each row: what was measured stays, whatever happens to the next.
            about["seconds"] = time.monotonic() - begun
            write_json(json_path, about, results)
        progress.update(row_task, description="stopping", completed=len(chosen) + 1)
    return results, any(not row.balanced for row in results)


def _version() -> str:
    """Give the commit that is measured; "" where git can't tell."""
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    except OSError:
        return ""


def _progress(console: Console) -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
    return Progress(*columns, console=console, transient=True)


def _show_about(console: Console, about: dict[str, Any]) -> None:
    durability = ", ".join(f"{name} {setting}" for name, setting in about["durability"].items())
    disk = about["disk"]
    load = ", ".join(f"{value:.2f}" for value in about["load_average"])
    console.print(
        f"{about['at'][:10]}, version {about['version'] or 'unknown'}; "
        f"{about['cpus']} CPUs ({about['cpu'] or 'unknown'}), Python {about['python']}, "
        f"load average before: {load}; "
        f"loader: {_LOADERS[about['loader']]}, nothing is pinned\n"
        f"PostgreSQL {durability}; {disk['filesystem']}, a flush of 8 KB takes {disk['flush_ms']:.2f} ms",
        highlight=False,
    )
    if disk["filesystem"] in ("tmpfs", "ramfs"):
        console.print(
            "[yellow]the scratch directory is in memory: fsync costs nothing here, see --scratch[/]"
        )


if __name__ == "__main__":
    typer.run(main)
