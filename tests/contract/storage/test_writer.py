"""One transaction of the worker: once, all of it, and one bad event costs its neighbours nothing."""

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import psycopg
import pytest
import sqlalchemy
from polylect.v1.error_reason_pb2 import ERROR_REASON_FIELD_MISSING, Rejection
from polylect.v1.event_pb2 import (
    EVENT_KIND_REVENUE,
    EVENT_KIND_TRACK,
    EVENT_KIND_UNSPECIFIED,
    Device,
    Event,
    Page,
    Revenue,
)
from sqlalchemy.dialects.postgresql.psycopg import PGDialect_psycopg
from structlog.testing import capture_logs
from worker_factory import (
    NOW,
    OTHER_SOURCE,
    SOURCE,
    Clock,
    column,
    ids_of,
    make_event,
    make_identify,
    make_refused,
    select,
    stored_ids,
)

from storage.enrich import Enricher
from storage.partitions import Partitions
from storage.rows import SELECTED, event_of
from storage.values import NO_SOURCE, timestamp_of
from storage.writer import Tally, Writer

WINDOW = timedelta(days=7)
_ENRICHER = Enricher()


@pytest.fixture
def connection(database_url: str) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("SET TIME ZONE 'UTC'")
        yield connection


@pytest.fixture
def writer(database_url: str) -> Writer:
    return make_writer(database_url)


def make_writer(database_url: str, window: timedelta = WINDOW) -> Writer:
    partitions = Partitions(lambda: psycopg.connect(database_url, autocommit=True))
    return Writer(_ENRICHER, partitions, window, Clock())


def write(writer: Writer, connection: psycopg.Connection[Any], *events: Event, refused: Any = ()) -> Tally:
    with connection.transaction():
        return writer.write(connection, events, refused)


def test_an_event_is_stored_whole_and_enriched(writer: Writer, connection: psycopg.Connection[Any]) -> None:
    event = make_event(
        message_id="m-1",
        page=Page(url="https://shop.example.com/a?utm_source=news"),
        device=Device(user_agent="Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)"),
        client_ip="8.8.8.8",
    )
    expected = Event()
    expected.CopyFrom(event)
    _ENRICHER.enrich(expected)
    assert write(writer, connection, event) == Tally(stored=1)
    query = str(sqlalchemy.select(*SELECTED).compile(dialect=PGDialect_psycopg()))
    (row,) = select(connection, query)
    stored = event_of(row)
    assert stored.device.bot
    expected.traits_json = expected.context_json = "{}"
    assert stored == expected


# -- once


def test_of_one_id_in_one_batch_the_first_is_stored(
    writer: Writer, connection: psycopg.Connection[Any]
) -> None:
    first, second = make_event(message_id="m-1"), make_event(message_id="m-1")
    assert write(writer, connection, first, make_event(), second) == Tally(stored=2, duplicate=1)
    assert first.event_id in stored_ids(connection)
    assert second.event_id not in stored_ids(connection)


def test_of_one_id_in_two_claims_the_first_is_stored(
    writer: Writer, connection: psycopg.Connection[Any]
) -> None:
    first, second = make_event(message_id="m-1"), make_event(message_id="m-1")
    assert write(writer, connection, first) == Tally(stored=1)
    assert write(writer, connection, second) == Tally(duplicate=1)
    assert stored_ids(connection) == [first.event_id]


@pytest.mark.parametrize("together", [True, False])
@pytest.mark.parametrize(
    ("later", "stored"),
    [(WINDOW, 1), (WINDOW + timedelta(microseconds=1), 2), (timedelta(0), 1)],
)
def test_the_window_ends_to_the_microsecond(
    writer: Writer, connection: psycopg.Connection[Any], together: bool, later: timedelta, stored: int
) -> None:
    first = make_event(message_id="m-1")
    second = make_event(NOW + later, message_id="m-1")
    if together:
        write(writer, connection, first, second)
    else:
        write(writer, connection, first)
        write(writer, connection, second)
    assert stored_ids(connection) == ids_of(first, second)[:stored]


def test_the_window_counts_from_the_event_that_was_stored(
    writer: Writer, connection: psycopg.Connection[Any]
) -> None:
    events = [make_event(NOW + timedelta(days=days), message_id="m-1") for days in (0, 6, 8, 14, 16)]
    for event in events:
        write(writer, connection, event)
    assert stored_ids(connection) == ids_of(events[0], events[2], events[4])
    assert column(connection, "SELECT event_id::text FROM dedup_keys") == [events[4].event_id]


