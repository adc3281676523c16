"""What statistics count of an event, as columns over `events`: its type, and the person behind it."""

from datetime import timedelta

from sqlalchemy import ColumnElement, and_, case, func, or_, select

from storage.identity import user_id_when_read
from storage.listing import has_text
from storage.schema import events, identity_links

CLOCK_TOLERANCE = timedelta(hours=24)
"""No event is received earlier than this before it occurred: the core refuses what lies further ahead."""

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


def user_id() -> ColumnElement[str]:
    """Give the user an event is read with, as `storage.identity` does.

    The records are looked up for those who have any: few, while looking up costs ten times a row.
    """
    linked = select(identity_links.c.anonymous_id).where(identity_links.c.source_id == events.c.source_id)
    return case(
        (events.c.user_id.is_not(None), events.c.user_id),
        (
            or_(*(linked.where(identity_links.c.anonymous_id == each).exists() for each in _VISITORS)),
            user_id_when_read().element,
        ),
    )
