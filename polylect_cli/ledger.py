"""`polylect ledger`: what came in and what became of it, hour by hour, and whether that adds up."""

from typing import Annotated, Any

import typer
from polylect.v1.trail_pb2 import GetLedgerRequest, GetLedgerResponse, LedgerEntry

from polylect_cli.calling import connected, time_text
from polylect_cli.output import (
    EXIT_REFUSED,
    print_error,
    print_json,
    print_line,
    print_table,
)
from polylect_cli.source_names import SourceNames
from polylect_cli.times import parse_moment

_PAGE_SIZE = 1_000
_COUNTS = ("received", "stored", "duplicate", "quarantined", "refused", "in_queue")
_COLUMNS = ("hour", "source", "dialect", *(name.replace("_", " ") for name in _COUNTS), "missing")


def ledger(
    source: Annotated[str, typer.Option(help="Name or id of the source; without it, all.")] = "",
    since: Annotated[
        str,
        typer.Option(metavar="TIME|AGE|all", help="Hours that began then or later: 2026-05-01, 90m, 7d."),
    ] = "24h",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")] = False,
) -> None:
    """Print what came in and what became of it, and exit with 1 when it does not add up.

    received = stored + duplicate + quarantined + refused + in queue, in events, by source, dialect and UTC
    hour of receipt. A request refused before any event of it could be read counts as one.
    """
    request = GetLedgerRequest(source=source, page_size=_PAGE_SIZE)
    if since != "all":
        request.received_from.FromDatetime(parse_moment("--since", since))
    with connected() as core:
        whole = first = core.call(core.queries.GetLedger, request)
        entries = list(first.entries)
        while whole.next_page_token:
            request.page_token = whole.next_page_token
            whole = core.call(core.queries.GetLedger, request)
            entries += whole.entries
        names = SourceNames(core)
        if as_json:
            print_json(_document(first, entries, names))
        elif entries:
            rows = [_row(entry, time_text(entry.hour)[:16], names.name(entry.source_id)) for entry in entries]
            print_table(_COLUMNS, [*rows, _row(first.total, "all", "")])
        else:
            print_line("nothing came in; `polylect send --help` shows how to send an event")
    if first.unbalanced_entries:
        print_error(
            f"polylect: {first.unbalanced_entries} of these lines do not balance: something came in of which "
            "nobody knows what became. Please report it, with what `polylect ledger --json` prints"
        )
        raise typer.Exit(EXIT_REFUSED)


def _missing(entry: LedgerEntry) -> int:
    became = entry.stored + entry.duplicate + entry.quarantined + entry.refused + entry.in_queue
    return entry.received - became


def _row(entry: LedgerEntry, hour: str, source: str) -> tuple[str, ...]:
    counts = (getattr(entry, name) for name in _COUNTS)
    return (hour, source, entry.dialect, *(str(count) for count in counts), str(_missing(entry)))


def _document(first: GetLedgerResponse, entries: list[LedgerEntry], names: SourceNames) -> dict[str, Any]:
    return {
        "balances": not first.unbalanced_entries,
        "total": _counts(first.total),
        "entries": [
            {
                "hour": time_text(entry.hour),
                "source": names.name(entry.source_id),
                "source_id": entry.source_id,
                "dialect": entry.dialect,
                **_counts(entry),
            }
            for entry in entries
        ],
    }


def _counts(entry: LedgerEntry) -> dict[str, int]:
    return {**{name: getattr(entry, name) for name in _COUNTS}, "missing": _missing(entry)}
