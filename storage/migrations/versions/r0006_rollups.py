"""What statistics are answered from; sessions made by the service are told apart by site.

Revision: 0006.
"""

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql as pg

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

# The sessions of the events that are there already.
FILL = """
INSERT INTO session_spans (source_id, visitor, day, covered, received_at)
SELECT source_id,
    md5(CASE WHEN coalesce(anonymous_id, cookie_id) IS NOT NULL
             THEN 'v' || coalesce(anonymous_id, cookie_id)
             ELSE 'u' || user_id END || coalesce(chr(31) || provenance_site_id, ''))::uuid AS visitor,
    (occurred_at AT TIME ZONE 'UTC')::date AS day,
    range_agg(tstzrange(occurred_at, occurred_at + interval '30 minutes', '[]')),
    max(received_at)
FROM events
WHERE session_id IS NULL AND coalesce(anonymous_id, cookie_id, user_id) IS NOT NULL
GROUP BY source_id, visitor, day
"""

# The events that are there already wait for a worker, ten thousand together; figures don't wait for that, as
# it is behind.
_ENQUEUE = """
INSERT INTO rollup_queue (enqueued_at, source_ids, event_ids, received_ats)
SELECT clock_timestamp() - interval '1 hour',
    array_agg(source_id), array_agg(event_id), array_agg(received_at)
FROM (SELECT source_id, event_id, received_at, (row_number() OVER ()) / 10000 AS batch FROM events) AS each
GROUP BY batch
"""

_UUID = pg.UUID(as_uuid=False)
_TIMESTAMP = sa.DateTime(timezone=True)
_TABLES = (
    "rollup_queue",
    "rollup_horizon",
    "event_hours",
    "session_days",
    "session_hours",
    "session_hour_names",
    "visitor_days",
    "user_day_totals",
)


def _list(name: str, of: sa.types.TypeEngine[Any]) -> sa.Column[Any]:
    return sa.Column(name, pg.ARRAY(of), nullable=False, server_default=sa.text("'{}'"))


def _site() -> list[sa.Column[str]]:
    return [
        sa.Column("source_id", _UUID, primary_key=True),
        sa.Column("site_id", sa.Text, primary_key=True),
    ]


def _count(name: str) -> sa.Column[int]:
    return sa.Column(name, sa.BigInteger, nullable=False)


def upgrade() -> None:
    """Create the tables; the worker fills them."""
    _create_queue()
    _create_events()
    _create_sessions()
    _create_visitors()
    # Updated in place, over and over, within a page.
    for table in ("event_hours", "session_days", "session_hours", "visitor_days", "user_day_totals"):
        op.execute(f"ALTER TABLE {table} SET (fillfactor = 80)")
    op.execute("TRUNCATE session_spans")
    op.execute(FILL)
    op.execute(_ENQUEUE)


def _create_queue() -> None:
    op.create_table(
        "rollup_queue",
        sa.Column("rollup_id", sa.BigInteger, sa.Identity(always=True), primary_key=True),
        sa.Column("enqueued_at", _TIMESTAMP, nullable=False, server_default=sa.func.clock_timestamp()),
        _list("source_ids", _UUID),
        _list("event_ids", _UUID),
        _list("received_ats", _TIMESTAMP),
        sa.Column("unlinked_source_id", _UUID),
        sa.Column("unlinked_visitor", sa.Text),
    )
    op.create_table(
        "rollup_horizon",
        sa.Column("only_row", sa.Boolean, primary_key=True, server_default=sa.text("true")),
        sa.Column("day", sa.Date, nullable=False),
    )


def _create_events() -> None:
    op.create_table(
        "event_hours",
        *_site(),
        sa.Column("hour", _TIMESTAMP, primary_key=True),
        sa.Column("group_hash", _UUID, primary_key=True),
        *(sa.Column(name, sa.Text, nullable=False) for name in ("kind", "name", "country", "device_type")),
        _count("events"),
    )


def _create_sessions() -> None:
    op.create_table(
        "session_days",
        *_site(),
        sa.Column("session", _UUID, primary_key=True),
        sa.Column("started_at", _TIMESTAMP, primary_key=True),
        sa.Column("ended_at", _TIMESTAMP, nullable=False),
        sa.Column("windowed", sa.Boolean, nullable=False),
        sa.Column("apart", sa.Boolean, nullable=False),
        sa.Column("moments", pg.ARRAY(_TIMESTAMP), nullable=False),
        sa.Column("names", pg.ARRAY(_UUID), nullable=False),
        sa.Column("name_firsts", pg.ARRAY(_TIMESTAMP), nullable=False),
        sa.Column("name_lasts", pg.ARRAY(_TIMESTAMP), nullable=False),
        sa.Column("names_cut", sa.Boolean, nullable=False),
    )
    by_start = ["source_id", "site_id", "started_at"]
    for which, condition in (("lone", "NOT apart"), ("apart", "apart")):
        op.create_index(
            f"session_days_{which}", "session_days", by_start, postgresql_where=sa.text(condition)
        )
    op.create_table(
        "session_hours",
        *_site(),
        sa.Column("hour", _TIMESTAMP, primary_key=True),
        *(_count(name) for name in ("sessions", "bounces", "lasted_microseconds")),
        sa.Column("latest_ended_at", _TIMESTAMP, nullable=False),
    )
    op.create_table(
        "session_hour_names",
        *_site(),
        sa.Column("name", _UUID, primary_key=True),
        sa.Column("hour", _TIMESTAMP, primary_key=True),
        _count("sessions"),
    )


def _create_visitors() -> None:
    op.create_table(
        "visitor_days",
        sa.Column("source_id", _UUID, primary_key=True),
        sa.Column("visitor", _UUID, primary_key=True),
        sa.Column("day", sa.Date, primary_key=True),
        sa.Column("cookie", _UUID, primary_key=True),
        sa.Column("site_id", sa.Text, primary_key=True),
        sa.Column("person", _UUID, primary_key=True),
        sa.Column("visitor_id", sa.Text),
        sa.Column("cookie_id", sa.Text),
        *(
            sa.Column(f"{which}_{what}_at", _TIMESTAMP, nullable=False)
            for what in ("occurred", "received")
            for which in ("first", "last")
        ),
        sa.Column("previous_day", sa.Date),
    )
    op.create_index(
        "visitor_days_cookie",
        "visitor_days",
        ["source_id", "cookie"],
        postgresql_where=sa.text("cookie <> visitor"),
    )
    op.create_index("visitor_days_person", "visitor_days", ["source_id", "site_id", "person", "day"])
    op.create_index("visitor_days_day", "visitor_days", ["source_id", sa.text("(day + 0)"), "site_id"])
    again = ["source_id", "previous_day", "site_id", "day", "person"]
    op.create_index("visitor_days_again", "visitor_days", again)
    op.create_table(
        "user_day_totals",
        *_site(),
        sa.Column("day", sa.Date, primary_key=True),
        sa.Column("previous_day", sa.Date, primary_key=True),
        _count("users"),
    )


def downgrade() -> None:
    """Drop them: what they hold follows from the events."""
    for table in _TABLES:
        op.drop_table(table)
