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

# A session's events of one UTC day, on one site; of sessions that pauses tell apart, up to the next pause.
session_days = Table(
    "session_days",
    metadata,
    *_site(),
    # As `storage.sessions` has it: shared by all events of a visitor where pauses tell sessions apart, and by
    # those of a session where the client does.
    Column("session", _UUID, primary_key=True),
    Column("started_at", _TIMESTAMP, primary_key=True),
    Column("ended_at", _TIMESTAMP, nullable=False),
    # Whether pauses tell sessions apart.
    Column("windowed", Boolean, nullable=False),
    # Whether it must be looked at by itself: the session has events on another day too, or a name is missing.
    Column("apart", Boolean, nullable=False),
    # When its events occurred, in order: of each ten minutes (by the clock) the first and the last.
    Column("moments", ARRAY(_TIMESTAMP), nullable=False),
    # Hashes of the names under which its events can be conversions, in their order; and when, first and last.
    Column("names", ARRAY(_UUID), nullable=False),
    Column("name_firsts", ARRAY(_TIMESTAMP), nullable=False),
    Column("name_lasts", ARRAY(_TIMESTAMP), nullable=False),
    # Whether there were too many of them, and the highest are missing.
    Column("names_cut", Boolean, nullable=False),
    # Neither of all rows: looked up by session, a planner that knows nothing yet of a source would think that
    # as good as the key.
    *(
        Index(
            f"session_days_{which}",
            *("source_id", "site_id", "started_at"),
            postgresql_where=text(condition),
        )
        for which, condition in (("lone", "NOT apart"), ("apart", "apart"))
    ),
)

# Sums over the session_days not `apart`, by the hour they start in.
session_hours = Table(
    "session_hours",
    metadata,
    *_site(),
    Column("hour", _TIMESTAMP, primary_key=True),
    Column("sessions", BigInteger, nullable=False),
    # With one event.
    Column("bounces", BigInteger, nullable=False),
    Column("lasted_microseconds", BigInteger, nullable=False),
    # None of them ends later; but one that did may have become part of another.
    Column("latest_ended_at", _TIMESTAMP, nullable=False),
)

# How many of these session_days have a name.
session_hour_names = Table(
    "session_hour_names",
    metadata,
    *_site(),
    Column("name", _UUID, primary_key=True),
    Column("hour", _TIMESTAMP, primary_key=True),
    Column("sessions", BigInteger, nullable=False),
)

# When a pair of visitor ids, or a user by name, was on a site on a UTC day, as the person it is read with.
visitor_days = Table(
    "visitor_days",
    metadata,
    Column("source_id", _UUID, primary_key=True),
    # Hash of anonymous_id, else cookie_id; where the events name their user, of that; else of nobody.
    Column("visitor", _UUID, primary_key=True),
    Column("day", Date, primary_key=True),
    # Hash of the cookie_id where it is another than the visitor; else the visitor's.
    Column("cookie", _UUID, primary_key=True),
    Column("site_id", Text, primary_key=True),
    # Hash of the user it is read with; without one, of the visitor.
    Column("person", _UUID, primary_key=True),
    # The ids that are hashed, for looking up links. Null where the events name their user, or have no id.
    Column("visitor_id", Text),
    Column("cookie_id", Text),
    Column("first_occurred_at", _TIMESTAMP, nullable=False),
    Column("last_occurred_at", _TIMESTAMP, nullable=False),
    Column("first_received_at", _TIMESTAMP, nullable=False),
    Column("last_received_at", _TIMESTAMP, nullable=False),
    # The last day before this one on which the person was there, on this site.
    Column("previous_day", Date),
    Index("visitor_days_cookie", "source_id", "cookie", postgresql_where=text("cookie <> visitor")),
    Index("visitor_days_person", "source_id", "site_id", "person", "day"),
    # What follows the source can't be told from a person: else a planner that knows little of the table takes
    # these to look one up, ten thousand times through all of a site.
    Index("visitor_days_day", "source_id", text("(day + 0)"), "site_id"),
    # Who of a day came again, and when, without a look into the table.
    Index("visitor_days_again", "source_id", "previous_day", "site_id", "day", "person"),
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
