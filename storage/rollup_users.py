"""Who was there on which day: kept from events and links as they come in.

Hides how a person is counted once over any range of days: each day knows the person's last day before it, and
`user_day_totals` counts by both. A day that comes or goes changes itself and the person's next day, no other,
found in index steps, however long a history is. Who a visitor is, is not decided here: of an event of `fresh`
it has been, and of what changes later `rollup_links` does.
"""

from typing import Any, Final

import psycopg

from storage.rollup_links import move_linked

USER_TABLES: Final = """
CREATE TEMP TABLE visits (LIKE visitor_days) ON COMMIT DELETE ROWS;
CREATE TEMP TABLE presence (
    source_id uuid NOT NULL,
    site_id text NOT NULL,
    person uuid NOT NULL,
    day date NOT NULL,
    previous_day date,
    known boolean NOT NULL
) ON COMMIT DELETE ROWS;
CREATE TEMP TABLE doubted (
    LIKE visitor_days,
    place tid NOT NULL,
    -- Null where that takes the events.
    now_person uuid,
    leaves boolean NOT NULL
) ON COMMIT DELETE ROWS
"""
"""What a connection needs to fold."""

# Hashed when grouped: there are fewer. Nobody is known of, and counted as none.
_GATHER = """
INSERT INTO visits
SELECT source_id, visitor, day, coalesce(md5('v' || cookie_id)::uuid, visitor), site_id,
    coalesce(md5('u' || user_id)::uuid, visitor), visitor_id, cookie_id,
    first_occurred_at, last_occurred_at, first_received_at, last_received_at
FROM (
    SELECT *, coalesce(md5('v' || visitor_id)::uuid, md5('u' || user_id)::uuid, md5('n')::uuid) AS visitor
    FROM (
        SELECT source_id, site_id, day, visitor_id, nullif(cookie_id, visitor_id) AS cookie_id, user_id,
            min(occurred_at) AS first_occurred_at, max(occurred_at) AS last_occurred_at,
            min(received_at) AS first_received_at, max(received_at) AS last_received_at
        FROM (
            SELECT source_id, site_id, day, user_id, occurred_at, received_at,
                CASE WHEN own_user_id IS NULL THEN coalesce(anonymous_id, cookie_id) END AS visitor_id,
                CASE WHEN own_user_id IS NULL THEN cookie_id END AS cookie_id
            FROM fresh
        ) AS each
        GROUP BY source_id, site_id, day, visitor_id, nullif(cookie_id, visitor_id), user_id
    ) AS grouped
) AS hashed
"""

# What moved here may be of the visitors of fresh events.
_REGROUP = """
WITH scattered AS (DELETE FROM visits RETURNING *)
INSERT INTO visits
SELECT source_id, visitor, day, cookie, site_id, person, min(visitor_id), min(cookie_id),
    min(first_occurred_at), max(last_occurred_at), min(first_received_at), max(last_received_at)
FROM scattered
GROUP BY source_id, visitor, day, cookie, site_id, person
"""

# Of each person and day: whether it is there already, and the day before it. Here and below, the neighbour in
# the index's own order between two of its places: a planner can do this in one way only, whatever it knows of
# the table. Asked in that order, each page is read once.
_LOOK_UP = """
INSERT INTO presence (source_id, site_id, person, day, previous_day, known)
SELECT source_id, site_id, person, day,
    CASE WHEN known THEN day_before
         ELSE greatest(last_day, max(day) FILTER (WHERE NOT known) OVER (
             PARTITION BY source_id, site_id, person ORDER BY day
             ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING)) END,
    known
FROM (
    SELECT asked.*, last.day AS last_day, before.day AS day_before,
        coalesce(last.day = asked.day, false) AS known
    FROM (
        SELECT DISTINCT source_id, site_id, person, day FROM visits
        ORDER BY source_id, site_id, person, day
    ) AS asked
    LEFT JOIN LATERAL (
        SELECT day FROM visitor_days
        WHERE (source_id, site_id, person, day) <= (asked.source_id, asked.site_id, asked.person, asked.day)
            AND (source_id, site_id, person, day)
            >= (asked.source_id, asked.site_id, asked.person, '-infinity')
        ORDER BY source_id DESC, site_id DESC, person DESC, day DESC LIMIT 1
    ) AS last ON true
    LEFT JOIN LATERAL (
        SELECT day FROM visitor_days
        WHERE (source_id, site_id, person, day) < (asked.source_id, asked.site_id, asked.person, asked.day)
            AND (source_id, site_id, person, day)
            >= (asked.source_id, asked.site_id, asked.person, '-infinity')
            AND last.day = asked.day
        ORDER BY source_id DESC, site_id DESC, person DESC, day DESC LIMIT 1
    ) AS before ON true
) AS found
"""

_TAKE_IN = """
INSERT INTO visitor_days AS there
SELECT source_id, visitor, day, cookie, site_id, person, visitor_id, cookie_id,
    first_occurred_at, last_occurred_at, first_received_at, last_received_at, presence.previous_day
FROM visits JOIN presence USING (source_id, site_id, person, day)
ORDER BY source_id, visitor, day
ON CONFLICT (source_id, visitor, day, cookie, site_id, person) DO UPDATE
SET first_occurred_at = least(there.first_occurred_at, excluded.first_occurred_at),
    last_occurred_at = greatest(there.last_occurred_at, excluded.last_occurred_at),
    first_received_at = least(there.first_received_at, excluded.first_received_at),
    last_received_at = greatest(there.last_received_at, excluded.last_received_at)
"""

