"""Who a visitor is: resolved when read, from the append-only links that identify events made.

Hides the rule for a visitor of several users. It needs no order of processing: links are facts with a time,
and the same links give the same answer.
"""

from sqlalchemy import ColumnElement, Label, ScalarSelect, func, or_, select

from storage.schema import events, identity_links

_HOW_LONG = func.abs(func.extract("epoch", events.c.received_at - identity_links.c.linked_at))


def _linked_user() -> ScalarSelect[str]:
    of_visitor = or_(
        identity_links.c.anonymous_id == events.c.anonymous_id,
        identity_links.c.anonymous_id == events.c.cookie_id,
    )
    return (
        select(identity_links.c.user_id)
        .where(identity_links.c.source_id == events.c.source_id, of_visitor)
        .order_by((identity_links.c.linked_at <= events.c.received_at).desc(), _HOW_LONG)
        .limit(1)
        .correlate(events)
        .scalar_subquery()
    )


def user_id_when_read() -> Label[str]:
    """Select the event's own user; without one, the user its visitor was linked to.

    Of several, the one linked last before the event; where the first link came after it, that one.
    """
    resolved: ColumnElement[str] = func.coalesce(events.c.user_id, _linked_user())
    return resolved.label("user_id")
