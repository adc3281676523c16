"""`polylect quarantine`: what was refused, why, and storing it after all.

Hides how options select entries, that a replay goes through many calls, and when somebody is asked.
"""

from collections import Counter
from collections.abc import Iterator
from typing import Annotated, Any

import typer
from polylect.v1 import quarantine_pb2 as pb
from polylect.v1.error_reason_pb2 import ErrorReason

from polylect_cli.calling import Core, connected, time_text
from polylect_cli.output import (
    EXIT_USAGE,
    CommandError,
    confirm,
    print_json,
    print_line,
    print_table,
)
from polylect_cli.quarantine_view import entry_document, sent_lines, summary_document
from polylect_cli.source_names import SourceNames
from polylect_cli.sources import JsonOption, SourceArgument
from polylect_cli.times import parse_moment
from polylect_cli.words import reason_word

app = typer.Typer(
    no_args_is_help=True, help="Quarantine: what was refused after a good key, kept as it came."
)

_PAGE_SIZE = 1_000
_COLUMNS = ("quarantine_id", "received", "reason", "field", "message", "source", "dialect", "request_id")

IdsArgument = Annotated[
    list[str] | None, typer.Argument(metavar="[ID]...", help="These entries only, at most 1,000.")
]
ReasonOption = Annotated[str, typer.Option(help="This reason only, as in the list: field_missing.")]
DialectOption = Annotated[str, typer.Option(help="pulsora, pulse, apex, datafly or grpc.")]
RequestOption = Annotated[str, typer.Option("--request-id", help="Those of this request only.")]
FieldOption = Annotated[str, typer.Option(help="Those refused for this field only.")]
SinceOption = Annotated[
    str, typer.Option(metavar="TIME|AGE", help="Received then or later: 2026-05-01T12:00Z, or 90m, 24h, 7d.")
]
UntilOption = Annotated[str, typer.Option(metavar="TIME|AGE", help="Received before that.")]
YesOption = Annotated[bool, typer.Option("--yes", "-y", help="Don't ask.")]


@app.command("list")
def list_entries(
    source: Annotated[str, typer.Option(help="Name or id of the source.")] = "",
    reason: ReasonOption = "",
    dialect: DialectOption = "",
    request_id: RequestOption = "",
    field: FieldOption = "",
    since: SinceOption = "",
    until: UntilOption = "",
    limit: Annotated[int, typer.Option(min=1, help="At most so many.")] = 20,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object per line.")] = False,
) -> None:
    """List entries, latest first."""
    chosen = _filter(reason, dialect, request_id, field, since, until)
    request = pb.ListRequest(source=source)
    for name in ("reason", "dialect", "request_id", "field"):
        setattr(request, name, getattr(chosen, name))
    for name in ("received_from", "received_until"):
        if chosen.HasField(name):  # type: ignore[arg-type]
            getattr(request, name).CopyFrom(getattr(chosen, name))
    with connected() as core:
        found = list(_latest(core, request, limit))
        if as_json:
            for entry in found:
                print_json(entry_document(entry))
        elif found:
            names = SourceNames(core)
            print_table(_COLUMNS, [_row(entry, names) for entry in found])
            print_line("`polylect quarantine show ID` prints one whole")
        else:
            print_line("nothing of that is in quarantine")


@app.command()
def show(
    quarantine_id: Annotated[str, typer.Argument(metavar="ID", help="Id of the entry, from `list`.")],
    as_json: JsonOption = False,
) -> None:
    """Show one entry: what was sent, why it was refused, and where it came in."""
    with connected() as core:
        request = pb.GetRequest(quarantine_id=quarantine_id)
        entry = core.call(core.quarantine.Get, request).event
        if as_json:
            print_json(entry_document(entry))
            return
        source = SourceNames(core).name(entry.source_id)
    kept = entry.circumstances
    lines = {
        "quarantine_id": entry.quarantine_id,
        "source": source,
        "reason": reason_word(entry.rejection.reason),
        "message": entry.rejection.message,
        "field": entry.rejection.field,
        "received_at": time_text(entry.received_at),
        "dialect": entry.dialect,
        "endpoint": entry.endpoint,
        "request_id": entry.request_id,
        "client_ip": entry.client_ip,
        "user_agent": kept.user_agent,
        "cookie_id": kept.cookie_id,
    }
    print_table(("what", "value"), [(name, value) for name, value in lines.items() if value])
    for line in sent_lines(entry):
        print_line(line)


