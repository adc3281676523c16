"""What a replay needs of a quarantined event's request, and how many entries were dropped.

Revision: 0004.
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql as pg

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add a column and a table."""
    op.add_column("quarantine", sa.Column("circumstances", sa.LargeBinary))
    op.create_table(
        "quarantine_drops",
        sa.Column("source_id", pg.UUID(as_uuid=False), primary_key=True),
        sa.Column("for_room", sa.BigInteger, nullable=False),
        sa.Column("for_age", sa.BigInteger, nullable=False),
        sa.Column("last_dropped_at", sa.DateTime(timezone=True), nullable=False),
    )


def downgrade() -> None:
    """Take them away."""
    op.drop_table("quarantine_drops")
    op.drop_column("quarantine", "circumstances")
