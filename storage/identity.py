"""Who a visitor is: resolved when read, from the append-only records that identify events and unlinks left.

Hides the rule for a visitor of several users, which docs/identity.md tells with examples, and how it is found
in index steps. It needs no order of processing: each record has its time, and the same records give the same
answer.
"""

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import (
    ColumnElement,
    FromClause,
    Label,
    Select,
    and_,
    func,
    or_,
    select,
    tuple_,
    union_all,
)

from storage.schema import events, identity_links, identity_unlinks

_SAID = tuple_(identity_links.c.linked_at, identity_links.c.event_id)


@dataclass(frozen=True)
class Fact:
    """Something a visitor did, as columns: what its user is resolved from."""

    # Where the columns stand.
    table: FromClause
    source_id: ColumnElement[str]
    # By any of these an identify may have named the visitor.
    visitors: tuple[ColumnElement[str], ...]
    received_at: ColumnElement[datetime]
    event_id: ColumnElement[str]


_EVENT = Fact(
    events,
    events.c.source_id,
    (events.c.anonymous_id, events.c.cookie_id),
    events.c.received_at,
    events.c.event_id,
)


def link_is_in_force() -> ColumnElement[bool]:
    """Tell whether no unlink voids the link of a row of identity_links: one index step."""
    last_unlinked = (
        select(func.max(identity_unlinks.c.unlinked_at))
        .where(
            *(
                identity_unlinks.c[name] == identity_links.c[name]
                for name in ("source_id", "anonymous_id", "user_id")
            )
        )
        .correlate(identity_links)
        .scalar_subquery()
    )
    # The flag as the index's condition has it: void links don't stand there, so none has to be passed.
    return and_(
        ~identity_links.c.voided,
        # Not EXISTS, which a planner may turn into reading all unlinks at once.
        func.coalesce(identity_links.c.linked_at > last_unlinked, True),
    )


def _links_of(fact: Fact, visitor: ColumnElement[str]) -> Select[str]:
    return (
        select(identity_links)
        .where(identity_links.c.source_id == fact.source_id, identity_links.c.anonymous_id == visitor)
        .correlate(fact.table)
    )


def _last_before(fact: Fact) -> ColumnElement[str]:
    # One step in the index per id, however many records a visitor has.
    newest_first = (identity_links.c.linked_at.desc(), identity_links.c.event_id.desc())
    happened = tuple_(fact.received_at, fact.event_id)
    each = [
        _links_of(fact, visitor).where(link_is_in_force(), happened >= _SAID).order_by(*newest_first).limit(1)
        for visitor in fact.visitors
    ]
    found = union_all(*each).subquery("said_before")
    newest = select(found.c.user_id).order_by(found.c.linked_at.desc(), found.c.event_id.desc())
    return newest.limit(1).correlate(fact.table).scalar_subquery()


def _first_after(fact: Fact) -> ColumnElement[str]:
    oldest_first = (identity_links.c.linked_at, identity_links.c.event_id)
    happened = tuple_(fact.received_at, fact.event_id)
    each = [
        _links_of(fact, visitor).where(link_is_in_force(), happened < _SAID).order_by(*oldest_first).limit(1)
        for visitor in fact.visitors
    ]
    found = union_all(*each).subquery("said_after")
    oldest = select(found.c.user_id).order_by(found.c.linked_at, found.c.event_id)
    return oldest.limit(1).correlate(fact.table).scalar_subquery()


def user_said(fact: Fact) -> ColumnElement[str]:
    """Give the user that the fact's visitor was said to be: NULL when nobody said so.

    Of several, the one of the last link in force before the fact; where the first came after it, of that. Of
    one moment, the one of the lower event_id came first.
    """
    said: ColumnElement[str] = func.coalesce(_last_before(fact), _first_after(fact))
    return said


def user_id_when_read() -> Label[str]:
    """Select the event's own user; without one, the user its visitor was said to be."""
    resolved: ColumnElement[str] = func.coalesce(events.c.user_id, _last_before(_EVENT), _first_after(_EVENT))
    return resolved.label("user_id")


def is_read_with(user_id: str) -> ColumnElement[bool]:
    """Tell whether an event is read with that user, resolving only events of visitors who ever were it."""
    was_ever = or_(
        *(
            _links_of(_EVENT, visitor).where(identity_links.c.user_id == user_id).exists()
            for visitor in _EVENT.visitors
        )
    )
    return or_(
        events.c.user_id == user_id,
        and_(events.c.user_id.is_(None), was_ever, user_said(_EVENT) == user_id),
    )
