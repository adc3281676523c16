"""Times: a Timestamp as a datetime and back, and its hour. Hides what no datetime can hold."""

from datetime import UTC, datetime, timedelta

from google.protobuf.timestamp_pb2 import Timestamp

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_HOUR_SECONDS = 3_600
_DAY_SECONDS = 86_400
# What has no date in Python is cut to what has, with some years to spare on either side.
_FIRST_SECOND = -62_000_000_000
_LAST_SECOND = 253_000_000_000


def timestamp_of(moment: datetime) -> Timestamp:
    """Give an aware datetime as a Timestamp."""
    since = moment - EPOCH
    return Timestamp(seconds=since.days * _DAY_SECONDS + since.seconds, nanos=since.microseconds * 1_000)


def moment_of(timestamp: Timestamp) -> datetime:
    """Give a Timestamp as an aware datetime; one before the year 6 or after 9986 as one near it."""
    seconds = min(max(timestamp.seconds, _FIRST_SECOND), _LAST_SECOND)
    return EPOCH + timedelta(seconds=seconds, microseconds=timestamp.nanos // 1_000)


def hour_of(timestamp: Timestamp) -> int:
    """Give the start of a Timestamp's UTC hour, in seconds since the epoch."""
    return timestamp.seconds - timestamp.seconds % _HOUR_SECONDS
