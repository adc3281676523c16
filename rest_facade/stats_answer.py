"""How a figure reads in PULSE: the `data` of GET /api/v1/stats, after seed 001 and spec/dialects.md.

Hides PULSE's own words for types of events, and which figures are whole numbers.
"""

from typing import Any

from polylect.v1.event_pb2 import EVENT_KIND_PAGE, EVENT_KIND_REVENUE, EVENT_KIND_TRACK, EventKind
from polylect.v1.query_pb2 import GetStatsResponse, StatsGroup

_BY_TYPE = "event_count_by_type"
_WHOLE_NUMBERS = {"event_count", "unique_users", "unique_sessions", _BY_TYPE}


def as_document(
    answer: GetStatsResponse, *, metric: str, period: str, site_id: str, group_by: str
) -> dict[str, Any]:
    """Give the answer's members; `breakdown` only where one was asked for. `group_by` "" is none.

    An entry of it has `hour` or `day` (its begin in milliseconds), `device_type` or `country` (null: not
    known), `event_type` with the metric of types, and `value`. What is beyond the core's limits is one more
    entry, null and with `"rest": true`.
    """
    is_whole = metric in _WHOLE_NUMBERS
    document: dict[str, Any] = {
        "metric": metric,
        "value": int(answer.value) if is_whole else answer.value,
        "period": period,
        "site_id": site_id,
    }
    if not group_by and metric != _BY_TYPE:
        return document
    # Two types may have one word: a track event and a payment, both called purchase.
    entries: dict[tuple[Any, ...], dict[str, Any]] = {}
    for group in answer.groups:
        entry = _place(group, group_by)
        if metric == _BY_TYPE:
            entry["event_type"] = _word(group)
        if group.rest or group.rest_of_types:
            entry["rest"] = True
        first = entries.setdefault(tuple(entry.items()), entry)
        first["value"] = first.get("value", 0) + (int(group.value) if is_whole else group.value)
    document["breakdown"] = list(entries.values())
    return document


def _place(group: StatsGroup, group_by: str) -> dict[str, Any]:
    if group_by in ("hour", "day"):
        return {group_by: group.start.ToMilliseconds()}
    if group_by in ("device_type", "country"):
        return {group_by: getattr(group, group_by) or None}
    return {}


def _word(group: StatsGroup) -> str | None:
    if group.rest_of_types:
        return None
    if group.kind == EVENT_KIND_PAGE:
        return "page_view"
    if group.kind in (EVENT_KIND_TRACK, EVENT_KIND_REVENUE):
        return group.name
    return EventKind.Name(group.kind).removeprefix("EVENT_KIND_").lower()
