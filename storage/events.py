"""Reading back: events and quarantine, from the tables the worker writes.

Hides how a partitioned table is asked without looking into every day, and what a page token holds. Ids are
UUIDv7, so their order is that of receipt to the millisecond, and a source's newest events are the end of its
primary key.
"""

import base64
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import aclosing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Generic, TypeVar

from google.protobuf.timestamp_pb2 import Timestamp
from polylect.v1.event_pb2 import Event
from polylect.v1.quarantine_pb2 import QuarantinedEvent
from polylect.v1.query_pb2 import ListEventsRequest
from polylect.v1.trail_pb2 import Refusal
from sqlalchemy import (
    Column,
    ColumnElement,
    Select,
    cast,
    false,
    literal,
    select,
    true,
    union_all,
)

from storage.database import Database
from storage.dedup import message_key
from storage.identity import is_read_with, user_id_when_read
from storage.quarantine_rows import NO_SOURCE, quarantined_of
from storage.quarantine_rows import SELECTED as QUARANTINE_SELECTED
from storage.rows import SELECTED, event_of, kind_text
from storage.schema import dedup_keys, events, quarantine, sources
from storage.sessions import is_read_in, session_id_when_read
from storage.values import EPOCH, datetime_of, uuid_text

# How far receipt, by the facade's clock, may be from the moment in the id, by the core's.
_ID_TOLERANCE = timedelta(hours=1)

# What a page may hold, but for a first item that is larger. gRPC's clients take no message over 4 MiB unless
# told to.
_PAGE_BYTES = 2 << 20
# How many events to search for a client's id that deduplication doesn't know; takes some 0.1 s.
_MESSAGE_ID_SEARCH = 100_000
_UUID_VERSION = 7

# Every key starts with the source: asked without one, each is looked up.
_ANY_SOURCE = union_all(
    select(sources.c.source_id), select(cast(NO_SOURCE, sources.c.source_id.type))
).subquery("any_source")

_WHEN_READ = {"user_id": user_id_when_read(), "session_id": session_id_when_read()}
_SELECTED = tuple(_WHEN_READ.get(str(column.key), column) for column in SELECTED)

_MESSAGE_KEY = (events.c.source_id, events.c.event_id, events.c.received_at, events.c.message_id)

_Row = dict[str, Any]
_Item = TypeVar("_Item", Event, QuarantinedEvent, Refusal)


@dataclass(frozen=True)
class Listing(Generic[_Item]):
    """A table read from its newest row on: its key is (source_id, id), and ids are in the order of time."""

    id_column: Column[str]
    columns: tuple[ColumnElement[Any], ...]
    # Gives the item of a row of these columns.
    item_of: Callable[[_Row], _Item]
    # First byte of its page tokens, so that no other listing takes them.
    mark: bytes

    def newest(
        self,
        source_id: str | None,
        conditions: Iterable[ColumnElement[bool]],
        limit: int,
        columns: Iterable[ColumnElement[Any]] = (),
    ) -> Select[Any]:
        """Select the newest rows of a source; of all sources, the newest of what each has newest."""
        source_column = self.id_column.table.c.source_id
        page = select(*(columns or self.columns)).where(*conditions)
        page = page.order_by(self.id_column.desc()).limit(limit)
        if source_id is not None:
            return page.where(_of_source(source_column, source_id))
        each = page.where(source_column == _ANY_SOURCE.c.source_id).lateral("newest_of_source")
        newest_first = each.c[self.id_column.name].desc()
        return select(each).select_from(_ANY_SOURCE.join(each, true())).order_by(newest_first).limit(limit)


EVENTS = Listing(events.c.event_id, _SELECTED, event_of, b"e")
QUARANTINE = Listing(quarantine.c.quarantine_id, QUARANTINE_SELECTED, quarantined_of, b"q")


