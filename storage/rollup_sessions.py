"""Sessions by UTC day, kept as events come in any order, and their sums by the hour they start in.

Hides how a session's events are put together: its rows that new events may touch are taken apart into
moments, the moments of both are told apart by day and, where they do, by pauses, and what comes out takes the
place of those rows. So the same events leave the same rows, however they were batched.

A row keeps of each ten minutes the first and the last moment alone. That is all of a short session, bounds
the row of a long one (288 moments a day), and pauses between sessions, of half an hour, are not affected.
"""

from datetime import timedelta
from typing import Any, Final

import psycopg

from storage.event_facts import PAGE_VIEW
from storage.rollup_schema import session_days
from storage.sessions import WINDOW
from storage.values import EPOCH

SLOT: Final = timedelta(minutes=10)
"""Of so long a time, by the clock from EPOCH on, a row has the first and the last moment."""

_NAMES_LIMIT = 100

SESSION_TABLES = """
CREATE TEMP TABLE session_days_before (
    place tid NOT NULL,
    source_id uuid NOT NULL,
    site_id text NOT NULL,
    session uuid NOT NULL,
    started_at timestamptz NOT NULL,
    ended_at timestamptz NOT NULL,
    windowed boolean NOT NULL,
    apart boolean NOT NULL,
    moments timestamptz[] NOT NULL,
    names uuid[] NOT NULL,
    name_firsts timestamptz[] NOT NULL,
    name_lasts timestamptz[] NOT NULL,
    names_cut boolean NOT NULL
) ON COMMIT DELETE ROWS;
CREATE TEMP TABLE session_days_after (LIKE session_days_before) ON COMMIT DELETE ROWS;
ALTER TABLE session_days_after DROP place, ADD changed boolean NOT NULL
"""
"""Makes what `fold_sessions` works in: once a connection."""

_CONSTANTS = {
    "epoch": EPOCH,
    "day": timedelta(days=1),
    "hour": timedelta(hours=1),
    "slot": SLOT,
    "window": WINDOW,
    "page_view": PAGE_VIEW,
    "names": _NAMES_LIMIT,
}

_NAMES = [column.name for column in session_days.c]
_COLUMNS = ", ".join(_NAMES)
_FOUND = ", ".join(["kept.ctid AS place", *(f"kept.{name}" for name in _NAMES)])
_RENEWED = ", ".join(
    f"{column.name} = excluded.{column.name}" for column in session_days.c if not column.primary_key
)
_SAME = """
kept.source_id = touched.source_id AND kept.site_id = touched.site_id AND kept.session = touched.session
"""

# Rows of the same day that new events may become part of, and the nearest of the days around: by them a
# session is seen to go on, or now does. Each in a subquery of its own, lest all of the table be joined.
_BEFORE = f"""
INSERT INTO session_days_before (place, {_COLUMNS})
SELECT DISTINCT ON (found.place) found.* FROM (
    SELECT source_id, site_id, session, windowed, (day::timestamp AT TIME ZONE 'UTC') AS midnight,
           min(occurred_at) AS first, max(occurred_at) AS last
    FROM fresh WHERE session IS NOT NULL
    GROUP BY source_id, site_id, session, windowed, day
) AS touched CROSS JOIN LATERAL (
    (SELECT {_FOUND} FROM session_days AS kept
     WHERE touched.windowed AND {_SAME}
         AND kept.started_at >= date_bin(%(day)s, touched.first - %(window)s, %(epoch)s)
         AND kept.started_at <= touched.last + %(window)s
         AND kept.ended_at >= touched.first - %(window)s)
    UNION ALL
    (SELECT {_FOUND} FROM session_days AS kept
     WHERE NOT touched.windowed AND {_SAME} AND kept.started_at < touched.midnight + %(day)s
     ORDER BY kept.started_at DESC LIMIT 1)
    UNION ALL
    (SELECT {_FOUND} FROM session_days AS kept
     WHERE NOT touched.windowed AND {_SAME} AND kept.started_at >= touched.midnight + %(day)s
     ORDER BY kept.started_at LIMIT 1)
) AS found
"""  # noqa: S608 - of literals only

