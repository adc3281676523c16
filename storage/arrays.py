"""Arrays of ids and times as parameters of a statement, in Postgres' binary format.

Hides that format, and how the driver learns of it. In text the server takes 2,000 instructions to
read an id.
"""

from collections.abc import Iterable
from functools import lru_cache
from struct import Struct

from psycopg import adapters
from psycopg.abc import Buffer
from psycopg.adapt import Dumper
from psycopg.pq import Format
from psycopg.types import TypeInfo

# Dimensions, whether there are nulls, the elements' type; of the only dimension: size, first index.
_HEADER = Struct(">iiIii")
_EMPTY = Struct(">iiI")
_UUID_LENGTH = Struct(">i").pack(16)
_TIME = Struct(">iq").pack
_DATE = Struct(">ii").pack
_SECONDS_TO_2000 = 946_684_800
_MICROS_TO_2000 = _SECONDS_TO_2000 * 1_000_000
_DAYS_TO_2000 = _SECONDS_TO_2000 // 86_400


class UuidArray(bytes):
    """A uuid[]."""


class TimeArray(bytes):
    """A timestamptz[]."""


class DateArray(bytes):
    """A date[]."""


def uuid_bytes(canonical: str) -> bytes:
    """Give the 16 bytes of a UUID in canonical form."""
    return bytes.fromhex(canonical.replace("-", ""))


recurring_uuid_bytes = lru_cache(uuid_bytes)
"""The same, remembered, for ids that come again and again: of a claim's events most are of a few sources."""


def uuid_array(ids: Iterable[bytes]) -> UuidArray:
    """Give an array of UUIDs, each as its 16 bytes."""
    elements = [b"", *ids]
    return UuidArray(_header("uuid", len(elements) - 1) + _UUID_LENGTH.join(elements))


def time_array(moments: Iterable[int]) -> TimeArray:
    """Give an array of moments, in microseconds since 1970."""
    elements = [_TIME(8, micros - _MICROS_TO_2000) for micros in moments]
    return TimeArray(_header("timestamptz", len(elements)) + b"".join(elements))


def date_array(days: Iterable[int]) -> DateArray:
    """Give an array of dates, in days since 1970."""
    elements = [_DATE(4, day - _DAYS_TO_2000) for day in days]
    return DateArray(_header("date", len(elements)) + b"".join(elements))


def _type(name: str) -> TypeInfo:
    found = adapters.types.get(name)
    assert found, name
    return found


def _header(of: str, size: int) -> bytes:
    element = _type(of).oid
    return _HEADER.pack(1, 0, element, size, 1) if size else _EMPTY.pack(0, 0, element)


class _Ready(Dumper):
    format = Format.BINARY

    def dump(self, obj: Buffer) -> Buffer:
        return obj


def _register(kind: type[bytes], of: str) -> None:
    adapters.register_dumper(kind, type(f"_{kind.__name__}Dumper", (_Ready,), {"oid": _type(of).array_oid}))


_register(UuidArray, "uuid")
_register(TimeArray, "timestamptz")
_register(DateArray, "date")
