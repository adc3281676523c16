"""Figures over events, and from which tables each is answered.

Hides when the tables that `storage.rollup` keeps can answer, which costs little however many events there
are; anything else, `event_figures` works out from the events. The figures are the same. What is answered from
rollups is so for one site, or a source that has just one: sessions and people can be on several.
"""

from datetime import UTC, date, datetime, time
from typing import Any

from polylect.v1.query_pb2 import (
    STATS_GROUP_BY_DAY,
    STATS_GROUP_BY_UNSPECIFIED,
    STATS_METRIC_EVENT_COUNT,
    STATS_METRIC_EVENT_COUNT_BY_TYPE,
    STATS_METRIC_UNIQUE_USERS,
    GetStatsRequest,
    GetStatsResponse,
)
from sqlalchemy import Select, text

from storage.database import Database, Rows
from storage.event_figures import Asked, figures_from_events
from storage.rollup_event_figures import counts_from_rollups
from storage.rollup_session_figures import sessions_from_rollups
from storage.rollup_user_figures import users_from_rollups
from storage.stats_answer import response_of
from storage.values import uuid_text

# A fold that is so far behind may take long: a new version fills the tables from all events.
_STATE = text("""
SELECT (SELECT enqueued_at < clock_timestamp() - interval '10 seconds'
        FROM rollup_queue ORDER BY rollup_id LIMIT 1) AS behind,
    (SELECT day FROM rollup_horizon) AS horizon,
    first.site_id,
    EXISTS (SELECT FROM event_hours
            WHERE source_id = cast(:source_id AS uuid) AND site_id > first.site_id) AS more_sites
FROM (SELECT min(site_id) AS site_id FROM event_hours WHERE source_id = cast(:source_id AS uuid)) AS first
""")
_COUNTS = (STATS_METRIC_EVENT_COUNT, STATS_METRIC_EVENT_COUNT_BY_TYPE)
_ROLLED_GROUPINGS = (STATS_GROUP_BY_UNSPECIFIED, STATS_GROUP_BY_DAY)


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
        asked = Asked(canonical, site_id, occurred_from, occurred_until, question)
        async with self._database.snapshot() as rows:
            statement = await _from_rollups(asked, rows)
            if statement is None:
                statement = figures_from_events(asked)
            return response_of(question, await rows(statement))


async def _from_rollups(asked: Asked, rows: Rows) -> Select[Any] | None:
    question = asked.question
    is_count = question.metric in _COUNTS
    is_plain = question.group_by in _ROLLED_GROUPINGS and not (question.country or question.device_type)
    if not is_count and not is_plain:
        return None
    [state] = await rows(_STATE.bindparams(source_id=asked.source_id))
    complete_from = datetime.combine(state["horizon"] or date.min, time(), UTC)
    if state["behind"] or asked.occurred_from < complete_from:
        return None
    if is_count:
        return counts_from_rollups(asked)
    if not asked.site_id and state["more_sites"]:
        return None
    of_site = (question, asked.source_id, asked.site_id or state["site_id"] or "", *asked[2:4])
    is_users = question.metric == STATS_METRIC_UNIQUE_USERS
    return users_from_rollups(*of_site) if is_users else sessions_from_rollups(*of_site)
