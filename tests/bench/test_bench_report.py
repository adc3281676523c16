"""What the bench shows can be read, and says no more than was measured."""

import io

import pytest
from rich.console import Console

from benchmarks.figures import Account, Figure, Line, RowResult, at_least, at_most
from benchmarks.report import show_row, show_targets


def _row(*figures: Figure, account: Account | None = None) -> RowResult:
    return RowResult("a-row", "A row", [Line("pulsora", figures, account or Account())])


def _shown(row: RowResult, width: int) -> str:
    console = Console(file=io.StringIO(), width=width)
    show_row(console, row)
    show_targets(console, [row])
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


@pytest.mark.parametrize("width", [60, 80, 200])
def test_a_narrow_terminal_shows_every_figure_whole(width: int) -> None:
    figures = [Figure(f"figure{number}", 1_234_567.0 + number, "events/s") for number in range(12)]
    shown = _shown(_row(*figures), width)
    for number in range(12):
        assert f"figure{number}\n" in shown or f"figure{number} " in shown
        assert f"{1_234_567 + number:,}" in shown
    assert "…" not in shown
    assert "pulsora" in shown


@pytest.mark.parametrize(("others", "verdict"), [(9.9, "not reached"), (10.1, "not judged (others 10 %)")])
def test_on_a_busy_machine_nothing_is_judged(others: float, verdict: str) -> None:
    row = _row(Figure("ratio", 0.4, "×", 2, at_least(0.5)), Figure("others", others, "% CPU"))
    assert verdict in _shown(row, 120)


def test_a_figure_just_beyond_its_bound_does_not_look_like_it() -> None:
    assert "130.4 µs" in _shown(_row(Figure("CPU", 130.4, "µs", 0, at_most(130))), 120)


@pytest.mark.parametrize(
    ("stored", "balanced"),
    [(99, False), (100, True), (105, True), (106, False)],
)
def test_only_what_nobody_was_told_of_may_be_stored_or_not(stored: int, balanced: bool) -> None:
    account = Account(acknowledged=100, stored=stored, unanswered=5)
    assert account.balanced is balanced
    assert ("NOT THE SAME" in _shown(_row(account=account), 120)) is not balanced
