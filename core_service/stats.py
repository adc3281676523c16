"""What may be asked of statistics: metric, grouping, range and conversion event, checked and completed.

Hides the limits that keep an answer and its making small. It must not know who asks.
"""

from datetime import datetime, timedelta

from polylect.v1 import error_reason_pb2 as reasons
from polylect.v1.query_pb2 import (
    STATS_GROUP_BY_DAY,
    STATS_GROUP_BY_HOUR,
    STATS_METRIC_UNSPECIFIED,
    GetStatsRequest,
    StatsGroupBy,
    StatsMetric,
)

from core_service.errors import CoreError, missing
from core_service.moments import EPOCH, moment_of

_DEFAULT_CONVERSION_EVENT = "purchase"
_MOST_BUCKETS = 800
_BUCKETS = {
    STATS_GROUP_BY_HOUR: ("hour", timedelta(hours=1)),
    STATS_GROUP_BY_DAY: ("day", timedelta(days=1)),
}


def checked_question(request: GetStatsRequest) -> tuple[GetStatsRequest, tuple[datetime, datetime]]:
    """Give the question with its defaults filled in, and its range. Raises CoreError."""
    if request.metric == STATS_METRIC_UNSPECIFIED or request.metric not in StatsMetric.values():
        raise CoreError(reasons.ERROR_REASON_METRIC_UNKNOWN, "There is no such metric", field="metric")
    if request.group_by not in StatsGroupBy.values():
        raise _invalid("group_by", "There is no such grouping")
    occurred_from, occurred_until = _range_of(request)
    if bucket := _BUCKETS.get(request.group_by):
        name, length = bucket
        touched = -((EPOCH - occurred_until) // length) - (occurred_from - EPOCH) // length
        if touched > _MOST_BUCKETS:
            message = f"The range touches {touched:,} {name}s; at most {_MOST_BUCKETS} can be told apart"
            raise _invalid("group_by", message)
    question = GetStatsRequest()
    question.CopyFrom(request)
    question.conversion_event = request.conversion_event or _DEFAULT_CONVERSION_EVENT
    return question, (occurred_from, occurred_until)


def _range_of(request: GetStatsRequest) -> tuple[datetime, datetime]:
    for field in ("occurred_from", "occurred_until"):
        if not request.HasField(field):
            raise missing(field)
    occurred_from, occurred_until = moment_of(request.occurred_from), moment_of(request.occurred_until)
    if occurred_until <= occurred_from:
        raise _invalid("occurred_until", "The range ends before it begins")
    return occurred_from, occurred_until


def _invalid(field: str, message: str) -> CoreError:
    return CoreError(reasons.ERROR_REASON_FIELD_INVALID, message, field=field)
