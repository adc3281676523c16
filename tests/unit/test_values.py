"""Parsers of single values."""

from decimal import Decimal
from typing import Any

import pytest
from google.type.money_pb2 import Money
from hypothesis import given
from hypothesis import strategies as st

from rest_facade import values
from rest_facade.values import Invalid
from rest_facade.vocabulary import Parser


@pytest.mark.parametrize(
    ("parse", "value", "canonical"),
    [
        (values.text(3), "äöü", "äöü"),
        (values.identifier, "x" * 1024, "x" * 1024),
        (values.absolute_url, "https://example.com/a", "https://example.com/a"),
        (values.one_of(("a", "b")), "b", "b"),
        (values.boolean, False, False),
        (values.json_object, {}, {}),
        (values.country, "de", "DE"),
        (values.currency, "usd", "USD"),
        (values.number, 7, Decimal(7)),
        (values.money, Decimal("79.90"), Decimal("79.90")),
        (values.money, Decimal("1E+2"), Decimal(100)),
        (values.milliseconds, 1714412000123, 1714412000123000),
        (values.milliseconds, Decimal("1714412000123.5"), 1714412000123500),
        (values.strict_milliseconds, 1703001234567, 1703001234567000),
        (values.milliseconds_or_iso, "1970-01-01T00:00:01Z", 1_000_000),
        (values.iso_time, "2026-02-25T14:30:00.000Z", 1772029800000000),
        (values.iso_time, "2026-02-25T14:30:00.123456+00:00", 1772029800123456),
        (values.iso_time, "2026-02-25T15:30:00+01:00", 1772029800000000),
        (values.iso_time, "2026-02-25T14:30:00", 1772029800000000),
        (values.iso_time, "1969-12-31T23:59:59.5Z", -500_000),
        (values.milliseconds_in_text, "1714412000123", 1714412000123000),
    ],
)
def test_takes(parse: Parser, value: Any, canonical: Any) -> None:
    parsed = parse(value)
    assert (parsed, type(parsed)) == (canonical, type(canonical))


@pytest.mark.parametrize(
    ("parse", "value", "problem"),
    [
        (values.text(3), "abcd", "must be at most 3 characters"),
        (values.text(3), 1, "must be a string"),
        (values.identifier, "ä" * 513, "must be at most 1024 bytes"),
        (values.absolute_url, "/pricing", "must be an absolute URL"),
        (values.absolute_url, "https://[", "must be an absolute URL"),
        (values.one_of(("a", "b")), "c", "must be one of: a, b"),
        (values.one_of(("a", "b")), ["a"], "must be one of: a, b"),
        (values.boolean, 1, "must be true or false"),
        (values.json_object, [], "must be an object"),
        (values.country, "DEU", "must be a two-letter country code"),
        (values.currency, "us", "must be a three-letter currency code"),
        (values.number, True, "must be a number"),
        (values.number, "1", "must be a number"),
        (values.money, 10**18, "must be a number below 10^18"),
        (values.money, Decimal("0.0000000001"), "must be a number of at most 9 decimal places"),
        (values.milliseconds, "1", "must be a number of milliseconds since 1970"),
        (values.milliseconds, 10**18, "is out of range"),
        (values.milliseconds, Decimal("1E+1000"), "is out of range"),
        (values.strict_milliseconds, "1703001234567", "must be a number (Unix milliseconds), not a string"),
        (values.strict_milliseconds, 1703001234, "must be in milliseconds; this value looks like seconds"),
        (values.iso_time, "yesterday", "must be an ISO 8601 date and time"),
        (values.iso_time, 1714412000123, "must be an ISO 8601 date and time"),
        (values.iso_time, "0001-01-01T00:00:00+14:00", "is out of range"),
        (values.milliseconds_in_text, "-1", "must be a number of milliseconds since 1970"),
        (values.milliseconds_in_text, "٣", "must be a number of milliseconds since 1970"),
    ],
)
def test_refuses(parse: Parser, value: Any, problem: str) -> None:
    with pytest.raises(Invalid) as refused:
        parse(value)
    assert str(refused.value) == problem


@given(st.decimals(min_value=-(10**17), max_value=10**17, places=9))
def test_money_is_exact(amount: Decimal) -> None:
    money = Money()
    values.set_money(money, amount, "EUR")
    assert Decimal(money.units) + Decimal(money.nanos).scaleb(-9) == amount
    assert money.units * money.nanos >= 0
    assert money.currency_code == "EUR"
