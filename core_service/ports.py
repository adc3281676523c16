"""What the core needs of a store, as Protocols.

Every method may raise ConnectionError when the store can't be reached or can't do its work; a caller turns
that into STORAGE_UNAVAILABLE. Times are aware datetimes in UTC, ids are UUIDs in text form.
"""

from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from datetime import date, datetime
from typing import Protocol

from polylect.v1.event_pb2 import Event
from polylect.v1.identity_pb2 import GetIdentityResponse, IdentityUnlink, UnlinkIdentityResponse
from polylect.v1.ingest_pb2 import ClientRequest
from polylect.v1.quarantine_pb2 import QuarantinedEvent, QuarantineFilter, QuarantineSummary
from polylect.v1.query_pb2 import GetStatsRequest, GetStatsResponse, ListEventsRequest
from polylect.v1.source_pb2 import Key, Source, UpdateSourceRequest
from polylect.v1.trail_pb2 import ExplainEventResponse, GetLedgerResponse, Refusal

LedgerLine = tuple[str, str, int]
"""source_id, dialect, and the start of the UTC hour of receipt in seconds since the epoch."""

NO_SOURCE = "00000000-0000-0000-0000-000000000000"
"""Where things stand of which no source can be told; storage has the same word for it."""

GRPC = "grpc"
"""The dialect of what came over gRPC."""


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

    async def append(
        self, batch: bytes, item_count: int, received: Mapping[LedgerLine, int] | None = None
    ) -> None:
        """Make an EventBatch durable, given in bytes; it is when this returns. One row, all or nothing.

        `received` says what was admitted into it, for the ledger: independent of what the batch holds.
        """


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

        None, and nothing done, when the old key has an end already, or there is none.
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


class QuarantineExtent(Protocol):
    """How much there is in quarantine, and how much was dropped so far."""

    @property
    def entries(self) -> int: ...

    @property
    def for_room(self) -> int: ...

    @property
    def for_age(self) -> int: ...


class QuarantineStore(Protocol):
    """What was refused. `source_id` None means all sources; ids no entry has are left out."""

    async def list_entries(
        self, source_id: str | None, filters: QuarantineFilter, page_size: int, page_token: str
    ) -> tuple[list[QuarantinedEvent], str]:
        """Give a page, latest first, and the next page's token ("" on the last), as of events.

        Raises ValueError as there.
        """

    async def oldest_entries(
        self,
        source_id: str,
        filters: QuarantineFilter,
        quarantine_ids: Sequence[str],
        page_size: int,
        page_token: str,
    ) -> tuple[list[QuarantinedEvent], str]:
        """Give a page of one source, oldest first; with ids, of those only. Raises ValueError as above."""

    async def get_entry(self, source_id: str | None, quarantine_id: str) -> QuarantinedEvent | None:
        """Give one entry."""

    async def count(self, source_id: str, filters: QuarantineFilter, quarantine_ids: Sequence[str]) -> int:
        """Count entries of one source; with ids, of those only."""

    async def discard(self, source_id: str, filters: QuarantineFilter, quarantine_ids: Sequence[str]) -> int:
        """Delete entries of one source, with ids those only, and give their number."""

    async def extent(self) -> QuarantineExtent:
        """Tell how much there is of all sources together; it counts them all."""

    async def summaries(self, source_id: str | None) -> list[QuarantineSummary]:
        """Tell how much there is of each source, by source_id; of which nothing is known is left out."""


class Translator(Protocol):
    """Turns what a client sent through a dialect into what the core judges: the facade's knowledge."""

    def __call__(self, entry: QuarantinedEvent) -> ClientRequest:
        """Give what the facade would send of that entry's request now, with its one item.

        That item is an event or a rejection. No credential, quota or time of receipt. An id made for an event
        that has none is the entry's.
        """


LoadTranslator = Callable[[], Translator]
"""Gives the translator; slow, and takes memory, so that it is asked at the first need."""


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


class RefusalStore(Protocol):
    """Where refused requests are counted and remembered."""

    async def add_refused(self, counts: Mapping[LedgerLine, int], remembered: Sequence[Refusal]) -> None:
        """Count events as received and refused, and remember some of their requests: all or nothing."""


class QueueState(Protocol):
    """What waits for a worker."""

    @property
    def items(self) -> int: ...

    @property
    def age_seconds(self) -> float:
        """Of the oldest; 0 when nothing waits."""

    @property
    def rollup_age_seconds(self) -> float:
        """Of the oldest stored event that statistics' tables have yet to take in; 0 when there is none."""


class TrailStore(Protocol):
    """Reading what came of everything. `source_id` None means all sources."""

    async def ledger(
        self,
        source_id: str | None,
        received_from: datetime | None,
        received_until: datetime | None,
        page_size: int,
        page_token: str,
    ) -> GetLedgerResponse:
        """Give a page of the ledger's hours, from inclusive, until exclusive.

        Raises ValueError for a page token that is not one of its own.
        """

    async def ledger_by_dialect(self) -> GetLedgerResponse:
        """Give the whole ledger, summed up: an entry for each dialect, of no source and hour.

        It reads all of it.
        """

    async def queue_state(self) -> QueueState:
        """Tell what waits in the queue."""

    async def explain(
        self, source_id: str | None, asked_id: str, *, with_sourceless: bool
    ) -> ExplainEventResponse:
        """Give the stories of an id, none when nothing is known of it.

        `with_sourceless`: also of what no source could be told of.
        """


class TailStore(Protocol):
    """What is new. `source_id` None means all sources; ids are UUIDv7, so in the order of receipt."""

    async def events_after(
        self, source_id: str | None, after_id: str, known: Collection[str], limit: int
    ) -> tuple[list[Event], bool]:
        """Give the newest events after that id, without `known`, at most `limit`, oldest first.

        And whether there are more.
        """

    async def quarantined_after(
        self, source_id: str | None, after_id: str, known: Collection[str], limit: int
    ) -> tuple[list[QuarantinedEvent], bool]:
        """Give the newest entries of the quarantine in the same way."""

    async def refusals_after(
        self, source_id: str | None, after_id: str, known: Collection[str], limit: int
    ) -> tuple[list[Refusal], bool]:
        """Give the newest refused requests in the same way."""


class IdentityStore(Protocol):
    """Who is who, in one source."""

    async def user_identity(
        self, source_id: str, user_id: str, page_size: int, page_token: str
    ) -> GetIdentityResponse:
        """Give a page of what is known of a user. Raises ValueError for a page token of another list."""

    async def visitor_identity(
        self, source_id: str, anonymous_id: str, page_size: int, page_token: str
    ) -> GetIdentityResponse:
        """Give a page of what is known of a visitor. Raises ValueError for a page token of another list."""

    async def unlink(
        self, source_id: str, unlink: IdentityUnlink, *, dry_run: bool
    ) -> UnlinkIdentityResponse | None:
        """Add the record `unlink`, and give it as it then stands with what it changes; once.

        Its time is moved to that of the latest link, where that is later. None, and nothing done, when no
        link of the two is in force. A dry run does nothing, and gives the record without its id.
        """
