"""Figures over events: counts, users, sessions, as a whole and broken down.

Hides the statements. Every figure is one over the events asked for (source, range of occurrence, site,
country, device type), each as it is read: with the user `storage.identity` says, in the session
`storage.sessions` says. Its definition is the metric's comment in query.proto. Which session an event is in
follows from all events of its source; how long a session is, from the events asked for alone.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from polylect.v1.query_pb2 import (
    STATS_GROUP_BY_COUNTRY,
    STATS_GROUP_BY_DAY,
    STATS_GROUP_BY_DEVICE_TYPE,
    STATS_GROUP_BY_HOUR,
    STATS_METRIC_CONVERSION_RATE,
    STATS_METRIC_EVENT_COUNT_BY_TYPE,
    STATS_METRIC_UNIQUE_USERS,
    GetStatsRequest,
    GetStatsResponse,
)
from sqlalchemy import (
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

from storage.database import Database
from storage.event_facts import CLOCK_TOLERANCE, is_conversion, type_name, user_id, visitor
from storage.listing import has_text
from storage.schema import events
from storage.sessions import WINDOW, windowed_session
from storage.stats_answer import response_of
from storage.stats_figures import SESSION_METRICS, figures, padded, with_rest_of_places
from storage.values import uuid_text

_BUCKETS = {STATS_GROUP_BY_HOUR: "hour", STATS_GROUP_BY_DAY: "day"}
_PLACES = {STATS_GROUP_BY_DEVICE_TYPE: events.c.device_type, STATS_GROUP_BY_COUNTRY: events.c.geo_country}

_Columns = list[ColumnElement[Any]]
_Conditions = Sequence[ColumnElement[bool]]


class PostgresStats:
    """Figures from the tables the worker writes."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def figure(
        self,
        source_id: str,
        site_id: str,
        occurred_from: datetime,
        occurred_until: datetime,
        question: GetStatsRequest,
    ) -> GetStatsResponse:
        """Answer `question`, whose source, site and range are given apart; site "" means all.

        Raises StorageUnavailable.
        """
        if (canonical := uuid_text(source_id)) is None:
            return GetStatsResponse()
        in_range = [
            events.c.source_id == canonical,
            events.c.occurred_at >= occurred_from,
            events.c.occurred_at < occurred_until,
            # Leaves out the days before.
            events.c.received_at >= occurred_from - CLOCK_TOLERANCE,
        ]
        asked_for = [
            has_text(column, wanted)
            for column, wanted in (
                (events.c.provenance_site_id, site_id),
                (events.c.geo_country, question.country),
                (events.c.device_type, question.device_type),
            )
            if wanted
        ]
        rows = await self._database.rows(_statement(question, in_range, asked_for))
        return response_of(question, rows)


def _statement(
    question: GetStatsRequest,
    in_range: Sequence[ColumnElement[bool]],
    asked_for: Sequence[ColumnElement[bool]],
) -> Select[Any]:
    """Select the whole figure and its groups at once, so that both are of one moment."""
    facts = _grouping(question) + _facts(question)
    if question.metric in SESSION_METRICS:
        seen = _in_sessions(facts, in_range, asked_for).cte("seen")
    else:
        seen = select(*facts).where(*in_range, *asked_for).cte("seen")
    if question.group_by in _PLACES:
        seen = with_rest_of_places(seen)
    groups = [name for name in ("bucket", "place", "rest") if name in seen.c]
    by_type = question.metric == STATS_METRIC_EVENT_COUNT_BY_TYPE
    parts = [padded(figures(question.metric, seen, ()), is_whole=True)]
    if groups or by_type:
        parts.append(padded(figures(question.metric, seen, groups, by_type=by_type), is_whole=False))
    return select(union_all(*parts).subquery("answer"))


def _grouping(question: GetStatsRequest) -> _Columns:
    if unit := _BUCKETS.get(question.group_by):
        return [func.date_trunc(unit, events.c.occurred_at, "UTC").label("bucket")]
    if (place := _PLACES.get(question.group_by)) is not None:
        return [func.coalesce(place, "").label("place")]
    return []


def _facts(question: GetStatsRequest) -> _Columns:
    """Select what the metric needs of each event."""
    if question.metric == STATS_METRIC_UNIQUE_USERS:
        return [user_id().label("user_id"), visitor().label("visitor")]
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
