"""Whose days are another's by now: what links and unlinks that came in change of `visitor_days`.

Hides how little has to be looked at again. A fresh event was read with every link there was, and is none of
it. Of what is there already, a link to a user can't change what reads with that user; nor what was received
before it, unless it is its visitor's first in force. What may have changed is read anew from the links; only
where several users share a day of a visitor it takes the events of that day.

This finds all. Whatever link decides an event in the end: either what there is of the event was last read
with that link, or the link comes in later, and then reaches it, for these are the two ways in which a link
decides. An unlink reaches all of its visitor. And each looking is at the records of its own moment, so none
is missed between a record's transaction and its coming in.
"""

from typing import Any
from uuid import UUID

import psycopg
from sqlalchemy import (
    CTE,
    ColumnElement,
    FromClause,
    Select,
    Text,
    any_,
    case,
    cast,
    column,
    func,
    literal,
    or_,
    select,
    table,
    tuple_,
)
from sqlalchemy.dialects.postgresql import array

from storage.database import compiled
from storage.identity import Fact, link_is_in_force, user_said
from storage.rollup_schema import visitor_days
from storage.schema import identity_links

_UUID = visitor_days.c.person.type
# Before all others of one moment.
_LOWEST = literal(str(UUID(int=0)), _UUID)

# The ids are those that `identity_links` has; of each the earliest link, and its user where all name one, so
# that what there is of a visitor is met once, however many links come. OFFSET 0: a join might read all of the
# table.
_MET = """
WITH said AS (
    SELECT source_id, visitor_id,
        CASE WHEN min(own_user_id) = max(own_user_id) THEN min(own_user_id) END AS own_user_id,
        min(received_at) AS received_at,
        (array_agg(event_id ORDER BY received_at, event_id))[1] AS event_id
    FROM fresh CROSS JOIN LATERAL (VALUES (anonymous_id), (cookie_id)) AS ids (visitor_id)
    WHERE kind = 'identify' AND visitor_id <> own_user_id
    GROUP BY source_id, visitor_id
), asked AS (
    SELECT source_id, visitor_id AS linked_id, md5('v' || visitor_id)::uuid AS linked,
        md5('u' || own_user_id)::uuid AS linked_person, received_at AS linked_at, event_id AS linked_by
    FROM said
    UNION ALL SELECT source_id, visitor, md5('v' || visitor)::uuid, NULL, '-infinity', NULL FROM unlinked
), met AS MATERIALIZED (
    SELECT row.*, linked_id, linked_at, linked_by
    FROM asked CROSS JOIN LATERAL (
        SELECT *, ctid AS place FROM visitor_days AS there
        WHERE there.source_id = asked.source_id AND there.visitor = asked.linked
            AND there.person IS DISTINCT FROM asked.linked_person
        UNION ALL
        SELECT *, ctid AS place FROM visitor_days AS there
        WHERE there.source_id = asked.source_id AND there.cookie = asked.linked
            AND there.cookie <> there.visitor AND there.person IS DISTINCT FROM asked.linked_person
        OFFSET 0
    ) AS row
)
INSERT INTO doubted
"""

_OUTCOME = """
SELECT count(*) FILTER (WHERE leaves), count(*) FILTER (WHERE now_person IS NULL) FROM doubted
"""

# Nobody adds rows but who folds, one at a time: their places are still theirs.
_LEAVE = "DELETE FROM visitor_days WHERE ctid = ANY (ARRAY(SELECT place FROM doubted WHERE leaves))"

_ARRIVE = """
INSERT INTO visits
SELECT source_id, visitor, day, cookie, site_id, now_person, visitor_id, cookie_id,
    first_occurred_at, last_occurred_at, first_received_at, last_received_at
FROM doubted WHERE leaves AND now_person IS NOT NULL
"""

# The moments of a row are those of its events: the index, and the partitions, find them, each day once. With
# IS TRUE, each is looked for in a hash table; a planner might join, and read a day once for every visitor.
_TOLD = """
WITH shared AS MATERIALIZED (
    SELECT source_id, day, site_id, visitor_id, coalesce(cookie_id, visitor_id) AS cookie_id
    FROM doubted WHERE now_person IS NULL
), spans AS MATERIALIZED (
    SELECT source_id, day,
        min(first_occurred_at) AS first_occurred_at, max(last_occurred_at) AS last_occurred_at,
        min(first_received_at) AS first_received_at, max(last_received_at) AS last_received_at
    FROM doubted WHERE now_person IS NULL
    GROUP BY source_id, day
), told AS MATERIALIZED (
    SELECT span.source_id, span.day, each.*
    FROM spans AS span CROSS JOIN LATERAL (
        SELECT event_id, occurred_at, received_at, coalesce(provenance_site_id, '') AS site_id,
            coalesce(anonymous_id, cookie_id) AS visitor_id,
            nullif(cookie_id, coalesce(anonymous_id, cookie_id)) AS cookie_id
        FROM events
        WHERE source_id = span.source_id AND user_id IS NULL
            AND occurred_at BETWEEN span.first_occurred_at AND span.last_occurred_at
            AND received_at BETWEEN span.first_received_at AND span.last_received_at
        OFFSET 0
    ) AS each
    WHERE ((span.source_id, span.day, site_id, visitor_id, coalesce(cookie_id, visitor_id))
        IN (SELECT source_id, day, site_id, visitor_id, cookie_id FROM shared)) IS TRUE
)
"""
_READ_AGAIN = """
INSERT INTO visits
SELECT source_id, visitor, day, coalesce(md5('v' || cookie_id)::uuid, visitor), site_id,
    coalesce(md5('u' || said)::uuid, visitor), visitor_id, cookie_id,
    first_occurred_at, last_occurred_at, first_received_at, last_received_at
FROM (
    SELECT source_id, md5('v' || visitor_id)::uuid AS visitor, day, site_id, visitor_id, cookie_id, said,
        min(occurred_at) AS first_occurred_at, max(occurred_at) AS last_occurred_at,
        min(received_at) AS first_received_at, max(received_at) AS last_received_at
    FROM read
    GROUP BY source_id, day, site_id, visitor_id, cookie_id, said
) AS grouped
"""


