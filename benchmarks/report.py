"""Shows the rows: as tables on the terminal, as JSON in a file."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from benchmarks.figures import BUSY_PERCENT, Account, Figure, RowResult, Target

_ANY_WIDTH = 10_000


def show_row(console: Console, row: RowResult) -> None:
    """Print one row: its lines with their figures side by side, a target below its figure."""
    columns = {figure.name: figure.unit for line in row.lines for figure in line.figures}
    console.print()
    console.print(f"[bold]{row.title}[/]", highlight=False)
    _show_columns(console, row, columns)
    _show_accounts(console, row)


def _show_columns(console: Console, row: RowResult, columns: dict[str, str]) -> None:
    """Print them in one table, or in as many below each other as the terminal is too narrow for."""
    table = _table(row, columns)
    needed = console.measure(table, options=console.options.update(max_width=_ANY_WIDTH)).maximum
    if needed > console.width and len(columns) > 1:
        names = list(columns)
        middle = (len(names) + 1) // 2
        for part in (names[:middle], names[middle:]):
            _show_columns(console, row, {name: columns[name] for name in part})
    else:
        console.print(table)


def _table(row: RowResult, columns: dict[str, str]) -> Table:
    table = Table(box=None, pad_edge=False)
    labelled = any(line.label for line in row.lines)
    if labelled:
        table.add_column("", no_wrap=True)
    tallest = max((name.count(" ") for name in columns), default=0)
    for name, unit in columns.items():
        # A word below the other, the last ones in one line.
        above = "\n" * (tallest - name.count(" "))
        head = name.replace(" ", "\n")
        table.add_column(f"{above}{head}\n[dim]{unit}[/]", justify="right", no_wrap=True)
    for line in row.lines:
        figures = {figure.name: figure for figure in line.figures}
        shown = [figures.get(name, Figure(name, None)) for name in columns]
        label = [line.label] if labelled else []
        table.add_row(*label, *(_value_text(figure) for figure in shown))
        if any(figure.target for figure in shown):
            table.add_row(*([""] if labelled else []), *(_target_text(figure) for figure in shown))
    return table


def _show_accounts(console: Console, row: RowResult) -> None:
    accounts = {"": Account(), "besides": row.besides}
    for line in row.lines:
        # One that is in order says no more by itself than in the sum.
        clean = line.account.balanced and not (line.account.refused or line.account.broken)
        if clean:
            accounts[""].add(line.account)
        else:
            accounts[line.label] = line.account
    for label, account in accounts.items():
        if label != "besides" or not account.balanced:
            _show_account(console, label, account)
    notes = [note for line in row.lines for note in line.account.notes]
    for note in dict.fromkeys([*notes, *row.besides.notes]):
        console.print(f"[yellow]{note}[/]")


def _show_account(console: Console, label: str, account: Account) -> None:
    if not (account.acknowledged or account.refused or account.broken):
        return
    parts = [f"{account.acknowledged:,} events acknowledged, {account.stored:,} in `events`"]
    if account.repeated:
        parts.append(f"{account.repeated:,} had been sent before")
    more = account.stored + account.repeated - account.acknowledged
    if more and account.balanced:
        parts.append(f"{more:,} stored of which no loader heard")
    for count, what in (
        (account.refused, "requests refused"),
        (account.broken, "connections broken"),
        (account.quarantined, "events quarantined"),
    ):
        if count:
            parts.append(f"[red]{count:,} {what}[/]")
    mark = "[green]nothing lost[/]" if account.balanced else "[bold red]NOT THE SAME[/]"
    console.print(f"{f'{label}: ' if label else ''}{'; '.join(parts)}: {mark}", highlight=False)


def show_targets(console: Console, rows: Iterable[RowResult]) -> None:
    """Print what should be reached, and whether it is."""
    table = Table(
        title="Figures to reach", title_justify="left", title_style="bold", box=None, pad_edge=False
    )
    for name in ("row", "", "figure"):
        table.add_column(name)
    for name in ("target", "measured"):
        table.add_column(name, justify="right")
    table.add_column("")
    for row in rows:
        for line in row.lines:
            for figure in line.figures:
                if figure.target:
                    judged = _judged(figure, figure.target, line.others_percent)
                    table.add_row(row.name, line.label, figure.name, *judged)
    if table.row_count:
        console.print()
        console.print(table)


def _judged(figure: Figure, target: Target, others_percent: float) -> tuple[str, str, Text]:
    digits = figure.digits
    if figure.value != target.bound and _number(figure.value, digits) == _number(target.bound, digits):
        digits += 1
    bound = f"{_sign(target)} {_number(target.bound, digits)} {figure.unit}"
    return bound, f"{_number(figure.value, digits)} {figure.unit}", _verdict(figure, others_percent)


def _value_text(figure: Figure) -> Text:
    return Text(_number(figure.value, figure.digits))


def _target_text(figure: Figure) -> Text:
    if figure.target is None:
        return Text("")
    style = {True: "green", False: "red", None: "dim"}[figure.reached]
    return Text(f"{_sign(figure.target)} {_number(figure.target.bound, figure.digits)}", style)


def _verdict(figure: Figure, others_percent: float) -> Text:
    if others_percent > BUSY_PERCENT:
        return Text(f"not judged (others {others_percent:.0f} %)", "yellow")
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
