"""Every figure equals plain SQL over `events`, whatever came late, early, twice or out of order."""

import asyncio
import itertools
import random
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from alembic.operations import Operations
from alembic.runtime.migration import MigrationContext
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from polylect.v1.event_pb2 import (
    EVENT_KIND_IDENTIFY,
    EVENT_KIND_PAGE,
    EVENT_KIND_TRACK,
    Device,
    Event,
    Geo,
    Provenance,
)
from polylect.v1.query_pb2 import (
    STATS_GROUP_BY_COUNTRY,
    STATS_GROUP_BY_DEVICE_TYPE,
    STATS_GROUP_BY_HOUR,
    STATS_METRIC_EVENT_COUNT,
    STATS_METRIC_EVENT_COUNT_BY_TYPE,
    STATS_METRIC_UNIQUE_SESSIONS,
    STATS_METRIC_UNIQUE_USERS,
    GetStatsRequest,
    GetStatsResponse,
    ListEventsRequest,
    StatsGroup,
    StatsGroupBy,
    StatsMetric,
)
from sqlalchemy import create_engine, text
from stats_oracle import Asked, expected, in_batches, random_events, read_all, session_of_events
from worker_factory import NOW, OTHER_SOURCE, SOURCE, Clock, column, enqueue, make_event, wait_until

from storage import event_figures, rollup
from storage.database import Database
from storage.event_figures import figures_from_events
from storage.events import PostgresEvents
from storage.migrate import migrate
from storage.migrations.upgrade import script_directory
from storage.rollup import Rollup
from storage.stats import PostgresStats
from storage.stats_answer import response_of
from storage.stats_figures import LISTED_PLACES, LISTED_TYPES, LISTED_TYPES_WHEN_GROUPED
from storage.values import timestamp_of, uuid_text
from storage.worker import Worker, WorkerOptions

METRICS = [number for number in StatsMetric.values() if number]
MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)
Figure = Callable[[Asked], GetStatsResponse]
Listing = Callable[..., list[Event]]


@pytest.fixture
def connection(database_url: str) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("SET TimeZone = 'UTC'")
        yield connection


@pytest.fixture
def worker(database_url: str) -> Iterator[Worker]:
    worker = Worker(WorkerOptions(database_url, claim_items=30), Clock())
    yield worker
    worker.close()


@pytest.fixture
def runner() -> Iterator[asyncio.Runner]:
    with asyncio.Runner() as runner:
        yield runner


@pytest.fixture
def database(database_url: str, runner: asyncio.Runner) -> Iterator[Database]:
    database = Database(database_url)
    yield database
    runner.run(database.aclose())


@pytest.fixture
def figure(database: Database, runner: asyncio.Runner) -> Iterator[Figure]:
    """Asks for a figure of all that was settled, and sees that the events themselves say the same."""
    stats = PostgresStats(database)
    rollup = Rollup(partial(psycopg.connect, database.url, autocommit=True))

    def figure(asked: Asked) -> GetStatsResponse:
        rollup.fold_all()
        found = runner.run(stats.figure(*asked))
        if uuid_text(asked.source_id):
            rows = runner.run(database.rows(figures_from_events(event_figures.Asked(*asked))))
            assert_same(found, response_of(asked.question, rows))
        return found

    yield figure
    rollup.close()


@pytest.fixture
def listed(database: Database, runner: asyncio.Runner) -> Listing:
    store = PostgresEvents(database)

    def listed(source_id: str, **filters: Any) -> list[Event]:
        return runner.run(store.list_events(source_id, ListEventsRequest(**filters), 1000))[0]

    return listed


def settle(connection: psycopg.Connection[Any], worker: Worker, *batches: list[Event]) -> None:
    for batch in batches:
        enqueue(connection, *batch)
    worker.settle_all()


def ask(
    metric: int = STATS_METRIC_EVENT_COUNT,
    occurred_from: datetime = NOW - DAY,
    occurred_until: datetime = NOW + DAY,
    *,
    source_id: str = SOURCE,
    site_id: str = "",
    **fields: Any,
) -> Asked:
    question = GetStatsRequest(metric=metric, **({"conversion_event": "purchase"} | fields))
    return Asked(source_id, site_id, occurred_from, occurred_until, question)