def move_linked(connection: psycopg.Connection[Any]) -> bool:
    """Take the rows that read with others now out of `visitor_days`; false when there are none.

    They stay in `doubted`, marked as leaving; what they are now stands in `visits`. Raises the driver's
    errors.
    """
    if not connection.execute(_DOUBTING, _DOUBTING_PARAMETERS).rowcount:
        return False
    # Not by what is deleted here: what is too old may be deleted at the same time.
    [(leaving, shared)] = connection.execute(_OUTCOME).fetchall()
    if leaving:
        connection.execute(_LEAVE)
        connection.execute(_ARRIVE)
    if shared:
        connection.execute(_READING, _READING_PARAMETERS)
    return bool(leaving)


def _earlier_link(link: FromClause) -> ColumnElement[bool]:
    happened = tuple_(identity_links.c.linked_at, identity_links.c.event_id)
    earlier = select(identity_links).where(
        identity_links.c.source_id == link.c.source_id,
        identity_links.c.anonymous_id == link.c.linked_id,
        happened < tuple_(link.c.linked_at, link.c.linked_by),
        link_is_in_force(),
    )
    # One step in the index, where EXISTS may become a reading of all links.
    return earlier.with_only_columns(literal(True)).limit(1).correlate(link).scalar_subquery()


def _fact(of: FromClause, received_at: ColumnElement[Any], event_id: ColumnElement[str]) -> Fact:
    return Fact(of, of.c.source_id, (of.c.visitor_id, of.c.cookie_id), received_at, event_id)


def _other_link(read: FromClause) -> ColumnElement[bool]:
    """Tell whether a link between the first and last of a row names another user than the one before them."""
    link = identity_links.c
    other = select(literal(True)).where(
        link.source_id == read.c.source_id,
        link.anonymous_id == any_(array([read.c.visitor_id, read.c.cookie_id])),
        link.linked_at.between(read.c.first_received_at, read.c.last_received_at),
        link.user_id != read.c.said,
        link_is_in_force(),
    )
    return other.limit(1).correlate(read).scalar_subquery()


def _materialized(part: Select[Any], name: str) -> CTE:
    return part.cte(name).prefix_with("MATERIALIZED")


def _doubting() -> tuple[bytes, dict[str, Any]]:
    names = [*(each.name for each in visitor_days.c), "place"]
    met = table(
        "met",
        *(column(each.name, each.type) for each in visitor_days.c),
        column("place"),
        column("linked_id", Text),
        column("linked_at", visitor_days.c.last_received_at.type),
        column("linked_by", _UUID),
    )
    is_later = met.c.last_received_at >= met.c.linked_at
    # Asked once of a link, however many rows it meets.
    passed = select(met.c.source_id, met.c.linked_id, met.c.linked_at, met.c.linked_by).where(~is_later)
    first = _materialized(passed.distinct(), "first")
    of_first = select(first.c.source_id, first.c.linked_id).where(_earlier_link(first).is_(None))
    is_reached = or_(is_later, tuple_(met.c.source_id, met.c.linked_id).in_(of_first))
    # Of two links one row is met twice.
    reached = _materialized(select(*(met.c[name] for name in names)).where(is_reached).distinct(), "reached")
    # The user before all of the row's events, or after them all.
    said = user_said(_fact(reached, reached.c.first_received_at, _LOWEST))
    read = _materialized(select(reached, said.label("said")), "read")
    user = cast(func.md5(literal("u", Text) + read.c.said), _UUID)
    now_person = case((_other_link(read).is_(None), func.coalesce(user, read.c.visitor)))
    each = select(*(read.c[name] for name in names), now_person.label("now_person")).cte("each")
    leaves = each.c.now_person.is_distinct_from(each.c.person)
    text, parameters = compiled(select(each, leaves))
    return f"{_MET} {text}".encode(), parameters


def _reading() -> tuple[bytes, dict[str, Any]]:
    names = ("source_id", "day", "site_id", "visitor_id", "cookie_id")
    told = table(
        "told",
        *(column(name, visitor_days.c[name].type) for name in names),
        column("event_id", _UUID),
        column("occurred_at", visitor_days.c.first_occurred_at.type),
        column("received_at", visitor_days.c.first_received_at.type),
    )
    said = user_said(_fact(told, told.c.received_at, told.c.event_id))
    text, parameters = compiled(select(told, said.label("said")))
    return f"{_TOLD}, read AS ({text}) {_READ_AGAIN}".encode(), parameters


_DOUBTING, _DOUBTING_PARAMETERS = _doubting()
_READING, _READING_PARAMETERS = _reading()
