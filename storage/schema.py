"""The tables, as SQLAlchemy Core; migrations and every statement are written against these.

Columns of `events` carry the canonical fields' names, a nested field its parent's name in front
(`page.url` is `page_url`). Every key of per-source data starts with `source_id`, so that a Postgres cluster
can distribute by it. `events` is range-partitioned by the UTC day of `received_at`.
"""

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Date,
    DateTime,
    ForeignKey,
    Identity,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Numeric,
    Table,
    Text,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, INET, JSONB, TSTZMULTIRANGE, UUID

metadata = MetaData()

_TIMESTAMP = DateTime(timezone=True)
_UUID = UUID(as_uuid=False)


def _text_list(name: str) -> Column[list[str]]:
    return Column(name, ARRAY(Text), nullable=False, server_default=text("'{}'"))


def _flag(name: str) -> Column[bool]:
    return Column(name, Boolean, nullable=False, server_default=text("false"))


sources = Table(
    "sources",
    metadata,
    Column("source_id", _UUID, primary_key=True),
    Column("name", Text, nullable=False, unique=True),
    Column("enabled", Boolean, nullable=False, server_default=text("true")),
    # Both null: the dialect's quota. Limit 0: none.
    Column("rate_limit", Integer),
    Column("rate_limit_window_seconds", Integer),
    _text_list("origins"),
    _text_list("vendor_cookies"),
    Column("cookie_domain", Text, nullable=False, server_default=text("''")),
    # The seeds' own examples: ignored by the core unless it runs in demo mode.
    _flag("demo"),
    Column("created_at", _TIMESTAMP, nullable=False, server_default=func.now()),
)

keys = Table(
    "keys",
    metadata,
    Column("source_id", _UUID, ForeignKey("sources.source_id"), primary_key=True),
    Column("key_id", _UUID, primary_key=True),
    # KeyKind without its prefix, lower case with dashes: pulsora-public.
    Column("kind", Text, nullable=False),
    # SHA-256 of the secret.
    Column("secret_hash", LargeBinary, nullable=False, unique=True),
    Column("hint", Text, nullable=False),
    _text_list("scopes"),
    _text_list("sites"),
    Column("created_at", _TIMESTAMP, nullable=False, server_default=func.now()),
    Column("expires_at", _TIMESTAMP),
    Column("revoked_at", _TIMESTAMP),
)

# One row per group commit. Autovacuum settings are the migration's.
queue = Table(
    "queue",
    metadata,
    Column("queue_id", BigInteger, Identity(always=True), primary_key=True),
    Column("enqueued_at", _TIMESTAMP, nullable=False, server_default=func.clock_timestamp()),
    # Events and quarantined events in the payload.
    Column("item_count", Integer, nullable=False),
    # polylect.v1.EventBatch: as it is, or as one zstd frame (told apart by the frame's magic number).
    Column("payload", LargeBinary, nullable=False),
    # What the core admitted into it, whatever the payload then holds: [[source_id, dialect, start of the hour
    # of receipt in seconds, events], …]. Null: from before there was a ledger.
    Column("received", JSONB),
)

