"""What statistics count of an event, as columns over `events`: its type, and the person behind it."""

from sqlalchemy import ColumnElement, and_, case, func, literal, or_, select

from storage.identity import user_id_when_read
from storage.listing import has_text
from storage.schema import events, identity_links

PAGE_VIEW = "page_view"
"""Under this name every page event is a conversion."""

_VISITORS = (events.c.anonymous_id, events.c.cookie_id)


def type_name() -> ColumnElement[str]:
    """Give the name that makes an event of a kind another type: "" where the kind is all."""
    return case(
        (events.c.kind == "track", func.coalesce(events.c.name, "")),
        (events.c.kind == "revenue", func.coalesce(events.c.revenue_event_type, "")),
        else_="",
    )


def is_conversion(name: str) -> ColumnElement[bool]:
    """Tell whether an event is a conversion, of that name."""
    is_named = or_(events.c.kind == "track", events.c.kind == "revenue")
    named = and_(is_named, has_text(type_name(), name))
    return or_(named, events.c.kind == "page") if name == PAGE_VIEW else named


def visitor() -> ColumnElement[str]:
    """Give who counts where no user is known; NULL for nobody."""
    return func.coalesce(*_VISITORS)


def user_id(*, of_many: bool) -> ColumnElement[str]:
    """Give the user an event is read with, as `storage.identity` does.

    The records are looked up for those who have any: few, while looking up costs ten times a row. Who has any
    is best found by reading all records once when it is asked of very many events.
    """
    link = identity_links.c
    linked = select(literal(True)).where(link.source_id == events.c.source_id)
    each_linked = [linked.where(link.anonymous_id == visitor) for visitor in _VISITORS]
    is_linked: list[ColumnElement[bool]]
    if of_many:
        is_linked = [each.exists() for each in each_linked]
    else:
        # In the index's order, and no EXISTS, which drops it: or all records are read for each event.
        by_index = [each.order_by(link.linked_at, link.event_id).limit(1) for each in each_linked]
        is_linked = [each.scalar_subquery().is_not(None) for each in by_index]
    return case(
        (events.c.user_id.is_not(None), events.c.user_id),
        (or_(*is_linked), user_id_when_read().element),
    )
