"""Reading a table page by page, by keys of source and UUIDv7.

Hides what a page token holds, where a page ends, and how all sources are asked at once. Ids are UUIDv7, so
their order is that of receipt to the millisecond, and a source's newest rows are the end of its primary key.
"""

import base64
import uuid
from collections.abc import Callable, Iterable
from contextlib import aclosing
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Generic, TypeVar

from google.protobuf.timestamp_pb2 import Timestamp
from polylect.v1.event_pb2 import Event
from polylect.v1.quarantine_pb2 import QuarantinedEvent
from polylect.v1.trail_pb2 import Refusal
from sqlalchemy import Column, ColumnElement, Select, cast, false, select, true, union_all

from storage.database import Database
from storage.schema import sources
from storage.values import NO_SOURCE, datetime_of, uuid_text

# What a page may hold, but for a first item that is larger. gRPC's clients take no message over 4 MiB unless
# told to.
_PAGE_BYTES = 2 << 20

# Every key starts with the source: asked without one, each is looked up.
ANY_SOURCE = union_all(
    select(sources.c.source_id), select(cast(NO_SOURCE, sources.c.source_id.type))
).subquery("any_source")
"""Every source, and the one of what has none."""

_Item = TypeVar("_Item", Event, QuarantinedEvent, Refusal)


@dataclass(frozen=True)
class Listing(Generic[_Item]):
    """A table read from its newest row on: its key is (source_id, id), and ids are in the order of time.

    Marks of tokens: e events, q quarantine, o quarantine from the oldest on, r refusals; l is the ledger's,
    whose tokens are of another kind.
    """

    id_column: Column[str]
    columns: tuple[ColumnElement[Any], ...]
    # Gives the item of a row of these columns.
    item_of: Callable[[dict[str, Any]], _Item]
    # First byte of its page tokens, one of the above, so that no other listing takes them.
    mark: bytes
    # From the oldest on instead; then of one source only.
    oldest_first: bool = False

    def select(
        self,
        source_id: str | None,
        conditions: Iterable[ColumnElement[bool]],
        limit: int,
        columns: Iterable[ColumnElement[Any]] = (),
    ) -> Select[Any]:
        """Select the first rows of a source; of all sources, the first of what each has first."""
        source_column = self.id_column.table.c.source_id
        page = select(*(columns or self.columns)).where(*conditions)
        page = page.order_by(self.id_column if self.oldest_first else self.id_column.desc()).limit(limit)
        if source_id is not None:
            return page.where(of_source(source_column, source_id))
        each = page.where(source_column == ANY_SOURCE.c.source_id).lateral("newest_of_source")
        newest_first = each.c[self.id_column.name].desc()
        return select(each).select_from(ANY_SOURCE.join(each, true())).order_by(newest_first).limit(limit)

    async def page(
        self,
        database: Database,
        source_id: str | None,
        conditions: Iterable[ColumnElement[bool]],
        page_size: int,
        page_token: str,
    ) -> tuple[list[_Item], str]:
        """Give a page and the next page's token ("" on the last).

        It has at most `page_size` items, fewer where they are large. Raises ValueError for a page token that
        is not one of its own, StorageUnavailable.
        """
        beyond: list[ColumnElement[bool]] = []
        if page_token:
            last_id = _id_of_token(page_token, self.mark)
            beyond.append(self.id_column > last_id if self.oldest_first else self.id_column < last_id)
        # One more tells whether there is another page.
        statement = self.select(source_id, [*conditions, *beyond], page_size + 1)
        page: list[_Item] = []
        page_bytes, last_id = 0, ""
        async with aclosing(database.stream(statement)) as rows:
            async for row in rows:
                item = self.item_of(row)
                page_bytes += item.ByteSize()
                if page and (len(page) == page_size or page_bytes > _PAGE_BYTES):
                    return page, _token_of(last_id, self.mark)
                page.append(item)
                last_id = row[self.id_column.name]
        return page, ""


def has_text(column: ColumnElement[str], wanted: str) -> ColumnElement[bool]:
    """Tell whether the column is that text."""
    # No text in Postgres holds U+0000, and asking for one is an error.
    return false() if "\0" in wanted else column == wanted


def of_source(column: ColumnElement[str], source_id: str | None) -> ColumnElement[bool]:
    """Tell whether the column is that source; None: any."""
    if source_id is None:
        return column.in_(select(ANY_SOURCE.c.source_id))
    canonical = uuid_text(source_id)
    return false() if canonical is None else column == canonical


def time_bound(timestamp: Timestamp) -> datetime:
    """Give a bound of time; what has no date in Python is the first or the last."""
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