events = Table(
    "events",
    metadata,
    Column("source_id", _UUID, primary_key=True),
    Column("event_id", _UUID, primary_key=True),
    Column("received_at", _TIMESTAMP, primary_key=True),
    Column("occurred_at", _TIMESTAMP, nullable=False),
    Column("sent_at", _TIMESTAMP),
    # page, track, identify, group or revenue.
    Column("kind", Text, nullable=False),
    Column("name", Text),
    Column("message_id", Text),
    Column("anonymous_id", Text),
    Column("user_id", Text),
    Column("group_id", Text),
    Column("session_id", Text),
    Column("cookie_id", Text),
    Column("page_url", Text),
    Column("page_path", Text),
    Column("page_search", Text),
    Column("page_title", Text),
    Column("page_referrer", Text),
    Column("page_referrer_source", Text),
    Column("campaign_source", Text),
    Column("campaign_medium", Text),
    Column("campaign_name", Text),
    Column("campaign_term", Text),
    Column("campaign_content", Text),
    Column("device_type", Text),
    Column("device_user_agent", Text),
    Column("device_locale", Text),
    Column("device_timezone", Text),
    _flag("device_bot"),
    Column("geo_country", Text),
    Column("client_ip", INET),
    Column("revenue_amount", Numeric),
    Column("revenue_currency", Text),
    Column("revenue_transaction_id", Text),
    Column("revenue_processor", Text),
    Column("revenue_event_type", Text),
    Column("revenue_subscription_id", Text),
    Column("revenue_mrr_impact", Numeric),
    Column("revenue_recurring", Boolean),
    Column("properties", JSONB, nullable=False, server_default=text("'{}'")),
    Column("traits", JSONB, nullable=False, server_default=text("'{}'")),
    Column("context", JSONB, nullable=False, server_default=text("'{}'")),
    Column("provenance_dialect", Text, nullable=False),
    Column("provenance_endpoint", Text),
    Column("provenance_library", Text),
    Column("provenance_request_id", Text),
    Column("provenance_site_id", Text),
    _flag("sanitized"),
    # A range of time for statistics. Costs the worker 3 µs an event; an hour of a day is 10 times as fast.
    Index("events_occurred_at", "source_id", "occurred_at"),
    postgresql_partition_by="RANGE (received_at)",
)

# What makes "once": the first event of each client id, for the deduplication window.
dedup_keys = Table(
    "dedup_keys",
    metadata,
    Column("source_id", _UUID, primary_key=True),
    # 16 bytes of BLAKE2b over the client's id, as a uuid: fixed width, half the index of text.
    Column("dedup_key", _UUID, primary_key=True),
    # The event that was stored.
    Column("event_id", _UUID, nullable=False),
    Column("received_at", _TIMESTAMP, nullable=False),
    Index("dedup_keys_received_at", "received_at", postgresql_using="brin"),
)

# Append-only: each identify, for each visitor id it came with.
identity_links = Table(
    "identity_links",
    metadata,
    Column("source_id", _UUID, primary_key=True),
    Column("anonymous_id", Text, primary_key=True),
    # The identify's received_at. Of one moment, the order of the ids decides.
    Column("linked_at", _TIMESTAMP, primary_key=True),
    Column("event_id", _UUID, primary_key=True),
    Column("user_id", Text, nullable=False),
    # Whether an unlink was seen to void it: what makes skipping a thousand of them one step. Never without
    # such an unlink; but one that came into the table later than its unlink is void all the same.
    _flag("voided"),
    Index("identity_links_user", "source_id", "user_id", "anonymous_id"),
    Index("identity_links_user_time", "source_id", "user_id", "linked_at", "event_id", "anonymous_id"),
    Index(
        "identity_links_in_force",
        *("source_id", "anonymous_id", "linked_at", "event_id"),
        postgresql_where=text("NOT voided"),
    ),
)

# Append-only: each unlink. Void is every link of the two ids with linked_at <= unlinked_at.
identity_unlinks = Table(
    "identity_unlinks",
    metadata,
    Column("source_id", _UUID, primary_key=True),
    Column("anonymous_id", Text, primary_key=True),
    Column("user_id", Text, primary_key=True),
    Column("unlinked_at", _TIMESTAMP, primary_key=True),
    Column("unlink_id", _UUID, primary_key=True),
    Column("reason", Text, nullable=False, server_default=text("''")),
    Index("identity_unlinks_user", "source_id", "user_id", "unlinked_at"),
)

# Append-only: each group event, with its user, or else its visitor ids: one that is read with a user as its
# event is.
group_links = Table(
    "group_links",
    metadata,
    Column("source_id", _UUID, primary_key=True),
    Column("event_id", _UUID, primary_key=True),
    Column("user_id", Text),
    Column("anonymous_id", Text),
    # Where it is another than anonymous_id.
    Column("cookie_id", Text),
    Column("group_id", Text, nullable=False),
    # The event's received_at.
    Column("linked_at", _TIMESTAMP, nullable=False),
    *(
        Index(
            f"group_links_{member}",
            *("source_id", f"{member}_id", "linked_at"),
            postgresql_where=text(f"{member}_id IS NOT NULL"),
        )
        for member in ("user", "anonymous", "cookie")
    ),
)

