"""Sessions made by the service.

Revision: 0005.
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql as pg

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

_UUID = pg.UUID(as_uuid=False)

# The sessions of the events that are there already.
FILL = """
INSERT INTO session_spans (source_id, visitor, day, covered, received_at)
SELECT source_id,
    CASE WHEN coalesce(anonymous_id, cookie_id) IS NOT NULL
         THEN md5('v' || coalesce(anonymous_id, cookie_id))
         ELSE md5('u' || user_id) END::uuid AS visitor,
    (occurred_at AT TIME ZONE 'UTC')::date AS day,
    range_agg(tstzrange(occurred_at, occurred_at + interval '30 minutes', '[]')),
    max(received_at)
FROM events
WHERE session_id IS NULL AND coalesce(anonymous_id, cookie_id, user_id) IS NOT NULL
GROUP BY source_id, visitor, day
"""

# From the event's own day back, as long as a day's first events follow the day before's last ones.
_SESSION_START = """
CREATE FUNCTION polylect_session_start(of_source uuid, of_visitor uuid, moment timestamptz)
RETURNS timestamptz LANGUAGE sql STABLE PARALLEL SAFE AS $$
WITH RECURSIVE chain (day, started_at) AS (
    SELECT spans.day, lower(span)
    FROM session_spans AS spans, unnest(spans.covered) AS span
    WHERE spans.source_id = of_source AND spans.visitor = of_visitor
        AND spans.day = (moment AT TIME ZONE 'UTC')::date AND span @> moment
    UNION ALL
    SELECT spans.day, lower(span)
    FROM chain
    JOIN session_spans AS spans
        ON spans.source_id = of_source AND spans.visitor = of_visitor AND spans.day = chain.day - 1,
        unnest(spans.covered) AS span
    WHERE upper(span) >= chain.started_at
)
SELECT min(started_at) FROM chain
$$
"""


def upgrade() -> None:
    """Create the table and fill it; index the events' own time."""
    op.create_index("events_occurred_at", "events", ["source_id", "occurred_at"])
    op.create_table(
        "session_spans",
        sa.Column("source_id", _UUID, primary_key=True),
        sa.Column("visitor", _UUID, primary_key=True),
        sa.Column("day", sa.Date, primary_key=True),
        sa.Column("covered", pg.TSTZMULTIRANGE, nullable=False),
        sa.Column("received_at", sa.DateTime(timezone=True), nullable=False),
    )
    op.execute(FILL)
    op.create_index("session_spans_received_at", "session_spans", ["received_at"], postgresql_using="brin")
    op.execute(_SESSION_START)


def downgrade() -> None:
    """Drop them: what they hold follows from the events."""
    op.execute("DROP FUNCTION polylect_session_start")
    op.drop_table("session_spans")
    op.drop_index("events_occurred_at", "events")
