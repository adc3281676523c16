"""What is written comes back: any event there can be, through COPY, the real table and back."""

import ipaddress
import json
import uuid
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import psycopg
import pytest
from google.protobuf.struct_pb2 import Struct
from google.protobuf.timestamp_pb2 import Timestamp
from google.type.money_pb2 import Money
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from polylect.v1.event_pb2 import (
    EVENT_KIND_REVENUE,
    EVENT_KIND_TRACK,
    Campaign,
    Device,
    Event,
    EventKind,
    Geo,
    Page,
    Provenance,
    Revenue,
)
from psycopg.rows import dict_row
from sqlalchemy import select
from sqlalchemy.dialects import postgresql

from storage.partitions import Partitions
from storage.rows import (
    COLUMNS,
    COPY,
    SELECTED,
    decimal_of,
    event_of,
    money_of,
    row_of,
    write_rows,
)
from storage.schema import events
from storage.values import datetime_of, timestamp_of

DAY = date(2026, 2, 25)
RECEIVED_AT = datetime(2026, 2, 25, 14, 30, 0, 123456, tzinfo=UTC)
SOURCE_ID = "01900000-0000-7000-8000-00000000000a"
EVENT_ID = "0194f2aa-0000-7000-8000-000000000001"
SELECT = str(select(*SELECTED).compile(dialect=postgresql.dialect()))

# All that UTF-8 and Postgres can hold; backslashes, tabs and newlines mean something to COPY.
texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)
maybe = st.one_of(st.just(""), texts)
moments = st.datetimes(datetime(1971, 1, 1), datetime(9999, 12, 31), timezones=st.just(UTC))
nanos = st.integers(-(10**9) + 1, 10**9 - 1)
addresses = st.one_of(st.ip_addresses().map(str), st.just("::ffff:10.0.0.1"), st.just(""))

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**60), 10**60)
    | st.decimals(-(10**12), 10**12, places=9, allow_nan=False)
    | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)


