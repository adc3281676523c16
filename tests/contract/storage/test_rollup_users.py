"""People counted from days are plain SQL's, in whatever order events came in, were linked and unlinked."""

import asyncio
import random
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import psycopg
import pytest
from polylect.v1.event_pb2 import EVENT_KIND_IDENTIFY, EVENT_KIND_PAGE, Event
from polylect.v1.identity_pb2 import IdentityUnlink
from polylect.v1.query_pb2 import (
    STATS_GROUP_BY_DAY,
    STATS_GROUP_BY_UNSPECIFIED,
    STATS_METRIC_UNIQUE_USERS,
    GetStatsRequest,
    GetStatsResponse,
)
from stats_oracle import Asked, expected, in_batches, random_events, read_all
from worker_factory import NOW, OTHER_SOURCE, SOURCE, Clock, enqueue, make_event, make_identify

from storage.database import Database
from storage.errors import StorageUnavailable
from storage.identity_records import PostgresIdentity
from storage.rollup import Rollup
from storage.rollup_horizon import raise_horizon
from storage.rollup_user_figures import users_from_rollups
from storage.stats import PostgresStats
from storage.stats_answer import response_of
from storage.values import timestamp_of
from storage.worker import Worker, WorkerOptions

DAY, MICROSECOND = timedelta(days=1), timedelta(microseconds=1)
MIDNIGHT = datetime(2026, 1, 31, tzinfo=UTC)
Figure = Callable[[Asked], GetStatsResponse]

# What `stats_oracle` reads as identity_links: those that no unlink voids.
_IN_FORCE = """
CREATE TEMP VIEW identity_links AS SELECT * FROM public.identity_links AS link WHERE NOT EXISTS (
    SELECT FROM identity_unlinks AS undone
    WHERE undone.source_id = link.source_id AND undone.anonymous_id = link.anonymous_id
        AND undone.user_id = link.user_id AND undone.unlinked_at >= link.linked_at)
"""
# As the migration does with the events it finds.
_ANEW = """
TRUNCATE visitor_days, user_day_totals;
INSERT INTO rollup_queue (source_ids, event_ids, received_ats)
SELECT array_agg(source_id), array_agg(event_id), array_agg(received_at) FROM events
"""


@pytest.fixture
def connection(database_url: str) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("SET TimeZone = 'UTC'")
        connection.execute(_IN_FORCE)
        yield connection


@pytest.fixture
def worker(database_url: str) -> Iterator[Worker]:
    worker = Worker(WorkerOptions(database_url, claim_items=30), Clock())
    yield worker
    worker.close()


@pytest.fixture
def rollup(database_url: str) -> Iterator[Rollup]:
    rollup = Rollup(lambda: psycopg.connect(database_url, autocommit=True))
    yield rollup
    rollup.close()


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
def rolled(database: Database, runner: asyncio.Runner) -> Callable[[Asked], GetStatsResponse | None]:
    """Give what the days tell; None where they can't."""

    def rolled(asked: Asked) -> GetStatsResponse | None:
        statement = users_from_rollups(
            asked.question, asked.source_id, asked.site_id, asked.occurred_from, asked.occurred_until
        )
        return (
            None if statement is None else response_of(asked.question, runner.run(database.rows(statement)))
        )

    return rolled


@pytest.fixture
def raw(database: Database, runner: asyncio.Runner) -> Figure:
    stats = PostgresStats(database)
    return lambda asked: runner.run(stats.figure(*asked))


@pytest.fixture
def unlink(database: Database, runner: asyncio.Runner) -> Callable[..., None]:
    records = PostgresIdentity(database)

    def unlink(visitor: str, user: str, at: datetime, number: int, source_id: str = SOURCE) -> None:
        record = IdentityUnlink(
            anonymous_id=visitor,
            user_id=user,
            unlink_id=str(UUID(int=number)),
            unlinked_at=timestamp_of(at),
        )
        runner.run(records.unlink(source_id, record, dry_run=False))

    return unlink


def ask(
    occurred_from: datetime = MIDNIGHT - 30 * DAY,
    occurred_until: datetime = MIDNIGHT + 30 * DAY,
    *,
    source_id: str = SOURCE,
    site_id: str = "",
    by_day: bool = True,
) -> Asked:
    group_by = STATS_GROUP_BY_DAY if by_day else STATS_GROUP_BY_UNSPECIFIED
    question = GetStatsRequest(metric=STATS_METRIC_UNIQUE_USERS, group_by=group_by)
    return Asked(source_id, site_id, occurred_from, occurred_until, question)