# What `changed`, and `followed`: whose day before was another `before` than `after`.
_COUNT = """
moved AS (
    UPDATE visitor_days AS there SET previous_day = followed.after
    FROM followed
    WHERE there.source_id = followed.source_id AND there.site_id = followed.site_id
        AND there.person = followed.person AND there.day = followed.day
)
INSERT INTO user_day_totals AS totals (source_id, site_id, day, previous_day, users)
SELECT source_id, site_id, day, coalesce(previous_day, '-infinity'), sum(users)
FROM (
    SELECT source_id, site_id, person, day, previous_day, users FROM changed
    UNION ALL SELECT source_id, site_id, person, day, before, -1 FROM followed
    UNION ALL SELECT source_id, site_id, person, day, after, 1 FROM followed
) AS difference
WHERE person <> md5('n')::uuid
GROUP BY 1, 2, 3, 4
HAVING sum(users) <> 0
ON CONFLICT (source_id, site_id, day, previous_day) DO UPDATE SET users = totals.users + excluded.users
"""

# Mostly a day is the newest of its source, and nothing can follow it.
_CAME = """
WITH changed AS MATERIALIZED (
    SELECT *, 1 AS users FROM presence WHERE NOT known
), newest AS MATERIALIZED (
    SELECT asked.source_id, last.day
    FROM (SELECT DISTINCT source_id FROM changed) AS asked
    CROSS JOIN LATERAL (
        SELECT day + 0 AS day FROM visitor_days
        WHERE (source_id, day + 0) <= (asked.source_id, 'infinity')
        ORDER BY source_id DESC, day + 0 DESC LIMIT 1
    ) AS last
), followed AS MATERIALIZED (
    SELECT came.source_id, came.site_id, came.person, next.day, next.previous_day AS before, came.day AS after
    FROM (SELECT changed.* FROM changed JOIN newest USING (source_id) WHERE changed.day < newest.day) AS came
    CROSS JOIN LATERAL (
        SELECT day, previous_day FROM visitor_days
        WHERE (source_id, site_id, person, day) > (came.source_id, came.site_id, came.person, came.day)
            AND (source_id, site_id, person, day) <= (came.source_id, came.site_id, came.person, 'infinity')
        ORDER BY source_id, site_id, person, day LIMIT 1
    ) AS next
    WHERE next.previous_day IS DISTINCT FROM came.day
),
"""

# Rows that moved left their person without the day where none of its others are there. A day's rows differ in
# the day before where that was deleted for its age, before some of them came: nobody asks of it any more.
_WENT = """
WITH changed AS MATERIALIZED (
    SELECT source_id, site_id, person, day, previous_day, -1 AS users
    FROM (
        SELECT source_id, site_id, person, day, max(previous_day) AS previous_day
        FROM doubted WHERE leaves
        GROUP BY source_id, site_id, person, day
    ) AS left_by
    WHERE (
        SELECT true FROM visitor_days
        WHERE (source_id, site_id, person, day)
            <= (left_by.source_id, left_by.site_id, left_by.person, left_by.day)
            AND (source_id, site_id, person, day)
            >= (left_by.source_id, left_by.site_id, left_by.person, left_by.day)
        ORDER BY source_id DESC, site_id DESC, person DESC, day DESC LIMIT 1
    ) IS NULL
), followed AS MATERIALIZED (
    SELECT DISTINCT went.source_id, went.site_id, went.person, next.day, next.previous_day AS before,
        last.day AS after
    FROM changed AS went
    CROSS JOIN LATERAL (
        SELECT day, previous_day FROM visitor_days
        WHERE (source_id, site_id, person, day) > (went.source_id, went.site_id, went.person, went.day)
            AND (source_id, site_id, person, day) <= (went.source_id, went.site_id, went.person, 'infinity')
        ORDER BY source_id, site_id, person, day LIMIT 1
    ) AS next
    LEFT JOIN LATERAL (
        SELECT day FROM visitor_days
        WHERE (source_id, site_id, person, day) < (went.source_id, went.site_id, went.person, next.day)
            AND (source_id, site_id, person, day) >= (went.source_id, went.site_id, went.person, '-infinity')
        ORDER BY source_id DESC, site_id DESC, person DESC, day DESC LIMIT 1
    ) AS last ON true
),
"""


def fold_users(connection: psycopg.Connection[Any]) -> None:
    """Take in `fresh` and `unlinked`, in the caller's transaction. Raises the driver's errors.

    Needs USER_TABLES.
    """
    has_moved = move_linked(connection)
    if has_moved:
        connection.execute(_WENT + _COUNT)
    connection.execute(_GATHER)
    if has_moved:
        connection.execute(_REGROUP)
    connection.execute(_LOOK_UP)
    connection.execute(_TAKE_IN)
    connection.execute(_CAME + _COUNT)
