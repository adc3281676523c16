"""Sessions made by the service: which events of a visitor belong together, and what their session is called.

An event that came without a session_id is in the session of its visitor on its site: its anonymous_id, else
its cookie_id, else its own user_id; without any of them it is in none. Two events of a visitor that occurred
at most 30 minutes apart are in one session. Pulsora's rolling window: a session_id that came through that
dialect names a session as long as its events follow each other so; after a longer pause the same id is
another session in every figure, though read as the client gave it. Any other session_id is one session,
whatever it spans.

Hides how sessions are kept: each event covers the 30 minutes after it, and a row holds the union of what the
events of a visitor cover, by the UTC day they occurred on (so a row has 48 parts at most). A union knows no
order, and its row's lock, taken in the order of the keys, lets no worker lose another's part. A session is
named after its visitor and first event; so the same events give the same names, whatever order they came in.
"""

import re
from collections.abc import Iterable
from datetime import datetime, timedelta
from functools import lru_cache
from hashlib import md5
from operator import itemgetter
from typing import Any, Final

import psycopg
from polylect.v1.event_pb2 import Event
from sqlalchemy import BigInteger, ColumnElement, Label, Text, and_, case, cast, func, literal, or_

from storage.arrays import date_array, time_array, uuid_array
from storage.prepared import PreparedEvent
from storage.rows import COLUMNS
from storage.schema import events
from storage.values import EPOCH, MICROS_PER_SECOND

WINDOW: Final = timedelta(minutes=30)

# Two kinds of id never mean one visitor: each is hashed with its mark. 16 bytes, whatever the id's length.
_VISITOR, _USER, _SESSION, _CLIENTS = "v", "u", "s", "c"
_IDENTITIES = (events.c.anonymous_id, events.c.cookie_id, events.c.user_id)
_SITE_FOLLOWS = "\x1f"
_WINDOWED_DIALECT = "pulsora"

_EXTEND = """
INSERT INTO session_spans (source_id, visitor, day, covered, received_at)
SELECT source_id, visitor, day, range_agg(tstzrange(occurred_at, occurred_at + %s, '[]')), max(received_at)
FROM unnest(%s, %s, %s, %s, %s) AS seen (source_id, visitor, day, occurred_at, received_at)
GROUP BY source_id, visitor, day
ORDER BY source_id, visitor, day
ON CONFLICT (source_id, visitor, day) DO UPDATE
SET covered = session_spans.covered + excluded.covered,
    received_at = greatest(session_spans.received_at, excluded.received_at)
"""

_MADE = re.compile(r"s_([0-9a-f]{32})([0-9a-f]{16})").fullmatch
_MICROSECOND = timedelta(microseconds=1)
_MICROS_PER_DAY = 86_400 * MICROS_PER_SECOND
# From the row: a message's field takes ten times as long.
_ids_of = itemgetter(
    *map(COLUMNS.index, ("session_id", "anonymous_id", "cookie_id", "user_id", "provenance_site_id"))
)
# As in `rows`.
_has = Event.HasField


