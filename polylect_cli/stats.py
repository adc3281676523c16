"""`polylect stats`: how many events, users and sessions.

Hides how a figure is written: to people with a thousands' comma and two decimals, to programs as it is.
"""

from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

import typer
from polylect.v1.event_pb2 import EventKind
from polylect.v1.query_pb2 import (
    STATS_METRIC_EVENT_COUNT_BY_TYPE,
    GetStatsRequest,
    GetStatsResponse,
    StatsGroup,
    StatsGroupBy,
    StatsMetric,
)

from polylect_cli.calling import connected, time_text
from polylect_cli.output import EXIT_USAGE, CommandError, print_json, print_line, print_table
from polylect_cli.sources import JsonOption, SourceArgument
from polylect_cli.times import parse_duration, parse_moment

_METRICS = {
    name.removeprefix("STATS_METRIC_").lower(): number for name, number in StatsMetric.items() if number
}
_GROUPINGS = {
    name.removeprefix("STATS_GROUP_BY_").lower(): number for name, number in StatsGroupBy.items() if number
}
_UNITS = {"avg_session_duration": " s", "bounce_rate": " %", "conversion_rate": " %"}
_REST = "(all others)"


def stats(
    source: SourceArgument,
    metric: Annotated[str, typer.Option(metavar="|".join(_METRICS), help="What to count.")] = "event_count",
    period: Annotated[
        str, typer.Option(help="How far back, by the events' own time: a number and s, m, h or d.")
    ] = "24h",
    until: Annotated[
        str,
        typer.Option(metavar="TIME|AGE", help="End of the period: 2026-05-01T12:00Z, 7d. Default: now."),
    ] = "",
    group_by: Annotated[str, typer.Option(metavar="|".join(_GROUPINGS), help="Break it down.")] = "",
    site: Annotated[str, typer.Option(help="This site only.")] = "",
    country: Annotated[str, typer.Option(help="This country only, as in DE.")] = "",
    device_type: Annotated[str, typer.Option(help="This device type only, as in mobile.")] = "",
    conversion_event: Annotated[
        str, typer.Option(help="With conversion_rate: the event that converts.")
    ] = "purchase",
    as_json: JsonOption = False,
) -> None:
    """Count a source's events, users or sessions."""
    ends = parse_moment("--until", until) if until else datetime.now(UTC) + timedelta(milliseconds=1)
    try:
        begins = ends - timedelta(seconds=parse_duration("--period", period))
    except OverflowError:
        begins = datetime.min.replace(tzinfo=UTC)
    request = GetStatsRequest(
        source=source,
        site_id=site,
        metric=_one_of("--metric", metric, _METRICS),
        group_by=_one_of("--group-by", group_by, {**_GROUPINGS, "": 0}),
        country=country,
        device_type=device_type,
        conversion_event=conversion_event,
    )
    request.occurred_from.FromDatetime(begins)
    request.occurred_until.FromDatetime(ends)
    with connected() as core:
        answer = core.call(core.queries.GetStats, request)
    if as_json:
        print_json(_document(request, answer, metric, group_by))
        return
    print_line(f"{metric}: {_number(answer.value, metric)}")
    if answer.groups:
        columns = [*([group_by] if group_by else []), *(["type"] if _is_by_type(request) else []), metric]
        rows = [
            (*(str(one) for one in _names(request, group)), _number(group.value, metric))
            for group in answer.groups
        ]
        print_table(columns, rows)


def _one_of(option: str, word: str, words: dict[str, Any]) -> Any:
    if word not in words:
        choice = ", ".join(filter(None, words))
        raise CommandError(f"{option} {word}: there is none such; give one of {choice}", EXIT_USAGE)
    return words[word]


def _is_by_type(request: GetStatsRequest) -> bool:
    return request.metric == STATS_METRIC_EVENT_COUNT_BY_TYPE


def _number(value: float, metric: str) -> str:
    unit = _UNITS.get(metric)
    return f"{value:,.2f}{unit}" if unit else f"{value:,.0f}"


def _names(request: GetStatsRequest, group: StatsGroup) -> list[str]:
    names = []
    if group.HasField("start"):
        names.append(time_text(group.start))
    elif request.group_by:
        names.append(_REST if group.rest else group.device_type or group.country or "(not known)")
    if _is_by_type(request):
        kind = _kind(group)
        names.append(_REST if group.rest_of_types else " ".join(filter(None, (kind, group.name))))
    return names


def _kind(group: StatsGroup) -> str:
    return EventKind.Name(group.kind).removeprefix("EVENT_KIND_").lower()


def _document(
    request: GetStatsRequest, answer: GetStatsResponse, metric: str, group_by: str
) -> dict[str, Any]:
    document: dict[str, Any] = {
        "metric": metric,
        "from": time_text(request.occurred_from),
        "until": time_text(request.occurred_until),
        "value": _exact(answer.value, metric),
    }
    if group_by or _is_by_type(request):
        document["groups"] = [_entry(request, group, metric, group_by) for group in answer.groups]
    return document


def _entry(request: GetStatsRequest, group: StatsGroup, metric: str, group_by: str) -> dict[str, Any]:
    entry: dict[str, Any] = {}
    if group_by:
        place = group.device_type or group.country or None
        entry[group_by] = time_text(group.start) if group.HasField("start") else place
    if _is_by_type(request):
        entry["kind"] = None if group.rest_of_types else _kind(group)
        entry["name"] = group.name or None
    if group.rest or group.rest_of_types:
        entry["rest"] = True
    entry["value"] = _exact(group.value, metric)
    return entry


def _exact(value: float, metric: str) -> float:
    return value if metric in _UNITS else int(value)
