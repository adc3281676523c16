"""How many events there were, from the hours that `rollup` counts.

Hides that whole hours are added up and the rest of a range is counted in `events`.
"""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from polylect.v1.query_pb2 import (
    STATS_GROUP_BY_COUNTRY,
    STATS_GROUP_BY_DEVICE_TYPE,
    STATS_METRIC_EVENT_COUNT_BY_TYPE,
    GetStatsRequest,
)
from sqlalchemy import ColumnElement, FromClause, Select, func, literal, select, union_all

from storage.event_facts import type_name
from storage.event_figures import BUCKETS, PLACES, Asked, answer, chosen, occurred_within
from storage.listing import has_text
from storage.rollup_schema import event_hours
from storage.schema import events

_HOUR = timedelta(hours=1)
# The columns that are `event_figures.PLACES` there.
_PLACES = {
    STATS_GROUP_BY_DEVICE_TYPE: event_hours.c.device_type,
    STATS_GROUP_BY_COUNTRY: event_hours.c.country,
}


def counts_from_rollups(asked: Asked) -> Select[Any] | None:
    """Select a number of events, by type or not, as columns of ANSWER.

    None for a range without a whole hour, which is as well counted otherwise.
    """
    first, last = _whole_hours(asked.occurred_from, asked.occurred_until)
    if first >= last:
        return None
    hours = event_hours.c
    whole = [
        hours.source_id == asked.source_id,
        hours.hour >= first,
        hours.hour < last,
        *(
            has_text(column, wanted)
            for column, wanted in (
                (hours.site_id, asked.site_id),
                (hours.country, asked.question.country),
                (hours.device_type, asked.question.device_type),
            )
            if wanted
        ),
    ]
    parts = [_sizes(event_hours, _groups(asked.question, whole=True), hours.events, whole)]
    for between in ((asked.occurred_from, first), (last, asked.occurred_until)):
        if between[0] < between[1]:
            conditions = occurred_within(asked.source_id, *between) + chosen(asked)
            parts.append(_sizes(events, _groups(asked.question, whole=False), literal(1), conditions))
    return answer(asked.question, select(union_all(*parts).subquery("parts")).cte("seen"))


def _whole_hours(occurred_from: datetime, occurred_until: datetime) -> tuple[datetime, datetime]:
    last = occurred_until.astimezone(UTC).replace(minute=0, second=0, microsecond=0)
    began = occurred_from.astimezone(UTC).replace(minute=0, second=0, microsecond=0)
    return began if began == occurred_from else began + _HOUR, last


def _groups(question: GetStatsRequest, *, whole: bool) -> list[ColumnElement[Any]]:
    groups: list[ColumnElement[Any]] = []
    if unit := BUCKETS.get(question.group_by):
        moment = event_hours.c.hour if whole else events.c.occurred_at
        groups.append(func.date_trunc(unit, moment, "UTC").label("bucket"))
    elif question.group_by in PLACES:
        place = _PLACES if whole else PLACES
        groups.append(func.coalesce(place[question.group_by], "").label("place"))
    if question.metric == STATS_METRIC_EVENT_COUNT_BY_TYPE:
        groups += (
            [event_hours.c.kind, event_hours.c.name] if whole else [events.c.kind, type_name().label("name")]
        )
    return groups


def _sizes(
    table: FromClause,
    groups: Sequence[ColumnElement[Any]],
    size: ColumnElement[Any],
    conditions: Sequence[ColumnElement[bool]],
) -> Select[Any]:
    each = select(*groups, size.label("size")).select_from(table).where(*conditions).subquery()
    columns = [column for column in each.c if column.name != "size"]
    return select(*columns, func.sum(each.c.size).label("size")).group_by(*columns)
