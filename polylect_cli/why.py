"""`polylect why`: the story of a request or an event, in sentences. Hides how a story is told."""

from collections.abc import Iterator
from typing import Annotated, Any

import typer
from google.protobuf.json_format import MessageToDict
from polylect.v1.trail_pb2 import EventStory, ExplainEventRequest, Verdict

from polylect_cli.calling import connected, time_text
from polylect_cli.output import EXIT_REFUSED, print_error, print_json, print_line, printable
from polylect_cli.source_names import NO_SOURCE, SourceNames
from polylect_cli.words import reason_word
from rest_facade.event_document import as_document

_HINT = """\
nothing is known of {id!r}.
  - Is it the X-Request-Id of an answer, an event_id, a quarantine_id, or the client's own message_id of
    something accepted? Of what was refused the client's own id finds nothing.
  - What was accepted is known as soon as its answer is sent; a refusal a second or two later.
  - Refused requests are kept for 7 days, of very many in one second only some; `polylect ledger` counts all.
  - A duplicate is kept for the deduplication window (POLYLECT_DEDUP_WINDOW_DAYS).
  - A client's own request id, and an old message_id, is sought among its source's latest 100,000 events: give
    --source, for without it fewer of each source are looked at."""


def why(
    asked_id: Annotated[
        str,
        typer.Argument(
            metavar="ID", help="A request id (X-Request-Id), event_id, message_id or quarantine_id."
        ),
    ],
    source: Annotated[str, typer.Option(help="Name or id of the source; without it, all.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object per line.")] = False,
) -> None:
    """Tell what became of a request or an event; exit with 1 when nothing is known of it."""
    with connected() as core:
        request = ExplainEventRequest(id=asked_id, source=source)
        answer = core.call(core.queries.ExplainEvent, request)
        names = SourceNames(core)
        for number, story in enumerate(answer.stories):
            if as_json:
                print_json(_document(story, names))
            else:
                if number:
                    print_line()
                for line in _sentences(story, names):
                    print_line(printable(line))
    if answer.truncated:
        print_error("polylect: there are more of these; ask for one of them by its event_id")
    if not answer.stories:
        print_error("polylect: " + _HINT.format(id=printable(asked_id)))
        raise typer.Exit(EXIT_REFUSED)


def _sentences(story: EventStory, names: SourceNames) -> Iterator[str]:
    what = "Request" if story.verdict == Verdict.VERDICT_REFUSED else "Event"
    own_id = story.event_id or story.quarantine_id or story.request_id
    yield f"{what} {own_id}: {_verdict(story)}"
    place = " ".join(filter(None, (story.dialect, story.endpoint))) or "before its path was read"
    from_where = f" from {story.client_ip}" if story.client_ip else ""
    yield f"  Received {time_text(story.received_at)}{from_where} ({place})."
    if story.source_id == NO_SOURCE:
        yield "  No source could be told: it had no valid key, or was refused before its key was read."
    else:
        yield f"  Its source is {names.name(story.source_id)}."
    if story.request_id and story.request_id != own_id:
        yield f"  It came with request {story.request_id}."
    if story.message_id:
        yield f"  The client calls it {story.message_id}."
    yield from _outcome(story)
    for link in story.links:
        yield (
            f"  It came without a user and is read with {link.user_id}: identify {link.event_id} of "
            f"{time_text(link.linked_at)} said that {link.anonymous_id} is."
        )


def _verdict(story: EventStory) -> str:
    texts = {
        Verdict.VERDICT_STORED: "stored.",
        Verdict.VERDICT_DUPLICATE: f"a duplicate of {story.duplicate_of}; that one is stored, this one not.",
        Verdict.VERDICT_QUARANTINED: f"in quarantine: {_reason(story)}",
        Verdict.VERDICT_REFUSED: f"refused: {_reason(story)}",
        Verdict.VERDICT_IN_QUEUE: "accepted and durable; it waits for a worker to write it.",
    }
    if story.verdict == Verdict.VERDICT_IN_QUEUE and story.quarantine_id:
        return f"on its way to quarantine, it waits for a worker: {_reason(story)}"
    return texts.get(story.verdict, "something this command is too old to know; ask that of a newer one.")


def _reason(story: EventStory) -> str:
    rejection = story.rejection
    word = reason_word(rejection.reason)
    about = f", field {rejection.field}" if rejection.field else ""
    return f"{rejection.message.rstrip('.') or word} ({word}{about})."


def _outcome(story: EventStory) -> Iterator[str]:
    if story.verdict == Verdict.VERDICT_STORED:
        event = story.event
        document = as_document(event)
        visitor = event.user_id or event.anonymous_id
        yield "  It says: " + " ".join(filter(None, (document["kind"], event.name, visitor))) + "."
    elif story.verdict == Verdict.VERDICT_REFUSED and story.event_count > 1:
        yield f"  It had {story.event_count} events; none was stored."


def _document(story: EventStory, names: SourceNames) -> dict[str, Any]:
    document: dict[str, Any] = MessageToDict(story, preserving_proto_field_name=True)
    document["verdict"] = Verdict.Name(story.verdict).removeprefix("VERDICT_").lower()
    document["source"] = names.name(story.source_id)
    if story.HasField("rejection"):
        document["rejection"]["reason"] = reason_word(story.rejection.reason)
    if story.HasField("event"):
        document["event"] = as_document(story.event)
    return document
