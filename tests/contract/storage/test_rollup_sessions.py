"""Figures over sessions from the rollups are those of plain SQL over `events`, however these were folded."""

import asyncio
import random
from collections.abc import Callable, Iterator, Sequence
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
)
from stats_oracle import Asked, expected, in_batches, random_events, read_all
from worker_factory import NOW, OTHER_SOURCE, SOURCE, Clock, enqueue, make_event

from storage.database import Database
from storage.rollup import Rollup
from storage.rollup_session_figures import sessions_from_rollups
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
            statement = sessions_from_rollups(question, source_id, site_id, start, end)
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


def random_questions(
    chance: random.Random, moments: list[datetime], sites: list[str], count: int
) -> Iterator[Asked]:
    for number in range(count):
        start = random_bound(chance, moments)
        end = random_bound(chance, moments) if number % 3 else start + chance.randrange(1, 90) * MINUTE
        if start == end:
            end += MICROSECOND
        for metric in sorted(SESSION_METRICS):
            yield ask(
                metric,
                *sorted((start, end)),
                site_id=chance.choice(sites),
                by_day=chance.random() < 0.5,
                conversion_event=chance.choice(("purchase", "click", "page_view", "refund")),
            )


_DENSE_HOURS = (-24.5, -24, -23, -1.5, -0.5, 0, 0.5, 3)


def retimed(
    chance: random.Random, events: list[Event], after_midnight: Sequence[float] = _DENSE_HOURS
) -> list[Event]:
    """Move events to a few dense half hours, so that there are many of a session within ten minutes."""
    for event in events:
        delay = event.received_at.ToDatetime(UTC) - event.occurred_at.ToDatetime(UTC)
        moment = (
            MIDNIGHT + chance.choice(after_midnight) * HOUR + timedelta(seconds=chance.randrange(0, 1500, 60))
        )
        event.occurred_at.CopyFrom(timestamp_of(moment))
        event.received_at.CopyFrom(timestamp_of(moment + delay))
    return events


def check_random_questions(
    connection: psycopg.Connection[Any], figure: Figure, drawn: list[Event], seed: int, sites: str
) -> None:
    moments = [event.occurred_at.ToDatetime(UTC) for event in drawn]
    read_all(connection, SOURCE)
    asked_for = list(random_questions(random.Random(seed), moments, sites.split(","), 40))
    answers = [figure(asked) for asked in asked_for]
    for asked, found in zip(asked_for, answers, strict=True):
        assert_same(found, expected(connection, asked), asked)
    assert sum(answer.value > 0 for answer in answers) > len(answers) / 2


def test_figures_of_sparse_events(connection: psycopg.Connection[Any], fold: Fold, figure: Figure) -> None:
    chance = random.Random(4)
    drawn = random_events(chance, SOURCE, 600)
    fold(*in_batches(chance, drawn))
    check_random_questions(connection, figure, drawn, 4, "a,b")


@pytest.mark.parametrize("seed", range(2))
def test_figures_of_dense_events(
    connection: psycopg.Connection[Any], fold: Fold, figure: Figure, seed: int
) -> None:
    chance = random.Random(seed)
    drawn = retimed(chance, random_events(chance, SOURCE, 600))
    fold(*in_batches(chance, drawn))
    check_random_questions(connection, figure, drawn, seed, "a,b")


def test_figures_of_events_without_a_site(
    connection: psycopg.Connection[Any], fold: Fold, figure: Figure
) -> None:
    chance = random.Random(5)
    drawn = retimed(chance, random_events(chance, SOURCE, 300))
    for event in drawn:
        event.provenance.site_id = ""
    fold(*in_batches(chance, drawn))
    # The oracle's "" is all sites: here the same.
    check_random_questions(connection, figure, drawn, 5, "")


def test_figures_where_names_are_missing(
    connection: psycopg.Connection[Any], fold: Fold, figure: Figure
) -> None:
    chance = random.Random(6)
    drawn = retimed(chance, random_events(chance, SOURCE, 1500), (-24, -0.5, 0, 0.5))
    names = [*("purchase", "click", "refund") * 5, *(f"n{number}" for number in range(800))]
    for event in drawn:
        event.provenance.site_id = "a"
        event.provenance.dialect = "pulse"
        event.anonymous_id, event.session_id = "v", chance.choice(("", "s1", f"s{chance.randrange(99)}"))
        if event.kind != EVENT_KIND_PAGE:
            event.kind, event.name = EVENT_KIND_TRACK, chance.choice(names)
    fold(*in_batches(chance, drawn))
    [(cut, whole)] = connection.execute(
        "SELECT count(*) FILTER (WHERE names_cut), count(*) FILTER (WHERE NOT names_cut) FROM session_days"
    )
    assert cut > 2
    assert whole > 1
    check_random_questions(connection, figure, drawn, 6, "a")


_TABLES = {
    "session_days": "source_id, site_id, session, started_at, ended_at, windowed, apart, moments, names,"
    " name_firsts, name_lasts, names_cut",
    "session_hours": "source_id, site_id, hour, sessions, bounces, lasted_microseconds",
    "session_hour_names": "source_id, site_id, name, hour, sessions",
}
_QUEUE_ALL = """
INSERT INTO rollup_queue (source_ids, event_ids, received_ats)
SELECT array_agg(source_id), array_agg(event_id), array_agg(received_at) FROM events
"""


