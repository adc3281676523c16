"""What a figure must be, by plain SQL over `events`, from the definitions' words; and events to ask of."""

import random
from collections.abc import Sequence
from datetime import timedelta
from typing import Any, NamedTuple

import psycopg
from polylect.v1 import event_pb2 as kinds
from polylect.v1.event_pb2 import Device, Event, Geo, Provenance, Revenue
from polylect.v1.query_pb2 import (
    STATS_GROUP_BY_COUNTRY,
    STATS_GROUP_BY_DAY,
    STATS_GROUP_BY_DEVICE_TYPE,
    STATS_GROUP_BY_HOUR,
    STATS_GROUP_BY_UNSPECIFIED,
    STATS_METRIC_AVG_SESSION_DURATION,
    STATS_METRIC_BOUNCE_RATE,
    STATS_METRIC_CONVERSION_RATE,
    STATS_METRIC_EVENT_COUNT,
    STATS_METRIC_EVENT_COUNT_BY_TYPE,
    STATS_METRIC_UNIQUE_SESSIONS,
    STATS_METRIC_UNIQUE_USERS,
    GetStatsRequest,
    GetStatsResponse,
    StatsGroup,
)
from worker_factory import NOW, make_event

from storage.values import timestamp_of

# A session begins with an event that has none of its kin in the half hour before.
_AS_READ = """
CREATE TEMP TABLE as_read AS
WITH kin AS MATERIALIZED (
    SELECT *, CASE
        WHEN session_id IS NOT NULL AND provenance_dialect <> 'pulsora' THEN NULL
        WHEN session_id IS NOT NULL THEN 'session ' || session_id
        WHEN anonymous_id IS NOT NULL THEN 'visitor ' || anonymous_id
        WHEN cookie_id IS NOT NULL THEN 'visitor ' || cookie_id
        WHEN user_id IS NOT NULL THEN 'user ' || user_id
    END || coalesce(' on ' || provenance_site_id, '') AS kin
    FROM events WHERE source_id = %(source_id)s
), starts AS MATERIALIZED (
    SELECT DISTINCT kin, occurred_at FROM kin AS one
    WHERE kin IS NOT NULL AND NOT EXISTS (
        SELECT FROM kin AS other WHERE other.kin = one.kin AND other.occurred_at < one.occurred_at
            AND other.occurred_at >= one.occurred_at - interval '30 minutes')
)
SELECT event_id, occurred_at, kind, geo_country AS country, device_type, provenance_site_id AS site_id,
    session_id AS given_session_id,
    CASE kind WHEN 'track' THEN name WHEN 'revenue' THEN revenue_event_type ELSE '' END AS name,
    CASE WHEN session_id IS NOT NULL AND kin IS NULL THEN session_id
         ELSE kin || (SELECT max(starts.occurred_at) FROM starts
                      WHERE starts.kin = kin.kin AND starts.occurred_at <= kin.occurred_at)
    END AS session,
    coalesce('user ' || coalesce(
        user_id,
        (SELECT link.user_id FROM identity_links AS link
         WHERE link.source_id = kin.source_id AND link.anonymous_id IN (kin.anonymous_id, kin.cookie_id)
             AND (linked_at, link.event_id) <= (received_at, kin.event_id)
         ORDER BY linked_at DESC, link.event_id DESC LIMIT 1),
        (SELECT link.user_id FROM identity_links AS link
         WHERE link.source_id = kin.source_id AND link.anonymous_id IN (kin.anonymous_id, kin.cookie_id)
         ORDER BY linked_at, link.event_id LIMIT 1)
    ), 'visitor ' || anonymous_id, 'visitor ' || cookie_id) AS person
FROM kin
"""

