"""The ledger, and what is remembered of duplicates and refusals.

Revision: 0003.
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql as pg

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_TIMESTAMP = sa.DateTime(timezone=True)
_UUID = pg.UUID(as_uuid=False)

# A few rows a source, each updated with every claim: room for the new version beside the old one.
_LEDGER_STORAGE = "ALTER TABLE ledger SET (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.01)"

# The account begins with what is there, so that it agrees with the tables from the first day.
_OPENING_STORED = """
INSERT INTO ledger
SELECT source_id, provenance_dialect, date_trunc('hour', received_at, 'UTC'), count(*), count(*), 0, 0, 0
FROM events GROUP BY 1, 2, 3
"""
_OPENING_QUARANTINED = """
INSERT INTO ledger
SELECT source_id, coalesce(dialect, ''), date_trunc('hour', received_at, 'UTC'), count(*), 0, 0, count(*), 0
FROM quarantine GROUP BY 1, 2, 3
ON CONFLICT (source_id, dialect, hour) DO UPDATE
SET received = ledger.received + excluded.received, quarantined = excluded.quarantined
"""


def upgrade() -> None:
    """Create the tables and open the account."""
    op.add_column("queue", sa.Column("received", pg.JSONB))
    op.create_table(
        "ledger",
        sa.Column("source_id", _UUID, primary_key=True),
        sa.Column("dialect", sa.Text, primary_key=True),
        sa.Column("hour", _TIMESTAMP, primary_key=True),
        *(
            sa.Column(name, sa.BigInteger, nullable=False)
            for name in ("received", "stored", "duplicate", "quarantined", "refused")
        ),
    )
    op.execute(_LEDGER_STORAGE)
    op.execute(_OPENING_STORED)
    op.execute(_OPENING_QUARANTINED)
    op.create_table(
        "duplicates",
        sa.Column("source_id", _UUID, primary_key=True),
        sa.Column("event_id", _UUID, primary_key=True),
        sa.Column("received_at", _TIMESTAMP, nullable=False),
        sa.Column("duplicate_of", _UUID, nullable=False),
        *_texts("message_id", "request_id", "dialect", "endpoint", "client_ip"),
    )
    op.create_index("duplicates_received_at", "duplicates", ["received_at"], postgresql_using="brin")
    op.create_table(
        "refusals",
        sa.Column("source_id", _UUID, primary_key=True),
        sa.Column("refusal_id", _UUID, primary_key=True),
        sa.Column("received_at", _TIMESTAMP, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("message", sa.Text, nullable=False),
        *_texts("dialect", "endpoint", "request_id", "client_ip"),
        sa.Column("event_count", sa.Integer, nullable=False),
    )
    op.create_index("refusals_received_at", "refusals", ["received_at"], postgresql_using="brin")


def downgrade() -> None:
    """Refuse: what was counted could not be counted again."""
    raise RuntimeError("restore a backup instead: going back would drop the ledger")


def _texts(*names: str) -> list[sa.Column[str]]:
    return [sa.Column(name, sa.Text) for name in names]
