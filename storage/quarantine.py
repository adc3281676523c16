"""The quarantine in Postgres: listed, counted and discarded.

Hides how filters become conditions: ids are UUIDv7, so that a time of receipt bounds them and the primary key
is all the index there is. How an entry lies in a row is `quarantine_rows`'; what is dropped when there is too
much, `quarantine_bounds`'.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from polylect.v1.quarantine_pb2 import (
    QuarantinedEvent,
    QuarantineFilter,
    QuarantineSummary,
    ReasonCount,
)
from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Text,
    any_,
    cast,
    delete,
    func,
    literal,
    literal_column,
    select,
)
from sqlalchemy.dialects.postgresql import ARRAY, UUID

from storage.database import Database
from storage.listing import Listing, has_text, of_source, time_bound
from storage.quarantine_rows import SELECTED, SIZE_BYTES, quarantined_of
from storage.reasons import reason_of, reason_text
from storage.schema import quarantine, quarantine_drops
from storage.values import ID_TOLERANCE, first_uuid7, selected, timestamp_of, uuid_text

# A statement deletes so many: some 0.1 s.
_DISCARD_ROWS = 5_000

QUARANTINE = Listing(quarantine.c.quarantine_id, SELECTED, quarantined_of, b"q")
_OLDEST = Listing(quarantine.c.quarantine_id, SELECTED, quarantined_of, b"o", oldest_first=True)


class QuarantineExtent(NamedTuple):
    """How much there is, and how much was dropped so far."""

    entries: int
    for_room: int
    for_age: int


class PostgresQuarantine:
    """Quarantined events, and how many were dropped of each source; `source_id` None means all sources.

    Any method may raise StorageUnavailable.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    async def list_entries(
        self, source_id: str | None, filters: QuarantineFilter, page_size: int, page_token: str
    ) -> tuple[list[QuarantinedEvent], str]:
        """Give a page, latest first, and the next page's token ("" on the last).

        It has at most `page_size` entries, fewer where they are large. Raises ValueError for a page token
        that is not one of its own.
        """
        conditions = _conditions_of(filters)
        return await QUARANTINE.page(self._database, source_id, conditions, page_size, page_token)

    async def oldest_entries(
        self,
        source_id: str,
        filters: QuarantineFilter,
        quarantine_ids: Sequence[str],
        page_size: int,
        page_token: str,
    ) -> tuple[list[QuarantinedEvent], str]:
        """Give a page of one source, oldest first; with ids, of those only. Raises as `list_entries`."""
        conditions = _selected_by(filters, quarantine_ids)
        return await _OLDEST.page(self._database, source_id, conditions, page_size, page_token)

    async def get_entry(self, source_id: str | None, quarantine_id: str) -> QuarantinedEvent | None:
        """Give one entry."""
        if (canonical := uuid_text(quarantine_id)) is None:
            return None
        statement = select(*SELECTED).where(
            of_source(quarantine.c.source_id, source_id), _has_id([canonical])
        )
        rows = await self._database.rows(statement.limit(1))
        return quarantined_of(rows[0]) if rows else None

    async def count(self, source_id: str, filters: QuarantineFilter, quarantine_ids: Sequence[str]) -> int:
        """Count entries of one source; with ids, of those only."""
        statement = select(func.count().label("count")).where(
            of_source(quarantine.c.source_id, source_id), *_selected_by(filters, quarantine_ids)
        )
        count: int = (await self._database.rows(statement))[0]["count"]
        return count

    async def discard(self, source_id: str, filters: QuarantineFilter, quarantine_ids: Sequence[str]) -> int:
        """Delete entries of one source, with ids those only, and give their number.

        When it raises, some may be gone.
        """
        chosen = select(quarantine.c.quarantine_id).where(
            of_source(quarantine.c.source_id, source_id), *_selected_by(filters, quarantine_ids)
        )
        chunk = delete(quarantine).where(
            of_source(quarantine.c.source_id, source_id),
            quarantine.c.quarantine_id.in_(chosen.order_by(quarantine.c.quarantine_id).limit(_DISCARD_ROWS)),
        )
        discarded = 0
        while deleted := await self._database.run(chunk):
            discarded += deleted
        return discarded

    async def extent(self) -> QuarantineExtent:
        """Tell how much there is, and was dropped, of all sources together."""
        entries = select(func.count().label("entries")).select_from(quarantine).subquery()
        drops = select(
            func.coalesce(func.sum(quarantine_drops.c.for_room), 0).cast(BigInteger).label("for_room"),
            func.coalesce(func.sum(quarantine_drops.c.for_age), 0).cast(BigInteger).label("for_age"),
        ).subquery()
        rows = await self._database.rows(select(entries, drops))
        return QuarantineExtent(**rows[0])

    async def summaries(self, source_id: str | None) -> list[QuarantineSummary]:
        """Tell how much there is of each source, by source_id; of which nothing is known is left out."""
        found: dict[str, QuarantineSummary] = defaultdict(QuarantineSummary)
        reasons = (
            select(
                selected(quarantine.c.source_id),
                quarantine.c.reason,
                func.count().label("count"),
                func.sum(literal_column(SIZE_BYTES)).label("size_bytes"),
                func.min(quarantine.c.received_at).label("oldest"),
                func.max(quarantine.c.received_at).label("latest"),
            )
            .where(of_source(quarantine.c.source_id, source_id))
            .group_by(quarantine.c.source_id, quarantine.c.reason)
            .order_by(func.count().desc(), quarantine.c.reason)
        )
        for row in await self._database.rows(reasons):
            _add(found[row["source_id"]], row)
        drops = select(*(selected(column) for column in quarantine_drops.columns))
        for row in await self._database.rows(drops.where(of_source(quarantine_drops.c.source_id, source_id))):
            summary = found[row["source_id"]]
            summary.dropped_for_room = row["for_room"]
            summary.dropped_for_age = row["for_age"]
        for found_id, summary in found.items():
            summary.source_id = found_id
        return [summary for _, summary in sorted(found.items())]