@app.command()
def summary(
    source: Annotated[str, typer.Option(help="Name or id of the source.")] = "", as_json: JsonOption = False
) -> None:
    """Tell how much is in quarantine, why, and how much was dropped for want of room or for its age."""
    with connected() as core:
        summaries = core.call(core.quarantine.Summarize, pb.SummarizeRequest(source=source)).sources
        if as_json:
            print_json([summary_document(one) for one in summaries])
            return
        if not summaries:
            print_line("nothing is in quarantine, and nothing was dropped")
            return
        sources = SourceNames(core)
        names = [sources.name(one.source_id) for one in summaries]
    columns = ("source", "entries", "reasons", "KiB", "oldest", "latest", "dropped for room", "for age")
    rows = [
        (
            name,
            str(sum(counted.count for counted in one.reasons)),
            "  ".join(f"{reason_word(counted.reason)} {counted.count}" for counted in one.reasons),
            str(-(-one.size_bytes // 1024)),
            time_text(one.oldest_received_at),
            time_text(one.latest_received_at),
            str(one.dropped_for_room),
            str(one.dropped_for_age),
        )
        for name, one in zip(names, summaries, strict=True)
    ]
    print_table(columns, rows)


@app.command()
def replay(
    source: SourceArgument,
    ids: IdsArgument = None,
    reason: ReasonOption = "",
    dialect: DialectOption = "",
    request_id: RequestOption = "",
    field: FieldOption = "",
    since: SinceOption = "",
    until: UntilOption = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Judge only; store nothing.")] = False,
    yes: YesOption = False,
    as_json: JsonOption = False,
) -> None:
    """Judge entries again, as after a fix, and store what is accepted now with its first time of receipt.

    Without ids or filters all of the source. It judges first, prints what would become of them, and asks.
    """
    chosen = _filter(reason, dialect, request_id, field, since, until)
    request = pb.ReplayRequest(source=source, filter=chosen, quarantine_ids=ids or [], dry_run=True)
    with connected() as core:
        would = _replay(core, request)
        _require_all(ids, would.would_store + would.refused.total())
        told: dict[str, Any] = {"would_store": would.would_store, "still_refused": would.refused_words()}
        if not as_json:
            _print_verdicts("would be stored", would.would_store, would.refused)
        if would.would_store and not dry_run:
            confirm(f"Store {would.would_store}?", yes, "nothing was stored")
            request.dry_run = False
            done = _replay(core, request)
            told |= {"stored": done.stored, "still_refused": done.refused_words()}
            if not as_json:
                _print_verdicts("stored", done.stored, done.refused)
    if as_json:
        print_json({"stored": 0} | told)


@app.command()
def discard(
    source: SourceArgument,
    ids: IdsArgument = None,
    reason: ReasonOption = "",
    dialect: DialectOption = "",
    request_id: RequestOption = "",
    field: FieldOption = "",
    since: SinceOption = "",
    until: UntilOption = "",
    everything: Annotated[bool, typer.Option("--all", help="All of the source.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Count only; delete nothing.")] = False,
    yes: YesOption = False,
    as_json: JsonOption = False,
) -> None:
    """Delete entries for good: those of the ids or filters, or all. It counts first, and asks."""
    chosen = _filter(reason, dialect, request_id, field, since, until)
    request = pb.DiscardRequest(
        source=source, filter=chosen, quarantine_ids=ids or [], all=everything, dry_run=True
    )
    if everything == bool(ids or chosen.ByteSize()):
        raise CommandError("say what to discard: ids, filters, or --all for everything", EXIT_USAGE)
    with connected() as core:
        count = core.call(core.quarantine.Discard, request).would_discard
        _require_all(ids, count)
        discarded = 0
        if not as_json:
            print_line(f"{count} to be discarded")
        if count and not dry_run:
            confirm(f"Discard {count} for good?", yes, "nothing was discarded")
            request.dry_run = False
            discarded = core.call(core.quarantine.Discard, request, timeout_seconds=60).discarded
            if not as_json:
                print_line(f"{discarded} discarded")
    if as_json:
        print_json({"would_discard": count, "discarded": discarded})


class _Replayed:
    """The sum of many calls."""

    def __init__(self) -> None:
        self.would_store = 0
        self.stored = 0
        self.refused: Counter[str] = Counter()

    def refused_words(self) -> dict[str, int]:
        return dict(self.refused.most_common())


def _replay(core: Core, request: pb.ReplayRequest) -> _Replayed:
    sums = _Replayed()
    request.page_token = ""
    while True:
        answer = core.call(core.quarantine.Replay, request, timeout_seconds=60)
        sums.would_store += answer.would_store
        sums.stored += answer.stored
        for counted in answer.still_refused:
            sums.refused[reason_word(counted.reason)] += counted.count
        if not answer.next_page_token:
            return sums
        request.page_token = answer.next_page_token


def _require_all(ids: list[str] | None, found: int) -> None:
    """Raise CommandError when some of the ids asked for chose nothing."""
    missing = len(set(ids or ())) - found
    if missing > 0:
        raise CommandError(
            f"{missing} of {len(set(ids or ()))} ids are not in this source's quarantine, or not what the "
            "filters choose; nothing was done. `polylect quarantine list` shows what is there"
        )


def _print_verdicts(verdict: str, count: int, refused: Counter[str]) -> None:
    rows = [(verdict, str(count)), *((f"still refused: {word}", str(n)) for word, n in refused.most_common())]
    print_table(("verdict", "entries"), rows)


def _latest(core: Core, request: pb.ListRequest, limit: int) -> Iterator[pb.QuarantinedEvent]:
    while limit > 0:
        request.page_size = min(limit, _PAGE_SIZE)
        answer = core.call(core.quarantine.List, request)
        yield from answer.events
        limit -= len(answer.events)
        request.page_token = answer.next_page_token
        if not answer.next_page_token:
            return


def _row(entry: pb.QuarantinedEvent, names: SourceNames) -> tuple[str, ...]:
    return (
        entry.quarantine_id,
        time_text(entry.received_at),
        reason_word(entry.rejection.reason),
        entry.rejection.field,
        entry.rejection.message,
        names.name(entry.source_id),
        entry.dialect,
        entry.request_id,
    )


def _filter(
    reason: str, dialect: str, request_id: str, field: str, since: str, until: str
) -> pb.QuarantineFilter:
    """Read the options. Raises CommandError."""
    known = {reason_word(number): number for number in ErrorReason.values() if number}
    if reason and reason not in known:
        raise CommandError(f"--reason {reason}: no such reason; there are {', '.join(known)}", EXIT_USAGE)
    chosen = pb.QuarantineFilter(
        reason=known.get(reason, ErrorReason.ERROR_REASON_UNSPECIFIED),
        dialect=dialect,
        request_id=request_id,
        field=field,
    )
    if since:
        chosen.received_from.FromDatetime(parse_moment("--since", since))
    if until:
        chosen.received_until.FromDatetime(parse_moment("--until", until))
    return chosen
