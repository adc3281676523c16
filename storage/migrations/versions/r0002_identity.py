"""Unlinks, and links of users and visitors to groups.

Revision: 0002.
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql as pg

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_TIMESTAMP = sa.DateTime(timezone=True)
_UUID = pg.UUID(as_uuid=False)

# What the worker would have written had it known of groups.
_GROUPS_SO_FAR = """
INSERT INTO group_links (source_id, event_id, user_id, anonymous_id, cookie_id, group_id, linked_at)
SELECT source_id, event_id, user_id,
       CASE WHEN user_id IS NULL THEN anonymous_id END,
       CASE WHEN user_id IS NULL AND cookie_id IS DISTINCT FROM anonymous_id THEN cookie_id END,
       group_id, received_at
FROM events
WHERE kind = 'group' AND group_id IS NOT NULL AND coalesce(user_id, anonymous_id, cookie_id) IS NOT NULL
ON CONFLICT DO NOTHING
"""


def upgrade() -> None:
    """Add the records of unlinks and groups, and what finds links in force and by user."""
    _extend_links()
    _create_unlinks()
    _create_groups()


def downgrade() -> None:
    """Refuse: going back would drop records."""
    raise RuntimeError("restore a backup instead: unlinks are kept nowhere else")


def _extend_links() -> None:
    op.add_column(
        "identity_links", sa.Column("voided", sa.Boolean, nullable=False, server_default=sa.text("false"))
    )
    op.create_index(
        "identity_links_user_time",
        "identity_links",
        ["source_id", "user_id", "linked_at", "event_id", "anonymous_id"],
    )
    op.create_index(
        "identity_links_in_force",
        "identity_links",
        ["source_id", "anonymous_id", "linked_at", "event_id"],
        postgresql_where=sa.text("NOT voided"),
    )


def _create_unlinks() -> None:
    op.create_table(
        "identity_unlinks",
        sa.Column("source_id", _UUID, primary_key=True),
        sa.Column("anonymous_id", sa.Text, primary_key=True),
        sa.Column("user_id", sa.Text, primary_key=True),
        sa.Column("unlinked_at", _TIMESTAMP, primary_key=True),
        sa.Column("unlink_id", _UUID, primary_key=True),
        sa.Column("reason", sa.Text, nullable=False, server_default=sa.text("''")),
    )
    op.create_index("identity_unlinks_user", "identity_unlinks", ["source_id", "user_id", "unlinked_at"])


def _create_groups() -> None:
    op.create_table(
        "group_links",
        sa.Column("source_id", _UUID, primary_key=True),
        sa.Column("event_id", _UUID, primary_key=True),
        sa.Column("user_id", sa.Text),
        sa.Column("anonymous_id", sa.Text),
        sa.Column("cookie_id", sa.Text),
        sa.Column("group_id", sa.Text, nullable=False),
        sa.Column("linked_at", _TIMESTAMP, nullable=False),
    )
    for member in ("user", "anonymous", "cookie"):
        op.create_index(
            f"group_links_{member}",
            "group_links",
            ["source_id", f"{member}_id", "linked_at"],
            postgresql_where=sa.text(f"{member}_id IS NOT NULL"),
        )
    op.execute(_GROUPS_SO_FAR)