def to_json(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ",".join(f"{json.dumps(key)}:{to_json(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(to_json, value)) + "]"
    return f"{value:f}" if isinstance(value, Decimal) else json.dumps(value)


def parse(text: str) -> Any:
    """Read JSON without losing a digit."""
    return json.loads(text, parse_float=Decimal, parse_int=Decimal)


json_objects = st.dictionaries(texts, json_values, max_size=4).map(to_json)


@st.composite
def moneys(draw: st.DrawFn, currency: str) -> Money:
    units, fraction = draw(st.integers(-(2**63) + 1, 2**63 - 1)), draw(nanos)
    sign = -1 if units < 0 or (units == 0 and fraction < 0) else 1
    return Money(currency_code=currency, units=units, nanos=sign * abs(fraction))


@st.composite
def revenues(draw: st.DrawFn) -> Revenue:
    currency = draw(st.sampled_from(["USD", "EUR", "JPY"]))
    return Revenue(
        amount=draw(st.none() | moneys(currency)),
        transaction_id=draw(maybe),
        processor=draw(maybe),
        event_type=draw(maybe),
        subscription_id=draw(maybe),
        mrr_impact=draw(st.none() | moneys(currency)),
        recurring=draw(st.booleans()),
    )


def some(message: Any, *fields: str, **others: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Give messages of which at least one field says something; an empty one is read back as none."""
    made = st.builds(message, **dict.fromkeys(fields, maybe), **others)
    return st.none() | made.filter(lambda built: built.ByteSize() > 0)


stored_events = st.builds(
    Event,
    source_id=st.uuids().map(str),
    event_id=st.uuids().map(str),
    kind=st.sampled_from([kind for kind in EventKind.values() if kind]),
    received_at=st.datetimes(
        datetime(2026, 2, 25), datetime(2026, 2, 26, 23, 59, 59, 999_999), timezones=st.just(UTC)
    ).map(timestamp_of),
    occurred_at=moments.map(timestamp_of),
    sent_at=st.none() | moments.map(timestamp_of),
    name=maybe,
    message_id=maybe,
    anonymous_id=maybe,
    user_id=maybe,
    group_id=maybe,
    session_id=maybe,
    cookie_id=maybe,
    page=some(Page, "url", "path", "search", "title", "referrer", "referrer_source"),
    campaign=some(Campaign, "source", "medium", "name", "term", "content"),
    device=some(Device, "type", "user_agent", "locale", "timezone", bot=st.booleans()),
    geo=some(Geo, "country"),
    client_ip=addresses,
    revenue=st.none() | revenues(),
    properties_json=json_objects,
    traits_json=json_objects,
    context_json=json_objects,
    provenance=st.builds(
        Provenance,
        dialect=st.sampled_from(["pulsora", "grpc"]),
        **dict.fromkeys(("endpoint", "library", "request_id", "site_id"), maybe),
    ),
    sanitized=st.booleans(),
)


@pytest.fixture(scope="module")
def connection(postgres: Any) -> Iterator[psycopg.Connection[Any]]:
    """One database for all examples: each is rolled back."""
    name = "test_rows"
    with psycopg.connect(postgres.url, autocommit=True) as operator:
        operator.execute(f"CREATE DATABASE {name} TEMPLATE polylect_template STRATEGY FILE_COPY")
        url = f"{postgres.url.rpartition('/')[0]}/{name}"
        Partitions(lambda: psycopg.connect(url, autocommit=True)).ensure([DAY, DAY + timedelta(days=1)])
        with psycopg.connect(url, row_factory=dict_row) as connection:
            yield connection
            connection.rollback()
        operator.execute(f"DROP DATABASE {name} WITH (FORCE)")


def through_the_table(connection: psycopg.Connection[Any], event: Event) -> Event:
    with connection.transaction(force_rollback=True), connection.cursor() as cursor:
        with cursor.copy(COPY) as copy:
            write_rows(copy, [row_of(event)])
        row = cursor.execute(SELECT).fetchone()
        assert row is not None
        return event_of(row)


def comparable(event: Event) -> tuple[Event, Any, Any]:
    """Take apart what has more than one text for the same value: JSON and addresses."""
    rest = Event()
    rest.CopyFrom(event)
    rest.ClearField("client_ip")
    texts = [rest.properties_json, rest.traits_json, rest.context_json]
    rest.properties_json = rest.traits_json = rest.context_json = ""
    address = ipaddress.ip_address(event.client_ip) if event.client_ip else None
    return rest, [parse(text or "{}") for text in texts], address


def make_event(**fields: Any) -> Event:
    return Event(
        **{
            "source_id": SOURCE_ID,
            "event_id": EVENT_ID,
            "kind": EVENT_KIND_TRACK,
            "received_at": timestamp_of(RECEIVED_AT),
            "occurred_at": timestamp_of(RECEIVED_AT),
            "provenance": Provenance(dialect="pulse"),
            "properties_json": "{}",
            "traits_json": "{}",
            "context_json": "{}",
        }
        | fields
    )


@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.too_slow])
@given(event=stored_events)
@example(event=make_event(name="\\N", user_id="\\.", group_id="a\tb\nc\rd\\e", session_id="NULL"))
@example(event=make_event(name="\U0010ffff\u2028é\u200d", message_id="'; DROP TABLE events; --"))
def test_every_event_comes_back(connection: psycopg.Connection[Any], event: Event) -> None:
    assert comparable(through_the_table(connection, event)) == comparable(event)


@pytest.mark.parametrize("odd", ["a\tb", "a\nb", "a\rb", "a\\", "\\", "\t", "\\N", "\\."])
def test_a_row_that_needs_escapes_may_stand_anywhere(connection: psycopg.Connection[Any], odd: str) -> None:
    names = [odd if number in (0, 150, 299) else f"{number}" for number in range(300)]
    rows = [row_of(make_event(event_id=str(uuid.UUID(int=n)), name=name)) for n, name in enumerate(names)]
    with connection.transaction(force_rollback=True), connection.cursor() as cursor:
        with cursor.copy(COPY) as copy:
            write_rows(copy, rows)
        stored = cursor.execute("SELECT name FROM events ORDER BY event_id").fetchall()
    assert [row["name"] for row in stored] == names


def test_json_keeps_every_digit(connection: psycopg.Connection[Any]) -> None:
    text = '{"id": 123456789012345678901234567890, "one": 1, "price": 1.10, "tiny": 0.000000000000000000001}'
    stored = through_the_table(connection, make_event(properties_json=text))
    assert sorted(stored.properties_json[1:-1].split(", ")) == sorted(text[1:-1].split(", "))


@pytest.mark.parametrize(
    ("units", "nano", "decimal"),
    [
        (49, 990_000_000, "49.99"),
        (-49, -990_000_000, "-49.99"),
        (0, -1, "-0.000000001"),
        (1000, 0, "1000"),
        (0, 0, "0"),
        (2**63 - 1, 999_999_999, "9223372036854775807.999999999"),
    ],
)
def test_money_is_exact_both_ways(units: int, nano: int, decimal: str) -> None:
    money = Money(currency_code="USD", units=units, nanos=nano)
    assert f"{decimal_of(money):f}" == decimal
    assert money_of(Decimal(decimal), "USD") == money


def test_an_operator_reads_money_without_a_tail_of_zeros(connection: psycopg.Connection[Any]) -> None:
    amount = Money(currency_code="USD", units=10, nanos=500_000_000)
    event = make_event(kind=EVENT_KIND_REVENUE, revenue=Revenue(amount=amount))
    row = dict(zip(COLUMNS, row_of(event), strict=True))
    assert (row["revenue_amount"], row["revenue_currency"]) == ("10.5", "USD")


def test_an_event_without_its_own_time_occurred_when_received(connection: psycopg.Connection[Any]) -> None:
    event = make_event()
    event.ClearField("occurred_at")
    stored = through_the_table(connection, event)
    assert stored.occurred_at == stored.received_at == timestamp_of(RECEIVED_AT)


def test_what_is_absent_is_null_and_read_back_as_absent(connection: psycopg.Connection[Any]) -> None:
    event = make_event(page=Page(), device=Device(), geo=Geo(), campaign=Campaign())
    row = dict(zip(COLUMNS, row_of(event), strict=True))
    assert {row[name] for name in COLUMNS if name.startswith(("page_", "campaign_", "geo_", "revenue_"))} == {
        ""
    }
    assert through_the_table(connection, event) == make_event()


def test_nanoseconds_are_cut_to_microseconds() -> None:
    assert datetime_of(Timestamp(seconds=1, nanos=1999)) == datetime(1970, 1, 1, 0, 0, 1, 1, tzinfo=UTC)


@given(moments)
def test_a_moment_comes_back(moment: datetime) -> None:
    assert datetime_of(timestamp_of(moment)) == moment


def test_columns_are_the_tables(connection: psycopg.Connection[Any]) -> None:
    assert tuple(events.columns.keys()) == COLUMNS
    assert len(row_of(Event(kind=EVENT_KIND_TRACK))) == len(COLUMNS)


@pytest.mark.parametrize(
    "event",
    [
        make_event(kind=0),
        make_event(occurred_at=Timestamp(seconds=253_402_300_800)),
        make_event(properties=Struct()),
        make_event(traits=Struct()),
        make_event(context=Struct()),
    ],
    ids=["no kind", "year 10000", "properties", "traits", "context"],
)
def test_what_no_row_can_hold_is_a_value_error(event: Event) -> None:
    with pytest.raises(ValueError, match=r"no row can hold|a Struct came"):
        row_of(event)
