"""IngestService: takes events in; hides how calls, requests and parcels belong together.

An answer leaves only when everything it speaks of is durable.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import aclosing
from datetime import datetime
from functools import partial
from operator import attrgetter
from time import monotonic

import structlog
from google.protobuf.timestamp_pb2 import Timestamp
from polylect.v1 import error_reason_pb2 as reasons
from polylect.v1.event_pb2 import Event
from polylect.v1.ingest_pb2 import (
    BatchIngestRequest,
    BatchIngestResponse,
    BatchIngestStreamRequest,
    BatchIngestStreamResponse,
    ClientOutcome,
    ClientRequest,
    IngestRequest,
    IngestResponse,
    IngestStreamRequest,
    IngestStreamResponse,
)
from polylect.v1.ingest_pb2_grpc import IngestServiceServicer
from polylect.v1.trail_pb2 import ReportRefusalsRequest, ReportRefusalsResponse

from core_service.admission import Admission, Receipt, Results, received_at_of, write_rejection
from core_service.callers import Callers, Context, bearer_token, request_id_of
from core_service.commit import Consignment, GroupCommit
from core_service.counts import Counts
from core_service.errors import CoreError, Objection, StorageUnavailable
from core_service.fingerprint import Fingerprints
from core_service.keys import KeyEntry
from core_service.message_stream import answered_in_order
from core_service.moments import hour_of, timestamp_of
from core_service.ports import GRPC, LedgerLine
from core_service.refusals import Refusals
from core_service.verdicts import count_durable, log_refused

MAX_EVENTS = 1_000
_INGEST = "/polylect.v1.IngestService/Ingest"
_INGEST_STREAM = "/polylect.v1.IngestService/IngestStream"

_BROKEN = Objection(reasons.ERROR_REASON_INTERNAL, "Internal error")

log = structlog.get_logger()

_wants_fingerprint = attrgetter("fingerprint_visitor")


class IngestServicer(IngestServiceServicer):
    """Admits, commits, answers."""

    def __init__(
        self,
        callers: Callers,
        admission: Admission,
        fingerprints: Fingerprints,
        *,
        group_commit: GroupCommit,
        refusals: Refusals,
        counts: Counts,
        clock: Callable[[], datetime],
        draining: asyncio.Event,
    ) -> None:
        """Take the parts; `draining` ends streams."""
        self._counts = counts
        self._callers = callers
        self._admission = admission
        self._fingerprints = fingerprints
        self._group_commit = group_commit
        self._refusals = refusals
        self._clock = clock
        self._draining = draining

    async def BatchIngest(  # noqa: N802 - the proto's name
        self, request: BatchIngestRequest, context: Context
    ) -> BatchIngestResponse:
        """Judge many callers' requests, each alone, and commit what they need together."""
        self._callers.require_facade(context)
        response = BatchIngestResponse()
        await self._take_batch(request, response)
        return response

    async def BatchIngestStream(  # noqa: N802 - the proto's name
        self, request_iterator: AsyncIterator[BatchIngestStreamRequest], context: Context
    ) -> AsyncIterator[BatchIngestStreamResponse]:
        """Do the same with message after message."""
        self._callers.require_facade(context)
        async for request in request_iterator:
            response = BatchIngestStreamResponse()
            await self._take_batch(request, response)
            yield response
            if self._draining.is_set():
                raise _stopping()

    async def _take_batch(
        self,
        request: BatchIngestRequest | BatchIngestStreamRequest,
        response: BatchIngestResponse | BatchIngestStreamResponse,
    ) -> None:
        now = self._clock().timestamp()
        consignment = Consignment()
        placed: list[tuple[ClientOutcome, range]] = []
        refused: list[tuple[ClientRequest, ClientOutcome]] = []
        spoiled: list[tuple[ClientOutcome, Receipt]] = []
        for one in request.requests:
            outcome = response.outcomes.add()
            try:
                key = self._admission.enter(one, outcome, now)
                if key is None:
                    refused.append((one, outcome))
                    continue
                items = list(one.items)
                received_at = received_at_of(one, self._clock)
                if any(map(_wants_fingerprint, items)):
                    await self._have_salt(received_at)
                receipt = self._admission.judge(one, items, outcome, key, received_at)
            except StorageUnavailable as error:
                _refuse_whole(outcome, Objection(error.reason, error.message))
                refused.append((one, outcome))
                continue
            except Exception:
                # One request's trouble, whatever it is, is not its neighbours'.
                log.exception("request_failed", request_id=one.request_id, dialect=one.dialect)
                _refuse_whole(outcome, _BROKEN)
                refused.append((one, outcome))
                continue
            if receipt.items:
                placed.append((outcome, consignment.add(receipt.items, _ledger_line(receipt))))
                if receipt.refused:
                    spoiled.append((outcome, receipt))
        try:
            errors = await self._commit(consignment, response, placed)
        except CoreError as error:
            # A call that fails as a whole: counting its requests is its facade's.
            for one in request.requests:
                log_refused(one, error.reason, self._admission.source_id_of(one, now))
            raise
        if any(errors):
            pairs = zip(request.requests, response.outcomes, strict=True)
            refused = [(one, outcome) for one, outcome in pairs if outcome.HasField("refusal")]
        durable = [receipt for outcome, receipt in spoiled if not outcome.HasField("refusal")]
        count_durable(self._counts, consignment, errors, durable)
        self._note_refused(refused, now)

    async def _commit(
        self,
        consignment: Consignment,
        response: BatchIngestResponse | BatchIngestStreamResponse,
        placed: Sequence[tuple[ClientOutcome, range]],
    ) -> list[CoreError | None]:
        """Make it durable, and refuse the requests of which a part is not. Raises when these are all."""
        errors = await self._group_commit.commit(consignment.parcels)
        if any(errors):
            _refuse_undurable(response, placed, errors)
        return errors

    def _note_refused(self, refused: Iterable[tuple[ClientRequest, ClientOutcome]], now: float) -> None:
        for one, outcome in refused:
            source_id = self._admission.source_id_of(one, now)
            log_refused(one, outcome.refusal.reason, source_id)
            self._refusals.note_request(one, outcome.refusal, source_id)

    async def ReportRefusals(  # noqa: N802 - the proto's name
        self, request: ReportRefusalsRequest, context: Context
    ) -> ReportRefusalsResponse:
        """Take what a facade refused by itself."""
        self._callers.require_facade(context)
        self._refusals.note_report(request)
        return ReportRefusalsResponse()

    async def Ingest(self, request: IngestRequest, context: Context) -> IngestResponse:  # noqa: N802 - the proto's name
        """Judge and commit one caller's events."""
        key = self._callers.require_key(context)
        response = IngestResponse()
        await self._store_direct(self._judge_direct(request.events, key, context, _INGEST, response.results))
        return response

    async def IngestStream(  # noqa: N802 - the proto's name
        self, request_iterator: AsyncIterator[IngestStreamRequest], context: Context
    ) -> AsyncIterator[IngestStreamResponse]:
        """Judge and commit a caller's messages as they come, and answer them in order."""
        self._callers.require_key(context)
        answers = answered_in_order(
            request_iterator,
            partial(self._take_message, context),
            is_crowded=self._group_commit.is_crowded,
            stopping=self._draining,
        )
        async with aclosing(answers):
            async for answer in answers:
                yield answer
        if self._draining.is_set():
            raise _stopping()

    async def _take_message(
        self, context: Context, message: IngestStreamRequest
    ) -> IngestStreamResponse | CoreError:
        response = IngestStreamResponse()
        started = monotonic()
        try:
            receipt = self._judge_message(context, message, response)
            # Its events are bytes now, which may wait for long.
            del message
            await self._store_direct(receipt)
        except CoreError as error:
            # It waits for its turn, and its frames have the events.
            return error.with_traceback(None)
        finally:
            self._counts.time_call(_INGEST_STREAM, started)
        self._counts.count_call(_INGEST_STREAM)
        return response

    def _judge_message(
        self, context: Context, message: IngestStreamRequest, response: IngestStreamResponse
    ) -> Receipt:
        # The key is looked up for every message: a revocation ends a stream too.
        try:
            key = self._callers.key_of(bearer_token(context))
        except CoreError as error:
            error.event_count = len(message.events) or 1
            raise
        return self._judge_direct(message.events, key, context, _INGEST_STREAM, response.results)

    async def _have_salt(self, received_at: Timestamp) -> None:
        """Have the salt of that day at hand. Raises StorageUnavailable."""
        if self._fingerprints.ready(received_at.seconds):
            return
        try:
            await self._fingerprints.prepare(received_at.seconds)
        except ConnectionError as error:
            log.warning("salt_unavailable", error=str(error))
            raise StorageUnavailable from error

    def _judge_direct(
        self, events: Sequence[Event], key: KeyEntry, context: Context, endpoint: str, results: Results
    ) -> Receipt:
        """Judge a client's own events into `results`. Raises CoreError: too many, quota, scope."""
        try:
            if len(events) > MAX_EVENTS:
                message = f"More than {MAX_EVENTS} events in one request"
                raise CoreError(reasons.ERROR_REASON_BATCH_TOO_LARGE, message, field="events")
            now = self._clock()
            self._admission.enter_direct(key, now.timestamp())
        except CoreError as error:
            error.event_count = len(events) or 1
            raise
        common = ClientRequest(dialect=GRPC, endpoint=endpoint, request_id=request_id_of(context))
        receipt = Receipt(key, timestamp_of(now), common, results)
        self._admission.judge_direct(events, receipt)
        return receipt

    async def _store_direct(self, receipt: Receipt) -> None:
        """Make durable what was judged. Raises CoreError when not all of it is."""
        consignment = Consignment()
        consignment.add(receipt.items, _ledger_line(receipt))
        try:
            errors = await self._group_commit.commit(consignment.parcels, may_wait=True)
            spoiled = [receipt] if receipt.refused and not any(errors) else []
            count_durable(self._counts, consignment, errors, spoiled)
            for error in errors:
                if error is not None:
                    raise error
        except CoreError as error:
            error.event_count = len(receipt.results) or 1
            raise


def _stopping() -> StorageUnavailable:
    end = StorageUnavailable("The core is stopping")
    # All that was sent has its answer.
    end.event_count = 0
    return end


def _ledger_line(receipt: Receipt) -> LedgerLine:
    return receipt.key.source.source_id, receipt.request.dialect, hour_of(receipt.received_at)


def _refuse_whole(outcome: ClientOutcome, objection: Objection) -> None:
    outcome.ClearField("results")
    outcome.ClearField("vendor_cookies")
    write_rejection(outcome.refusal, objection)


def _refuse_undurable(
    response: BatchIngestResponse | BatchIngestStreamResponse,
    placed: Sequence[tuple[ClientOutcome, range]],
    errors: Sequence[CoreError | None],
) -> None:
    """Refuse the requests any part of which was not committed. Raises when that is all there are."""
    refused = 0
    error: CoreError | None = None
    for outcome, parcels in placed:
        failed = next((errors[index] for index in parcels if errors[index] is not None), None)
        if failed is not None:
            error = failed
            refused += 1
            _refuse_whole(outcome, Objection(failed.reason, failed.message))
    if error is not None and refused == len(response.outcomes):
        raise error
