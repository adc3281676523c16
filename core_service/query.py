"""QueryService: what was stored.

Hides whose events a caller may see, and that one source's queries never take all there is to answer with.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import datetime
from typing import TYPE_CHECKING

import grpc
from polylect.v1 import error_reason_pb2 as reasons
from polylect.v1.event_pb2 import EventKind
from polylect.v1.query_pb2 import (
    GetEventRequest,
    GetEventResponse,
    GetStatsRequest,
    GetStatsResponse,
    ListEventsRequest,
    ListEventsResponse,
    TailEventsRequest,
    TailEventsResponse,
)
from polylect.v1.query_pb2_grpc import QueryServiceServicer
from polylect.v1.trail_pb2 import (
    ExplainEventRequest,
    ExplainEventResponse,
    GetLedgerRequest,
    GetLedgerResponse,
)

from core_service.callers import Callers, Context, require_scope
from core_service.errors import OVERLOAD_RETRY_SECONDS, CoreError, missing
from core_service.keys import KeyEntry
from core_service.limits import QuotaCounters, QuotaState
from core_service.ports import EventStore, SourceStore, StatsStore
from core_service.stats import checked_question
from core_service.tail import Tails

if TYPE_CHECKING:
    from core_service.trail import Trail

_DEFAULT_PAGE_SIZE = 50
_MAX_PAGE_SIZE = 1_000
# Of one source, under way and waiting.
_LINE_LENGTH = 16
_STATS_LIMIT = 1_000
_STATS_WINDOW_SECONDS = 60


class _Line:
    def __init__(self) -> None:
        self.turn = asyncio.Lock()
        self.length = 0


class Readers:
    """Tells which source a reader may see, and when it is its turn."""

    def __init__(self, sources: SourceStore) -> None:
        """Look names up in `sources`."""
        self._sources = sources
        self._lines: dict[str, _Line] = {}

    async def source_id(self, key: KeyEntry | None, wanted: str) -> str | None:
        """Give the id of the source to read; None when the admin (no key) wants all.

        Raises CoreError NOT_FOUND: no such source, or not the key's own.
        """
        if key is not None:
            if wanted not in ("", key.source.name, key.source.source_id):
                raise _no_source(wanted)
            return key.source.source_id
        if not wanted:
            return None
        source = await self._sources.find_source(wanted)
        if source is None:
            raise _no_source(wanted)
        return source.source_id

    @asynccontextmanager
    async def turn(self, key: KeyEntry | None) -> AsyncIterator[None]:
        """Let the keys of a source query one at a time, the admin as it likes.

        Raises CoreError OVERLOADED when too many of the source's are waiting.
        """
        if key is None:
            yield
            return
        source_id = key.source.source_id
        line = self._lines.setdefault(source_id, _Line())
        if line.length >= _LINE_LENGTH:
            raise CoreError(
                reasons.ERROR_REASON_OVERLOADED,
                "Too many queries of this source are waiting",
                retry_after_seconds=OVERLOAD_RETRY_SECONDS,
            )
        line.length += 1
        try:
            async with line.turn:
                yield
        finally:
            line.length -= 1
            if not line.length:
                del self._lines[source_id]


class QueryServicer(QueryServiceServicer):
    """Reads for the admin, or for a key what is its source's."""

    def __init__(
        self,
        callers: Callers,
        readers: Readers,
        events: EventStore,
        stats: StatsStore,
        *,
        quotas: QuotaCounters,
        tails: Tails,
        clock: Callable[[], datetime],
        trail: "Trail",
    ) -> None:
        """Take the parts."""
        self._trail = trail
        self._callers = callers
        self._readers = readers
        self._events = events
        self._stats = stats
        self._quotas = quotas
        self._tails = tails
        self._clock = clock

    async def GetEvent(self, request: GetEventRequest, context: Context) -> GetEventResponse:  # noqa: N802 - the proto's name
        """Give one event."""
        key = self._callers.require_admin_or_key(context)
        require_scope(key, "events:read")
        source_id = await self._readers.source_id(key, request.source)
        match request.WhichOneof("id"):
            case "event_id":
                wanted = {"event_id": request.event_id}
            case "message_id":
                if source_id is None:
                    raise missing("source")
                wanted = {"message_id": request.message_id}
            case _:
                raise missing("event_id")
        async with self._readers.turn(key):
            event = await self._events.get_event(source_id, **wanted)
        if event is None:
            raise CoreError(reasons.ERROR_REASON_NOT_FOUND, "No such event")
        return GetEventResponse(event=event)

    async def ListEvents(self, request: ListEventsRequest, context: Context) -> ListEventsResponse:  # noqa: N802 - the proto's name
        """Give a page of events."""
        key = self._callers.require_admin_or_key(context)
        require_scope(key, "events:read")
        if request.kind not in EventKind.values():
            raise CoreError(reasons.ERROR_REASON_FIELD_INVALID, "There is no such kind", field="kind")
        source_id = await self._readers.source_id(key, request.source)
        async with self._readers.turn(key):
            try:
                page = await self._events.list_events(source_id, request, page_size_of(request.page_size))
            except ValueError as error:
                raise bad_page_token() from error
        return ListEventsResponse(events=page[0], next_page_token=page[1])

    async def GetStats(self, request: GetStatsRequest, context: Context) -> GetStatsResponse:  # noqa: N802 - the proto's name
        """Give a figure; where the quota stands is in the trailing metadata, errors included."""
        key = self._callers.require_admin_or_key(context)
        if key is not None:
            self._count(key, context)
        require_scope(key, "stats:read")
        question, (occurred_from, occurred_until) = checked_question(request)
        source_id = await self._readers.source_id(key, request.source)
        if source_id is None:
            raise missing("source")
        site_id = request.site_id if key is None else _site_of(key, request.site_id)
        async with self._readers.turn(key):
            return await self._stats.figure(source_id, site_id, occurred_from, occurred_until, question)

    async def GetLedger(self, request: GetLedgerRequest, context: Context) -> GetLedgerResponse:  # noqa: N802 - the proto's name
        """Give a page of the ledger."""
        return await self._trail.ledger(request, context)

    async def ExplainEvent(self, request: ExplainEventRequest, context: Context) -> ExplainEventResponse:  # noqa: N802 - the proto's name
        """Tell what became of a request or an event."""
        return await self._trail.explain(request, context)

    async def TailEvents(  # noqa: N802 - the proto's name
        self, request: TailEventsRequest, context: Context
    ) -> AsyncIterator[TailEventsResponse]:
        """Give what happens, as it happens."""
        key = self._callers.require_admin_or_key(context)
        require_scope(key, "events:read")
        source_id = await self._readers.source_id(key, request.source)
        async with self._tails.following(source_id, request) as answers:
            # Tells the caller that it has begun.
            await context.send_initial_metadata(())
            async for answer in answers:
                # A revocation ends it too.
                self._callers.require_admin_or_key(context)
                yield answer

    def _count(self, key: KeyEntry, context: Context) -> None:
        now = self._clock().timestamp()
        state = self._quotas.take(("stats", key.key_id), _STATS_LIMIT, _STATS_WINDOW_SECONDS, 1, now)
        context.set_trailing_metadata(_rate_metadata(state))
        if not state.admitted:
            message = f"Rate limit exceeded: {_STATS_LIMIT} per {_STATS_WINDOW_SECONDS} s are used up"
            raise CoreError(
                reasons.ERROR_REASON_RATE_LIMITED, message, retry_after_seconds=state.retry_after_seconds
            )


