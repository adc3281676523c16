"""Who a visitor is: resolved when read, from the append-only records that identify events left.

Hides the rule for a visitor of several users. It needs no order of processing: each identify is a record with
its time, and the same records give the same answer.
"""

from sqlalchemy import Column, ColumnElement, Label, Select, and_, func, or_, select, tuple_, union_all

from storage.schema import events, identity_links

# By either of these an identify may have named the visitor.
_VISITORS = (events.c.anonymous_id, events.c.cookie_id)
_SAID = tuple_(identity_links.c.linked_at, identity_links.c.event_id)
_HAPPENED = tuple_(events.c.received_at, events.c.event_id)


def _records_of(visitor: Column[str]) -> Select[str]:
    return select(identity_links).where(
        identity_links.c.source_id == events.c.source_id, identity_links.c.anonymous_id == visitor
    )


def _last_before() -> ColumnElement[str]:
    # One step in the primary key per id, however many records a visitor has.
    newest_first = (identity_links.c.linked_at.desc(), identity_links.c.event_id.desc())
    each = [
        _records_of(visitor).where(_SAID <= _HAPPENED).order_by(*newest_first).limit(1).correlate(events)
        for visitor in _VISITORS
    ]
    found = union_all(*each).subquery("said_before")
    newest = select(found.c.user_id).order_by(found.c.linked_at.desc(), found.c.event_id.desc())
    return newest.limit(1).correlate(events).scalar_subquery()


def _first_after() -> ColumnElement[str]:
    each = [
        _records_of(visitor)
        .where(_SAID > _HAPPENED)
        .order_by(identity_links.c.linked_at, identity_links.c.event_id)
        .limit(1)
        .correlate(events)
        for visitor in _VISITORS
    ]
    found = union_all(*each).subquery("said_after")
    oldest = select(found.c.user_id).order_by(found.c.linked_at, found.c.event_id)
    return oldest.limit(1).correlate(events).scalar_subquery()


def user_id_when_read() -> Label[str]:
    """Select the event's own user; without one, the user its visitor was said to be.

    Of several, the one of the last identify before the event; where the first came after it, of that. Of one
    moment, the one of the lower event_id came first.
    """
    resolved: ColumnElement[str] = func.coalesce(events.c.user_id, _last_before(), _first_after())
    return resolved.label("user_id")


def is_read_with(user_id: str) -> ColumnElement[bool]:
    """Tell whether an event is read with that user, resolving only events of visitors who ever were it."""
    was_ever = or_(
        *(_records_of(visitor).where(identity_links.c.user_id == user_id).exists() for visitor in _VISITORS)
    )
    return or_(
        events.c.user_id == user_id,
        and_(events.c.user_id.is_(None), was_ever, func.coalesce(_last_before(), _first_after()) == user_id),
    )
