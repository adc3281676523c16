"""The first tables.

Revision: 0001.
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql as pg

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_TIMESTAMP = sa.DateTime(timezone=True)
_UUID = pg.UUID(as_uuid=False)

# Rows live for milliseconds and hundreds go through a second, so that the table is nearly all dead rows:
# vacuum by count, not by a share of a table whose size means nothing, at full speed, its index and TOAST
# table too. No truncation: that takes an exclusive lock, for space the next second needs again. No
# fillfactor: rows are never updated, and a claim's row lock is written in place.
_QUEUE_STORAGE = """
ALTER TABLE queue SET (
    autovacuum_vacuum_scale_factor = 0,
    autovacuum_vacuum_threshold = 1000,
    autovacuum_vacuum_insert_threshold = -1,
    autovacuum_vacuum_cost_delay = 0,
    autovacuum_analyze_scale_factor = 0,
    autovacuum_analyze_threshold = 100000,
    vacuum_index_cleanup = on,
    vacuum_truncate = off,
    toast.autovacuum_vacuum_scale_factor = 0,
    toast.autovacuum_vacuum_threshold = 1000,
    toast.autovacuum_vacuum_insert_threshold = -1,
    toast.autovacuum_vacuum_cost_delay = 0,
    toast.vacuum_index_cleanup = on,
    toast.vacuum_truncate = off
)
"""

# Every core holds the keys in memory and reloads a source by its id. An empty payload: everything changed.
_NOTIFY = """
CREATE FUNCTION polylect_notify_source() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'TRUNCATE' THEN
        PERFORM pg_notify('polylect_sources', '');
    ELSIF TG_OP = 'DELETE' THEN
        PERFORM pg_notify('polylect_sources', OLD.source_id::text);
    ELSE
        PERFORM pg_notify('polylect_sources', NEW.source_id::text);
    END IF;
    RETURN NULL;