def assert_same(found: GetStatsResponse, wanted: GetStatsResponse) -> None:
    """Compare values as exactly as averages can be; the groups in any order."""
    assert found.value == pytest.approx(wanted.value, rel=1e-12)

    def by_group(answer: GetStatsResponse) -> dict[bytes, float]:
        values = {}
        for group in answer.groups:
            key = StatsGroup()
            key.CopyFrom(group)
            key.ClearField("value")
            values[key.SerializeToString(deterministic=True)] = group.value
        assert len(values) == len(answer.groups)
        return values

    assert by_group(found) == pytest.approx(by_group(wanted), rel=1e-12)


RANGES = [
    (NOW - HOUR, NOW + timedelta(milliseconds=1)),
    (NOW - 7 * DAY, NOW + 7 * DAY),
    (NOW - 31 * HOUR - timedelta(microseconds=1), NOW + 17 * HOUR + 10 * MINUTE),
    (NOW + 30 * DAY, NOW + 31 * DAY),
]
FILTERS: list[dict[str, Any]] = [
    {},
    {"site_id": "a"},
    {"country": "DE"},
    {"device_type": "mobile"},
    {"site_id": "b", "country": "FR", "device_type": "desktop", "conversion_event": "page_view"},
    {"country": "XX"},
]


@pytest.mark.parametrize("seed", range(2))
def test_every_figure_is_plain_sqls(
    connection: psycopg.Connection[Any], worker: Worker, figure: Figure, seed: int
) -> None:
    chance = random.Random(seed)
    batches = in_batches(chance, random_events(chance, SOURCE, 300))
    settle(connection, worker, *batches, random_events(chance, OTHER_SOURCE, 20))
    assert worker.totals.duplicate >= 20
    read_all(connection, SOURCE)
    not_nothing = 0
    for metric, group_by, (start, end), filters in itertools.product(
        METRICS, StatsGroupBy.values(), RANGES, FILTERS
    ):
        asked = ask(metric, start, end, group_by=group_by, **filters)
        found = figure(asked)
        assert_same(found, expected(connection, asked))
        not_nothing += found.value > 0
    assert not_nothing > 200


def test_every_event_is_read_in_its_session(
    connection: psycopg.Connection[Any], worker: Worker, listed: Listing
) -> None:
    chance = random.Random(7)
    settle(connection, worker, *in_batches(chance, random_events(chance, SOURCE, 400)))
    wanted = session_of_events(connection, SOURCE)
    names: dict[str, str] = {}
    for event in listed(SOURCE):
        given, session = wanted.pop(event.event_id)
        if given or not session:
            assert event.session_id == given
        else:
            assert names.setdefault(session, event.session_id) == event.session_id
    assert not wanted
    assert len(set(names.values())) == len(names) > 50
    for name in names.values():
        found = listed(SOURCE, session_id=name)
        assert found
        assert {event.session_id for event in found} == {name}
    assert sum(len(listed(SOURCE, session_id=name)) for name in names.values()) == sum(
        event.session_id in names.values() for event in listed(SOURCE)
    )


facts = st.lists(
    st.tuples(
        # Minutes of occurrence, around midnight, and what is added to it for receipt.
        st.integers(705, 735).map(lambda ten: ten * 10) | st.integers(7100, 7300),
        st.integers(-60, 60),
        st.fixed_dictionaries(
            {
                "anonymous_id": st.sampled_from(["", "phone", "laptop"]),
                "user_id": st.sampled_from(["", "ann"]),
                "session_id": st.sampled_from(["", "", "given"]),
                "kind": st.sampled_from([EVENT_KIND_PAGE, EVENT_KIND_TRACK]),
            }
        ),
    ),
    min_size=1,
    max_size=12,
)


