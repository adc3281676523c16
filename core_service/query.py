"""QueryService: finds and counts what was stored; hides whose events a caller may see."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import grpc
from google.protobuf.timestamp_pb2 import Timestamp
from polylect.v1 import error_reason_pb2 as reasons
from polylect.v1.event_pb2 import EventKind
from polylect.v1.query_pb2 import (
    STATS_METRIC_EVENT_COUNT,
    GetEventRequest,
    GetEventResponse,
    GetStatsRequest,
    GetStatsResponse,
    ListEventsRequest,
    ListEventsResponse,
)
from polylect.v1.query_pb2_grpc import QueryServiceServicer

from core_service.callers import Callers, Context, require_scope
from core_service.errors import CoreError
from core_service.keys import KeyEntry
from core_service.limits import QuotaCounters, QuotaState
from core_service.ports import EventStore, SourceStore

_DEFAULT_PAGE_SIZE = 50
_MAX_PAGE_SIZE = 1_000
_STATS_LIMIT = 1_000
_STATS_WINDOW_SECONDS = 60
# What has no date in Python is cut to what has, with a day to spare on either side.
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_FIRST_SECOND = -62_000_000_000
_LAST_SECOND = 253_000_000_000


class Visibility:
    """Tells which source a reader may see."""

    def __init__(self, sources: SourceStore) -> None:
        """Look names up in `sources`."""
        self._sources = sources

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


class QueryServicer(QueryServiceServicer):
    """Reads for the admin, or for a key what is its source's."""

    def __init__(
        self,
        callers: Callers,
        visibility: Visibility,
        events: EventStore,
        quotas: QuotaCounters,
        clock: Callable[[], datetime],
    ) -> None:
        """Take the parts."""
        self._callers = callers
        self._visibility = visibility
        self._events = events
        self._quotas = quotas
        self._clock = clock

    async def GetEvent(self, request: GetEventRequest, context: Context) -> GetEventResponse:  # noqa: N802 - the proto's name
        """Give one event."""
        key = self._callers.require_admin_or_key(context)
        require_scope(key, "events:read")
        source_id = await self._visibility.source_id(key, request.source)
        match request.WhichOneof("id"):
            case "event_id":
                event = await self._events.get_event(source_id, event_id=request.event_id)
            case "message_id":
                if source_id is None:
                    raise _missing("source")
                event = await self._events.get_event(source_id, message_id=request.message_id)
            case _:
                raise _missing("event_id")
        if event is None:
            raise CoreError(reasons.ERROR_REASON_NOT_FOUND, "No such event")
        return GetEventResponse(event=event)

    async def ListEvents(self, request: ListEventsRequest, context: Context) -> ListEventsResponse:  # noqa: N802 - the proto's name
        """Give a page of events."""
        key = self._callers.require_admin_or_key(context)
        require_scope(key, "events:read")
        if request.kind not in EventKind.values():
            raise CoreError(reasons.ERROR_REASON_FIELD_INVALID, "There is no such kind", field="kind")
        source_id = await self._visibility.source_id(key, request.source)
        try:
            page = await self._events.list_events(source_id, request, page_size(request.page_size))
        except ValueError as error:
            raise bad_page_token() from error
        return ListEventsResponse(events=page[0], next_page_token=page[1])

    async def GetStats(self, request: GetStatsRequest, context: Context) -> GetStatsResponse:  # noqa: N802 - the proto's name
        """Give a figure; where the quota stands is in the trailing metadata, errors included."""
        key = self._callers.require_admin_or_key(context)
        if key is not None:
            self._count(key, context)
        require_scope(key, "stats:read")
        if request.metric != STATS_METRIC_EVENT_COUNT:
            raise CoreError(reasons.ERROR_REASON_METRIC_UNKNOWN, "There is no such metric", field="metric")
        occurred_from, occurred_until = _range_of(request)
        source_id = await self._visibility.source_id(key, request.source)
        if source_id is None:
            raise _missing("source")
        site_id = request.site_id if key is None else _site_of(key, request.site_id)
        count = await self._events.count_events(source_id, site_id, occurred_from, occurred_until)
        return GetStatsResponse(value=count)

    def _count(self, key: KeyEntry, context: Context) -> None:
        now = self._clock().timestamp()
        state = self._quotas.take(("stats", key.key_id), _STATS_LIMIT, _STATS_WINDOW_SECONDS, 1, now)
        context.set_trailing_metadata(_rate_metadata(state))
        if not state.admitted:
            message = f"Rate limit exceeded: {_STATS_LIMIT} per {_STATS_WINDOW_SECONDS} s are used up"
            raise CoreError(
                reasons.ERROR_REASON_RATE_LIMITED, message, retry_after_seconds=state.retry_after_seconds
            )


def page_size(wanted: int) -> int:
    """Give the size of a page: the default for 0, never above the maximum."""
    return min(wanted or _DEFAULT_PAGE_SIZE, _MAX_PAGE_SIZE)


def bad_page_token() -> CoreError:
    """Give the error for a page token that was not issued."""
    message = "The page token is not one of this list's"
    return CoreError(reasons.ERROR_REASON_FIELD_INVALID, message, field="page_token")


def _rate_metadata(state: QuotaState) -> tuple[tuple[str, str], ...]:
    return (
        ("ratelimit-limit", str(_STATS_LIMIT)),
        ("ratelimit-remaining", str(state.remaining)),
        ("ratelimit-reset", str(state.reset_seconds)),
    )


def _range_of(request: GetStatsRequest) -> tuple[datetime, datetime]:
    for field in ("occurred_from", "occurred_until"):
        if not request.HasField(field):
            raise _missing(field)
    occurred_from, occurred_until = _moment(request.occurred_from), _moment(request.occurred_until)
    if occurred_until <= occurred_from:
        message = "The range ends before it begins"
        raise CoreError(reasons.ERROR_REASON_FIELD_INVALID, message, field="occurred_until")
    return occurred_from, occurred_until


def _moment(timestamp: Timestamp) -> datetime:
    seconds = min(max(timestamp.seconds, _FIRST_SECOND), _LAST_SECOND)
    return _EPOCH + timedelta(seconds=seconds, microseconds=timestamp.nanos // 1_000)


def _site_of(key: KeyEntry, wanted: str) -> str:
    if not key.sites and not wanted:
        return ""
    if not wanted:
        raise _missing("site_id")
    site_id = key.sites.get(wanted)
    if site_id is None:
        raise CoreError(
            reasons.ERROR_REASON_SITE_UNKNOWN,
            "Unknown site_id",
            field="site_id",
            status=grpc.StatusCode.NOT_FOUND,
        )
    return site_id


def _missing(field: str) -> CoreError:
    return CoreError(reasons.ERROR_REASON_FIELD_MISSING, f"Missing required field: {field}", field=field)


def _no_source(wanted: str) -> CoreError:
    return CoreError(reasons.ERROR_REASON_NOT_FOUND, f"No source {wanted!r}", field="source")
