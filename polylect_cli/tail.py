"""`polylect tail`: what is stored and refused, as it happens.

Hides that the call may be interrupted: it goes on where it was, showing nothing twice.
"""

import time
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import suppress
from typing import Annotated, Any

import typer
from polylect.v1.quarantine_pb2 import QuarantinedEvent
from polylect.v1.query_pb2 import (
    TAIL_VERDICT_ACCEPTED,
    TAIL_VERDICT_REFUSED,
    TAIL_VERDICT_UNSPECIFIED,
    TailEventsRequest,
    TailEventsResponse,
)
from polylect.v1.trail_pb2 import Refusal

from polylect_cli.calling import Core, Interrupted, connected, time_text
from polylect_cli.events import KINDS, kind_of, row_of
from polylect_cli.output import EXIT_USAGE, CommandError, print_error, print_json, print_line, printable
from polylect_cli.source_names import SourceNames
from polylect_cli.words import reason_word
from rest_facade.event_document import as_document

_AGAIN_SECONDS = 1.0
# More than a resumed call repeats.
_REMEMBERED = 20_000
_VERDICTS = {
    (False, False): TAIL_VERDICT_UNSPECIFIED,
    (True, False): TAIL_VERDICT_ACCEPTED,
    (False, True): TAIL_VERDICT_REFUSED,
}


def tail(
    source: Annotated[str, typer.Option(help="Name or id of the source.")] = "",
    kind: Annotated[str, typer.Option(metavar="|".join(KINDS), help="This kind only.")] = "",
    name: Annotated[str, typer.Option(help="This name only.")] = "",
    user: Annotated[str, typer.Option(help="This user_id only.")] = "",
    dialect: Annotated[str, typer.Option(help="pulsora, pulse, apex, datafly or grpc.")] = "",
    accepted: Annotated[bool, typer.Option("--accepted", help="Only what is stored.")] = False,
    refused: Annotated[bool, typer.Option("--refused", help="Only what is refused.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object per line.")] = False,
) -> None:
    """Show events as they are stored, and refusals with their reasons; Ctrl-C ends."""
    if accepted and refused:
        raise CommandError(
            "--accepted and --refused exclude each other; without either, both are shown", EXIT_USAGE
        )
    request = TailEventsRequest(
        source=source,
        kind=kind_of(kind),
        name=name,
        user_id=user,
        dialect=dialect,
        verdict=_VERDICTS[accepted, refused],
    )
    with connected() as core, suppress(KeyboardInterrupt):
        sources = SourceNames(core)
        for answer in _happening(core, request):
            if answer.gap:
                print_error("polylect: more happens than can be shown; some of it is left out here")
            if as_json:
                print_json(_document(answer))
            else:
                print_line(printable("  ".join(filter(None, _cells(answer, sources)))))


def _happening(core: Core, request: TailEventsRequest) -> Iterator[TailEventsResponse]:
    shown: OrderedDict[str, None] = OrderedDict()
    answers = core.follow(core.queries.TailEvents, request)
    print_error("polylect: following; Ctrl-C ends")
    while True:
        try:
            for answer in answers:
                request.resume_token = answer.resume_token
                seen_id = _id_of(answer)
                if seen_id not in shown:
                    shown[seen_id] = None
                    if len(shown) > _REMEMBERED:
                        shown.popitem(last=False)
                    yield answer
        except Interrupted as interruption:
            print_error(f"polylect: {interruption}\npolylect: trying again until it answers; Ctrl-C ends")
            answers = _again(core, request)


def _again(core: Core, request: TailEventsRequest) -> Iterator[TailEventsResponse]:
    while True:
        time.sleep(_AGAIN_SECONDS)
        with suppress(Interrupted):
            answers = core.follow(core.queries.TailEvents, request)
            print_error("polylect: following again")
            return answers


def _id_of(answer: TailEventsResponse) -> str:
    ids = (answer.event.event_id, answer.quarantined.quarantine_id, answer.refusal.refusal_id)
    return next(filter(None, ids))


def _document(answer: TailEventsResponse) -> dict[str, Any]:
    if answer.WhichOneof("item") == "event":
        return {"verdict": "accepted", "event": as_document(answer.event)}
    refused = _refused(answer)
    return {
        "verdict": "refused",
        "reason": reason_word(refused.rejection.reason),
        "message": refused.rejection.message,
        "field": refused.rejection.field,
        "quarantine_id": answer.quarantined.quarantine_id,
        "source_id": refused.source_id,
        "received_at": time_text(refused.received_at),
        "dialect": refused.dialect,
        "endpoint": refused.endpoint,
        "request_id": refused.request_id,
        "client_ip": refused.client_ip,
    }


def _cells(answer: TailEventsResponse, sources: SourceNames) -> tuple[str, ...]:
    if answer.WhichOneof("item") == "event":
        received, *rest = row_of(answer.event, sources)
        return (received, "accepted", *rest, f"event {answer.event.event_id}")
    refused = _refused(answer)
    return (
        time_text(refused.received_at),
        "REFUSED ",
        f"{reason_word(refused.rejection.reason)}: {refused.rejection.message}",
        sources.name(refused.source_id),
        refused.dialect,
        refused.endpoint,
        f"request {refused.request_id}",
    )


def _refused(answer: TailEventsResponse) -> QuarantinedEvent | Refusal:
    return answer.quarantined if answer.WhichOneof("item") == "quarantined" else answer.refusal