_FIGURES = {
    STATS_METRIC_EVENT_COUNT: "SELECT {groups} count(*) FROM chosen GROUP BY {by}",
    STATS_METRIC_UNIQUE_USERS: "SELECT {groups} count(DISTINCT person) FROM chosen GROUP BY {by}",
    STATS_METRIC_UNIQUE_SESSIONS: "SELECT {groups} count(DISTINCT session) FROM chosen GROUP BY {by}",
    STATS_METRIC_EVENT_COUNT_BY_TYPE: "SELECT {groups} count(*) FROM chosen GROUP BY {by}",
    STATS_METRIC_AVG_SESSION_DURATION: "SELECT {groups} avg(seconds) FROM sessions GROUP BY {by}",
    STATS_METRIC_BOUNCE_RATE: "SELECT {groups} avg(CASE WHEN size = 1 THEN 100.0 ELSE 0 END)"
    " FILTER (WHERE session IS NOT NULL) FROM sessions GROUP BY {by}",
    STATS_METRIC_CONVERSION_RATE: "SELECT {groups} avg(CASE WHEN converts THEN 100.0 ELSE 0 END)"
    " FILTER (WHERE session IS NOT NULL) FROM sessions GROUP BY {by}",
}
_GROUPS = {
    STATS_GROUP_BY_UNSPECIFIED: "'all'",
    STATS_GROUP_BY_HOUR: "date_trunc('hour', occurred_at, 'UTC')",
    STATS_GROUP_BY_DAY: "date_trunc('day', occurred_at, 'UTC')",
    STATS_GROUP_BY_DEVICE_TYPE: "coalesce(device_type, '')",
    STATS_GROUP_BY_COUNTRY: "coalesce(country, '')",
}
_PLAIN = """
WITH chosen AS (
    SELECT *, {place} AS place FROM as_read
    WHERE occurred_at >= %(from)s AND occurred_at < %(until)s
        AND (%(site_id)s = '' OR site_id = %(site_id)s)
        AND (%(country)s = '' OR country = %(country)s)
        AND (%(device_type)s = '' OR device_type = %(device_type)s)
), sessions AS (
    SELECT place, session, count(*) AS size,
        CASE WHEN session IS NOT NULL
             THEN extract(epoch FROM max(occurred_at)) - extract(epoch FROM min(occurred_at)) END AS seconds,
        bool_or(kind IN ('track', 'revenue') AND name = %(conversion)s
                OR kind = 'page' AND %(conversion)s = 'page_view') AS converts
    FROM chosen GROUP BY place, session
)
"""


class Asked(NamedTuple):
    """A question as `PostgresStats.figure` takes it."""

    source_id: str
    site_id: str
    occurred_from: Any
    occurred_until: Any
    question: GetStatsRequest


def read_all(connection: psycopg.Connection[Any], source_id: str) -> None:
    """Work out, once and for `expected`, how each event of the source is read."""
    connection.execute("DROP TABLE IF EXISTS as_read")
    connection.execute(_AS_READ, {"source_id": source_id})


def expected(connection: psycopg.Connection[Any], asked: Asked) -> GetStatsResponse:
    """Compute the answer by plain SQL; exact where there is no more than is listed."""
    question = asked.question
    value = sum(row[-1] or 0 for row in _rows(connection, asked, "'all'", with_types=False))
    by_type = question.metric == STATS_METRIC_EVENT_COUNT_BY_TYPE
    groups: list[StatsGroup] = []
    if question.group_by or by_type:
        rows = _rows(connection, asked, _GROUPS[question.group_by], with_types=by_type)
        groups = [_group(question, row) for row in rows]
    return GetStatsResponse(value=float(value), groups=groups)


def _rows(
    connection: psycopg.Connection[Any], asked: Asked, place: str, *, with_types: bool
) -> list[tuple[Any, ...]]:
    question = asked.question
    columns = "place, kind, name" if with_types else "place"
    figures = _FIGURES[question.metric].format(groups=f"{columns},", by=columns)
    parameters = {
        "from": asked.occurred_from,
        "until": asked.occurred_until,
        "site_id": asked.site_id,
        "country": question.country,
        "device_type": question.device_type,
        "conversion": question.conversion_event,
    }
    return connection.execute((_PLAIN.format(place=place) + figures).encode(), parameters).fetchall()


def _group(question: GetStatsRequest, row: tuple[Any, ...]) -> StatsGroup:
    group = StatsGroup(value=float(row[-1] or 0))
    if question.group_by in (STATS_GROUP_BY_HOUR, STATS_GROUP_BY_DAY):
        group.start.CopyFrom(timestamp_of(row[0]))
    elif question.group_by == STATS_GROUP_BY_DEVICE_TYPE:
        group.device_type = row[0]
    elif question.group_by == STATS_GROUP_BY_COUNTRY:
        group.country = row[0]
    if question.metric == STATS_METRIC_EVENT_COUNT_BY_TYPE:
        group.kind = kinds.EventKind.Value(f"EVENT_KIND_{row[1].upper()}")
        group.name = row[2]
    return group