def tables(connection: psycopg.Connection[Any]) -> dict[str, list[tuple[Any, ...]]]:
    """Give what they hold. What added up to nothing again may stand there, or not."""
    return {
        table: connection.execute(
            f"SELECT {columns} FROM {table}"
            f"{'' if table == 'session_days' else ' WHERE sessions <> 0'} ORDER BY 1, 2, 3, 4".encode()
        ).fetchall()
        for table, columns in _TABLES.items()
    }


@pytest.mark.parametrize("is_dense", [False, True])
def test_folding_at_once_or_in_parts_is_the_same(
    connection: psycopg.Connection[Any], fold: Fold, rollup: Rollup, *, is_dense: bool
) -> None:
    chance = random.Random(8)
    drawn = random_events(chance, SOURCE, 500)
    if is_dense:
        retimed(chance, drawn)
    fold(*in_batches(chance, drawn))
    in_parts = tables(connection)
    assert all(len(rows) > 10 for rows in in_parts.values())
    for table in _TABLES:
        connection.execute(f"TRUNCATE {table}".encode())
    connection.execute(_QUEUE_ALL)
    rollup.fold_all()
    assert tables(connection) == in_parts


def at(minute: float, **fields: Any) -> Event:
    """Make an event so long after midnight."""
    values: dict[str, Any] = {"anonymous_id": "v", "provenance": Provenance(dialect="pulse"), **fields}
    return make_event(MIDNIGHT + minute * MINUTE, **values)


def count(figure: Figure, start: float, end: float) -> float:
    """Count the sessions between two minutes of the day."""
    between = (MIDNIGHT + start * MINUTE, MIDNIGHT + end * MINUTE)
    return figure(ask(STATS_METRIC_UNIQUE_SESSIONS, *between)).value


def test_an_event_that_comes_late_joins_two_days(fold: Fold, figure: Figure) -> None:
    fold([at(-25)], [at(25)])
    assert count(figure, -1440, 1440) == 2
    fold([at(0)])
    assert count(figure, -1440, 1440) == 1
    assert count(figure, -1440, 0) == count(figure, 0, 1440) == count(figure, -1, 1) == 1
    by_day = figure(ask(STATS_METRIC_UNIQUE_SESSIONS, MIDNIGHT - DAY, MIDNIGHT + DAY, by_day=True))
    assert [group.value for group in by_day.groups] == [1, 1]


def test_a_session_told_by_the_client_is_one_over_days(fold: Fold, figure: Figure) -> None:
    days = [[at(1440 * day, session_id="s")] for day in (0, 3, 1, 7)]
    fold(*days)
    assert count(figure, 0, 1440 * 9) == count(figure, 1440, 1440 * 4) == count(figure, 0, 1) == 1
    duration = figure(ask(STATS_METRIC_AVG_SESSION_DURATION, MIDNIGHT, MIDNIGHT + 9 * DAY))
    assert duration.value == 7 * 86_400


def test_a_session_that_reaches_over_the_range(fold: Fold, figure: Figure) -> None:
    fold([at(100, name="purchase"), at(125), at(132), at(150, name="purchase")])
    assert count(figure, 121, 124) == 0
    assert count(figure, 121, 126) == 1

    def rate(metric: int, start: float, end: float) -> float:
        return figure(ask(metric, MIDNIGHT + start * MINUTE, MIDNIGHT + end * MINUTE)).value

    assert rate(STATS_METRIC_BOUNCE_RATE, 121, 126) == 100
    assert rate(STATS_METRIC_BOUNCE_RATE, 121, 133) == 0
    assert rate(STATS_METRIC_CONVERSION_RATE, 121, 133) == 0
    assert rate(STATS_METRIC_CONVERSION_RATE, 121, 151) == 100
    assert rate(STATS_METRIC_AVG_SESSION_DURATION, 121, 133) == 7 * 60
    fold([at(128, name="purchase")])
    assert rate(STATS_METRIC_CONVERSION_RATE, 121, 133) == 100


def test_a_day_with_events_but_no_session_is_told(fold: Fold, figure: Figure) -> None:
    fold([at(0), at(1441, anonymous_id=""), at(3 * 1440 + 30, anonymous_id="")])

    def days(end: float) -> list[tuple[int, float]]:
        asked = ask(STATS_METRIC_UNIQUE_SESSIONS, MIDNIGHT, MIDNIGHT + end * MINUTE, by_day=True)
        return [
            ((group.start.ToDatetime(UTC) - MIDNIGHT).days, group.value) for group in figure(asked).groups
        ]

    assert days(4 * 1440) == days(3 * 1440 + 31) == [(0, 1), (1, 0), (3, 0)]
    assert days(3 * 1440 + 30) == [(0, 1), (1, 0)]


def test_a_long_session_is_a_short_row(connection: psycopg.Connection[Any], fold: Fold) -> None:
    fold([at(number / 60, session_id="s") for number in range(1000)])
    [(moments,)] = connection.execute("SELECT cardinality(moments) FROM session_days")
    assert moments == 4


def test_of_another_site_or_source_there_is_nothing(fold: Fold, figure: Figure) -> None:
    fold([at(0)])
    everything = ask(STATS_METRIC_UNIQUE_SESSIONS, MIDNIGHT - DAY, MIDNIGHT + DAY, by_day=True)
    assert figure(everything).value == 1
    assert figure(everything._replace(site_id="x")) == GetStatsResponse()
    assert figure(everything._replace(site_id="x\0")) == GetStatsResponse()
    conversions = ask(STATS_METRIC_CONVERSION_RATE, MIDNIGHT, MIDNIGHT + DAY, conversion_event="n\0")
    assert figure(conversions).value == 0
    assert figure(everything._replace(source_id=OTHER_SOURCE)) == GetStatsResponse()