def spread(chance: random.Random, events: list[Event]) -> list[Event]:
    """Move some by days, so that people stay away for some; of one source, all are without a site."""
    for event in events:
        if chance.random() < 0.5:
            days = timedelta(days=chance.randrange(-8, 9))
            for moment in (event.occurred_at, event.received_at):
                moment.CopyFrom(timestamp_of(moment.ToDatetime(UTC) + days))
        if event.source_id == OTHER_SOURCE:
            event.provenance.site_id = ""
    return events


def ranges(chance: random.Random, events: list[Event], count: int) -> Iterator[tuple[datetime, datetime]]:
    def bound() -> datetime:
        if chance.random() < 0.4:
            return MIDNIGHT + chance.randrange(-12, 13) * DAY
        moment = chance.choice(events).occurred_at.ToDatetime(UTC)
        return moment + chance.randrange(-1, 2) * MICROSECOND

    for _ in range(count):
        start, end = bound(), bound()
        yield min(start, end), max(start, end)


def same(found: GetStatsResponse, wanted: GetStatsResponse) -> bool:
    def by_day(answer: GetStatsResponse) -> dict[datetime, float]:
        return {group.start.ToDatetime(UTC): group.value for group in answer.groups}

    assert len(by_day(found)) == len(found.groups)
    return (found.value, by_day(found)) == (wanted.value, by_day(wanted))


def tables(connection: psycopg.Connection[Any]) -> list[list[tuple[Any, ...]]]:
    visits = connection.execute("SELECT * FROM visitor_days ORDER BY 1, 2, 3, 4, 5, 6").fetchall()
    totals = connection.execute(
        "SELECT source_id, site_id, day, previous_day::text, users FROM user_day_totals WHERE users <> 0"
        " ORDER BY 1, 2, 3, 4"
    ).fetchall()
    return [visits, totals]


def come_in(
    connection: psycopg.Connection[Any],
    worker: Worker,
    rollup: Rollup,
    chance: random.Random,
    batches: list[list[Event]],
    unlink: Callable[..., None] | None = None,
) -> None:
    """Settle batch after batch; now and then fold some of what waits, and unlink."""
    for number, batch in enumerate(batches):
        enqueue(connection, *batch)
        worker.settle_all()
        if unlink and chance.random() < 0.3:
            visitor = chance.choice(("ann-phone", "ann-laptop", "same", "bob-phone", "cookie"))
            at = NOW + chance.randrange(-200, 200) * timedelta(hours=1)
            unlink(visitor, chance.choice(("ann", "bob", "same")), at, number, batch[0].source_id)
        if chance.random() < 0.5:
            # What other workers' claims leave comes in later, though their links are there already.
            held_back = connection.execute(
                "DELETE FROM rollup_queue WHERE random() < 0.5 RETURNING"
                " source_ids, event_ids, received_ats, unlinked_source_id, unlinked_visitor"
            ).fetchall()
            rollup.fold_all()
            with connection.cursor() as cursor:
                cursor.executemany(
                    "INSERT INTO rollup_queue (source_ids, event_ids, received_ats, unlinked_source_id,"
                    " unlinked_visitor) VALUES (%s, %s, %s, %s, %s)",
                    held_back,
                )
    rollup.fold_all()


@pytest.mark.parametrize("seed", range(3))
def test_users_from_days_are_plain_sqls(
    connection: psycopg.Connection[Any],
    worker: Worker,
    rollup: Rollup,
    rolled: Callable[[Asked], GetStatsResponse | None],
    raw: Figure,
    unlink: Callable[..., None],
    seed: int,
) -> None:
    chance = random.Random(seed)
    connection.execute("SELECT setseed(%s)", [seed / 10])
    with_sites = spread(chance, random_events(chance, SOURCE, 300))
    without = spread(chance, random_events(chance, OTHER_SOURCE, 200))
    batches = in_batches(chance, with_sites) + in_batches(chance, without)
    chance.shuffle(batches)
    come_in(connection, worker, rollup, chance, batches, unlink if seed else None)
    told = 0
    for source_id, events, site_ids in ((SOURCE, with_sites, ("a", "b")), (OTHER_SOURCE, without, ("",))):
        read_all(connection, source_id)
        for start, end in [*ranges(chance, events, 60), (MIDNIGHT - 30 * DAY, MIDNIGHT + 30 * DAY)]:
            site_id = chance.choice(site_ids)
            asked = ask(start, end, source_id=source_id, site_id=site_id, by_day=chance.random() < 0.5)
            found = rolled(asked)
            if found is not None:
                assert same(found, expected(connection, asked)), asked
                assert same(found, raw(asked)), asked
                told += found.value > 0
    assert told > 60
    made = tables(connection)
    connection.execute(_ANEW)
    rollup.fold_all()
    assert tables(connection) == made


