"""Shows the rows: as tables on the terminal, as JSON in a file."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from benchmarks.figures import Figure, RowResult, Target


def show_row(console: Console, row: RowResult) -> None:
    """Print one row: its figures side by side, a target below its figure."""
    table = Table(title=row.title, title_justify="left", title_style="bold", box=None, pad_edge=False)
    for figure in row.figures:
        table.add_column(f"{figure.name}\n[dim]{figure.unit}[/]", justify="right", no_wrap=True)
    table.add_row(*(_value_text(figure) for figure in row.figures))
    if any(figure.target for figure in row.figures):
        table.add_row(*(_target_text(figure) for figure in row.figures))
    console.print()
    console.print(table)
    _show_account(console, row)


def _show_account(console: Console, row: RowResult) -> None:
    account = row.account
    if account.acknowledged or account.refused or account.broken:
        parts = [f"{account.acknowledged:,} events acknowledged, {account.stored:,} in `events`"]
        if account.stored != account.acknowledged and account.balanced:
            parts.append(f"{account.stored - account.acknowledged:,} unanswered when the loader hung up")
        for count, what in (
            (account.refused, "requests refused"),
            (account.broken, "connections broken"),
            (account.quarantined, "events quarantined"),
        ):
            if count:
                parts.append(f"[red]{count:,} {what}[/]")
        mark = "[green]nothing lost[/]" if account.balanced else "[bold red]NOT THE SAME[/]"
        console.print(f"{'; '.join(parts)}: {mark}")
    for note in dict.fromkeys(account.notes):
        console.print(f"[yellow]{note}[/]")


def show_targets(console: Console, rows: Iterable[RowResult]) -> None:
    """Print what should be reached, and whether it is."""
    table = Table(
        title="Figures to reach", title_justify="left", title_style="bold", box=None, pad_edge=False
    )
    table.add_column("row")
    table.add_column("figure")
    for name in ("target", "measured"):
        table.add_column(name, justify="right")
    table.add_column("")
    for row in rows:
        for figure in row.figures:
            if figure.target:
                target = f"{_sign(figure.target)} {_number(figure.target.bound, figure.digits)} {figure.unit}"
                measured = f"{_number(figure.value, figure.digits)} {figure.unit}"
                table.add_row(row.name, figure.name, target, measured, _verdict(figure))
    if table.row_count:
        console.print()
        console.print(table)


def _value_text(figure: Figure) -> Text:
    return Text(_number(figure.value, figure.digits))


def _target_text(figure: Figure) -> Text:
    if figure.target is None:
        return Text("")
    style = {True: "green", False: "red", None: "dim"}[figure.reached]
    return Text(f"{_sign(figure.target)} {_number(figure.target.bound, figure.digits)}", style)


def _verdict(figure: Figure) -> Text:
    words = {True: ("reached", "green"), False: ("not reached", "red"), None: ("not measured", "dim")}
    return Text(*words[figure.reached])


def _sign(target: Target) -> str:
    return "≥" if target.sense == "at least" else "≤"


def _number(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{value:,.{digits}f}"


def write_json(path: Path, about: dict[str, Any], rows: Sequence[RowResult]) -> None:
    """Write everything that was measured."""
    path.parent.mkdir(parents=True, exist_ok=True)
    document = {**about, "rows": [row.as_json() for row in rows]}
    path.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n")
