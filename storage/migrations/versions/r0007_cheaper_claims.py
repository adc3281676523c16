"""How what a claim writes lies on disk.

Revision: 0007.
"""

from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

# Random and short-lived: trying to compress them costs 5,000 instructions an event and gives little.
_QUEUE = """
ALTER TABLE rollup_queue
    ALTER COLUMN event_ids SET STORAGE {storage},
    ALTER COLUMN received_ats SET STORAGE {storage}
"""


def upgrade() -> None:
    """Leave keys of events uncompressed, and room on a page for the sessions on it to go on."""
    op.execute(_QUEUE.format(storage="EXTERNAL"))
    # A visitor's row is updated by each claim with an event of his: within its page no index learns of it.
    op.execute("ALTER TABLE session_spans SET (fillfactor = 70)")


def downgrade() -> None:
    """Store them as before."""
    op.execute("ALTER TABLE session_spans RESET (fillfactor)")
    op.execute(_QUEUE.format(storage="EXTENDED"))
