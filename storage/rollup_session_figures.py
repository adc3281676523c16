"""Figures over sessions for any range, from what `rollup_sessions` keeps.

Hides what is added up and what is looked at row by row. Hours whose sessions all lie in the range are added
up, but for the sessions `apart`. Rows of the other hours are clipped to the range. The parts of the sessions
apart are put together; by the day each counts by itself.
"""

from datetime import datetime, timedelta
from hashlib import md5
from typing import Any
from uuid import UUID

from polylect.v1.query_pb2 import (
    STATS_GROUP_BY_DAY,
    STATS_METRIC_AVG_SESSION_DURATION,
    STATS_METRIC_BOUNCE_RATE,
    STATS_METRIC_CONVERSION_RATE,
    STATS_METRIC_UNIQUE_SESSIONS,
    GetStatsRequest,
)
from sqlalchemy import (
    CTE,
    ColumnElement,
    Double,
    FromClause,
    Integer,
    Numeric,
    Select,
    and_,
    case,
    cast,
    exists,
    func,
    literal,
    null,
    or_,
    select,
    true,
    union_all,
)

from storage.rollup_schema import event_hours, session_days, session_hour_names, session_hours
from storage.rollup_session_events import Range, ceil, clipped_rows, converting_rows, floor
from storage.schema import events
from storage.sessions import WINDOW
from storage.stats_figures import padded
from storage.values import EPOCH

_DAY, _HOUR = timedelta(days=1), timedelta(hours=1)
_TIMESTAMP, _UUID = session_days.c.started_at.type, session_days.c.session.type


def sessions_from_rollups(
    question: GetStatsRequest,
    source_id: str,
    site_id: str,
    occurred_from: datetime,
    occurred_until: datetime,
) -> Select[Any]:
    """Select the rows of the answer to a question without filters, as a whole or by day, of one site.

    `site_id` "" is what came without one. Names the conversion event, if the metric is of conversions.
    """
    asked = Range(source_id, site_id, occurred_from, occurred_until)
    converting = question.conversion_event if question.metric == STATS_METRIC_CONVERSION_RATE else None
    hours = _hours(asked)
    pieces = _pieces(asked, _rows(asked, hours, converting), converting)
    added_up = _added_up(question.metric, asked, hours, converting)
    lone = _counted(question.metric, pieces).where(~pieces.c.apart)
    joined = _counted(question.metric, _joined(pieces))
    each = union_all(select(added_up), lone, joined).subquery("each")
    parts = [padded(select(_value(question.metric, each)), is_whole=True)]
    if question.group_by == STATS_GROUP_BY_DAY:
        by_day = union_all(select(added_up), _counted(question.metric, pieces)).subquery("by_day")
        parts.append(padded(_by_day(question.metric, asked, by_day), is_whole=False))
    return select(union_all(*parts).subquery("answer"))


def _start_of(unit: timedelta, moment: Any) -> ColumnElement[datetime]:
    return func.date_bin(unit, moment, EPOCH, type_=_TIMESTAMP)


def _hours(asked: Range) -> CTE:
    """Select the hours in which rows start that reach into the range, and whether all of them lie in it."""
    hour = session_hours.c
    whole = and_(hour.hour >= asked.start, hour.latest_ended_at < asked.end)
    return (
        select(hour.hour, hour.sessions, hour.bounces, hour.lasted_microseconds, whole.label("whole"))
        .where(
            *asked.of_site(session_hours),
            # A row is of one day.
            hour.hour >= floor(_DAY, asked.start),
            hour.hour < asked.end,
            hour.latest_ended_at >= asked.start,
        )
        .cte("hours")
    )


def _rows(asked: Range, hours: CTE, converting: str | None) -> CTE:
    """Select the rows that are not added up: of hours at the bounds, and those apart of all days."""
    row = session_days.c
    columns: list[ColumnElement[Any]] = [
        *(row.session, row.windowed, row.apart, row.started_at, row.ended_at, row.moments),
        or_(row.started_at < asked.start, row.ended_at >= asked.end).label("is_cut"),
    ]
    if converting is not None:
        columns.append(_converts(asked, converting).label("converts"))
    reaching = (*asked.of_site(session_days), row.ended_at >= asked.start, row.started_at < asked.end)
    in_hour = (
        select(*columns)
        .where(*reaching, ~row.apart, row.started_at >= hours.c.hour, row.started_at < hours.c.hour + _HOUR)
        .correlate(hours)
        # Each hour by the index.
        .offset(0)
        .lateral("in_hour")
    )
    of_hours = select(in_hour).select_from(hours.join(in_hour, true())).where(~hours.c.whole)
    apart = select(*columns).where(*reaching, row.apart, row.started_at >= floor(_DAY, asked.start))
    return union_all(of_hours, apart).cte("rows")


def _name_hash(name: str) -> str:
    return str(UUID(md5(name.encode(), usedforsecurity=False).hexdigest()))


def _converts(asked: Range, name: str) -> ColumnElement[bool]:
    """Tell whether a row has the name in the range; NULL where only its events can tell."""
    row = session_days.c
    place = func.array_position(row.names, cast(_name_hash(name), _UUID))
    first, last = row.name_firsts[place], row.name_lasts[place]
    return case(
        (place.is_(None), case((~row.names_cut, False))),
        (or_(asked.has(first), asked.has(last)), True),
        (or_(first >= asked.end, last < asked.start), False),
    )