def session_of_events(connection: psycopg.Connection[Any], source_id: str) -> dict[str, tuple[str, str]]:
    """Give, by event_id, the client's session and what tells sessions apart; "" for none."""
    read_all(connection, source_id)
    rows = connection.execute(
        "SELECT event_id::text, coalesce(given_session_id, ''), coalesce(session, '') FROM as_read"
    ).fetchall()
    return {event_id: (given, session) for event_id, given, session in rows}


def random_events(chance: random.Random, source_id: str, count: int) -> list[Event]:
    """Make events of few visitors, users and places, told late, early, and some of them twice."""
    made = [_random_event(chance, source_id, number) for number in range(count)]
    return made + [_told_again(event, chance) for event in chance.sample(made, count // 10)]


def _random_event(chance: random.Random, source_id: str, number: int) -> Event:
    # Whole multiples of ten minutes make gaps of exactly half an hour; midnight is among them.
    occurred_at = NOW + timedelta(minutes=10 * chance.randrange(-300, 300))
    if chance.random() < 0.3:
        occurred_at += timedelta(microseconds=chance.randrange(-1, 2))
    delay = chance.choice((timedelta(), timedelta(seconds=1), timedelta(days=2), -timedelta(hours=23)))
    received_at = occurred_at + delay
    # In the order of neither time.
    event_id = f"{int(received_at.timestamp() * 1000):012x}"
    event = make_event(
        received_at,
        source_id=source_id,
        event_id=f"{event_id[:8]}-{event_id[8:]}-7000-8000-{chance.getrandbits(48):012x}",
        message_id=f"m{number}",
        anonymous_id=chance.choice(("", "ann-phone", "ann-laptop", "same", "bob-phone")),
        cookie_id=chance.choice(("", "", "ann-phone", "cookie")),
        user_id=chance.choice(("", "", "", "ann", "bob", "same")),
        session_id=chance.choice(("", "", "", "s1", "s2")),
        device=Device(type=chance.choice(("", "mobile", "desktop"))),
        geo=Geo(country=chance.choice(("", "DE", "FR"))),
        provenance=Provenance(
            dialect=chance.choice(("pulsora", "pulse", "datafly")), site_id=chance.choice(("", "a", "b"))
        ),
        **_random_kind(chance),
    )
    if event.kind == kinds.EVENT_KIND_IDENTIFY:
        event.user_id = event.user_id or "ann"
    event.occurred_at.CopyFrom(timestamp_of(occurred_at))
    return event


def _random_kind(chance: random.Random) -> dict[str, Any]:
    return chance.choice(
        (
            {"kind": kinds.EVENT_KIND_PAGE, "name": chance.choice(("", "Home"))},
            {"kind": kinds.EVENT_KIND_TRACK, "name": chance.choice(("click", "purchase"))},
            {"kind": kinds.EVENT_KIND_TRACK, "name": "click"},
            {"kind": kinds.EVENT_KIND_IDENTIFY, "name": ""},
            {
                "kind": kinds.EVENT_KIND_REVENUE,
                "name": "",
                "revenue": Revenue(event_type=chance.choice(("purchase", "refund"))),
            },
        )
    )


def _told_again(event: Event, chance: random.Random) -> Event:
    again = Event()
    again.CopyFrom(event)
    # A client's repetition has its own event_id, a queue row's has the same.
    if chance.random() < 0.5:
        again.event_id = f"{event.event_id[:-12]}{chance.getrandbits(48):012x}"
    return again


def in_batches(chance: random.Random, events: Sequence[Event]) -> list[list[Event]]:
    """Cut a shuffled copy into batches of one to twenty."""
    shuffled = chance.sample(list(events), len(events))
    batches = []
    while shuffled:
        size = chance.randrange(1, 21)
        batches.append(shuffled[:size])
        shuffled = shuffled[size:]
    return batches
