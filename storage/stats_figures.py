"""What is computed of the events that were asked for: the value of a metric, as a whole or by groups.

Hides the aggregation and how the number of groups stays small. It must not know how events are read.
"""

from collections.abc import Sequence
from typing import Any

from polylect.v1.query_pb2 import (
    STATS_METRIC_AVG_SESSION_DURATION,
    STATS_METRIC_BOUNCE_RATE,
    STATS_METRIC_CONVERSION_RATE,
    STATS_METRIC_UNIQUE_SESSIONS,
    STATS_METRIC_UNIQUE_USERS,
)
from sqlalchemy import (
    CTE,
    ColumnElement,
    Double,
    FromClause,
    Integer,
    Select,
    and_,
    case,
    cast,
    func,
    literal,
    null,
    or_,
    select,
)

from storage.stats_answer import ANSWER

LISTED_PLACES = 500
LISTED_TYPES = 1_000
LISTED_TYPES_WHEN_GROUPED = 50

SESSION_METRICS = frozenset(
    {
        STATS_METRIC_UNIQUE_SESSIONS,
        STATS_METRIC_AVG_SESSION_DURATION,
        STATS_METRIC_BOUNCE_RATE,
        STATS_METRIC_CONVERSION_RATE,
    }
)


def with_rest_of_places(seen: CTE) -> CTE:
    """Give `seen` with a `rest`, true where the place is none of those with most events."""
    most = select(seen.c.place).group_by(seen.c.place).order_by(_size(seen).desc(), seen.c.place)
    listed = most.limit(LISTED_PLACES).subquery("listed")
    is_rest = listed.c.place.is_(None)
    others = [column for column in seen.c if column.name != "place"]
    return (
        select(*others, func.coalesce(listed.c.place, "").label("place"), is_rest.label("rest"))
        .select_from(seen.outerjoin(listed, seen.c.place == listed.c.place))
        .cte("placed")
    )


def figures(metric: int, seen: FromClause, groups: Sequence[str], *, by_type: bool = False) -> Select[Any]:
    """Select the metric's value for each combination of `groups`; without any, of all."""
    if by_type:
        return _type_figures(seen, groups)
    if metric == STATS_METRIC_UNIQUE_USERS:
        return _user_figures(seen, groups)
    if metric in SESSION_METRICS:
        return _session_figures(metric, seen, groups)
    return _grouped(seen, groups, _size(seen))


def _size(seen: FromClause) -> ColumnElement[Any]:
    """Count the events: a row is one, unless it tells how many."""
    return func.sum(seen.c.size) if "size" in seen.c else func.count()


def _grouped(each: FromClause, groups: Sequence[str], value: ColumnElement[Any]) -> Select[Any]:
    columns = [each.c[name] for name in groups]
    whole = select(*columns, cast(func.coalesce(value, 0), Double).label("value")).select_from(each)
    return whole.group_by(*columns) if columns else whole


def _user_figures(seen: FromClause, groups: Sequence[str]) -> Select[Any]:
    # A user_id and an anonymous_id are two people, though they read the same.
    person = [seen.c.user_id, case((seen.c.user_id.is_(None), seen.c.visitor)).label("visitor")]
    columns = [seen.c[name] for name in groups]
    each = select(*columns, *person).group_by(*columns, *person).subquery("each")
    return _grouped(each, groups, func.count(func.coalesce(each.c.user_id, each.c.visitor)))


def _session_figures(metric: int, seen: FromClause, groups: Sequence[str]) -> Select[Any]:
    columns = [seen.c[name] for name in (*groups, "windowed", "client_given", "number")]
    facts: list[ColumnElement[Any]] = [
        (func.max(seen.c.occurred_at) - func.min(seen.c.occurred_at)).label("lasted"),
        func.count().label("size"),
    ]
    if "converts" in seen.c:
        facts.append(func.bool_or(seen.c.converts).label("converts"))
    each = select(*columns, *facts).group_by(*columns).subquery("each")
    is_session = or_(each.c.windowed.is_not(None), each.c.client_given.is_not(None))
    value: ColumnElement[Any]
    if metric == STATS_METRIC_AVG_SESSION_DURATION:
        value = func.avg(func.extract("epoch", each.c.lasted)).filter(is_session)
    elif metric == STATS_METRIC_BOUNCE_RATE:
        value = 100 * func.avg(cast(each.c.size == 1, Integer)).filter(is_session)
    elif metric == STATS_METRIC_CONVERSION_RATE:
        value = 100 * func.avg(cast(each.c.converts, Integer)).filter(is_session)
    else:
        value = func.count().filter(is_session)
    return _grouped(each, groups, value)


def _type_figures(seen: FromClause, groups: Sequence[str]) -> Select[Any]:
    """Select the count of each type with most events, and of all others together."""
    columns = [seen.c[name] for name in groups]
    type_ = (seen.c.kind, seen.c.name)
    each = select(*columns, *type_, _size(seen).label("size")).group_by(*columns, *type_).cte("each")
    listed = (
        select(each.c.kind, each.c.name)
        .group_by(each.c.kind, each.c.name)
        .order_by(func.sum(each.c.size).desc(), each.c.kind, each.c.name)
        .limit(LISTED_TYPES_WHEN_GROUPED if groups else LISTED_TYPES)
        .subquery("listed")
    )
    is_listed = and_(each.c.kind == listed.c.kind, each.c.name == listed.c.name)
    ranked = (
        select(
            *(each.c[name] for name in groups),
            listed.c.kind,
            listed.c.name,
            listed.c.kind.is_(None).label("rest_of_types"),
            each.c.size,
        )
        .select_from(each.outerjoin(listed, is_listed))
        .subquery("ranked")
    )
    return _grouped(ranked, (*groups, "kind", "name", "rest_of_types"), func.sum(ranked.c.size))


def padded(part: Select[Any], *, is_whole: bool) -> Select[Any]:
    """Select the columns of the answer of any part."""
    each = part.add_columns(literal(is_whole).label("is_whole")).subquery()
    return select(
        *(
            each.c[name] if name in each.c else cast(null(), column_type).label(name)
            for name, column_type in ANSWER.items()
        )
    )
