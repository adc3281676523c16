"""QueryService: what was stored.

Hides whose figures a key may see, and how many of them it may ask for.
"""

from collections.abc import AsyncIterator, Callable
from datetime import datetime

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
from core_service.errors import CoreError, missing
from core_service.keys import KeyEntry
from core_service.limits import QuotaCounters, QuotaState
from core_service.ports import EventStore, StatsStore
from core_service.readers import Readers, page_size_of, refusing_page_token
from core_service.stats import checked_question
from core_service.tail import Tails
from core_service.trail import Trail

_STATS_LIMIT = 1_000
_STATS_WINDOW_SECONDS = 60


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
        trail: Trail,
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
        key, source_id = await self._readers.reader(context, request.source, "events:read")
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
        key, source_id = await self._readers.reader(context, request.source, "events:read")
        if request.kind not in EventKind.values():
            raise CoreError(reasons.ERROR_REASON_FIELD_INVALID, "There is no such kind", field="kind")
        async with self._readers.turn(key):
            with refusing_page_token(request.page_token):
                events, token = await self._events.list_events(
                    source_id, request, page_size_of(request.page_size)
                )
        return ListEventsResponse(events=events, next_page_token=token)

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
        _, source_id = await self._readers.reader(context, request.source, "events:read")
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
