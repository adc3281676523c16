"""Reading events back from the table the worker writes.

Hides how a partitioned table is asked without looking into every day.
"""

from collections.abc import Iterator

from polylect.v1.event_pb2 import Event
from polylect.v1.query_pb2 import ListEventsRequest
from sqlalchemy import ColumnElement, false, select, true

from storage.database import Database
from storage.dedup import message_key
from storage.identity import is_read_with, user_id_when_read
from storage.listing import Listing, has_text, of_source, time_bound
from storage.rows import SELECTED, event_of, kind_text
from storage.schema import dedup_keys, events
from storage.sessions import is_read_in, session_id_when_read
from storage.values import ID_TOLERANCE, moment_of_uuid7, uuid_text

# How many events to search for a client's id that deduplication doesn't know; takes some 0.1 s.
_MESSAGE_ID_SEARCH = 100_000

_WHEN_READ = {"user_id": user_id_when_read(), "session_id": session_id_when_read()}
_SELECTED = tuple(_WHEN_READ.get(str(column.key), column) for column in SELECTED)

_MESSAGE_KEY = (events.c.source_id, events.c.event_id, events.c.received_at, events.c.message_id)

EVENTS = Listing(events.c.event_id, _SELECTED, event_of, b"e")


class PostgresEvents:
    """Events; `source_id` None means all sources. Any method may raise StorageUnavailable."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def get_event(
        self, source_id: str | None, *, event_id: str | None = None, message_id: str | None = None
    ) -> Event | None:
        """Give one event by either id; by `message_id` while deduplication remembers it, or of the latest."""
        if event_id is not None:
            return await self._by_event_id(source_id, event_id)
        return await self._by_message_id(source_id, message_id) if message_id else None

    async def _by_event_id(self, source_id: str | None, event_id: str) -> Event | None:
        if (canonical := uuid_text(event_id)) is None:
            return None
        statement = select(*_SELECTED).where(
            of_source(events.c.source_id, source_id), events.c.event_id == canonical
        )
        # First the day its id speaks of; every partition only for an id that was made elsewhere.
        for bounds in (*_received_around(canonical), true()):
            for row in await self._database.rows(statement.where(bounds).limit(1)):
                return event_of(row)
        return None

    async def _by_message_id(self, source_id: str | None, message_id: str) -> Event | None:
        remembered = select(dedup_keys).where(
            of_source(dedup_keys.c.source_id, source_id), dedup_keys.c.dedup_key == message_key(message_id)
        )
        latest = EVENTS.select(source_id, (), _MESSAGE_ID_SEARCH, _MESSAGE_KEY).subquery("latest")
        named = (
            select(latest).where(has_text(latest.c.message_id, message_id)).order_by(latest.c.event_id.desc())
        )
        for found in (remembered, named):
            for key in await self._database.rows(found.limit(1)):
                # Not a join: with the time given, Postgres plans for one partition, not for all.
                statement = select(*_SELECTED).where(
                    *(events.c[name] == key[name] for name in ("source_id", "event_id", "received_at"))
                )
                for row in await self._database.rows(statement):
                    return event_of(row)
        return None

    async def list_events(
        self, source_id: str | None, filters: ListEventsRequest, page_size: int
    ) -> tuple[list[Event], str]:
        """Give a page, latest received first, and the next page's token ("" on the last).

        It has at most `page_size` events, fewer where they are large. Of `filters`, the source and the page
        size are ignored. Raises ValueError for a page token that is not one of its own.
        """
        conditions = _conditions_of(filters)
        return await EVENTS.page(self._database, source_id, conditions, page_size, filters.page_token)


def _received_around(event_id: str) -> Iterator[ColumnElement[bool]]:
    """Give the bounds of receipt that a UUIDv7's time means; nothing for another kind of id."""
    if made_at := moment_of_uuid7(event_id):
        yield events.c.received_at.between(made_at - ID_TOLERANCE, made_at + ID_TOLERANCE)


def _conditions_of(filters: ListEventsRequest) -> Iterator[ColumnElement[bool]]:
    if filters.kind:
        yield _has_kind(filters.kind)
    for column, wanted in (
        (events.c.name, filters.name),
        (events.c.anonymous_id, filters.anonymous_id),
        (events.c.message_id, filters.message_id),
        (events.c.provenance_dialect, filters.dialect),
        (events.c.provenance_request_id, filters.request_id),
    ):
        if wanted:
            yield has_text(column, wanted)
    if filters.user_id:
        # No text in Postgres holds U+0000, and asking for one is an error.
        yield false() if "\0" in filters.user_id else is_read_with(filters.user_id)
    if filters.session_id:
        yield false() if "\0" in filters.session_id else is_read_in(filters.session_id)
    if filters.HasField("received_from"):
        yield events.c.received_at >= time_bound(filters.received_from)
    if filters.HasField("received_until"):
        yield events.c.received_at < time_bound(filters.received_until)


def _has_kind(kind: int) -> ColumnElement[bool]:
    try:
        return events.c.kind == kind_text(kind)
    except KeyError:
        return false()
