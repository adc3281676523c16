"""What is new since an id, for those who follow.

Hides that ids are in the order of receipt while rows become visible claim by claim, somewhat out of it: asked
again from a little before, it leaves out what the caller has already.
"""

import uuid
from collections.abc import Collection
from datetime import timedelta
from typing import TypeVar

from polylect.v1.event_pb2 import Event
from polylect.v1.quarantine_pb2 import QuarantinedEvent
from polylect.v1.trail_pb2 import Refusal
from sqlalchemy import ColumnElement, any_, bindparam, not_
from sqlalchemy.dialects.postgresql import ARRAY, UUID

from storage.database import Database
from storage.events import EVENTS
from storage.listing import Listing
from storage.quarantine import QUARANTINE
from storage.refusals import REFUSALS_SELECTED, refusal_of
from storage.schema import events, refusals
from storage.values import EPOCH

# How far receipt, by the facade's clock, may be from the moment in the id, by the core's.
_ID_TOLERANCE = timedelta(hours=1)
_MOST_BYTES = 8 << 20
_IDS = ARRAY(UUID(as_uuid=False))

_Item = TypeVar("_Item", Event, QuarantinedEvent, Refusal)

_REFUSALS = Listing(refusals.c.refusal_id, REFUSALS_SELECTED, refusal_of, b"f")


class PostgresTail:
    """Looks for what is new. Any method may raise StorageUnavailable."""

    def __init__(self, database: Database) -> None:
        """Ask this database."""
        self._database = database

    async def events_after(
        self, source_id: str | None, after_id: str, known: Collection[str], limit: int
    ) -> tuple[list[Event], bool]:
        """Give the newest events whose UUIDv7 is after `after_id`, without `known`, oldest first.

        At most `limit`, and some 8 MiB; tells too whether there are more. `source_id` None means all sources.
        """
        # Leaves out the days before.
        recent = events.c.received_at >= EPOCH + _moment_of(after_id) - _ID_TOLERANCE
        conditions = [*_unknown(EVENTS, after_id, known), recent]
        return await self._newest(EVENTS, source_id, conditions, limit)

    async def quarantined_after(
        self, source_id: str | None, after_id: str, known: Collection[str], limit: int
    ) -> tuple[list[QuarantinedEvent], bool]:
        """Give the newest entries of the quarantine in the same way."""
        return await self._newest(QUARANTINE, source_id, _unknown(QUARANTINE, after_id, known), limit)

    async def refusals_after(
        self, source_id: str | None, after_id: str, known: Collection[str], limit: int
    ) -> tuple[list[Refusal], bool]:
        """Give the newest refused requests in the same way."""
        return await self._newest(_REFUSALS, source_id, _unknown(_REFUSALS, after_id, known), limit)

    async def _newest(
        self,
        listing: Listing[_Item],
        source_id: str | None,
        conditions: list[ColumnElement[bool]],
        limit: int,
    ) -> tuple[list[_Item], bool]:
        newest: list[_Item] = []
        size_bytes, token = 0, ""
        while True:
            page, token = await listing.page(
                self._database, source_id, conditions, limit - len(newest), token
            )
            newest += page
            size_bytes += sum(item.ByteSize() for item in page)
            if not token or len(newest) >= limit or size_bytes >= _MOST_BYTES:
                return newest[::-1], bool(token)


def _unknown(listing: Listing[_Item], after_id: str, known: Collection[str]) -> list[ColumnElement[bool]]:
    conditions = [listing.id_column > after_id]
    if known:
        conditions.append(not_(listing.id_column == any_(bindparam("known", list(known), _IDS))))
    return conditions


def _moment_of(time_ordered_id: str) -> timedelta:
    return timedelta(milliseconds=uuid.UUID(time_ordered_id).int >> 80)
