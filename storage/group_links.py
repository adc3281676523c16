"""What group events leave: one record each, of the user or else the visitor that belongs to the group.

Hides how the worker writes it, and how the groups of a user are found, those of its visitors included.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import psycopg
from polylect.v1.event_pb2 import EVENT_KIND_GROUP, Event
from polylect.v1.identity_pb2 import GroupMembership
from sqlalchemy import ARRAY, ColumnElement, Select, Text, cast, func, literal, null, select, true, union_all
from sqlalchemy.dialects.postgresql import distinct_on

from storage.arrays import time_array, uuid_array
from storage.identity import Fact, user_said
from storage.prepared import PreparedEvent
from storage.schema import group_links
from storage.values import timestamp_of

# How far back groups are looked for: of the id itself, and of a user's visitors each.
_OWN_RECORDS = 1_000
_VISITORS = 100
_RECORDS_OF_VISITOR = 100
_MOST_GROUPS = 1_000

_INSERT = """
INSERT INTO group_links (source_id, event_id, linked_at, user_id, anonymous_id, cookie_id, group_id)
SELECT * FROM unnest(%s, %s, %s, %s::text[], %s::text[], %s::text[], %s::text[])
ON CONFLICT (source_id, event_id) DO NOTHING
"""

_VISITOR_COLUMNS = ("anonymous_id", "cookie_id")


def insert_group_links(connection: psycopg.Connection[Any], stored: Iterable[PreparedEvent]) -> None:
    """Leave the records of the group events among `stored`. Raises the driver's errors."""
    links = [
        (one, *member)
        for one in stored
        if one.event.kind == EVENT_KIND_GROUP and one.event.group_id and any(member := _member_of(one.event))
    ]
    if links:
        grouped, *members = zip(*links, strict=True)
        columns = (
            uuid_array(one.source_id for one in grouped),
            uuid_array(one.event_id for one in grouped),
            time_array(one.received_micros for one in grouped),
            *map(list, members),
            [one.event.group_id for one in grouped],
        )
        connection.execute(_INSERT, columns)


def _member_of(event: Event) -> tuple[str | None, str | None, str | None]:
    if event.user_id:
        return event.user_id, None, None
    cookie_id = event.cookie_id if event.cookie_id != event.anonymous_id else ""
    return None, event.anonymous_id or None, cookie_id or None


def groups_of_visitor(source_id: str, anonymous_id: str) -> Select[Any]:
    """Select the groups of a visitor for `membership_of`, latest first."""
    visitor = literal(anonymous_id, Text)
    each = [
        _latest(group_links.c[name] == visitor, source_id, _OWN_RECORDS, visitor) for name in _VISITOR_COLUMNS
    ]
    return _grouped(each)


def groups_of_user(source_id: str, user_id: str, visitors: Sequence[str]) -> Select[Any]:
    """Select the groups of a user and of those of its visitors that are read with it, latest first.

    `visitors` are all it may ever have been, latest first; of many, the first ones are looked into.
    """
    own = _latest(group_links.c.user_id == user_id, source_id, _OWN_RECORDS, null())
    asked = (
        func.unnest(cast(list(visitors[:_VISITORS]), ARRAY(Text)))
        .table_valued("visitor")
        .render_derived(name="asked")
    )
    theirs = []
    for name in _VISITOR_COLUMNS:
        latest = (
            select(group_links)
            .where(group_links.c.source_id == source_id, group_links.c[name] == asked.c.visitor)
            .order_by(group_links.c.linked_at.desc(), group_links.c.event_id.desc())
            .limit(_RECORDS_OF_VISITOR)
            .lateral(f"by_{name}")
        )
        fact = Fact(
            latest,
            latest.c.source_id,
            (latest.c.anonymous_id, latest.c.cookie_id),
            latest.c.linked_at,
            latest.c.event_id,
        )
        columns = (
            latest.c.group_id,
            latest.c.linked_at,
            latest.c.event_id,
            asked.c.visitor.label("anonymous_id"),
        )
        found = select(*columns).select_from(asked.join(latest, true()))
        theirs.append(found.where(user_said(fact) == user_id))
    return _grouped([own, *theirs])


def _latest(
    condition: ColumnElement[bool], source_id: str, limit: int, visitor: ColumnElement[Any]
) -> Select[Any]:
    record = group_links.c
    return (
        select(record.group_id, record.linked_at, record.event_id, cast(visitor, Text).label("anonymous_id"))
        .where(record.source_id == source_id, condition)
        .order_by(record.linked_at.desc(), record.event_id.desc())
        .limit(limit)
    )


def _grouped(each: Sequence[Select[Any]]) -> Select[Any]:
    found = union_all(*(one.subquery().select() for one in each)).subquery("found")
    # Of a group the latest record; of one found in several ways, the user's own.
    latest = (
        select(found)
        .ext(distinct_on(found.c.group_id))
        .order_by(
            found.c.group_id,
            found.c.linked_at.desc(),
            found.c.event_id.desc(),
            found.c.anonymous_id.nulls_first(),
        )
        .subquery("latest")
    )
    newest_first = (latest.c.linked_at.desc(), latest.c.event_id.desc())
    columns = (
        latest.c.group_id,
        latest.c.linked_at,
        cast(latest.c.event_id, Text).label("event_id"),
        latest.c.anonymous_id,
    )
    return select(*columns).order_by(*newest_first).limit(_MOST_GROUPS)


def membership_of(row: dict[str, Any]) -> GroupMembership:
    """Give the membership of a row."""
    return GroupMembership(
        group_id=row["group_id"],
        linked_at=timestamp_of(row["linked_at"]),
        event_id=row["event_id"],
        anonymous_id=row["anonymous_id"] or "",
    )