class PostgresEvents:
    """Events and quarantine; `source_id` None means all sources. Any method may raise StorageUnavailable."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def ping(self) -> None:
        """Answer when the database does."""
        await self._database.rows(select(literal(1)))

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
            _of_source(events.c.source_id, source_id), events.c.event_id == canonical
        )
        # First the day its id speaks of; every partition only for an id that was made elsewhere.
        for bounds in (*_received_around(canonical), true()):
            for row in await self._database.rows(statement.where(bounds).limit(1)):
                return event_of(row)
        return None

    async def _by_message_id(self, source_id: str | None, message_id: str) -> Event | None:
        remembered = select(dedup_keys).where(
            _of_source(dedup_keys.c.source_id, source_id), dedup_keys.c.dedup_key == message_key(message_id)
        )
        latest = EVENTS.newest(source_id, (), _MESSAGE_ID_SEARCH, _MESSAGE_KEY).subquery("latest")
        named = select(latest).where(_is(latest.c.message_id, message_id)).order_by(latest.c.event_id.desc())
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
        return await self._page(EVENTS, source_id, conditions, page_size, filters.page_token)

    async def list_quarantined(
        self, source_id: str | None, reason: str, page_size: int, page_token: str
    ) -> tuple[list[QuarantinedEvent], str]:
        """Give a page, as of events. `reason` as in the table (field_missing), "" for all.

        Raises ValueError for a page token that is not one of its own.
        """
        conditions = [_is(quarantine.c.reason, reason)] if reason else []
        return await self._page(QUARANTINE, source_id, conditions, page_size, page_token)

    async def _page(
        self,
        listing: Listing[_Item],
        source_id: str | None,
        conditions: Iterable[ColumnElement[bool]],
        page_size: int,
        page_token: str,
    ) -> tuple[list[_Item], str]:
        before: list[ColumnElement[bool]] = []
        if page_token:
            before.append(listing.id_column < _id_of_token(page_token, listing.mark))
        # One more tells whether there is another page.
        statement = listing.newest(source_id, [*conditions, *before], page_size + 1)
        page: list[_Item] = []
        page_bytes, last_id = 0, ""
        async with aclosing(self._database.stream(statement)) as rows:
            async for row in rows:
                item = listing.item_of(row)
                page_bytes += item.ByteSize()
                if page and (len(page) == page_size or page_bytes > _PAGE_BYTES):
                    return page, _token_of(last_id, listing.mark)
                page.append(item)
                last_id = row[listing.id_column.name]
        return page, ""


def _is(column: ColumnElement[str], wanted: str) -> ColumnElement[bool]:
    # No text in Postgres holds U+0000, and asking for one is an error.
    return false() if "\0" in wanted else column == wanted


def _of_source(column: ColumnElement[str], source_id: str | None) -> ColumnElement[bool]:
    if source_id is None:
        return column.in_(select(_ANY_SOURCE.c.source_id))
    canonical = uuid_text(source_id)
    return false() if canonical is None else column == canonical


def _received_around(event_id: str) -> Iterator[ColumnElement[bool]]:
    """Give the bounds of receipt that a UUIDv7's time means; nothing for another kind of id."""
    identity = uuid.UUID(event_id)
    if identity.version != _UUID_VERSION:
        return
    try:
        made_at = EPOCH + timedelta(milliseconds=identity.int >> 80)
        yield events.c.received_at.between(made_at - _ID_TOLERANCE, made_at + _ID_TOLERANCE)
    except OverflowError:
        return


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
            yield _is(column, wanted)
    if filters.user_id:
        # No text in Postgres holds U+0000, and asking for one is an error.
        yield false() if "\0" in filters.user_id else is_read_with(filters.user_id)
    if filters.session_id:
        yield false() if "\0" in filters.session_id else is_read_in(filters.session_id)
    if filters.HasField("received_from"):
        yield events.c.received_at >= _bound(filters.received_from)
    if filters.HasField("received_until"):
        yield events.c.received_at < _bound(filters.received_until)


def _has_kind(kind: int) -> ColumnElement[bool]:
    try:
        return events.c.kind == kind_text(kind)
    except KeyError:
        return false()


def _bound(timestamp: Timestamp) -> datetime:
    try:
        return datetime_of(timestamp)
    except OverflowError:
        return (datetime.max if timestamp.seconds > 0 else datetime.min).replace(tzinfo=UTC)


def _token_of(last_id: str, mark: bytes) -> str:
    return base64.urlsafe_b64encode(mark + uuid.UUID(last_id).bytes).rstrip(b"=").decode()


def _id_of_token(token: str, mark: bytes) -> str:
    try:
        content = base64.urlsafe_b64decode(f"{token}=")
        last_id = str(uuid.UUID(bytes=content.removeprefix(mark)))
    except ValueError as error:
        raise ValueError("not a page token") from error
    # One row has one token: base64 alone would let through others, and those of another listing.
    if _token_of(last_id, mark) != token:
        raise ValueError("not a page token of this listing")
    return last_id
