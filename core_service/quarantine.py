"""QuarantineService: what was refused, and what may become of it.

Hides whose entries a caller may see, and which selections are clear enough to act upon.
"""

from collections import Counter

import structlog
from google.protobuf.timestamp_pb2 import Timestamp
from polylect.v1 import error_reason_pb2 as reasons
from polylect.v1.error_reason_pb2 import ErrorReason
from polylect.v1.quarantine_pb2 import (
    DiscardRequest,
    DiscardResponse,
    GetRequest,
    GetResponse,
    ListRequest,
    ListResponse,
    QuarantineFilter,
    ReasonCount,
    ReplayRequest,
    ReplayResponse,
    SummarizeRequest,
    SummarizeResponse,
)
from polylect.v1.quarantine_pb2_grpc import QuarantineServiceServicer

from core_service.callers import Callers, Context
from core_service.errors import CoreError, missing
from core_service.ports import QuarantineStore
from core_service.readers import Readers, page_size_of, refusing_page_token
from core_service.replay import Replayer

_SELECTED_IDS = 1_000
_REPLAYED = 1_000

log = structlog.get_logger()


class QuarantineServicer(QuarantineServiceServicer):
    """Reads for the admin, or for a key what is its source's; replays and discards for the admin."""

    def __init__(
        self, callers: Callers, readers: Readers, entries: QuarantineStore, replayer: Replayer
    ) -> None:
        """Take the parts."""
        self._callers = callers
        self._readers = readers
        self._entries = entries
        self._replayer = replayer

    async def List(self, request: ListRequest, context: Context) -> ListResponse:  # noqa: N802 - the proto's name
        """Give a page of entries."""
        key, source_id = await self._readers.reader(context, request.source, "events:read")
        filters = QuarantineFilter(
            reason=request.reason,
            dialect=request.dialect,
            request_id=request.request_id,
            received_from=request.received_from if request.HasField("received_from") else None,
            received_until=request.received_until if request.HasField("received_until") else None,
            field=request.field,
        )
        _check(filters, "")
        page_size = page_size_of(request.page_size)
        async with self._readers.turn(key):
            with refusing_page_token(request.page_token):
                events, token = await self._entries.list_entries(
                    source_id, filters, page_size, request.page_token
                )
        return ListResponse(events=events, next_page_token=token)

    async def Get(self, request: GetRequest, context: Context) -> GetResponse:  # noqa: N802 - the proto's name
        """Give one entry."""
        key, source_id = await self._readers.reader(context, request.source, "events:read")
        async with self._readers.turn(key):
            entry = await self._entries.get_entry(source_id, request.quarantine_id)
        if entry is None:
            raise CoreError(reasons.ERROR_REASON_NOT_FOUND, "No such entry", field="quarantine_id")
        return GetResponse(event=entry)

    async def Summarize(self, request: SummarizeRequest, context: Context) -> SummarizeResponse:  # noqa: N802 - the proto's name
        """Tell how much there is."""
        key, source_id = await self._readers.reader(context, request.source, "events:read")
        async with self._readers.turn(key):
            return SummarizeResponse(sources=await self._entries.summaries(source_id))

    async def Replay(self, request: ReplayRequest, context: Context) -> ReplayResponse:  # noqa: N802 - the proto's name
        """Judge entries again."""
        self._callers.require_admin(context)
        _check_selection(request)
        source_id = await self._required_source(request.source)
        outcome = await self._replayer.replay(
            source_id,
            request.filter,
            request.quarantine_ids,
            min(request.limit or _REPLAYED, _REPLAYED),
            request.page_token,
            dry_run=request.dry_run,
        )
        if not request.dry_run:
            log.info("quarantine_replayed", source_id=source_id, stored=outcome.accepted)
        return ReplayResponse(
            would_store=outcome.accepted if request.dry_run else 0,
            stored=0 if request.dry_run else outcome.accepted,
            still_refused=_counts(outcome.refused),
            next_page_token=outcome.next_page_token,
        )

    async def Discard(self, request: DiscardRequest, context: Context) -> DiscardResponse:  # noqa: N802 - the proto's name
        """Delete entries."""
        self._callers.require_admin(context)
        _check_selection(request)
        is_narrowed = bool(request.quarantine_ids) or bool(request.filter.ByteSize())
        if request.all == is_narrowed:
            message = "Give a filter, ids, or `all` for everything of the source"
            raise CoreError(reasons.ERROR_REASON_ARGUMENT_INVALID, message, field="all")
        source_id = await self._required_source(request.source)
        if request.dry_run:
            count = await self._entries.count(source_id, request.filter, request.quarantine_ids)
            return DiscardResponse(would_discard=count)
        discarded = await self._entries.discard(source_id, request.filter, request.quarantine_ids)
        log.info("quarantine_discarded", source_id=source_id, discarded=discarded)
        return DiscardResponse(discarded=discarded)

    async def _required_source(self, source: str) -> str:
        source_id = await self._readers.source_id(None, source)
        if source_id is None:
            raise missing("source")
        return source_id


def _check_selection(request: ReplayRequest | DiscardRequest) -> None:
    """Raise CoreError for a selection that is unclear, or too long."""
    if len(request.quarantine_ids) > _SELECTED_IDS:
        message = f"At most {_SELECTED_IDS} ids at once"
        raise CoreError(reasons.ERROR_REASON_ARGUMENT_INVALID, message, field="quarantine_ids")
    if request.quarantine_ids and request.filter.ByteSize():
        message = "Give a filter or ids, not both"
        raise CoreError(reasons.ERROR_REASON_ARGUMENT_INVALID, message, field="filter")
    _check(request.filter, "filter.")


def _check(filters: QuarantineFilter, prefix: str) -> None:
    if filters.reason not in ErrorReason.values():
        message = "There is no such reason"
        raise CoreError(reasons.ERROR_REASON_FIELD_INVALID, message, field=f"{prefix}reason")
    if not filters.HasField("received_from") or not filters.HasField("received_until"):
        return
    if _moment(filters.received_until) <= _moment(filters.received_from):
        message = "The range ends before it begins"
        raise CoreError(reasons.ERROR_REASON_FIELD_INVALID, message, field=f"{prefix}received_until")


def _moment(timestamp: Timestamp) -> tuple[int, int]:
    return timestamp.seconds, timestamp.nanos


def _counts(refused: Counter[ErrorReason.ValueType]) -> list[ReasonCount]:
    return [ReasonCount(reason=reason, count=count) for reason, count in refused.most_common()]
