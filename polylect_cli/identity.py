"""`polylect identity`: who a visitor or user is, from which records, and taking a link back.

Hides that an id may be a user's, a visitor's or both, and how the administrator is asked before records are
voided.
"""

from collections.abc import Iterator
from typing import Annotated, Any, NamedTuple

import typer
from polylect.v1 import identity_pb2 as pb
from polylect.v1.source_pb2 import ListSourcesRequest

from polylect_cli.calling import Core, connected, time_text
from polylect_cli.output import (
    EXIT_USAGE,
    CommandError,
    confirm,
    print_error,
    print_json,
    print_line,
    print_table,
    printable,
)
from polylect_cli.sources import JsonOption

app = typer.Typer(no_args_is_help=True, help="Identity: who a visitor or user is, and from which records.")

_PAGE_SIZE = 1_000
# So many are searched when no source is named.
_MOST_SOURCES = 100


class _Found(NamedTuple):
    """What a source knows of the id, taken for one kind."""

    source: str
    # user or visitor
    kind: str
    answer: pb.GetIdentityResponse


@app.command()
def show(
    wanted: Annotated[str, typer.Argument(metavar="USER_OR_VISITOR", help="A user_id or an anonymous_id.")],
    source: Annotated[str, typer.Option(help="Name or id of the source. Default: every source.")] = "",
    limit: Annotated[int, typer.Option(min=1, help="At most so many records, the latest.")] = 50,
    as_json: JsonOption = False,
) -> None:
    """Tell whose id it is, what it is linked with, its groups, and the records, newest last."""
    with connected() as core:
        names = [source] if source else _source_names(core)
        found = [one for name in names for one in _found(core, name, wanted, limit)]
    if as_json:
        print_json([_as_dict(wanted, one) for one in found])
        return
    if not found:
        where = f"in source {source}" if source else "in any source"
        print_line(printable(f"no identify, unlink or group event names {wanted} {where}"))
        print_line("it may have events all the same: polylect events --visitor ID, or --user ID")
    for number, one in enumerate(found):
        if number:
            print_line()
        _print_found(wanted, one)