def _pieces(asked: Range, rows: CTE, converting: str | None) -> CTE:
    """Select each row's part in the range: day, first, last, whether it is of one event, and converts."""
    clipped = clipped_rows(asked, rows)
    row = rows.c
    first = case((row.is_cut, clipped.c.first), else_=row.started_at)
    columns: list[ColumnElement[Any]] = [
        *(row.session, row.windowed, row.apart),
        _start_of(_DAY, row.started_at).label("day"),
        first.label("first"),
        case((row.is_cut, clipped.c.last), else_=row.ended_at).label("last"),
        (case((row.is_cut, clipped.c.size), else_=func.cardinality(row.moments)) == 1).label("single"),
    ]
    same = and_(row.is_cut, row.session == clipped.c.session, row.started_at == clipped.c.started_at)
    source: FromClause = rows.outerjoin(clipped, same)
    if converting is not None:
        found = converting_rows(asked, rows, converting)
        source = source.outerjoin(
            found,
            and_(
                row.converts.is_(None),
                row.session == found.c.session,
                row.started_at == found.c.started_at,
            ),
        )
        columns.append(func.coalesce(row.converts, found.c.session.is_not(None)).label("converts"))
    # A row that reaches over all of the range may have no event in it.
    return select(*columns).select_from(source).where(first.is_not(None)).cte("pieces")


def _joined(pieces: CTE) -> FromClause:
    """Select the sessions that pieces apart make up."""
    piece = pieces.c
    before = func.lag(piece.last).over(partition_by=piece.session, order_by=piece.first)
    begins = and_(piece.windowed, piece.first - before > WINDOW)
    told = select(pieces, begins.label("begins")).where(piece.apart).subquery("told")
    number = func.count().filter(told.c.begins).over(partition_by=told.c.session, order_by=told.c.first)
    numbered = select(told, number.label("number")).subquery("numbered")
    columns: list[ColumnElement[Any]] = [
        # Of no day.
        cast(null(), _TIMESTAMP).label("day"),
        func.min(numbered.c.first).label("first"),
        func.max(numbered.c.last).label("last"),
        and_(func.count() == 1, func.bool_and(numbered.c.single)).label("single"),
    ]
    if "converts" in numbered.c:
        columns.append(func.bool_or(numbered.c.converts).label("converts"))
    return select(*columns).group_by(numbered.c.session, numbered.c.number).subquery("joined")


def _counted(metric: int, each: FromClause) -> Select[Any]:
    """Select the day of each piece or session, and what it adds to the metric."""
    amount: ColumnElement[Any] = literal(0)
    if metric == STATS_METRIC_AVG_SESSION_DURATION:
        amount = func.extract("epoch", each.c.last - each.c.first)
    elif metric == STATS_METRIC_BOUNCE_RATE:
        amount = cast(each.c.single, Integer)
    elif metric == STATS_METRIC_CONVERSION_RATE:
        amount = cast(each.c.converts, Integer)
    return select(each.c.day, literal(1).label("sessions"), cast(amount, Numeric).label("amount"))


def _added_up(metric: int, asked: Range, hours: CTE, converting: str | None) -> CTE:
    """Select, as `_counted`, the sums of the hours that lie in the range."""
    hour = hours.c
    source: FromClause = hours
    amount: ColumnElement[Any] = literal(0)
    if metric == STATS_METRIC_AVG_SESSION_DURATION:
        amount = cast(hour.lasted_microseconds, Numeric) / 1_000_000
    elif metric == STATS_METRIC_BOUNCE_RATE:
        amount = hour.bounces
    elif converting is not None:
        named = session_hour_names.c
        of_hour = and_(
            *asked.of_site(session_hour_names),
            named.name == _name_hash(converting),
            named.hour == hour.hour,
        )
        source = hours.outerjoin(session_hour_names, of_hour)
        amount = func.coalesce(named.sessions, 0)
    columns = (_start_of(_DAY, hour.hour).label("day"), hour.sessions, cast(amount, Numeric).label("amount"))
    return select(*columns).select_from(source).where(hour.whole).cte("added_up")


def _value(metric: int, each: FromClause) -> ColumnElement[Any]:
    sessions, amount = func.sum(each.c.sessions), func.sum(each.c.amount)
    value: ColumnElement[Any] = sessions
    if metric != STATS_METRIC_UNIQUE_SESSIONS:
        scale = 1 if metric == STATS_METRIC_AVG_SESSION_DURATION else 100
        value = scale * amount / func.nullif(sessions, 0)
    return cast(func.coalesce(value, 0), Double).label("value")


def _by_day(metric: int, asked: Range, each: FromClause) -> Select[Any]:
    days = _days(asked)
    return (
        select(days.c.day.label("bucket"), _value(metric, each))
        .select_from(days.outerjoin(each, each.c.day == days.c.day))
        .group_by(days.c.day)
    )


def _days(asked: Range) -> FromClause:
    """Select the days on which there are events in the range, be they of no session."""
    first_day = floor(_DAY, asked.start)
    series = func.generate_series(first_day, asked.end - timedelta(microseconds=1), _DAY, type_=_TIMESTAMP)
    day = select(series.label("day")).subquery("day")
    first_hour, last_hour = ceil(_HOUR, asked.start), floor(_HOUR, asked.end)
    hour = event_hours.c.hour
    of_hours = exists().where(
        *asked.of_site(event_hours),
        hour >= func.greatest(day.c.day, first_hour),
        hour < func.least(day.c.day + _DAY, last_hour),
    )
    has_events: list[ColumnElement[bool]] = [of_hours]
    for start, end in (
        (asked.start, min(first_hour, asked.end)),
        (max(last_hour, first_hour), asked.end),
    ):
        if start < end:
            any_event = select(events.c.event_id).where(*asked.events(start, end)).exists()
            has_events.append(and_(day.c.day == floor(_DAY, start), any_event))
    return select(day.c.day).where(or_(*has_events)).subquery("days")
