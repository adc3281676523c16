"""Figures worked out from the events themselves: counts, users, sessions, as a whole and broken down.

Whatever is asked can be answered so, at a cost that grows with the events in the range; what is asked often,
`stats` has answered otherwise, and to the same result. Every figure is one over the events asked for (source,
range of occurrence, site, country, device type), each as it is read: with the user `storage.identity` says,
in the session `storage.sessions` says. Its definition is the metric's comment in query.proto. Which session
an event is in follows from all events of its source; how long a session is, from the events asked for alone.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from polylect.v1.query_pb2 import (
    STATS_GROUP_BY_COUNTRY,
    STATS_GROUP_BY_DAY,
    STATS_GROUP_BY_DEVICE_TYPE,
    STATS_GROUP_BY_HOUR,
    STATS_METRIC_CONVERSION_RATE,
    STATS_METRIC_EVENT_COUNT_BY_TYPE,
    STATS_METRIC_UNIQUE_USERS,
    GetStatsRequest,
)
from sqlalchemy import (
    CTE,
    ColumnElement,
    Interval,
    Select,
    and_,
    case,
    cast,
    func,
    literal,
    select,
    union_all,
)

from storage.event_facts import is_conversion, type_name, user_id, visitor
from storage.listing import has_text
from storage.schema import events
from storage.sessions import WINDOW, windowed_session
from storage.stats_figures import SESSION_METRICS, figures, padded, with_rest_of_places

# No event is received earlier than this before it occurred: the core refuses what lies further ahead.
_CLOCK_TOLERANCE = timedelta(hours=24)

BUCKETS = {STATS_GROUP_BY_HOUR: "hour", STATS_GROUP_BY_DAY: "day"}
"""Units of time to group by, as Postgres calls them."""
PLACES = {STATS_GROUP_BY_DEVICE_TYPE: events.c.device_type, STATS_GROUP_BY_COUNTRY: events.c.geo_country}
"""Columns of an event to group by."""

_Columns = list[ColumnElement[Any]]
_Conditions = Sequence[ColumnElement[bool]]


class Asked(NamedTuple):
    """A question, whose source, site and range are given apart; site "" means all."""

    source_id: str
    site_id: str
    occurred_from: datetime
    occurred_until: datetime
    question: GetStatsRequest


def occurred_within(
    source_id: str, occurred_from: datetime, occurred_until: datetime
) -> list[ColumnElement[bool]]:
    """Give the conditions on `events` that choose those of a source and a range."""
    return [
        events.c.source_id == source_id,
        events.c.occurred_at >= occurred_from,
        events.c.occurred_at < occurred_until,
        # Leaves out the days before.
        events.c.received_at >= occurred_from - _CLOCK_TOLERANCE,
    ]


def chosen(asked: Asked) -> list[ColumnElement[bool]]:
    """Give the conditions on `events` for what else was asked for."""
    return [
        has_text(column, wanted)
        for column, wanted in (
            (events.c.provenance_site_id, asked.site_id),
            (events.c.geo_country, asked.question.country),
            (events.c.device_type, asked.question.device_type),
        )
        if wanted
    ]


def figures_from_events(asked: Asked) -> Select[Any]:
    """Select any figure from the events themselves, as columns of ANSWER."""
    question = asked.question
    in_range = occurred_within(asked.source_id, asked.occurred_from, asked.occurred_until)
    facts = _grouping(question) + _facts(question)
    if question.metric in SESSION_METRICS:
        seen = _in_sessions(facts, in_range, chosen(asked)).cte("seen")
    else:
        seen = select(*facts).where(*in_range, *chosen(asked)).cte("seen")
    return answer(question, seen)


def answer(question: GetStatsRequest, seen: CTE) -> Select[Any]:
    """Select the whole figure over `seen` and its groups at once, so that both are of one moment."""
    if question.group_by in PLACES:
        seen = with_rest_of_places(seen)
    groups = [name for name in ("bucket", "place", "rest") if name in seen.c]
    by_type = question.metric == STATS_METRIC_EVENT_COUNT_BY_TYPE
    parts = [padded(figures(question.metric, seen, ()), is_whole=True)]
    if groups or by_type:
        parts.append(padded(figures(question.metric, seen, groups, by_type=by_type), is_whole=False))
    return select(union_all(*parts).subquery("answer"))


def _grouping(question: GetStatsRequest) -> _Columns:
    if unit := BUCKETS.get(question.group_by):
        return [func.date_trunc(unit, events.c.occurred_at, "UTC").label("bucket")]
    if (place := PLACES.get(question.group_by)) is not None:
        return [func.coalesce(place, "").label("place")]
    return []


def _facts(question: GetStatsRequest) -> _Columns:
    """Select what the metric needs of each event."""
    if question.metric == STATS_METRIC_UNIQUE_USERS:
        return [user_id(of_many=True).label("user_id"), visitor().label("visitor")]
    if question.metric == STATS_METRIC_EVENT_COUNT_BY_TYPE:
        return [events.c.kind, type_name().label("name")]
    if question.metric == STATS_METRIC_CONVERSION_RATE:
        return [is_conversion(question.conversion_event).label("converts")]
    return []


def _in_sessions(facts: _Columns, in_range: _Conditions, asked_for: _Conditions) -> Select[Any]:
    """Select `facts` with the session (scope, number) of each event asked for.

    A range has no gaps, so pauses are seen within it; what else was asked for is chosen after that, for an
    event left out still joins two others.
    """
    windowed = windowed_session()
    client_given = case((windowed.is_(None), events.c.session_id))
    chosen = and_(*asked_for) if asked_for else literal(True)
    raw = (
        select(
            *facts,
            events.c.occurred_at,
            windowed.label("windowed"),
            client_given.label("client_given"),
            chosen.label("chosen"),
        )
        .where(*in_range)
        .subquery("raw")
    )
    before = func.lag(raw.c.occurred_at).over(partition_by=raw.c.windowed, order_by=raw.c.occurred_at)
    follows = case((raw.c.occurred_at - before > cast(literal(WINDOW), Interval), 1), else_=0)
    told = select(raw, follows.label("begins")).subquery("told")
    number = func.sum(told.c.begins).over(partition_by=told.c.windowed, order_by=told.c.occurred_at)
    numbered = select(told, case((told.c.windowed.is_not(None), number), else_=0).label("number")).subquery(
        "numbered"
    )
    return select(numbered).where(numbered.c.chosen)
