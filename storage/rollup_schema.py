"""The tables that statistics are answered from: what follows from `events`, kept by `storage.rollup`.

Everything here is by UTC hour or day of occurrence and by site; "" is what came without a site. The events
decide: what is here can be made anew from them.
"""

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Date,
    DateTime,
    Identity,
    Index,
    Integer,
    Table,
    Text,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, UUID

from storage.schema import metadata

_TIMESTAMP = DateTime(timezone=True)
_UUID = UUID(as_uuid=False)


def _site() -> list[Column[str]]:
    return [Column("source_id", _UUID, primary_key=True), Column("site_id", Text, primary_key=True)]


# What is in `events` and not yet here. A row is of one claim of a worker, or of one unlink.
rollup_queue = Table(
    "rollup_queue",
    metadata,
    Column("rollup_id", BigInteger, Identity(always=True), primary_key=True),
    Column("enqueued_at", _TIMESTAMP, nullable=False, server_default=func.clock_timestamp()),
    # Keys of events, at the same places.
    Column("source_ids", ARRAY(_UUID), nullable=False, server_default=text("'{}'")),
    Column("event_ids", ARRAY(_UUID), nullable=False, server_default=text("'{}'")),
    Column("received_ats", ARRAY(_TIMESTAMP), nullable=False, server_default=text("'{}'")),
    # Whose events are now read with another user.
    Column("unlinked_source_id", _UUID),
    Column("unlinked_visitor", Text),
)

# From which UTC day of occurrence on everything is here: retention drops events by the day of receipt.
rollup_horizon = Table(
    "rollup_horizon",
    metadata,
    Column("only_row", Boolean, primary_key=True, server_default=text("true")),
    Column("day", Date, nullable=False),
)

event_hours = Table(
    "event_hours",
    metadata,
    *_site(),
    Column("hour", _TIMESTAMP, primary_key=True),
    # Hash of the four below: of any length, and the index is narrow.
    Column("group_hash", _UUID, primary_key=True),
    Column("kind", Text, nullable=False),
    # Of a track event its name, of a revenue event its type; else "".
    Column("name", Text, nullable=False),
    Column("country", Text, nullable=False),
    Column("device_type", Text, nullable=False),
    Column("events", BigInteger, nullable=False),
)

# A session's events of one UTC day, on one site.
session_days = Table(
    "session_days",
    metadata,
    *_site(),
    # As `storage.sessions` has it: shared by all events of a visitor where pauses tell sessions apart, and by
    # those of a session where the client does.
    Column("session", _UUID, primary_key=True),
    Column("started_at", _TIMESTAMP, primary_key=True),
    Column("ended_at", _TIMESTAMP, nullable=False),
    Column("events", Integer, nullable=False),
    # Whether pauses tell sessions apart.
    Column("windowed", Boolean, nullable=False),
    # Whether the session has events on another day too.
    Column("goes_on", Boolean, nullable=False),
    # Hashes of the names under which its events can be conversions.
    Column("names", ARRAY(_UUID), nullable=False),
    # Whether there were too many of them, and some are missing.
    Column("names_cut", Boolean, nullable=False),
    Index("session_days_started_at", "source_id", "site_id", "started_at"),
    Index(
        "session_days_going_on",
        *("source_id", "site_id", "started_at"),
        postgresql_where=text("goes_on"),
    ),
)

# Sums over session_days.
session_day_totals = Table(
    "session_day_totals",
    metadata,
    *_site(),
    Column("day", Date, primary_key=True),
    Column("goes_on", Boolean, primary_key=True),
    Column("sessions", BigInteger, nullable=False),
    # With one event.
    Column("bounces", BigInteger, nullable=False),
    Column("lasted_microseconds", BigInteger, nullable=False),
    Column("names_cut", BigInteger, nullable=False),
)

# How many session_days have a name.
session_day_names = Table(
    "session_day_names",
    metadata,
    *_site(),
    Column("day", Date, primary_key=True),
    Column("goes_on", Boolean, primary_key=True),
    Column("name", _UUID, primary_key=True),
    Column("sessions", BigInteger, nullable=False),
)

# What one pair of visitor ids, or one user by name, did on one UTC day, as the person it is read with.
visitor_days = Table(
    "visitor_days",
    metadata,
    *_site(),
    # Hash of anonymous_id, else cookie_id; where the events name their user, of that.
    Column("visitor", _UUID, primary_key=True),
    Column("day", Date, primary_key=True),
    # Hash of the cookie_id where it is another than the visitor; else the visitor's.
    Column("cookie", _UUID, primary_key=True),
    # Hash of the user it is read with; without one, of the visitor.
    Column("person", _UUID, primary_key=True),
    # The ids themselves, for looking up links. Null where the events name their user.
    Column("anonymous_id", Text),
    Column("cookie_id", Text),
    Column("first_occurred_at", _TIMESTAMP, nullable=False),
    Column("last_occurred_at", _TIMESTAMP, nullable=False),
    Column("first_received_at", _TIMESTAMP, nullable=False),
    Column("last_received_at", _TIMESTAMP, nullable=False),
    # The days before and after this one on which the person was there, on this site.
    Column("previous_day", Date),
    Column("next_day", Date),
    Index("visitor_days_visitor", "source_id", "visitor"),
    Index("visitor_days_cookie", "source_id", "cookie", postgresql_where=text("cookie <> visitor")),
    Index("visitor_days_person", "source_id", "site_id", "person", "day"),
    Index("visitor_days_day", "source_id", "site_id", "day"),
)

# How many people were there on a day, by the day they were there before.
user_day_totals = Table(
    "user_day_totals",
    metadata,
    *_site(),
    Column("day", Date, primary_key=True),
    # -infinity where there is none: a key has no nulls.
    Column("previous_day", Date, primary_key=True),
    Column("users", BigInteger, nullable=False),
)

# Each user that a visitor id was ever linked to.
linked_users = Table(
    "linked_users",
    metadata,
    Column("source_id", _UUID, primary_key=True),
    Column("visitor", _UUID, primary_key=True),
    Column("user_hash", _UUID, primary_key=True),
)