def page_size_of(wanted: int) -> int:
    """Give how much a page has, where so much is wanted; 0 is the default."""
    return min(wanted or _DEFAULT_PAGE_SIZE, _MAX_PAGE_SIZE)


def bad_page_token() -> CoreError:
    """Give the refusal of a page token that is not one of a list's own."""
    message = "The page token is not one of this list's"
    return CoreError(reasons.ERROR_REASON_FIELD_INVALID, message, field="page_token")


def _rate_metadata(state: QuotaState) -> tuple[tuple[str, str], ...]:
    return (
        ("ratelimit-limit", str(_STATS_LIMIT)),
        ("ratelimit-remaining", str(state.remaining)),
        ("ratelimit-reset", str(state.reset_seconds)),
    )


def _site_of(key: KeyEntry, wanted: str) -> str:
    if not key.sites and not wanted:
        return ""
    if not wanted:
        raise missing("site_id")
    site_id = key.sites.get(wanted)
    if site_id is None:
        raise CoreError(
            reasons.ERROR_REASON_SITE_UNKNOWN,
            "Unknown site_id",
            field="site_id",
            status=grpc.StatusCode.NOT_FOUND,
        )
    return site_id


def _no_source(wanted: str) -> CoreError:
    return CoreError(reasons.ERROR_REASON_NOT_FOUND, f"No source {wanted!r}", field="source")
