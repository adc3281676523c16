"""`polylect events`: what was stored, latest first.

Hides how an event is shown to people, as a line.
"""

from typing import Annotated

import typer
from polylect.v1.event_pb2 import Event, EventKind
from polylect.v1.query_pb2 import ListEventsRequest

from polylect_cli.calling import Core, connected, time_text
from polylect_cli.output import EXIT_USAGE, CommandError, print_json, print_line, print_table
from polylect_cli.source_names import SourceNames
from polylect_cli.times import parse_moment
from rest_facade.event_document import as_document, kind_word

_PREFIX = "EVENT_KIND_"
KINDS = ("page", "track", "identify", "group", "revenue")
_COLUMNS = ("event", "received", "kind", "name or page", "visitor", "user", "source", "dialect")
_PAGE_SIZE = 1_000


def events(
    source: Annotated[str, typer.Option(help="Name or id of the source.")] = "",
    kind: Annotated[str, typer.Option(metavar="|".join(KINDS), help="This kind only.")] = "",
    name: Annotated[str, typer.Option(help="This name only.")] = "",
    user: Annotated[str, typer.Option(help="This user_id only.")] = "",
    visitor: Annotated[str, typer.Option(help="This anonymous_id only.")] = "",
    session: Annotated[str, typer.Option(help="This session_id only.")] = "",
    dialect: Annotated[str, typer.Option(help="pulsora, pulse, apex, datafly or grpc.")] = "",
    since: Annotated[
        str, typer.Option(metavar="TIME|AGE", help="Received then or later: 2026-05-01T12:00Z, 90m, 7d.")
    ] = "",
    limit: Annotated[int, typer.Option(min=1, help="At most so many.")] = 20,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object per line.")] = False,
) -> None:
    """List the latest events, newest first; `polylect tail` shows new ones as they come.

    By an event's id `polylect why` tells its story.
    """
    request = ListEventsRequest(
        source=source,
        kind=kind_of(kind),
        name=name,
        user_id=user,
        anonymous_id=visitor,
        session_id=session,
        dialect=dialect,
    )
    if since:
        request.received_from.FromDatetime(parse_moment("--since", since))
    with connected() as core:
        latest, sources = _latest(core, request, limit), SourceNames(core)
        if as_json:
            for event in latest:
                print_json(as_document(event))
        elif latest:
            print_table(_COLUMNS, [(event.event_id, *row_of(event, sources)) for event in latest])
        elif any((source, kind, name, user, visitor, session, dialect, since)):
            print_line("no event is like that; `polylect events` without options lists the latest of all")
        else:
            print_line("no events yet; `polylect send --help` shows how to send one")


def _latest(core: Core, request: ListEventsRequest, limit: int) -> list[Event]:
    found: list[Event] = []
    page = ListEventsRequest()
    page.CopyFrom(request)
    while len(found) < limit:
        page.page_size = min(limit - len(found), _PAGE_SIZE)
        answer = core.call(core.queries.ListEvents, page)
        found += answer.events
        page.page_token = answer.next_page_token
        if not answer.next_page_token:
            break
    return found


def kind_of(text: str) -> EventKind.ValueType:
    """Give the kind of that name, unspecified for ""; raises CommandError."""
    if text and text not in KINDS:
        raise CommandError(
            f"--kind {text}: there is no such kind; give one of {', '.join(KINDS)}", EXIT_USAGE
        )
    return EventKind.Value(_PREFIX + text.upper()) if text else EventKind.EVENT_KIND_UNSPECIFIED


def row_of(event: Event, sources: SourceNames) -> tuple[str, ...]:
    """Give an event for people: a cell for each of the columns but the first, its id."""
    return (
        time_text(event.received_at),
        kind_word(event.kind),
        event.name or event.page.path or event.page.url,
        event.anonymous_id,
        event.user_id,
        sources.name(event.source_id),
        event.provenance.dialect,
    )