_AFTER = """
WITH each AS (
    SELECT session, source_id, site_id, windowed, occurred_at AS moment, occurred_at AS until,
        CASE WHEN kind = 'page' THEN md5(%(page_view)s)::uuid
             WHEN kind IN ('track', 'revenue') AND name <> '' THEN md5(name)::uuid END AS name,
        true AS counts, NULL::boolean AS was_apart, false AS names_cut
    FROM fresh WHERE session IS NOT NULL
    UNION ALL
    SELECT session, source_id, site_id, windowed, moment, moment, NULL, true, apart, names_cut
    FROM session_days_before, unnest(moments) AS moment
    UNION ALL
    SELECT session, source_id, site_id, windowed, first, last, name, false, apart, names_cut
    FROM session_days_before, unnest(names, name_firsts, name_lasts) AS named (name, first, last)
), placed AS (
    SELECT *, lag(moment) OVER of_session AS earlier, lead(moment) OVER of_session AS later
    FROM each WINDOW of_session AS (PARTITION BY session, source_id, site_id ORDER BY moment)
), parted AS (
    SELECT *,
        NOT windowed OR moment - earlier <= %(window)s AS follows,
        NOT windowed OR later - moment <= %(window)s AS is_followed,
        date_bin(%(day)s, earlier, %(epoch)s) <> date_bin(%(day)s, moment, %(epoch)s) AS begins_day,
        date_bin(%(day)s, later, %(epoch)s) <> date_bin(%(day)s, moment, %(epoch)s) AS ends_day
    FROM placed
), numbered AS MATERIALIZED (
    SELECT session, source_id, site_id, windowed, moment, until, name, counts, was_apart, names_cut,
        begins_day AND follows OR ends_day AND is_followed AS goes_on,
        count(*) FILTER (WHERE (begins_day OR NOT follows) IS NOT FALSE)
            OVER (ORDER BY session, source_id, site_id, moment) AS number
    FROM parted
), facts AS (
    SELECT number, source_id, site_id, session, windowed, min(moment) AS started_at, max(until) AS ended_at,
        bool_or(coalesce(was_apart, false)) AS was_apart,
        coalesce(bool_or(goes_on), false) AS goes_on,
        bool_or(was_apart IS NULL) AS is_renewed,
        bool_or(names_cut) AS names_cut
    FROM numbered GROUP BY number, source_id, site_id, session, windowed
), slots AS (
    SELECT number, min(moment) AS first, max(moment) AS last, count(*) AS size
    FROM numbered WHERE counts GROUP BY number, date_bin(%(slot)s, moment, %(epoch)s)
), timed AS (
    SELECT number, array_agg(moment ORDER BY moment) AS moments
    FROM slots, unnest(CASE size WHEN 1 THEN ARRAY[first] ELSE ARRAY[first, last] END) AS moment
    GROUP BY number
), named AS (
    SELECT number, count(*) AS size,
        (array_agg(name ORDER BY name))[:%(names)s] AS names,
        (array_agg(first ORDER BY name))[:%(names)s] AS name_firsts,
        (array_agg(last ORDER BY name))[:%(names)s] AS name_lasts
    FROM (SELECT number, name, min(moment) AS first, max(until) AS last
          FROM numbered WHERE name IS NOT NULL GROUP BY number, name) AS one
    GROUP BY number
), ready AS (
    SELECT *, names_cut OR coalesce(size > %(names)s, false) AS is_cut
    FROM facts JOIN timed USING (number) LEFT JOIN named USING (number)
)
INSERT INTO session_days_after (source_id, site_id, session, started_at, ended_at, windowed, apart, moments,
    names, name_firsts, name_lasts, names_cut, changed)
SELECT source_id, site_id, session, started_at, ended_at, windowed, was_apart OR goes_on OR is_cut, moments,
    coalesce(names, '{}'), coalesce(name_firsts, '{}'), coalesce(name_lasts, '{}'), is_cut,
    is_renewed OR goes_on AND NOT was_apart
FROM ready
"""

_DROP = """
DELETE FROM session_days WHERE ctid = ANY(ARRAY(
    SELECT place FROM session_days_before AS before WHERE NOT EXISTS (
        SELECT FROM session_days_after AS after
        WHERE after.session = before.session AND after.source_id = before.source_id
            AND after.site_id = before.site_id AND after.started_at = before.started_at)))
"""
_KEEP = f"""
INSERT INTO session_days ({_COLUMNS}) SELECT {_COLUMNS} FROM session_days_after WHERE changed
ON CONFLICT (source_id, site_id, session, started_at) DO UPDATE SET {_RENEWED}
"""  # noqa: S608 - of literals only

_CHANGES = """
WITH change AS (
    SELECT source_id, site_id, date_bin(%(hour)s, started_at, %(epoch)s) AS hour, started_at, ended_at,
        moments, names, sign
    FROM (SELECT source_id, site_id, started_at, ended_at, moments, names, 1 AS sign
          FROM session_days_after WHERE NOT apart
          UNION ALL
          SELECT source_id, site_id, started_at, ended_at, moments, names, -1
          FROM session_days_before WHERE NOT apart) AS each
)
"""
_ADD_HOURS = f"""
{_CHANGES}
INSERT INTO session_hours AS kept
    (source_id, site_id, hour, sessions, bounces, lasted_microseconds, latest_ended_at)
SELECT source_id, site_id, hour,
    sum(sign),
    coalesce(sum(sign) FILTER (WHERE cardinality(moments) = 1), 0),
    sum(sign * extract(epoch FROM ended_at - started_at)) * 1000000,
    max(ended_at)
FROM change GROUP BY source_id, site_id, hour
ON CONFLICT (source_id, site_id, hour) DO UPDATE
SET sessions = kept.sessions + excluded.sessions,
    bounces = kept.bounces + excluded.bounces,
    lasted_microseconds = kept.lasted_microseconds + excluded.lasted_microseconds,
    latest_ended_at = greatest(kept.latest_ended_at, excluded.latest_ended_at)
"""  # noqa: S608 - of literals only
_ADD_NAMES = f"""
{_CHANGES}
INSERT INTO session_hour_names AS kept (source_id, site_id, name, hour, sessions)
SELECT source_id, site_id, name, hour, sum(sign)
FROM change, unnest(names) AS name
GROUP BY source_id, site_id, name, hour HAVING sum(sign) <> 0
ON CONFLICT (source_id, site_id, name, hour) DO UPDATE SET sessions = kept.sessions + excluded.sessions
"""  # noqa: S608 - of literals only


def fold_sessions(connection: psycopg.Connection[Any]) -> None:
    """Take in the events of `fresh`, in the caller's transaction. Raises the driver's errors."""
    for statement in (_BEFORE, _AFTER, _DROP, _KEEP, _ADD_HOURS, _ADD_NAMES):
        # Planned each time, for the sizes at hand: a fold may be of one event or of 50,000.
        connection.execute(statement.encode(), _CONSTANTS, prepare=False)