def test_an_earlier_event_processed_later_is_the_duplicate(
    writer: Writer, connection: psycopg.Connection[Any]
) -> None:
    late = make_event(NOW, message_id="m-1")
    write(writer, connection, late)
    assert write(writer, connection, make_event(NOW - timedelta(seconds=9), message_id="m-1")).duplicate == 1
    assert stored_ids(connection) == [late.event_id]


def test_ids_are_a_sources_own(writer: Writer, connection: psycopg.Connection[Any]) -> None:
    events = [make_event(message_id="m-1"), make_event(message_id="m-1", source_id=OTHER_SOURCE)]
    assert write(writer, connection, *events) == Tally(stored=2)


def test_without_an_id_nothing_is_a_duplicate(writer: Writer, connection: psycopg.Connection[Any]) -> None:
    assert write(writer, connection, make_event(), make_event()) == Tally(stored=2)
    assert column(connection, "SELECT count(*) FROM dedup_keys") == [0]


def test_a_payment_is_one_by_transaction_and_type(
    writer: Writer, connection: psycopg.Connection[Any]
) -> None:
    def payment(event_type: str, message_id: str) -> Event:
        revenue = Revenue(transaction_id="t-1", event_type=event_type)
        return make_event(kind=EVENT_KIND_REVENUE, revenue=revenue, message_id=message_id)

    tally = write(
        writer, connection, payment("purchase", "a"), payment("purchase", "b"), payment("refund", "a")
    )
    assert tally == Tally(stored=2, duplicate=1)


def test_no_window_no_deduplication(database_url: str, connection: psycopg.Connection[Any]) -> None:
    writer = make_writer(database_url, timedelta(0))
    assert write(writer, connection, make_event(message_id="m"), make_event(message_id="m")).stored == 2


def test_a_batch_queued_twice_is_stored_once(writer: Writer, connection: psycopg.Connection[Any]) -> None:
    def batch() -> list[Event]:
        return [Event.FromString(event) for event in serialized]

    serialized = [make_event(message_id=str(n) if n % 2 else "").SerializeToString() for n in range(10)]
    refused = make_refused()
    new = make_event()
    assert write(writer, connection, *batch(), refused=[refused]).stored == 10
    assert write(writer, connection, *batch(), new, refused=[refused]) == Tally(1, 10, 1)
    assert write(writer, connection, *batch(), *batch()) == Tally(0, 20, 0)
    assert stored_ids(connection) == ids_of(*batch(), new)
    assert column(connection, "SELECT count(*) FROM quarantine") == [1]


# -- identity


def links(connection: psycopg.Connection[Any]) -> list[tuple[str, str, str]]:
    query = "SELECT anonymous_id, user_id, event_id::text FROM identity_links ORDER BY 1, 2"
    return connection.execute(query.encode()).fetchall()


def test_identify_links_both_visitors_to_the_user(
    writer: Writer, connection: psycopg.Connection[Any]
) -> None:
    event = make_identify(anonymous_id="anon", cookie_id="cookie")
    write(writer, connection, event, make_event(anonymous_id="x", user_id="y"))
    assert links(connection) == [("anon", "user-1", event.event_id), ("cookie", "user-1", event.event_id)]
    assert column(connection, "SELECT linked_at FROM identity_links LIMIT 1") == [NOW]


@pytest.mark.parametrize(
    ("anonymous_id", "cookie_id", "expected"),
    [
        ("", "", []),
        ("same", "same", ["same"]),
        ("user-1", "cookie", ["cookie"]),
        ("user-1", "", []),
    ],
)
def test_a_link_joins_two_different_present_ids(
    writer: Writer,
    connection: psycopg.Connection[Any],
    anonymous_id: str,
    cookie_id: str,
    expected: list[str],
) -> None:
    write(writer, connection, make_identify(anonymous_id=anonymous_id, cookie_id=cookie_id))
    assert [visitor for visitor, _, _ in links(connection)] == expected


def test_a_duplicate_links_nothing(writer: Writer, connection: psycopg.Connection[Any]) -> None:
    write(writer, connection, make_event(message_id="m"), make_identify(message_id="m", anonymous_id="anon"))
    assert links(connection) == []


