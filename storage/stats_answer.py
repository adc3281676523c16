"""How the rows of a figure become the answer: which is the whole, and in what order the groups stand."""

from collections.abc import Sequence
from typing import Any

from polylect.v1.query_pb2 import (
    STATS_GROUP_BY_COUNTRY,
    STATS_GROUP_BY_DEVICE_TYPE,
    GetStatsRequest,
    GetStatsResponse,
    StatsGroup,
)
from sqlalchemy import Boolean, Double

from storage.rows import kind_of
from storage.schema import events
from storage.values import EPOCH, timestamp_of

ANSWER = {
    "is_whole": Boolean(),
    "bucket": events.c.occurred_at.type,
    "place": events.c.device_type.type,
    "rest": Boolean(),
    "kind": events.c.kind.type,
    "name": events.c.name.type,
    "rest_of_types": Boolean(),
    "value": Double(),
}
"""The columns of these rows. NULL where there is no such grouping."""


def response_of(question: GetStatsRequest, rows: Sequence[dict[str, Any]]) -> GetStatsResponse:
    """Give the answer that `rows` hold."""
    whole = sum(row["value"] for row in rows if row["is_whole"])
    parts = [row for row in rows if not row["is_whole"]]
    # Of a place in several parts (by type too), all of it decides where it stands.
    places: dict[tuple[bool, str], float] = {}
    for row in parts:
        place = (bool(row["rest"]), row["place"] or "")
        places[place] = places.get(place, 0) + row["value"]

    def order(row: dict[str, Any]) -> tuple[Any, ...]:
        rest, place = bool(row["rest"]), row["place"] or ""
        return (
            row["bucket"] or EPOCH,
            rest,
            -places[rest, place],
            place,
            bool(row["rest_of_types"]),
            -row["value"],
            row["kind"] or "",
            row["name"] or "",
        )

    groups = [_group(question, row) for row in sorted(parts, key=order)]
    return GetStatsResponse(value=whole, groups=groups)


def _group(question: GetStatsRequest, row: dict[str, Any]) -> StatsGroup:
    group = StatsGroup(
        value=row["value"],
        rest=bool(row["rest"]),
        rest_of_types=bool(row["rest_of_types"]),
        name=row["name"] or "",
    )
    if row["bucket"] is not None:
        group.start.CopyFrom(timestamp_of(row["bucket"]))
    if question.group_by == STATS_GROUP_BY_DEVICE_TYPE:
        group.device_type = row["place"]
    elif question.group_by == STATS_GROUP_BY_COUNTRY:
        group.country = row["place"]
    if row["kind"] is not None:
        group.kind = kind_of(row["kind"])
    return group