def _add(summary: QuarantineSummary, row: dict[str, Any]) -> None:
    summary.reasons.append(ReasonCount(reason=reason_of(row["reason"]), count=row["count"]))
    summary.size_bytes += int(row["size_bytes"])
    oldest, latest = timestamp_of(row["oldest"]), timestamp_of(row["latest"])
    if not summary.HasField("oldest_received_at") or _moment(oldest) < _moment(summary.oldest_received_at):
        summary.oldest_received_at.CopyFrom(oldest)
    if _moment(latest) > _moment(summary.latest_received_at):
        summary.latest_received_at.CopyFrom(latest)


def _moment(timestamp: Any) -> tuple[int, int]:
    return timestamp.seconds, timestamp.nanos


def _selected_by(filters: QuarantineFilter, quarantine_ids: Sequence[str]) -> list[ColumnElement[bool]]:
    conditions = list(_conditions_of(filters))
    if quarantine_ids:
        conditions.append(_has_id([known for one in quarantine_ids if (known := uuid_text(one))]))
    return conditions


def _has_id(quarantine_ids: Sequence[str]) -> ColumnElement[bool]:
    # An array, so that the statement is the same for any number.
    wanted = cast(literal(list(quarantine_ids), ARRAY(Text)), ARRAY(UUID(as_uuid=False)))
    return quarantine.c.quarantine_id == any_(wanted)


def _conditions_of(filters: QuarantineFilter) -> Iterator[ColumnElement[bool]]:
    if filters.reason:
        yield has_text(quarantine.c.reason, reason_text(filters.reason))
    for column, wanted in (
        (quarantine.c.dialect, filters.dialect),
        (quarantine.c.request_id, filters.request_id),
        (quarantine.c.field, filters.field),
    ):
        if wanted:
            yield has_text(column, wanted)
    if filters.HasField("received_from"):
        first = time_bound(filters.received_from)
        yield quarantine.c.received_at >= first
        yield quarantine.c.quarantine_id >= first_uuid7(_shifted(first, -ID_TOLERANCE))
    if filters.HasField("received_until"):
        end = time_bound(filters.received_until)
        yield quarantine.c.received_at < end
        yield quarantine.c.quarantine_id < first_uuid7(_shifted(end, ID_TOLERANCE))


def _shifted(moment: datetime, span: timedelta) -> datetime:
    try:
        return moment + span
    except OverflowError:
        return moment
