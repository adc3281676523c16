"""How the command line speaks: tables for people, JSON for programs, errors with a way out."""

import shlex
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import msgspec
from rich.console import Console
from rich.table import Table
from rich.text import Text

_COMMAND = "polylect"
EXIT_REFUSED = 1
EXIT_USAGE = 2
EXIT_UNREACHABLE = 3


class CommandError(Exception):
    """Ends a command: what happened and what to do next, and the exit code."""

    def __init__(self, message: str, exit_code: int = EXIT_REFUSED) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def print_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print rows for people; on a terminal folded to its width, elsewhere in full."""
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 1_000)
    table = Table(*columns, box=None, pad_edge=False, header_style="bold")
    for row in rows:
        table.add_row(*(Text(printable(cell)) for cell in row))
    console.print(table)


def print_line(text: str = "") -> None:
    """Print one line."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def print_json(value: Any) -> None:
    """Print one JSON document on one line."""
    print_line(msgspec.json.encode(value).decode())


def print_error(text: str) -> None:
    """Print to standard error."""
    sys.stderr.write(text + "\n")


def own_command() -> str:
    """Give how `polylect` is called here, for lines to paste."""
    called = Path(sys.argv[0])
    return shlex.quote(str(called)) if called.name == _COMMAND else _COMMAND


def confirm(question: str, yes: bool, otherwise: str) -> None:
    """Ask on standard error, unless `yes`; raises CommandError, with `otherwise`, when nobody says yes."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise CommandError(f"{otherwise}: nobody is here to say yes; give --yes", EXIT_USAGE)
    print_error(f"{question} [y/N] ")
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise CommandError(otherwise)


def printable(cell: str) -> str:
    """Give text of a client so that it can't steer the terminal."""
    clean = "".join(one if one.isprintable() else "\N{REPLACEMENT CHARACTER}" for one in cell)
    return clean
