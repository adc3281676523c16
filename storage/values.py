"""Values as any table has them: times, ids, and how a column is selected. It must not know any table."""

import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp
from sqlalchemy import Column, ColumnElement, Text, cast, func
from sqlalchemy.dialects.postgresql import INET, JSONB, UUID

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

MICROS_PER_SECOND = 1_000_000

ID_TOLERANCE = timedelta(hours=1)
"""How far receipt, by the facade's clock, may be from the moment in the id, by the core's."""

END_OF_TIME_SECONDS = 253_087_718_400
"""In 9990, since the epoch: received then is what a clock gone mad says, and near what a date can hold."""

NO_SOURCE = "00000000-0000-0000-0000-000000000000"
"""Where things stand of which no source can be told: no source has this id, so only the admin sees them."""

_UUID_VERSION = 7


def timestamp_of(moment: datetime) -> Timestamp:
    """Give an aware datetime as a Timestamp, exact to the microsecond."""
    since_epoch = moment - EPOCH
    return Timestamp(
        seconds=since_epoch.days * 86_400 + since_epoch.seconds, nanos=since_epoch.microseconds * 1000
    )


def datetime_of(timestamp: Timestamp) -> datetime:
    """Give a Timestamp as an aware UTC datetime, cut to microseconds.

    Raises OverflowError outside the years 1 to 9999.
    """
    return EPOCH + timedelta(seconds=timestamp.seconds, microseconds=timestamp.nanos // 1000)


def uuid_text(text: str) -> str | None:
    """Give a UUID in the form the tables give it back; None when it is none."""
    try:
        return str(uuid.UUID(text))
    except ValueError:
        return None


def selected(column: Column[Any]) -> ColumnElement[Any]:
    """Give what to select of a column of any table: ids, addresses and JSON as text, the rest as it is."""
    if isinstance(column.type, INET):
        return func.host(column).label(column.name)
    # Parsed, JSON would lose digits: 1.10 would be 1.1.
    return cast(column, Text).label(column.name) if isinstance(column.type, JSONB | UUID) else column


def first_uuid7(moment: datetime) -> str:
    """Give what no UUIDv7 made at that moment or later is below. Before 1970 it is the first of all."""
    milliseconds = max(0, (moment - EPOCH) // timedelta(milliseconds=1))
    return str(uuid.UUID(int=min(milliseconds, (1 << 48) - 1) << 80))


def moment_of_uuid7(text: str) -> datetime | None:
    """Give when a UUIDv7 was made, or the moment of a `first_uuid7`, to the millisecond.

    None for what is another kind of id, or speaks of the end of time: an hour more or less is still a date.
    """
    identity = uuid.UUID(text)
    milliseconds, rest = divmod(identity.int, 1 << 80)
    is_timed = identity.version == _UUID_VERSION or not rest
    if not is_timed or milliseconds >= END_OF_TIME_SECONDS * 1000:
        return None
    return EPOCH + timedelta(milliseconds=milliseconds)