@app.command()
def unlink(
    source: Annotated[str, typer.Option(help="Name or id of the source.")],
    visitor: Annotated[str, typer.Option(help="The anonymous_id.")],
    user: Annotated[str, typer.Option(help="The user_id it is not.")],
    reason: Annotated[str, typer.Option(help="Why, kept with the record.")] = "",
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Don't ask.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Void every link of a visitor to a user so far; a later identify links them anew."""
    request = pb.UnlinkIdentityRequest(source=source, anonymous_id=visitor, user_id=user, reason=reason)
    with connected() as core:
        if not yes:
            asked = pb.UnlinkIdentityRequest(dry_run=True)
            asked.MergeFrom(request)
            would = core.call(core.identity.UnlinkIdentity, asked)
            print_error(_words_of(would, "will read", "is void then", "are void then"))
            confirm("Unlink?", yes, "nothing changed")
        made = core.call(core.identity.UnlinkIdentity, request)
    if as_json:
        print_json(
            {
                **_unlink_dict(made.unlink),
                "voided_links": made.voided_links,
                "user_id_before": made.user_id_before or None,
                "user_id_after": made.user_id_after or None,
            }
        )
        return
    print_line(_words_of(made, "read", "is void", "are void"))
    print_line(f"unlink {made.unlink.unlink_id} made")


def _source_names(core: Core) -> list[str]:
    sources = core.call(core.sources.ListSources, ListSourcesRequest()).sources
    if len(sources) > _MOST_SOURCES:
        raise CommandError(f"there are {len(sources)} sources: name one with --source", EXIT_USAGE)
    return [source.name for source in sources]


def _found(core: Core, source: str, wanted: str, limit: int) -> Iterator[_Found]:
    for kind, request in (
        ("user", pb.GetIdentityRequest(source=source, user_id=wanted)),
        ("visitor", pb.GetIdentityRequest(source=source, anonymous_id=wanted)),
    ):
        answer = _latest(core, request, limit)
        if answer.records or answer.groups:
            yield _Found(source, kind, answer)


def _latest(core: Core, request: pb.GetIdentityRequest, limit: int) -> pb.GetIdentityResponse:
    request.page_size = min(limit, _PAGE_SIZE)
    whole = core.call(core.identity.GetIdentity, request)
    while whole.next_page_token and len(whole.records) < limit:
        request.page_token = whole.next_page_token
        request.page_size = min(limit - len(whole.records), _PAGE_SIZE)
        earlier = core.call(core.identity.GetIdentity, request)
        records = [*earlier.records, *whole.records]
        del whole.records[:]
        whole.records.extend(records)
        whole.next_page_token = earlier.next_page_token
    return whole


def _print_found(wanted: str, found: _Found) -> None:
    answer = found.answer
    print_line(printable(f"{wanted} is a {found.kind} in source {found.source}"))
    if answer.connected:
        print_line()
        rows = [
            (one.anonymous_id or one.user_id, time_text(one.last_linked_at), _yes(one.in_force))
            for one in answer.connected
        ]
        print_table(("user" if found.kind == "visitor" else "visitor", "last linked", "in force"), rows)
    if answer.groups:
        print_line()
        rows = [(one.group_id, time_text(one.linked_at), one.anonymous_id) for one in answer.groups]
        print_table(("group", "last named", "by visitor"), rows)
    if answer.records:
        print_line()
        columns = ("time", "record", "visitor", "user", "in force", "dialect", "event or unlink", "reason")
        print_table(columns, [_row(record) for record in answer.records])
    if answer.next_page_token:
        print_line(f"the latest {len(answer.records)} records; more with --limit")


def _row(record: pb.IdentityRecord) -> tuple[str, ...]:
    if record.HasField("unlink"):
        unlink = record.unlink
        at = time_text(unlink.unlinked_at)
        return (at, "unlink", unlink.anonymous_id, unlink.user_id, "", "", unlink.unlink_id, unlink.reason)
    link = record.link
    at, in_force = time_text(link.linked_at), _yes(link.in_force)
    return (at, "link", link.anonymous_id, link.user_id, in_force, link.dialect, link.event_id, "")


def _words_of(change: pb.UnlinkIdentityResponse, reads: str, one_is: str, many_are: str) -> str:
    links = f"1 link {one_is}" if change.voided_links == 1 else f"{change.voided_links} links {many_are}"
    visitor, user = change.unlink.anonymous_id, change.unlink.user_id
    before, after = change.user_id_before or "nobody", change.user_id_after or "nobody"
    now = f"stay with {after}" if before == after else f"{reads} with {after} instead of {before}"
    return printable(
        f"{links}, of visitor {visitor} to user {user}; events of the visitor from now on {now}, "
        "earlier ones as if these identifies had not been"
    )


def _as_dict(wanted: str, found: _Found) -> dict[str, Any]:
    answer = found.answer
    return {
        "source": found.source,
        f"{'user_id' if found.kind == 'user' else 'anonymous_id'}": wanted,
        "kind": found.kind,
        "connected": [
            {
                str(one.WhichOneof("id")): one.anonymous_id or one.user_id,
                "last_linked_at": time_text(one.last_linked_at),
                "in_force": one.in_force,
            }
            for one in answer.connected
        ],
        "groups": [
            {
                "group_id": one.group_id,
                "linked_at": time_text(one.linked_at),
                "event_id": one.event_id,
                "anonymous_id": one.anonymous_id or None,
            }
            for one in answer.groups
        ],
        "records": [
            {"record": "unlink", **_unlink_dict(record.unlink)}
            if record.HasField("unlink")
            else {"record": "link", **_link_dict(record.link)}
            for record in answer.records
        ],
        "has_more_records": bool(answer.next_page_token),
    }


def _link_dict(link: pb.IdentityLink) -> dict[str, Any]:
    return {
        "anonymous_id": link.anonymous_id,
        "user_id": link.user_id,
        "linked_at": time_text(link.linked_at),
        "event_id": link.event_id,
        "dialect": link.dialect or None,
        "in_force": link.in_force,
    }


def _unlink_dict(unlink: pb.IdentityUnlink) -> dict[str, Any]:
    return {
        "anonymous_id": unlink.anonymous_id,
        "user_id": unlink.user_id,
        "unlinked_at": time_text(unlink.unlinked_at),
        "unlink_id": unlink.unlink_id,
        "reason": unlink.reason or None,
    }


def _yes(flag: bool) -> str:
    return "yes" if flag else "no"