# -- quarantine


POISON = {
    "json": {"properties_json": '{"a":'},
    "nul": {"properties_json": '{"a": "\\u0000"}'},
    "number": {"traits_json": '{"a": 1e999999}'},
    "raw nul": {"name": "a\0b"},
    "address": {"client_ip": "not an address"},
    "depth": {"context_json": '{"a":' + "[" * 20_000 + "]" * 20_000 + "}"},
    "kind": {"kind": EVENT_KIND_UNSPECIFIED},
    "struct": {"properties": {"a": 1}},
    "received_at": {"received_at": NOW.replace(year=9998)},
}


@pytest.mark.parametrize("fields", POISON.values(), ids=POISON)
@pytest.mark.parametrize("position", [0, 5, 10])
def test_a_poisoned_event_alone_goes_to_quarantine(
    writer: Writer, connection: psycopg.Connection[Any], fields: dict[str, Any], position: int
) -> None:
    good = [make_event(message_id=f"m-{n}") for n in range(10)]
    bad = make_event(message_id="bad", **fields)
    events = [*good[:position], bad, *good[position:]]
    assert write(writer, connection, *events) == Tally(stored=10, quarantined=1)
    assert stored_ids(connection) == ids_of(*good)
    (row,) = select(connection, "SELECT * FROM quarantine")
    assert row["message"]
    assert row == {
        "source_id": row["source_id"],
        "quarantine_id": row["quarantine_id"],
        "received_at": bad.received_at.ToDatetime(tzinfo=NOW.tzinfo),
        "reason": "unwritable",
        "message": row["message"],
        "field": None,
        "raw": bad.SerializeToString(),
        "dialect": "grpc",
        "endpoint": None,
        "request_id": None,
        "client_ip": fields.get("client_ip"),
        "circumstances": None,
    }
    assert (str(row["source_id"]), str(row["quarantine_id"])) == (SOURCE, bad.event_id)


SECRET = "s3cret@example.com"


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"client_ip": SECRET}, 'client_ip: invalid input syntax for type inet: "…"'),
        ({"client_ip": f'"{SECRET}\n"'}, 'client_ip: invalid input syntax for type inet: "…"'),
        ({"properties_json": f'{{"a":{SECRET}'}, "properties: invalid input syntax for type json"),
        ({"name": f"{SECRET}\0"}, "PostgreSQL text fields cannot contain NUL (0x00) bytes"),
        ({"kind": EVENT_KIND_UNSPECIFIED, "name": SECRET}, "no row can hold this event: KeyError(0)"),
    ],
)
def test_why_it_could_not_be_stored_is_said_without_what_the_client_sent(
    writer: Writer, connection: psycopg.Connection[Any], fields: dict[str, Any], words: str
) -> None:
    with capture_logs() as logged:
        write(writer, connection, make_event(), make_event(**fields))
    assert column(connection, "SELECT message FROM quarantine") == [words]
    assert [entry["error"] for entry in logged if entry["event"] == "event_unwritable"] == [words]
    assert SECRET not in str(logged)


def test_many_poisoned_events_are_all_found(writer: Writer, connection: psycopg.Connection[Any]) -> None:
    events = [make_event(client_ip="bad" if n % 7 == 0 else "8.8.8.8") for n in range(100)]
    assert write(writer, connection, *events) == Tally(stored=85, quarantined=15)
    good = [event for event in events if event.client_ip == "8.8.8.8"]
    assert stored_ids(connection) == ids_of(*good)


def test_of_duplicates_in_a_halved_batch_the_first_is_stored(
    writer: Writer, connection: psycopg.Connection[Any]
) -> None:
    first, second = make_event(message_id="m"), make_event(message_id="m")
    tally = write(writer, connection, first, make_event(client_ip="bad"), make_event(), second)
    assert tally == Tally(stored=2, duplicate=1, quarantined=1)
    assert second.event_id not in stored_ids(connection)


def test_an_unwritable_event_does_not_use_up_its_id(
    writer: Writer, connection: psycopg.Connection[Any]
) -> None:
    write(writer, connection, make_event(message_id="m", client_ip="bad"))
    repaired = make_event(message_id="m")
    assert write(writer, connection, repaired) == Tally(stored=1)


