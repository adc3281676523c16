"""What rows of sessions don't tell, read from `events`: times at the bounds of a range, and missing names.

Hides which events are read: those of the ten minutes at either bound, of sessions that go beyond it; and the
conversions in the time of rows of which a name is missing, or that go beyond the range at both ends.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import (
    CTE,
    ColumnElement,
    FromClause,
    Select,
    and_,
    cast,
    exists,
    func,
    select,
    true,
    union_all,
)

from storage.event_facts import is_conversion
from storage.event_figures import occurred_within
from storage.listing import has_text
from storage.rollup_schema import session_days
from storage.rollup_sessions import SLOT
from storage.schema import events
from storage.sessions import session_key
from storage.values import EPOCH


@dataclass(frozen=True)
class Range:
    """A source's site, and from when until when."""

    source_id: str
    site_id: str
    start: datetime
    end: datetime

    def of_site(self, table: Any) -> tuple[ColumnElement[bool], ...]:
        """Tell whether a row of a table of rollups is of the site."""
        return table.c.source_id == self.source_id, has_text(table.c.site_id, self.site_id)

    def has(self, moment: ColumnElement[Any]) -> ColumnElement[bool]:
        """Tell whether a moment lies in the range."""
        return and_(moment >= self.start, moment < self.end)

    def events(self, start: datetime, end: datetime) -> tuple[ColumnElement[bool], ...]:
        """Tell whether an event is the site's and occurred at `start` or later, before `end`."""
        site = func.coalesce(events.c.provenance_site_id, "")
        return *occurred_within(self.source_id, start, end), has_text(site, self.site_id)


def floor(unit: timedelta, moment: datetime) -> datetime:
    """Give the start of the day, hour or slot a moment lies in."""
    return moment - (moment - EPOCH) % unit


def ceil(unit: timedelta, moment: datetime) -> datetime:
    """Give the first start of a day, hour or slot from a moment on."""
    return moment + (EPOCH - moment) % unit


def clipped_rows(asked: Range, rows: CTE) -> FromClause:
    """Select first, last and number (1 or more) of the events in the range, of rows that go beyond it."""
    row = rows.c
    key = (row.session, row.started_at)
    after_start, before_end = ceil(SLOT, asked.start), floor(SLOT, asked.end)
    moment = func.unnest(row.moments).table_valued("moment", name="moment_of").render_derived()
    moment_at = cast(moment.c.moment, session_days.c.started_at.type)
    # Of a slot that a bound goes through the row doesn't tell what lies on which side.
    known = (
        select(*key, moment_at.label("moment"))
        .select_from(rows.join(moment, true()))
        .where(row.is_cut, moment_at >= after_start, moment_at < before_end)
    )
    slots = [(asked.start, min(after_start, asked.end)), (max(before_end, after_start), asked.end)]
    read = [
        _read(asked, start, end).where(exists(select(row.session).where(row.is_cut)))
        for start, end in slots
        if start < end
    ]
    moments = [known]
    if read:
        seen = union_all(*read).cte("seen")
        moments.append(
            select(*key, seen.c.occurred_at)
            .select_from(rows.join(seen, _is_of(seen, rows)))
            .where(row.is_cut)
        )
    each = union_all(*moments).subquery("moments")
    return (
        select(
            each.c.session,
            each.c.started_at,
            func.min(each.c.moment).label("first"),
            func.max(each.c.moment).label("last"),
            func.count().label("size"),
        )
        .group_by(each.c.session, each.c.started_at)
        .subquery("clipped")
    )


def _read(asked: Range, start: datetime, end: datetime) -> Select[Any]:
    """Select session and moment of the site's events of that time."""
    return select(session_key().label("session"), events.c.occurred_at).where(*asked.events(start, end))


def _is_of(seen: FromClause, rows: FromClause) -> ColumnElement[bool]:
    return and_(
        seen.c.session == rows.c.session,
        seen.c.occurred_at >= rows.c.started_at,
        seen.c.occurred_at <= rows.c.ended_at,
    )


def converting_rows(asked: Range, rows: CTE, converting: str) -> FromClause:
    """Select the rows, of those that don't tell by themselves, that have a conversion in the range."""
    row = rows.c
    doubtful = select(row.session, row.started_at, row.ended_at).where(row.converts.is_(None)).cte("doubtful")
    # Without any, these are NULL, and no event is read.
    earliest = select(func.min(doubtful.c.started_at)).scalar_subquery()
    latest = select(func.max(doubtful.c.ended_at)).scalar_subquery()
    conversions = (
        _read(asked, asked.start, asked.end)
        .where(
            events.c.occurred_at >= earliest,
            events.c.occurred_at <= latest,
            is_conversion(converting),
        )
        .cte("conversions")
    )
    return (
        select(doubtful.c.session, doubtful.c.started_at)
        .select_from(doubtful.join(conversions, _is_of(conversions, doubtful)))
        .distinct()
        .subquery("found")
    )