END
$$
"""


def upgrade() -> None:
    """Create everything."""
    _create_sources()
    _create_queue()
    _create_events()
    _create_event_satellites()


def downgrade() -> None:
    """Refuse: going back would drop events."""
    raise RuntimeError("restore a backup instead: there is nothing before the first revision")


def _text_list(name: str) -> sa.Column[list[str]]:
    return sa.Column(name, pg.ARRAY(sa.Text), nullable=False, server_default=sa.text("'{}'"))


def _flag(name: str, default: str = "false") -> sa.Column[bool]:
    return sa.Column(name, sa.Boolean, nullable=False, server_default=sa.text(default))


def _texts(*names: str) -> list[sa.Column[str]]:
    return [sa.Column(name, sa.Text) for name in names]


def _create_sources() -> None:
    op.create_table(
        "sources",
        sa.Column("source_id", _UUID, primary_key=True),
        sa.Column("name", sa.Text, nullable=False, unique=True),
        _flag("enabled", "true"),
        sa.Column("rate_limit", sa.Integer),
        sa.Column("rate_limit_window_seconds", sa.Integer),
        _text_list("origins"),
        _text_list("vendor_cookies"),
        sa.Column("cookie_domain", sa.Text, nullable=False, server_default=sa.text("''")),
        _flag("demo"),
        sa.Column("created_at", _TIMESTAMP, nullable=False, server_default=sa.func.now()),
    )
    op.create_table(
        "keys",
        sa.Column("source_id", _UUID, sa.ForeignKey("sources.source_id"), primary_key=True),
        sa.Column("key_id", _UUID, primary_key=True),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("secret_hash", sa.LargeBinary, nullable=False, unique=True),
        sa.Column("hint", sa.Text, nullable=False),
        _text_list("scopes"),
        _text_list("sites"),
        sa.Column("created_at", _TIMESTAMP, nullable=False, server_default=sa.func.now()),
        sa.Column("expires_at", _TIMESTAMP),
        sa.Column("revoked_at", _TIMESTAMP),
    )
    op.execute(_NOTIFY)
    for table in ("sources", "keys"):
        op.execute(
            f"CREATE TRIGGER {table}_notify AFTER INSERT OR UPDATE OR DELETE ON {table}"
            " FOR EACH ROW EXECUTE FUNCTION polylect_notify_source()"
        )
        op.execute(
            f"CREATE TRIGGER {table}_notify_truncate AFTER TRUNCATE ON {table}"
            " FOR EACH STATEMENT EXECUTE FUNCTION polylect_notify_source()"
        )


def _create_queue() -> None:
    op.create_table(
        "queue",
        sa.Column("queue_id", sa.BigInteger, sa.Identity(always=True), primary_key=True),
        sa.Column("enqueued_at", _TIMESTAMP, nullable=False, server_default=sa.func.clock_timestamp()),
        sa.Column("item_count", sa.Integer, nullable=False),
        sa.Column("payload", sa.LargeBinary, nullable=False),
    )
    # Compressed before it comes here: Postgres need not try again.
    op.execute("ALTER TABLE queue ALTER COLUMN payload SET STORAGE EXTERNAL")
    op.execute(_QUEUE_STORAGE)


def _create_events() -> None:
    op.create_table(
        "events",
        sa.Column("source_id", _UUID, primary_key=True),
        sa.Column("event_id", _UUID, primary_key=True),
        sa.Column("received_at", _TIMESTAMP, primary_key=True),
        sa.Column("occurred_at", _TIMESTAMP, nullable=False),
        sa.Column("sent_at", _TIMESTAMP),
        sa.Column("kind", sa.Text, nullable=False),
        *_texts("name", "message_id"),
        *_texts("anonymous_id", "user_id", "group_id", "session_id", "cookie_id"),
        *_texts(
            "page_url", "page_path", "page_search", "page_title", "page_referrer", "page_referrer_source"
        ),
        *_texts("campaign_source", "campaign_medium", "campaign_name", "campaign_term", "campaign_content"),
        *_texts("device_type", "device_user_agent", "device_locale", "device_timezone"),
        _flag("device_bot"),
        *_texts("geo_country"),
        sa.Column("client_ip", pg.INET),
        sa.Column("revenue_amount", sa.Numeric),
        *_texts("revenue_currency", "revenue_transaction_id", "revenue_processor", "revenue_event_type"),
        *_texts("revenue_subscription_id"),
        sa.Column("revenue_mrr_impact", sa.Numeric),
        sa.Column("revenue_recurring", sa.Boolean),
        sa.Column("properties", pg.JSONB, nullable=False, server_default=sa.text("'{}'")),
        sa.Column("traits", pg.JSONB, nullable=False, server_default=sa.text("'{}'")),
        sa.Column("context", pg.JSONB, nullable=False, server_default=sa.text("'{}'")),
        sa.Column("provenance_dialect", sa.Text, nullable=False),
        *_texts("provenance_endpoint", "provenance_library", "provenance_request_id", "provenance_site_id"),
        _flag("sanitized"),
        postgresql_partition_by="RANGE (received_at)",
    )


def _create_event_satellites() -> None:
    op.create_table(
        "dedup_keys",
        sa.Column("source_id", _UUID, primary_key=True),
        sa.Column("dedup_key", _UUID, primary_key=True),
        sa.Column("event_id", _UUID, nullable=False),
        sa.Column("received_at", _TIMESTAMP, nullable=False),
    )
    op.create_index("dedup_keys_received_at", "dedup_keys", ["received_at"], postgresql_using="brin")
    op.create_table(
        "identity_links",
        sa.Column("source_id", _UUID, primary_key=True),
        sa.Column("anonymous_id", sa.Text, primary_key=True),
        sa.Column("linked_at", _TIMESTAMP, primary_key=True),
        sa.Column("event_id", _UUID, primary_key=True),
        sa.Column("user_id", sa.Text, nullable=False),
    )
    op.create_index("identity_links_user", "identity_links", ["source_id", "user_id", "anonymous_id"])
    op.create_table(
        "quarantine",
        sa.Column("source_id", _UUID, primary_key=True),
        sa.Column("quarantine_id", _UUID, primary_key=True),
        sa.Column("received_at", _TIMESTAMP, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("message", sa.Text, nullable=False),
        sa.Column("field", sa.Text),
        sa.Column("raw", sa.LargeBinary, nullable=False),
        *_texts("dialect", "endpoint", "request_id", "client_ip"),
    )
    op.create_table(
        "daily_salts",
        sa.Column("day", sa.Date, primary_key=True),
        sa.Column("salt", sa.LargeBinary, nullable=False),
    )
