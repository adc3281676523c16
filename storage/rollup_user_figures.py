"""How many people there were in a range of time, told from days.

Hides how whole days and parts of days add up. A person of several whole days counts on the first of them: the
one whose day before lies before the range. The part of a day at each end is looked through person by person:
of the first day, who comes again on a whole day is left out; of the last, who was there on one.
"""

from datetime import UTC, date, datetime, time, timedelta
from typing import Any, NamedTuple

from polylect.v1.query_pb2 import STATS_GROUP_BY_DAY, GetStatsRequest
from sqlalchemy import (
    CTE,
    ColumnElement,
    Date,
    DateTime,
    Double,
    Integer,
    Select,
    and_,
    cast,
    func,
    literal,
    literal_column,
    or_,
    select,
    union_all,
)

from storage.rollup_schema import user_day_totals, visitor_days
from storage.stats_figures import padded

_DAY = timedelta(days=1)
_VISITS, _TOTALS = visitor_days.c, user_day_totals.c
# The person of events without any id, as `rollup_users` has it.
_NOBODY = cast(func.md5("n"), _VISITS.person.type)


class _Range(NamedTuple):
    """A range as whole days, and what is left at its ends."""

    # Both belong to it; where there is none, the last comes before the first.
    first_whole: date
    last_whole: date
    # Who was there in the part of the day before the whole ones, with that day; and of the one after them,
    # with the day they were there before, too.
    head: CTE | None
    tail: CTE | None


def users_from_rollups(
    question: GetStatsRequest, source_id: str, site_id: str, occurred_from: datetime, occurred_until: datetime
) -> Select[Any] | None:
    """Select the users of one site in a range, as a whole and, if so grouped, by day.

    The site "" is that of events without one; the times are aware. Gives None where days can't tell: for a
    range that is empty, or within one day and touching neither of its midnights.
    """
    asked = _range_of(source_id, site_id, occurred_from.astimezone(UTC), occurred_until.astimezone(UTC))
    if asked is None:
        return None
    parts = [padded(_whole(source_id, site_id, asked), is_whole=True)]
    if question.group_by == STATS_GROUP_BY_DAY:
        parts.append(padded(_by_day(source_id, site_id, asked), is_whole=False))
    return select(union_all(*parts).subquery("answer"))


def _range_of(source_id: str, site_id: str, start: datetime, end: datetime) -> _Range | None:
    starts_within, ends_within = start.time() != time(), end.time() != time()
    if start >= end or (starts_within and ends_within and start.date() == end.date()):
        return None
    # A day's part that reaches from or to midnight: the last, or first, event in it tells.
    person: ColumnElement[str] = _VISITS.person
    head = select(person).where(*_of_day(source_id, site_id, start.date()), _VISITS.last_occurred_at >= start)
    tail = select(person, func.max(_VISITS.previous_day).label("previous_day")).where(
        *_of_day(source_id, site_id, end.date()), _VISITS.first_occurred_at < end
    )
    return _Range(
        start.date() + _DAY if starts_within else start.date(),
        end.date() - _DAY,
        head.group_by(person).cte("head") if starts_within else None,
        tail.group_by(person).cte("tail") if ends_within else None,
    )


def _whole(source_id: str, site_id: str, asked: _Range) -> Select[Any]:
    users: ColumnElement[Any] = (
        select(func.coalesce(func.sum(_TOTALS.users), 0))
        .where(*_of_whole_days(source_id, site_id, asked), _TOTALS.previous_day < asked.first_whole)
        .scalar_subquery()
    )
    if asked.head is not None:
        day_before = asked.first_whole - _DAY
        came_again = select(_VISITS.person).where(
            *_of_site(source_id, site_id),
            _VISITS.previous_day == day_before,
            _VISITS.day.between(asked.first_whole, asked.last_whole),
        )
        users = users + _count(asked.head, asked.head.c.person.not_in(came_again))
    if asked.tail is not None:
        before = asked.tail.c.previous_day
        is_new = or_(before.is_(None), before < asked.first_whole)
        if asked.head is not None:
            # Who was there the day before the whole ones, in the range, has been counted.
            of_head = and_(before == day_before, asked.tail.c.person.in_(select(asked.head.c.person)))
            is_new = and_(is_new, of_head.is_not(True))
        users = users + _count(asked.tail, is_new)
    return select(cast(users, Double).label("value"))


def _by_day(source_id: str, site_id: str, asked: _Range) -> Select[Any]:
    counted: ColumnElement[Any] = func.sum(_TOTALS.users)
    whole = (
        select(_TOTALS.day, counted.label("users"))
        .where(*_of_whole_days(source_id, site_id, asked))
        .group_by(_TOTALS.day)
        .having(counted > 0)
    )
    # A day on which nobody could be told has its row too.
    nobodys = select(_VISITS.day, literal(0)).where(
        *_of_site(source_id, site_id),
        _VISITS.person == _NOBODY,
        _VISITS.day.between(asked.first_whole, asked.last_whole),
    )
    days: list[Any] = [whole, nobodys]
    if asked.head is not None:
        days.append(_of_part(asked.head, asked.first_whole - _DAY))
    if asked.tail is not None:
        days.append(_of_part(asked.tail, asked.last_whole + _DAY))
    each = union_all(*days).subquery("each")
    midnight = func.timezone("UTC", cast(each.c.day, DateTime))
    return select(midnight.label("bucket"), cast(func.sum(each.c.users), Double).label("value")).group_by(
        each.c.day
    )


def _of_part(part: CTE, day: date) -> Select[Any]:
    people: ColumnElement[Any] = func.count().filter(part.c.person != _NOBODY)
    return select(literal(day, Date), people).select_from(part).having(func.count() > 0)


def _count(part: CTE, condition: ColumnElement[bool]) -> ColumnElement[Any]:
    people = select(func.count()).select_from(part).where(part.c.person != _NOBODY, condition)
    return people.scalar_subquery()


def _of_day(source_id: str, site_id: str, day: date) -> list[ColumnElement[bool]]:
    # As the index has it.
    indexed_day: ColumnElement[date] = _VISITS.day + literal_column("0", Integer)
    return [*_of_site(source_id, site_id), indexed_day == literal(day, Date)]


def _of_site(source_id: str, site_id: str) -> tuple[ColumnElement[bool], ColumnElement[bool]]:
    return _VISITS.source_id == source_id, _VISITS.site_id == site_id


def _of_whole_days(source_id: str, site_id: str, asked: _Range) -> list[ColumnElement[bool]]:
    days = _TOTALS.day.between(cast(asked.first_whole, Date), cast(asked.last_whole, Date))
    return [_TOTALS.source_id == source_id, _TOTALS.site_id == site_id, days]