def extend_sessions(connection: psycopg.Connection[Any], stored: Iterable[PreparedEvent]) -> None:
    """Take events just stored into their visitors' sessions, in the caller's transaction.

    Raises the driver's errors.
    """
    sources, visitors, occurred, received = [], [], [], []
    for event, _, source_id, row, _, received_micros in stored:
        session_id, visitor_id, cookie_id, user_id, site_id = _ids_of(row)
        if not session_id and (identity := visitor_id or cookie_id or user_id):
            sources.append(source_id)
            visitors.append(_hashed(_VISITOR if visitor_id or cookie_id else _USER, identity, site_id))
            occurred.append(_occurred_micros(event, received_micros))
            received.append(received_micros)
    if visitors:
        columns = (
            uuid_array(sources),
            uuid_array(visitors),
            date_array([micros // _MICROS_PER_DAY for micros in occurred]),
            time_array(occurred),
            time_array(received),
        )
        connection.execute(_EXTEND, (WINDOW, *columns))


def _occurred_micros(event: Event, received_micros: int) -> int:
    if not _has(event, "occurred_at"):
        return received_micros
    occurred_at = event.occurred_at
    return occurred_at.seconds * MICROS_PER_SECOND + occurred_at.nanos // 1000


# A visitor's events come together.
@lru_cache(maxsize=4096)
def _hashed(mark: str, identity: str, site_id: str) -> bytes:
    # As Postgres' md5() has it. Who makes two ids collide merges two sessions of his own.
    text = f"{mark}{identity}{_SITE_FOLLOWS}{site_id}" if site_id else f"{mark}{identity}"
    return md5(text.encode(), usedforsecurity=False).digest()


def _hash_of(mark: str, identity: ColumnElement[Any]) -> ColumnElement[Any]:
    site = literal(_SITE_FOLLOWS, Text) + events.c.provenance_site_id
    # What is NULL adds nothing.
    return cast(func.md5(func.concat(mark, identity, site)), events.c.source_id.type)


def _visitor() -> ColumnElement[Any]:
    identity = func.coalesce(events.c.anonymous_id, events.c.cookie_id)
    return case(
        (identity.is_not(None), _hash_of(_VISITOR, identity)),
        (events.c.user_id.is_not(None), _hash_of(_USER, events.c.user_id)),
    )


def is_windowed() -> ColumnElement[bool]:
    """Tell whether pauses tell the sessions of an event's `session_key` apart."""
    return or_(
        and_(events.c.session_id.is_(None), func.coalesce(*_IDENTITIES).is_not(None)),
        and_(events.c.session_id.is_not(None), events.c.provenance_dialect == _WINDOWED_DIALECT),
    )


def session_key() -> ColumnElement[Any]:
    """Give a uuid that all events of a session share, and of a visitor where pauses tell sessions apart.

    NULL for an event in no session.
    """
    is_pulsoras = events.c.provenance_dialect == _WINDOWED_DIALECT
    return case(
        (events.c.session_id.is_(None), _visitor()),
        (is_pulsoras, _hash_of(_SESSION, events.c.session_id)),
        else_=_hash_of(_CLIENTS, events.c.session_id),
    )


def windowed_session() -> ColumnElement[Any]:
    """Give the `session_key` where pauses tell sessions apart; NULL for any other event."""
    return case((is_windowed(), session_key()))


def _started_at(visitor: ColumnElement[Any]) -> ColumnElement[datetime]:
    return func.polylect_session_start(events.c.source_id, visitor, events.c.occurred_at)


def session_id_when_read() -> Label[str]:
    """Select the client's session_id; without one, the name of the service's session."""
    visitor = _visitor()
    micros = cast(func.extract("epoch", _started_at(visitor)) * 1_000_000, BigInteger)
    hexadecimal = func.replace(cast(visitor, events.c.session_id.type), "-", "")
    # Any NULL makes all of it NULL.
    name = "s_" + hexadecimal + func.lpad(func.to_hex(micros), 16, "0")
    session: ColumnElement[str] = func.coalesce(events.c.session_id, name)
    return session.label("session_id")


def is_read_in(session_id: str) -> ColumnElement[bool]:
    """Tell whether an event is read with that session_id, which must be free of U+0000."""
    is_clients: ColumnElement[bool] = events.c.session_id == session_id
    made = _MADE(session_id)
    if made is None:
        return is_clients
    try:
        started_at = EPOCH + int(made[2], 16) * _MICROSECOND
    except OverflowError:
        return is_clients
    visitor = _visitor()
    is_ours = and_(
        events.c.session_id.is_(None),
        visitor == made[1],
        events.c.occurred_at >= started_at,
        _started_at(visitor) == started_at,
    )
    return or_(is_clients, is_ours)
