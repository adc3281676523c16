"""What the core needs of a store, as Protocols.

Every method may raise ConnectionError when the store can't be reached or can't do its work; a caller turns
that into STORAGE_UNAVAILABLE. Times are aware datetimes in UTC, ids are UUIDs in text form.
"""

from collections.abc import AsyncIterator, Sequence
from datetime import date, datetime
from typing import Protocol

from polylect.v1.event_pb2 import Event
from polylect.v1.quarantine_pb2 import QuarantinedEvent
from polylect.v1.query_pb2 import GetStatsRequest, GetStatsResponse, ListEventsRequest
from polylect.v1.queue_pb2 import EventBatch
from polylect.v1.source_pb2 import Key, Source, UpdateSourceRequest


class StoredKey(Protocol):
    """A key and the SHA-256 of its secret."""

    @property
    def key(self) -> Key: ...

    @property
    def secret_hash(self) -> bytes: ...


class StoredSource(Protocol):
    """A source with all its keys, ended ones included."""

    @property
    def source(self) -> Source: ...

    @property
    def keys(self) -> Sequence[StoredKey]: ...


class Queue(Protocol):
    """The durable log between core and worker."""

    async def append(self, batch: EventBatch) -> None:
        """Make `batch` durable; it is when this returns. At most one row, all or nothing."""


class SourceStore(Protocol):
    """Sources and keys. Demo sources exist for it only where it was opened for demo mode."""

    async def load_sources(self, source_id: str | None = None) -> Sequence[StoredSource]:
        """Give all sources, or the one of that id (an empty list when there is none)."""

    def watch(self) -> AsyncIterator[str | None]:
        """Yield the source_id of each change; None when it (re)connected, so changes may have been missed.

        Reconnects by itself, for ever, with a short pause.
        """

    async def find_source(self, name_or_id: str) -> Source | None:
        """Give one source by name or id."""

    async def create_source(self, source: Source) -> bool:
        """Insert; False when the name is taken."""

    async def update_source(self, source_id: str, change: UpdateSourceRequest) -> Source | None:
        """Write the settings `change` holds, leaving the others; give the source as it then stands.

        None when there is none of that id. Which source `change` itself names is of no account.
        """

    async def create_key(self, key: Key, secret_hash: bytes) -> None:
        """Insert."""

    async def replace_key(
        self, old_key_id: str, key: Key, secret_hash: bytes, *, expires_at: datetime
    ) -> Key | None:
        """Insert `key` and let the old one expire, both or neither; give the old key as it then stands.

        An earlier end of the old key stays. None, and nothing done, when it is revoked, or there is none.
        """

    async def revoke_key(self, key_id: str, revoked_at: datetime) -> Key | None:
        """End a key, if it was not revoked earlier; give it as it then stands, None when there is none."""

    async def list_keys(self, source_id: str) -> list[Key]:
        """Give the keys of a source, newest first."""

    async def find_key(self, key_id: str) -> Key | None:
        """Give one key."""

    async def salt(self, day: date) -> bytes:
        """Give the 32-byte salt of a UTC day, made at first asking, the same for all cores."""


class EventStore(Protocol):
    """Reading back. `source_id` None means all sources."""

    async def get_event(
        self, source_id: str | None, *, event_id: str | None = None, message_id: str | None = None
    ) -> Event | None:
        """Give one event by either id; by `message_id` an old one may not be found."""

    async def list_events(
        self, source_id: str | None, filters: ListEventsRequest, page_size: int
    ) -> tuple[list[Event], str]:
        """Give a page, latest received first, and the next page's token ("" on the last).

        It has at most `page_size` events, fewer where they are large; the first may have any size. Raises
        ValueError for a page token that is not one of its own.
        """

    async def list_quarantined(
        self, source_id: str | None, reason: str, page_size: int, page_token: str
    ) -> tuple[list[QuarantinedEvent], str]:
        """Give a page, as above. `reason` as in the table (field_missing), "" for all.

        Raises ValueError as above.
        """


class StatsStore(Protocol):
    """Figures over events."""

    async def figure(
        self,
        source_id: str,
        site_id: str,
        occurred_from: datetime,
        occurred_until: datetime,
        question: GetStatsRequest,
    ) -> GetStatsResponse:
        """Answer `question`, whose source, site and range are given apart; site "" means all.

        The range is by the events' own time, from inclusive, until exclusive.
        """
