"""How what a claim writes lies on disk, and what ANALYZE makes of it.

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

# Of the partitions that are there already: those to come are made so. Writers go on meanwhile.
_STATISTICS = """
DO $$
DECLARE
    part regclass;
BEGIN
    FOR part IN SELECT inhrelid FROM pg_inherits WHERE inhparent = 'events'::regclass LOOP
        EXECUTE 'ALTER TABLE ' || part
            || ' ALTER COLUMN properties SET STATISTICS {target},'
            || ' ALTER COLUMN traits SET STATISTICS {target},'
            || ' ALTER COLUMN context SET STATISTICS {target}';
    END LOOP;
END $$
"""


def upgrade() -> None:
    """Leave keys of events uncompressed, room on a page for its sessions, and JSON out of ANALYZE."""
    op.execute(_QUEUE.format(storage="EXTERNAL"))
    # A visitor's row is updated by each claim with an event of his: within its page no index learns of it.
    op.execute("ALTER TABLE session_spans SET (fillfactor = 70)")
    op.execute(_STATISTICS.format(target="0"))


def downgrade() -> None:
    """Store them as before, and analyze all."""
    op.execute(_STATISTICS.format(target="DEFAULT"))
    op.execute("ALTER TABLE session_spans RESET (fillfactor)")
    op.execute(_QUEUE.format(storage="EXTENDED"))