def test_deleted_days_leave_the_others_as_they_were(
    connection: psycopg.Connection[Any],
    worker: Worker,
    rollup: Rollup,
    rolled: Callable[[Asked], GetStatsResponse | None],
    unlink: Callable[..., None],
) -> None:
    chance = random.Random(5)
    connection.execute("SELECT setseed(0.5)")
    events = spread(chance, random_events(chance, OTHER_SOURCE, 300))
    batches = in_batches(chance, events)
    for days, part in enumerate((batches[:20], batches[20:30], batches[30:])):
        come_in(connection, worker, rollup, chance, part, unlink)
        horizon = MIDNIGHT + (2 * days - 4) * DAY
        raise_horizon(connection, (horizon - DAY).date())
        assert not rollup.purge()
        read_all(connection, OTHER_SOURCE)
        for start, end in ranges(chance, events, 40):
            asked = ask(max(start, horizon), end, source_id=OTHER_SOURCE)
            found = rolled(asked)
            assert found is None or same(found, expected(connection, asked)), asked


def close_together(chance: random.Random, source_id: str) -> list[Event]:
    """Make events of three moments on two days, half of them links, of few ids."""
    events = []
    for _ in range(chance.randrange(3, 12)):
        received_at = NOW + chance.randrange(3) * MICROSECOND
        event = make_event(
            received_at,
            source_id=source_id,
            event_id=str(UUID(int=chance.getrandbits(128))),
            anonymous_id=chance.choice(("", "phone", "laptop")),
            cookie_id=chance.choice(("", "", "phone", "cookie")),
            name="",
            kind=EVENT_KIND_PAGE,
        )
        event.occurred_at.CopyFrom(timestamp_of(received_at - chance.randrange(2) * DAY))
        if chance.random() < 0.5:
            event.kind = EVENT_KIND_IDENTIFY
            event.user_id = chance.choice(("ann", "bob"))
        events.append(event)
    return events


def test_links_and_events_of_one_moment_come_in_in_any_order(
    connection: psycopg.Connection[Any],
    worker: Worker,
    rollup: Rollup,
    rolled: Callable[[Asked], GetStatsResponse | None],
) -> None:
    chance = random.Random(11)
    connection.execute("SELECT setseed(0.11)")
    sources = [str(UUID(int=number)) for number in range(1, 61)]
    events = [event for source_id in sources for event in close_together(chance, source_id)]
    come_in(connection, worker, rollup, chance, in_batches(chance, events))
    for source_id in sources:
        read_all(connection, source_id)
        for end in (NOW + DAY, NOW):
            asked = ask(NOW - 2 * DAY, end, source_id=source_id)
            found = rolled(asked)
            assert found is not None
            assert same(found, expected(connection, asked))
    made = tables(connection)
    connection.execute(_ANEW)
    rollup.fold_all()
    assert tables(connection) == made


def test_what_days_cannot_tell(rolled: Callable[[Asked], GetStatsResponse | None]) -> None:
    hour = timedelta(hours=1)
    assert rolled(ask(MIDNIGHT + hour, MIDNIGHT + 2 * hour)) is None
    assert rolled(ask(MIDNIGHT, MIDNIGHT)) is None
    assert rolled(ask(MIDNIGHT, MIDNIGHT - DAY)) is None
    for bounds in (
        (MIDNIGHT, MIDNIGHT + hour),
        (MIDNIGHT - hour, MIDNIGHT),
        (MIDNIGHT - hour, MIDNIGHT + hour),
        (datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)),
    ):
        assert rolled(ask(*bounds)) == GetStatsResponse()


def test_a_fold_that_fails_leaves_what_was(
    connection: psycopg.Connection[Any],
    worker: Worker,
    rollup: Rollup,
    rolled: Callable[[Asked], GetStatsResponse | None],
) -> None:
    enqueue(connection, make_event(anonymous_id="phone"))
    worker.settle_all()
    rollup.fold_all()
    made = tables(connection)
    enqueue(connection, make_event(anonymous_id="phone"), make_identify(anonymous_id="phone"))
    worker.settle_all()
    connection.execute("ALTER TABLE user_day_totals ADD CHECK (users = 0) NOT VALID")
    with pytest.raises(StorageUnavailable):
        rollup.fold()
    assert tables(connection) == made
    connection.execute("ALTER TABLE user_day_totals DROP CONSTRAINT user_day_totals_users_check")
    rollup.fold_all()
    assert tables(connection) != made
    found = rolled(ask())
    assert found is not None
    assert found.value == 1