@settings(
    deadline=None,
    max_examples=40,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(facts, st.randoms(use_true_random=False))
def test_any_order_gives_the_same_sessions_and_figures(
    connection: psycopg.Connection[Any],
    worker: Worker,
    figure: Figure,
    listed: Listing,
    drawn: Any,
    chance: random.Random,
) -> None:
    sources = [str(uuid4()) for _ in range(2)]
    answers = []
    for source_id in sources:
        events = []
        for number, (minute, delay, fields) in enumerate(drawn):
            event = make_event(NOW + (minute + delay) * MINUTE, source_id=source_id, **fields)
            event.event_id = f"{source_id[:8]}-0000-7000-8000-{number:012d}"
            event.occurred_at.CopyFrom(timestamp_of(NOW + minute * MINUTE))
            events.append(event)
        settle(connection, worker, *in_batches(chance, events))
        wide = {"source_id": source_id, "occurred_until": NOW + 9 * DAY}
        figures = [figure(ask(metric, group_by=STATS_GROUP_BY_HOUR, **wide)) for metric in METRICS]
        answers.append(({event.event_id[8:]: event.session_id for event in listed(source_id)}, figures))
    assert answers[0] == answers[1]


def at(minute: float, **fields: Any) -> Event:
    return make_event(NOW + minute * MINUTE, **({"anonymous_id": "v"} | fields))


def sessions_of(listed: Listing, source_id: str = SOURCE) -> list[str]:
    """Give the sessions of the events by their time of occurrence."""
    events = sorted(listed(source_id), key=lambda event: event.occurred_at.ToDatetime())
    return [event.session_id for event in events]


def test_an_event_that_comes_late_joins_two_sessions(
    connection: psycopg.Connection[Any], worker: Worker, listed: Listing, figure: Figure
) -> None:
    settle(connection, worker, [at(0), at(60), at(90.001)])
    first, second, third = sessions_of(listed)
    assert len({first, second, third}) == 3
    settle(connection, worker, [at(30)])
    assert sessions_of(listed) == [first, first, first, third]
    settle(connection, worker, [at(-30)])
    assert len(set(sessions_of(listed))) == 2
    assert first not in sessions_of(listed)
    assert figure(ask(STATS_METRIC_UNIQUE_SESSIONS)).value == 2


def test_a_session_may_last_for_days(
    connection: psycopg.Connection[Any], worker: Worker, listed: Listing
) -> None:
    events = [at(30 * number) for number in range(200)]
    settle(connection, worker, events[::2], events[1::2])
    assert len(set(sessions_of(listed))) == 1
    (rows,) = connection.execute("SELECT count(*) FROM session_spans").fetchone() or ()
    assert rows == 5


def test_whose_session_it_is(connection: psycopg.Connection[Any], worker: Worker, listed: Listing) -> None:
    ids: list[dict[str, Any]] = [
        {"anonymous_id": "v"},
        {"anonymous_id": "v", "cookie_id": "w", "user_id": "u"},
        {"anonymous_id": "", "cookie_id": "v"},
        {"anonymous_id": "", "user_id": "v"},
        {"anonymous_id": "", "user_id": "v", "session_id": "given"},
        {"anonymous_id": ""},
    ]
    settle(connection, worker, [at(number, **fields) for number, fields in enumerate(ids)])
    visitors, same, cookies, users, given_, nobodys = sessions_of(listed)
    assert visitors == same == cookies
    assert users not in {"", visitors}
    assert (given_, nobodys) == ("given", "")


def test_pulsoras_session_ids_have_its_window(
    connection: psycopg.Connection[Any], worker: Worker, listed: Listing, figure: Figure
) -> None:
    told = [
        at(minute, session_id="s", source_id=source_id, provenance=Provenance(dialect=dialect))
        for source_id, dialect in ((SOURCE, "pulsora"), (OTHER_SOURCE, "pulse"))
        for minute in (0, 30, 60.001)
    ]
    settle(connection, worker, told)
    assert figure(ask(STATS_METRIC_UNIQUE_SESSIONS)).value == 2
    assert figure(ask(STATS_METRIC_UNIQUE_SESSIONS, source_id=OTHER_SOURCE)).value == 1
    assert sessions_of(listed) == sessions_of(listed, OTHER_SOURCE) == ["s"] * 3


def test_workers_at_once_lose_no_part_of_a_session(
    connection: psycopg.Connection[Any], database_url: str, listed: Listing
) -> None:
    visitors = [f"v{number}" for number in range(5)]
    events = [at(25 * number, anonymous_id=visitor) for visitor in visitors for number in range(120)]
    random.Random(1).shuffle(events)
    for first in range(0, len(events), 10):
        enqueue(connection, *events[first : first + 10])

    def work(_: int) -> None:
        worker = Worker(WorkerOptions(database_url, claim_items=10), Clock())
        worker.settle_all()
        worker.close()

    with ThreadPoolExecutor(4) as workers:
        list(workers.map(work, range(4)))
    found = listed(SOURCE)
    assert len(found) == 600
    assert len({event.session_id for event in found}) == 5


def test_users_are_counted_as_they_are_read(
    connection: psycopg.Connection[Any], worker: Worker, figure: Figure
) -> None:
    def users() -> float:
        return figure(ask(STATS_METRIC_UNIQUE_USERS)).value

    settle(connection, worker, [at(0, anonymous_id=""), at(1), at(2, anonymous_id="", user_id="u")])
    assert users() == 2
    settle(connection, worker, [at(3, kind=EVENT_KIND_IDENTIFY, name="", user_id="u")])
    assert users() == 1


def test_what_is_beyond_the_limit_is_one_group(
    connection: psycopg.Connection[Any], worker: Worker, figure: Figure
) -> None:
    many = LISTED_TYPES + 5
    events = [
        at(0, name=f"n{number}", device=Device(type=f"d{number}"), geo=Geo(country="DE"))
        for number in range(many)
    ]
    settle(connection, worker, events, [at(0, name="n1004", device=Device(type="d1004"))])
    types = figure(ask(STATS_METRIC_EVENT_COUNT_BY_TYPE))
    assert (types.value, len(types.groups)) == (many + 1, LISTED_TYPES + 1)
    assert (types.groups[0].name, types.groups[0].value) == ("n1004", 2)
    assert types.groups[-1] == StatsGroup(rest_of_types=True, value=5)
    places = figure(ask(STATS_METRIC_UNIQUE_USERS, group_by=STATS_GROUP_BY_DEVICE_TYPE))
    assert (places.value, len(places.groups)) == (1, LISTED_PLACES + 1)
    assert places.groups[-1] == StatsGroup(rest=True, value=1)
    both = figure(ask(STATS_METRIC_EVENT_COUNT_BY_TYPE, group_by=STATS_GROUP_BY_COUNTRY))
    assert len([group for group in both.groups if group.country == "DE"]) == LISTED_TYPES_WHEN_GROUPED + 1
    assert [group.name for group in both.groups if not group.country] == ["n1004"]
    again = figure(ask(STATS_METRIC_EVENT_COUNT_BY_TYPE, group_by=STATS_GROUP_BY_COUNTRY))
    assert both == again


def test_events_are_counted_by_their_own_time(
    connection: psycopg.Connection[Any], worker: Worker, figure: Figure
) -> None:
    start, end = NOW - DAY, NOW
    micro = timedelta(microseconds=1)

    def occurred(moment: datetime, received_at: datetime = NOW, **fields: Any) -> Event:
        event = make_event(received_at, **fields)
        event.occurred_at.CopyFrom(timestamp_of(moment))
        return event

    site = {"provenance": Provenance(dialect="pulse", site_id="site_a")}
    events = [
        occurred(start - micro),
        occurred(start),
        occurred(end - micro, **site),
        occurred(end),
        # Told a month late, and by a clock a day ahead.
        occurred(start, NOW + 30 * DAY, **site),
        occurred(start, start - DAY),
        occurred(start, source_id=OTHER_SOURCE),
    ]
    settle(connection, worker, events)

    def count(source_id: str = SOURCE, site_id: str = "", **fields: Any) -> float:
        asked = ask(occurred_from=start, occurred_until=end, source_id=source_id, site_id=site_id, **fields)
        return figure(asked).value

    assert count() == 4
    assert count(site_id="site_a") == 2
    assert count(site_id="site_b") == 0
    assert count(site_id="s\0") == count(country="D\0") == 0
    assert count("nobody") == 0
    assert figure(ask(occurred_from=NOW + 99 * DAY, occurred_until=NOW + 100 * DAY)).value == 0


def test_before_the_first_partition_there_is_simply_nothing(figure: Figure) -> None:
    for metric in METRICS:
        assert figure(ask(metric, datetime(1971, 1, 1, tzinfo=UTC))) == GetStatsResponse()


def _spans(connection: psycopg.Connection[Any]) -> list[tuple[Any, ...]]:
    columns = "source_id::text, visitor::text, day, covered::text, received_at"
    return connection.execute(f"SELECT {columns} FROM session_spans ORDER BY 1, 2, 3".encode()).fetchall()


def test_the_migration_makes_the_sessions_the_worker_makes(
    connection: psycopg.Connection[Any], worker: Worker
) -> None:
    chance = random.Random(3)
    settle(connection, worker, *in_batches(chance, random_events(chance, SOURCE, 200)))
    made = _spans(connection)
    assert len(made) > 20
    connection.execute("DELETE FROM session_spans")
    # The newest, which has the sessions as they are made now.
    fill = next(
        revision.module.FILL
        for revision in script_directory().walk_revisions()
        if hasattr(revision.module, "FILL")
    )
    connection.execute(fill)
    assert _spans(connection) == made


def test_sessions_go_with_their_events(
    database_url: str, connection: psycopg.Connection[Any], worker: Worker, listed: Listing
) -> None:
    late = make_event(NOW, anonymous_id="late")
    late.occurred_at.CopyFrom(timestamp_of(NOW - 5 * DAY))
    old = [make_event(NOW - 5 * DAY, anonymous_id="old"), make_event(NOW - 5 * DAY, source_id=OTHER_SOURCE)]
    settle(connection, worker, [late, *old])
    assert len(_spans(connection)) == 2
    keeper = Worker(WorkerOptions(database_url, retention_days=2), Clock())
    keeper.maintain()
    keeper.close()
    assert len(_spans(connection)) == 1
    assert [bool(event.session_id) for event in listed(SOURCE)] == [True]


def test_what_retention_drops_is_no_longer_counted(
    database_url: str, connection: psycopg.Connection[Any], worker: Worker, figure: Figure
) -> None:
    """Told from rollups before and after: an old day, late events of it, and the days that stay."""
    late = make_event(NOW, anonymous_id="late")
    late.occurred_at.CopyFrom(timestamp_of(NOW - 5 * DAY))
    old = [make_event(NOW - 5 * DAY, anonymous_id=f"old{number}") for number in range(3)]
    ahead = make_event(NOW - 4 * DAY, anonymous_id="ahead")
    ahead.occurred_at.CopyFrom(timestamp_of(NOW - 3 * DAY))
    settle(connection, worker, [late, *old, ahead, make_event(NOW, anonymous_id="new")])
    since = NOW - 6 * DAY
    assert {metric: figure(ask(metric, since)).value for metric in (1, 2, 3)} == {1: 6, 2: 6, 3: 6}
    keeper = Worker(WorkerOptions(database_url, retention_days=3), Clock())
    keeper.maintain()
    assert not keeper.rollup.purge()
    keeper.close()
    assert {metric: figure(ask(metric, since)).value for metric in (1, 2, 3)} == {1: 2, 2: 2, 3: 2}
    assert figure(ask(occurred_from=NOW - DAY)).value == 1
    rows = connection.execute("SELECT min(hour) FROM event_hours").fetchall()
    assert rows == [(NOW,)]


def test_what_waits_too_long_is_counted_in_the_events(
    connection: psycopg.Connection[Any], worker: Worker, database: Database, runner: asyncio.Runner
) -> None:
    settle(connection, worker, [make_event(NOW - HOUR), make_event(NOW)])
    stats = PostgresStats(database)

    def count() -> float:
        return runner.run(stats.figure(*ask())).value

    assert count() == 0
    connection.execute("UPDATE rollup_queue SET enqueued_at = enqueued_at - interval '2 minutes'")
    assert count() == 2
    worker.rollup.fold_all()
    assert count() == 2


def test_an_upgrade_loses_nothing_of_the_figures(
    database_url: str, connection: psycopg.Connection[Any], worker: Worker, figure: Figure
) -> None:
    """From the schema before the rollups, with events in it."""
    chance = random.Random(9)
    settle(connection, worker, *in_batches(chance, random_events(chance, SOURCE, 100)))
    questions = [ask(metric, site_id="a") for metric in METRICS] + [ask()]
    before = [figure(asked) for asked in questions]
    assert all(answer.value for answer in before)
    engine = create_engine("postgresql+psycopg://", creator=lambda: psycopg.connect(database_url))
    revision = script_directory().get_revision("0006")
    with engine.begin() as alembics, Operations.context(MigrationContext.configure(alembics)):
        revision.module.downgrade()
        alembics.execute(text("UPDATE alembic_version SET version_num = '0005'"))
    engine.dispose()
    assert migrate(database_url)
    assert connection.execute("SELECT count(*) FROM event_hours").fetchone() == (0,)
    # As long as nothing is folded, too.
    assert [figure(asked) for asked in questions] == before
    assert connection.execute("SELECT count(*) > 0 FROM event_hours").fetchone() == (True,)


def test_folding_goes_on_after_the_database_was_away(
    database_url: str, connection: psycopg.Connection[Any], worker: Worker
) -> None:
    stopped = threading.Event()
    folding = threading.Thread(target=worker.rollup.keep_folding, args=(stopped,))
    settle(connection, worker, [make_event(NOW)])
    folding.start()
    try:
        wait_until(lambda: column(connection, "SELECT sum(events)::int FROM event_hours") == [1])
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        enqueue(connection, make_event(NOW))
        other = Worker(WorkerOptions(database_url), Clock())
        other.settle_all()
        other.close()
        wait_until(lambda: column(connection, "SELECT sum(events)::int FROM event_hours") == [2])
    finally:
        stopped.set()
        folding.join()


def test_links_are_looked_up_by_index_however_they_are_spread(
    database_url: str, connection: psycopg.Connection[Any], worker: Worker
) -> None:
    """A few visitors with very many links make reading all of them look cheap to a planner."""
    settle(connection, worker, [make_event(NOW, anonymous_id=f"v{number}") for number in range(100)])
    connection.execute(
        "INSERT INTO identity_links (source_id, anonymous_id, linked_at, event_id, user_id)"
        " SELECT %s, 'linked' || n %% 20, now() + n * interval '1 second', gen_random_uuid(), 'u' || n"
        " FROM generate_series(1, 11000) AS n",
        [SOURCE],
    )
    connection.execute("ANALYZE")
    lines = _plan_of_taking(database_url, connection)
    assert any("identity_links" in line for line in lines)
    assert not [line for line in lines if "Seq Scan on identity_links" in line]


def test_events_are_taken_in_one_by_one_however_many_there_are(
    database_url: str, connection: psycopg.Connection[Any], worker: Worker
) -> None:
    """Many that came in together make reading all there are look cheap to a planner."""
    for _ in range(20):
        settle(connection, worker, [make_event(NOW) for _ in range(200)])
    connection.execute("ANALYZE")
    lines = _plan_of_taking(database_url, connection)
    assert any("Index Scan" in line and "events" in line for line in lines)
    assert not [line for line in lines if "Hash Join" in line or "Merge Join" in line]


def _plan_of_taking(database_url: str, connection: psycopg.Connection[Any]) -> list[str]:
    with psycopg.connect(database_url, autocommit=True) as folding:
        folding.execute(rollup.TEMPORARY)
        taken = column(connection, "SELECT rollup_id FROM rollup_queue")
        plan = folding.execute(b"EXPLAIN " + rollup.TAKING, {**rollup.TAKING_PARAMETERS, "taken": taken})
        return [line for (line,) in plan]
