"""Parsers: one JSON value in, one canonical value out, or Invalid with the problem in words.

They know no dialect and no field name. Canonical values: str, bool, Decimal, dict for free-form objects, and
microseconds since the epoch (int) for times.
"""

import re
from collections.abc import Collection
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from urllib.parse import urlsplit

from google.type.money_pb2 import Money

from rest_facade.vocabulary import Json, Parser

# Indexed ids: two of them and a uuid must fit one index row of Postgres (2,704 bytes).
ID_BYTES = 1024
URL_CHARACTERS = 8192
_TEXT_CHARACTERS = 8192

# What google.protobuf.Timestamp can hold: years 1 to 9999.
_EARLIEST_US = -62_135_596_800_000_000
_LATEST_US = 253_402_300_799_999_999
_EARLIEST_MS = _EARLIEST_US // 1000
_LATEST_MS = _LATEST_US // 1000
# Milliseconds below this are 1971 or before: such a timestamp was meant in seconds.
_LOOKS_LIKE_SECONDS_BELOW = 100_000_000_000

_CURRENCY = re.compile(r"[A-Za-z]{3}")
_COUNTRY = re.compile(r"[A-Za-z]{2}")
# google.type.Money: 64-bit units and nine decimal places.
_MONEY_LIMIT = Decimal(10) ** 18


class Invalid(ValueError):
    """A value is not what its field takes; the text completes 'the field …'."""


class Text:
    """A parser of strings up to a length in characters and, where given, in UTF-8 bytes."""

    def __init__(self, max_characters: int, max_bytes: int) -> None:
        self._max_characters = max_characters
        self._max_bytes = max_bytes
        # Strings up to this length are fine: no character takes more than four bytes.
        self.safe_characters = min(max_characters, max_bytes // 4) if max_bytes else max_characters

    def __call__(self, value: Any) -> str:
        """Parse one value."""
        if type(value) is not str:
            raise Invalid("must be a string")
        if len(value) > self._max_characters:
            raise Invalid(f"must be at most {self._max_characters} characters")
        if len(value) > self.safe_characters and len(value.encode()) > self._max_bytes:
            raise Invalid(f"must be at most {self._max_bytes} bytes")
        return value


def text(max_characters: int = _TEXT_CHARACTERS, max_bytes: int = 0) -> Text:
    """Make a parser of strings up to a length in characters and, where given, in UTF-8 bytes."""
    return Text(max_characters, max_bytes)


identifier = text(ID_BYTES, ID_BYTES)
"""Parse an id of a visitor, user, group or session: a string of at most 1,024 bytes."""

url = text(URL_CHARACTERS)
"""Parse an address, absolute or relative."""


def absolute_url(value: Any) -> str:
    """Parse an address with scheme and host."""
    address = url(value)
    try:
        parts = urlsplit(address)
    except ValueError:
        raise Invalid("must be an absolute URL") from None
    if not (parts.scheme and parts.netloc):
        raise Invalid("must be an absolute URL")
    return address


def one_of(words: Collection[str]) -> Parser:
    """Make a parser that takes these words only."""
    problem = f"must be one of: {', '.join(words)}"

    def parse(value: Any) -> str:
        if type(value) is not str or value not in words:
            raise Invalid(problem)
        return value

    return parse


def boolean(value: Any) -> bool:
    """Parse true or false."""
    if type(value) is not bool:
        raise Invalid("must be true or false")
    return value


def json_object(value: Any) -> Json:
    """Parse a free-form object."""
    if type(value) is not dict:
        raise Invalid("must be an object")
    return value


def country(value: Any) -> str:
    """Parse an ISO 3166-1 alpha-2 code, to upper case."""
    if type(value) is not str or not _COUNTRY.fullmatch(value):
        raise Invalid("must be a two-letter country code")
    return value.upper()


def currency(value: Any) -> str:
    """Parse an ISO 4217 code, to upper case."""
    if type(value) is not str or not _CURRENCY.fullmatch(value):
        raise Invalid("must be a three-letter currency code")
    return value.upper()


def number(value: Any) -> Decimal:
    """Parse a JSON number exactly."""
    if type(value) is int:
        return Decimal(value)
    if type(value) is not Decimal:
        raise Invalid("must be a number")
    return value


def money(value: Any) -> Decimal:
    """Parse a JSON number that google.type.Money can hold: below 10^18, at most 9 decimal places."""
    amount = number(value)
    if abs(amount) >= _MONEY_LIMIT:
        raise Invalid("must be a number below 10^18")
    if amount != round(amount, 9):
        raise Invalid("must be a number of at most 9 decimal places")
    return amount


def set_money(target: Money, amount: Decimal, currency_code: str) -> None:
    """Fill a google.type.Money; units and nanos have the same sign."""
    units = int(amount)
    target.currency_code = currency_code
    target.units = units
    target.nanos = int((amount - units) * 1_000_000_000)


def milliseconds(value: Any) -> int:
    """Parse Unix milliseconds as a number."""
    if type(value) is not int and type(value) is not Decimal:
        raise Invalid("must be a number of milliseconds since 1970")
    if _EARLIEST_MS <= value <= _LATEST_MS:
        return int(value * 1000)
    raise Invalid("is out of range")


def strict_milliseconds(value: Any) -> int:
    """Parse Unix milliseconds, and say so when a numeric string or seconds are given."""
    if type(value) is str:
        raise Invalid("must be a number (Unix milliseconds), not a string")
    micros = milliseconds(value)
    if 0 < micros < _LOOKS_LIKE_SECONDS_BELOW * 1000:
        raise Invalid("must be in milliseconds; this value looks like seconds")
    return micros


def iso_time(value: Any) -> int:
    """Parse an ISO 8601 date or date and time; without offset it is UTC. Digits past microseconds are cut."""
    if type(value) is not str:
        raise Invalid("must be an ISO 8601 date and time")
    try:
        moment = datetime.fromisoformat(value)
    except ValueError:
        raise Invalid("must be an ISO 8601 date and time") from None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    delta = moment - _EPOCH
    micros = (delta.days * 86_400 + delta.seconds) * 1_000_000 + delta.microseconds
    if _EARLIEST_US <= micros <= _LATEST_US:
        return micros
    raise Invalid("is out of range")


def milliseconds_or_iso(value: Any) -> int:
    """Parse Unix milliseconds, or an ISO 8601 date and time."""
    return iso_time(value) if type(value) is str else milliseconds(value)


def milliseconds_in_text(value: Any) -> int:
    """Parse Unix milliseconds as decimal digits, as in a query string."""
    if type(value) is not str or not (value.isascii() and value.isdigit() and len(value) <= 15):
        raise Invalid("must be a number of milliseconds since 1970")
    return int(value) * 1000


def anything(value: Any) -> Any:
    """Take any JSON value as it is."""
    return value


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