# The sessions of events that came without one: what `storage.sessions` hides.
session_spans = Table(
    "session_spans",
    metadata,
    Column("source_id", _UUID, primary_key=True),
    # Hash of the visitor's id.
    Column("visitor", _UUID, primary_key=True),
    # UTC day of occurrence.
    Column("day", Date, primary_key=True),
    # The union of the 30 minutes from each of the day's events on.
    Column("covered", TSTZMULTIRANGE, nullable=False),
    # Of the latest of these events, for retention.
    Column("received_at", _TIMESTAMP, nullable=False),
    Index("session_spans_received_at", "received_at", postgresql_using="brin"),
)

quarantine = Table(
    "quarantine",
    metadata,
    Column("source_id", _UUID, primary_key=True),
    Column("quarantine_id", _UUID, primary_key=True),
    Column("received_at", _TIMESTAMP, nullable=False),
    # ErrorReason without its prefix, lower case: field_missing.
    Column("reason", Text, nullable=False),
    Column("message", Text, nullable=False),
    Column("field", Text),
    # What the client sent for this event; for an unwritable one the Event's protobuf bytes.
    Column("raw", LargeBinary, nullable=False),
    Column("dialect", Text),
    Column("endpoint", Text),
    Column("request_id", Text),
    Column("client_ip", Text),
    # polylect.v1.Circumstances; null where there are none.
    Column("circumstances", LargeBinary),
)

# How many entries were dropped so far.
quarantine_drops = Table(
    "quarantine_drops",
    metadata,
    Column("source_id", _UUID, primary_key=True),
    # Because the source had too many, or too large ones.
    Column("for_room", BigInteger, nullable=False),
    # Because they were too old.
    Column("for_age", BigInteger, nullable=False),
    Column("last_dropped_at", _TIMESTAMP, nullable=False),
)

# In events: received = stored + duplicate + quarantined + refused. What waits is told by `queue.received`.
ledger = Table(
    "ledger",
    metadata,
    # NO_SOURCE where none can be told.
    Column("source_id", _UUID, primary_key=True),
    Column("dialect", Text, primary_key=True),
    # Start of the UTC hour of receipt.
    Column("hour", _TIMESTAMP, primary_key=True),
    Column("received", BigInteger, nullable=False),
    Column("stored", BigInteger, nullable=False),
    Column("duplicate", BigInteger, nullable=False),
    Column("quarantined", BigInteger, nullable=False),
    Column("refused", BigInteger, nullable=False),
)

# Events dropped because their client's id was stored before; kept as long as that id is.
duplicates = Table(
    "duplicates",
    metadata,
    Column("source_id", _UUID, primary_key=True),
    Column("event_id", _UUID, primary_key=True),
    Column("received_at", _TIMESTAMP, nullable=False),
    Column("duplicate_of", _UUID, nullable=False),
    Column("message_id", Text),
    Column("request_id", Text),
    Column("dialect", Text),
    Column("endpoint", Text),
    Column("client_ip", Text),
    Index("duplicates_received_at", "received_at", postgresql_using="brin"),
)

# Requests refused as a whole: a sample when there are very many.
refusals = Table(
    "refusals",
    metadata,
    # NO_SOURCE where none can be told.
    Column("source_id", _UUID, primary_key=True),
    Column("refusal_id", _UUID, primary_key=True),
    Column("received_at", _TIMESTAMP, nullable=False),
    # As in `quarantine`.
    Column("reason", Text, nullable=False),
    Column("message", Text, nullable=False),
    Column("dialect", Text),
    Column("endpoint", Text),
    Column("request_id", Text),
    Column("client_ip", Text),
    Column("event_count", Integer, nullable=False),
    Index("refusals_received_at", "received_at", postgresql_using="brin"),
)

# Salt of the visitor fingerprints made on a UTC day. Deleted after it, so that nobody can recompute them.
daily_salts = Table(
    "daily_salts",
    metadata,
    Column("day", Date, primary_key=True),
    Column("salt", LargeBinary, nullable=False),
)
