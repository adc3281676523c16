"""The statements that unlink.

Hides what an unlink is made of: the record, which alone decides, and the flag on the links it voids, by which
reading passes them in one step.
"""

from typing import Any

from polylect.v1.identity_pb2 import IdentityUnlink
from sqlalchemy import (
    ColumnElement,
    Select,
    Text,
    Update,
    any_,
    func,
    insert,
    literal,
    literal_column,
    select,
    update,
)

from storage.identity import link_is_in_force
from storage.rollup_schema import rollup_queue
from storage.schema import identity_links, identity_unlinks
from storage.values import datetime_of

MARKED_AT_ONCE = 10_000
"""How many links one statement marks, in some 0.2 s."""

_PLACE: ColumnElement[Any] = literal_column("identity_links.ctid")
_TIMESTAMP, _UUID = identity_links.c.linked_at.type, identity_links.c.event_id.type


def unlinking(source_id: str, unlink: IdentityUnlink, dry_run: bool) -> Select[Any]:
    """Add the record, if a link of the two is in force, and leave word of it, unless it is a dry run.

    Gives one row: how many `links` are in force, the record's `unlinked_at`, `user_before` and `user_after`.
    """
    link = identity_links.c
    of_visitor = (link.source_id == source_id, link.anonymous_id == unlink.anonymous_id)
    of_both = (*of_visitor, link.user_id == unlink.user_id)
    held = (
        select(
            func.count().label("links"),
            func.greatest(
                literal(datetime_of(unlink.unlinked_at), _TIMESTAMP), func.max(link.linked_at)
            ).label("unlinked_at"),
        )
        .where(*of_both, link_is_in_force())
        .cte("held")
    )
    last = (
        select(link.user_id)
        .where(*of_visitor, link_is_in_force())
        .order_by(link.linked_at.desc(), link.event_id.desc())
        .limit(1)
    )
    answer = select(
        held.c.links,
        held.c.unlinked_at,
        last.scalar_subquery().label("user_before"),
        last.where(link.user_id != unlink.user_id).scalar_subquery().label("user_after"),
    )
    if dry_run:
        return answer
    values = {
        "source_id": literal(source_id, _UUID),
        "anonymous_id": literal(unlink.anonymous_id, Text),
        "user_id": literal(unlink.user_id, Text),
        "unlinked_at": held.c.unlinked_at,
        "unlink_id": literal(unlink.unlink_id, _UUID),
        "reason": literal(unlink.reason, Text),
    }
    record = select(*values.values()).select_from(held).where(held.c.links > 0)
    # Statistics have yet to take it in.
    word = {"unlinked_source_id": values["source_id"], "unlinked_visitor": values["anonymous_id"]}
    left = select(*word.values()).select_from(held).where(held.c.links > 0)
    return answer.add_cte(
        insert(identity_unlinks).from_select(list(values), record).cte("made"),
        insert(rollup_queue).from_select(list(word), left).cte("told"),
    )


def marking_void(source_id: str, unlink: IdentityUnlink) -> Update:
    """Mark some of the links of the two that are void by a record and not marked yet."""
    link, undone = identity_links.c, identity_unlinks.c
    asked = {"source_id": source_id, "anonymous_id": unlink.anonymous_id, "user_id": unlink.user_id}
    unmarked = (*(link[name] == value for name, value in asked.items()), ~link.voided)
    last_unlinked = select(func.max(undone.unlinked_at)).where(
        *(undone[name] == value for name, value in asked.items())
    )
    # By their places: joined with itself by its key, the table may be read once for every row.
    void = (
        select(_PLACE)
        .select_from(identity_links)
        .where(*unmarked, link.linked_at <= last_unlinked.scalar_subquery())
        .limit(MARKED_AT_ONCE)
    )
    places = func.array(void.correlate(None).scalar_subquery())
    return update(identity_links).where(*unmarked, any_(places) == _PLACE).values(voided=True)
