"""Figures over sessions from the rollups equal plain SQL over `events`, however these came and were folded."""

import asyncio
import random
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, time, timedelta
from typing import Any

import psycopg
import pytest
from polylect.v1.event_pb2 import EVENT_KIND_PAGE, EVENT_KIND_TRACK, Event, Provenance
from polylect.v1.query_pb2 import (
    STATS_GROUP_BY_DAY,
    STATS_GROUP_BY_UNSPECIFIED,
    STATS_METRIC_AVG_SESSION_DURATION,
    STATS_METRIC_BOUNCE_RATE,
    STATS_METRIC_CONVERSION_RATE,
    STATS_METRIC_UNIQUE_SESSIONS,
    GetStatsRequest,
    GetStatsResponse,
    StatsMetric,
)
from stats_oracle import Asked, expected, in_batches, random_events, read_all
from worker_factory import NOW, SOURCE, Clock, enqueue, make_event, select

from storage.database import Database
from storage.rollup import Rollup
from storage.rollup_session_figures import session_figures
from storage.stats_answer import response_of
from storage.stats_figures import SESSION_METRICS
from storage.values import timestamp_of
from storage.worker import Worker, WorkerOptions

MICROSECOND, MINUTE, HOUR, DAY = (
    timedelta(microseconds=1),
    timedelta(minutes=1),
    timedelta(hours=1),
    timedelta(days=1),
)
MIDNIGHT = datetime.combine(NOW, time(), UTC)
Figure = Callable[[Asked], GetStatsResponse]


@pytest.fixture
def connection(database_url: str) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("SET TimeZone = 'UTC'")
        yield connection


@pytest.fixture
def worker(database_url: str) -> Iterator[Worker]:
    worker = Worker(WorkerOptions(database_url, claim_items=1000), Clock())
    yield worker
    worker.close()


@pytest.fixture
def rollup(database_url: str) -> Iterator[Rollup]:
    def connect() -> psycopg.Connection[Any]:
        connection = psycopg.connect(database_url, autocommit=True)
        connection.execute("SET TimeZone = 'UTC'")
        return connection

    rollup = Rollup(connect)
    yield rollup
    rollup.close()


@pytest.fixture
def figure(database_url: str) -> Iterator[Figure]:
    """Ask the rollups alone."""
    database = Database(database_url)
    with asyncio.Runner() as runner:

        def figure(asked: Asked) -> GetStatsResponse:
            source_id, site_id, start, end, question = asked
            statement = session_figures(question, source_id, site_id, start, end)
            return response_of(question, runner.run(database.rows(statement)))

        yield figure
        runner.run(database.aclose())


Fold = Callable[..., None]


@pytest.fixture
def fold(connection: psycopg.Connection[Any], worker: Worker, rollup: Rollup) -> Fold:
    """Store the events and fold them, each batch by itself."""

    def fold(*batches: list[Event]) -> None:
        for batch in batches:
            enqueue(connection, *batch)
            worker.settle_all()
            rollup.fold_all()

    return fold


def ask(
    metric: int, start: datetime, end: datetime, *, site_id: str = "", by_day: bool = False, **fields: Any
) -> Asked:
    group_by = STATS_GROUP_BY_DAY if by_day else STATS_GROUP_BY_UNSPECIFIED
    values: dict[str, Any] = {"conversion_event": "purchase", **fields}
    return Asked(SOURCE, site_id, start, end, GetStatsRequest(metric=metric, group_by=group_by, **values))


def assert_same(found: GetStatsResponse, wanted: GetStatsResponse, asked: Asked) -> None:
    """Compare values as exactly as averages can be."""
    assert found.value == pytest.approx(wanted.value, rel=1e-12), asked
    days = [{group.start.ToDatetime(): group.value for group in answer.groups} for answer in (found, wanted)]
    assert days[0] == pytest.approx(days[1], rel=1e-12), asked


def random_bound(chance: random.Random, moments: list[datetime]) -> datetime:
    """Give an event's moment, or one beside it, a midnight, an hour, or anything."""
    moment = chance.choice(moments)
    return chance.choice(
        (
            moment,
            moment + chance.choice((-1, 1)) * MICROSECOND,
            MIDNIGHT + chance.randrange(-3, 4) * DAY,
            MIDNIGHT + chance.randrange(-60, 80) * HOUR,
            moment + timedelta(seconds=chance.randrange(-4000, 4000)),
        )
    )


def random_questions(chance: random.Random, moments: list[datetime], count: int) -> Iterator[Asked]:
    for number in range(count):
        start = random_bound(chance, moments)
        end = random_bound(chance, moments) if number % 3 else start + chance.randrange(1, 90) * MINUTE
        if start == end:
            end += MICROSECOND
        for metric in sorted(SESSION_METRICS):
            yield ask(
                metric,
                *sorted((start, end)),
                site_id=chance.choice("ab"),
                by_day=chance.random() < 0.5,
                conversion_event=chance.choice(("purchase", "click", "page_view", "refund")),
            )


@pytest.mark.parametrize("seed", range(3))
def test_every_figure_is_what_plain_sql_gives(
    connection: psycopg.Connection[Any], fold: Fold, figure: Figure, seed: int
) -> None:
    chance = random.Random(seed)
    drawn = random_events(chance, SOURCE, 600)
    fold(*in_batches(chance, drawn))
    moments = [event.occurred_at.ToDatetime(UTC) for event in drawn]
    read_all(connection, SOURCE)
    not_nothing = 0
    for asked in random_questions(chance, moments, 60):
        found = figure(asked)
        assert_same(found, expected(connection, asked), asked)
        not_nothing += found.value > 0
    assert not_nothing > 100
