"""Thirty days of events: what questions of statistics are measured on.

Hides how visitors, sessions and days are distributed. Written by Postgres itself, where the worker would:
through the front door ten million events take minutes more. Only the rollups are the worker's own work.
"""

import time
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from typing import Any

import psycopg

from benchmarks.stack import StackError

DAYS = 30
_EVENTS_PER_SESSION = 5
_SITE = "bench"

# Visitors come as 1/n does: few often, many once. A tenth of the sessions is of a visitor who says who he is.
# Half of the sessions have the client's id; the rest have the service's.
_SESSIONS = """
CREATE TEMP TABLE session_made ON COMMIT DROP AS
SELECT number,
    %(day)s::timestamptz + random() * interval '23 hours 30 minutes' AS started_at,
    (array['desktop', 'mobile', 'mobile', 'tablet', NULL])[1 + floor(random() * 5)::int] AS device_type,
    (array['DE', 'US', 'US', 'FR', 'GB', 'JP', 'BR', 'IN', 'PL', NULL])
        [1 + floor(random() * 10)::int] AS country,
    floor(power(random(), 2) * %(visitors)s)::int AS visitor,
    number %% 2 = 0 AS named,
    number %% 10 = 0 AS identified
FROM generate_series(1, %(sessions)s) AS number
"""
_EVENTS = """
INSERT INTO events (source_id, event_id, received_at, occurred_at, kind, name, anonymous_id, user_id,
    session_id, device_type, geo_country, page_url, page_path, device_user_agent, properties,
    provenance_dialect, provenance_endpoint, provenance_site_id)
SELECT %(source_id)s, gen_random_uuid(), moment + interval '1 second', moment,
    CASE WHEN identified AND step = 0 THEN 'identify' WHEN step %% 2 = 1 THEN 'track' ELSE 'page' END,
    CASE WHEN step %% 2 = 1 AND NOT (identified AND step = 0)
         THEN (array['click', 'click', 'form_submit', 'user_signup', 'purchase'])[1 + number %% 5] END,
    'v_' || visitor,
    CASE WHEN identified AND step = 0 THEN 'u_' || visitor END,
    CASE WHEN named THEN 's_' || to_char(moment - step * pause, 'YYMMDD') || number END,
    device_type, country, 'https://example.com/products/' || visitor %% 1000, '/products/' || visitor %% 1000,
    'Mozilla/5.0 (X11; Linux x86_64; rv:130.0) Gecko/20100101 Firefox/130.0',
    '{"plan": "pro", "position": 3}', 'pulse', '/collect', %(site)s
FROM (SELECT *, (30 + number %% 300) * interval '1 second' AS pause FROM session_made) AS one,
    LATERAL (SELECT step, started_at + step * pause AS moment
             FROM generate_series(0, number %% 9) AS step) AS each
WHERE moment < least(%(day)s::timestamptz + interval '1 day', now() - interval '1 second')
"""
_LINKS = """
INSERT INTO identity_links (source_id, anonymous_id, linked_at, event_id, user_id)
SELECT source_id, anonymous_id, received_at, event_id, user_id FROM events
WHERE source_id = %(source_id)s AND kind = 'identify'
"""
_SPANS = """
INSERT INTO session_spans (source_id, visitor, day, covered, received_at)
SELECT source_id, md5('v' || anonymous_id)::uuid AS visitor, (occurred_at AT TIME ZONE 'UTC')::date AS day,
    range_agg(tstzrange(occurred_at, occurred_at + interval '30 minutes', '[]')), max(received_at)
FROM events WHERE source_id = %(source_id)s AND session_id IS NULL GROUP BY source_id, visitor, day
"""
_ENQUEUE = """
INSERT INTO rollup_queue (source_ids, event_ids, received_ats)
SELECT array_agg(source_id), array_agg(event_id), array_agg(received_at)
FROM (SELECT source_id, event_id, received_at, (row_number() OVER ()) / 10000 AS batch FROM events
      WHERE received_at >= %(day)s::timestamptz AND received_at < %(day)s::timestamptz + interval '1 day'
          AND source_id = %(source_id)s) AS each
GROUP BY batch
"""
# Between looks at what the system's worker still has to take in, and how long none may be taken in.
_LOOK_SECONDS = 0.5
_PATIENCE_SECONDS = 60.0


def build(
    connection: psycopg.Connection[Any], source_id: str, events: int, tell: Callable[[float], None]
) -> int:
    """Write about so many events of the last thirty days; give how many. Tells its progress, up to 1."""
    connection.execute("SELECT setseed(0.5)")
    today = datetime.now(UTC).date()
    days = [today - timedelta(days=back) for back in range(DAYS, -1, -1)]
    parameters = {
        "source_id": source_id,
        "site": _SITE,
        "sessions": events // len(days) // _EVENTS_PER_SESSION,
        "visitors": max(events // 20, 1),
    }
    for day in days:
        _make_partition(connection, day)
    for number, day in enumerate(days):
        with connection.transaction():
            connection.execute(_SESSIONS, {**parameters, "day": day})
            connection.execute(_EVENTS, {**parameters, "day": day})
        tell(0.4 * (number + 1) / len(days))
    connection.execute(_LINKS, parameters)
    connection.execute(_SPANS, parameters)
    connection.execute("VACUUM (ANALYZE) events, identity_links, session_spans")
    for day in days:
        connection.execute(_ENQUEUE, {**parameters, "day": day})
    _await_rollup(connection, lambda share: tell(0.5 + 0.5 * share))
    connection.execute("VACUUM (ANALYZE)")
    tell(1.0)
    [(count,)] = connection.execute("SELECT count(*) FROM events WHERE source_id = %s", [source_id])
    return int(count)


def _make_partition(connection: psycopg.Connection[Any], day: date) -> None:
    connection.execute(
        f"CREATE TABLE IF NOT EXISTS events_p{day:%Y%m%d} PARTITION OF events"
        f" FOR VALUES FROM ('{day} 00:00:00+00') TO ('{day + timedelta(days=1)} 00:00:00+00')".encode()
    )


def _await_rollup(connection: psycopg.Connection[Any], tell: Callable[[float], None]) -> None:
    """Wait until the system's worker has taken all in."""
    waiting = all_of_it = _waiting(connection)
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while waiting:
        time.sleep(_LOOK_SECONDS)
        if (left := _waiting(connection)) < waiting:
            deadline = time.monotonic() + _PATIENCE_SECONDS
        waiting = left
        tell(1 - waiting / all_of_it)
        if time.monotonic() > deadline:
            raise StackError("the worker takes nothing in; look into the system's log (--keep)")


def _waiting(connection: psycopg.Connection[Any]) -> int:
    [(count,)] = connection.execute("SELECT count(*) FROM rollup_queue")
    return int(count)