def test_a_link_too_long_for_its_index_costs_no_neighbour(
    writer: Writer, connection: psycopg.Connection[Any]
) -> None:
    # Incompressible, or the index would take it.
    long_id = "".join(chr(0x4E00 + (n * 7919) % 20_000) for n in range(1024))
    good = make_identify(anonymous_id="anon")
    bad = make_identify(anonymous_id=long_id, user_id=long_id[::-1])
    assert write(writer, connection, bad, good) == Tally(stored=1, quarantined=1)
    assert [visitor for visitor, _, _ in links(connection)] == ["anon"]


@pytest.mark.parametrize("wrong", ["", "no uuid", "01941F29-7C00-7000-8000-000000000001"])
def test_ids_not_in_canonical_form_are_not_guessed_at(
    writer: Writer, connection: psycopg.Connection[Any], wrong: str
) -> None:
    bad = make_event(source_id=wrong, message_id="m")
    assert write(writer, connection, bad, make_event(message_id="m")) == Tally(stored=1, quarantined=1)
    (source_id,) = column(connection, "SELECT source_id::text FROM quarantine")
    assert source_id == (wrong.lower() if "-" in wrong else NO_SOURCE)


def test_what_the_core_refused_is_kept_as_it_came(
    writer: Writer, connection: psycopg.Connection[Any]
) -> None:
    raw = b'\x00\xff{"type":'
    rejection = Rejection(reason=ERROR_REASON_FIELD_MISSING, message="no\0 name", field="name")
    refused = make_refused(
        rejection=rejection,
        raw=raw,
        received_at=timestamp_of(NOW - timedelta(hours=1)),
        dialect="pulse",
        endpoint="/collect",
        request_id="r-1",
        client_ip="8.8.8.8",
    )
    bare = make_refused(rejection=Rejection(reason=ERROR_REASON_FIELD_MISSING))
    assert write(writer, connection, refused=[refused, bare]) == Tally(quarantined=2)
    first, second = select(connection, "SELECT * FROM quarantine ORDER BY quarantine_id")
    assert {name: value for name, value in first.items() if not name.endswith("_id") or name[0] == "r"} == {
        "received_at": NOW - timedelta(hours=1),
        "reason": "field_missing",
        "message": "no name",
        "field": "name",
        "raw": raw,
        "dialect": "pulse",
        "endpoint": "/collect",
        "request_id": "r-1",
        "client_ip": "8.8.8.8",
        "circumstances": None,
    }
    assert (second["received_at"], second["message"], second["field"]) == (NOW, "", None)


# -- what is no event's fault


def test_trouble_of_the_database_is_not_blamed_on_events(
    database_url: str, writer: Writer, connection: psycopg.Connection[Any]
) -> None:
    connection.execute("SET lock_timeout = '10ms'")
    write(writer, connection, make_event())
    with psycopg.connect(database_url) as holder:
        holder.execute("LOCK TABLE dedup_keys")
        with pytest.raises(psycopg.errors.LockNotAvailable):
            write(writer, connection, make_event(message_id="m"), make_event(kind=EVENT_KIND_TRACK))
    assert column(connection, "SELECT count(*) FROM quarantine") == [0]
    assert column(connection, "SELECT count(*) FROM events") == [1]


def test_a_missing_column_is_not_blamed_on_events(
    writer: Writer, connection: psycopg.Connection[Any]
) -> None:
    connection.execute("ALTER TABLE events DROP COLUMN sanitized")
    with pytest.raises(psycopg.errors.UndefinedColumn):
        write(writer, connection, make_event(), make_event())
    assert column(connection, "SELECT count(*) FROM quarantine") == [0]


def test_a_partition_dropped_behind_the_back_is_made_again(
    writer: Writer, connection: psycopg.Connection[Any]
) -> None:
    write(writer, connection, make_event())
    connection.execute("DROP TABLE events_p20260131")
    again = make_event()
    assert write(writer, connection, again) == Tally(stored=1)
    assert stored_ids(connection) == [again.event_id]


def test_events_of_long_ago_get_their_days(writer: Writer, connection: psycopg.Connection[Any]) -> None:
    events = [make_event(NOW - timedelta(days=days)) for days in (0, 1, 30, 400)]
    assert write(writer, connection, *events) == Tally(stored=4)
    homes = column(connection, "SELECT tableoid::regclass::text FROM events ORDER BY received_at")
    assert homes == ["events_p20241227", "events_p20260101", "events_p20260130", "events_p20260131"]
