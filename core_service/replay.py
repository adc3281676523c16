"""Judging quarantined events again; hides how an entry becomes an event without its request and its key.

It goes the way every event goes (`admission`), so that what is accepted is what would have been then. That is
appended to the queue by itself: the worker stores it and removes its entry together.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from time import monotonic
from typing import TypeAlias

import grpc
from google.protobuf.message import DecodeError
from polylect.v1 import error_reason_pb2 as reasons
from polylect.v1.error_reason_pb2 import ErrorReason
from polylect.v1.event_pb2 import Event
from polylect.v1.ingest_pb2 import KEY_KIND_PULSE, ClientItem, ClientOutcome, ClientRequest
from polylect.v1.quarantine_pb2 import QuarantinedEvent, QuarantineFilter
from polylect.v1.queue_pb2 import EventBatch

from core_service.admission import Admission, Receipt
from core_service.errors import CoreError
from core_service.fingerprint import Fingerprints
from core_service.keys import KeyRing
from core_service.ports import GRPC, LoadTranslator, QuarantineStore, Queue, Translator
from core_service.readers import refusing_page_token

_PAGE_ENTRIES = 250
# After it a call answers with what it has, and where to go on.
_CALL_SECONDS = 2.0
# Between looks at what else there is to do: other calls wait meanwhile.
_STEP_SECONDS = 0.005
_DAY_SECONDS = 86_400
_NOT_PERMITTED = reasons.ERROR_REASON_REVENUE_NOT_PERMITTED

_Reason: TypeAlias = "ErrorReason.ValueType"
_Verdict: TypeAlias = "Event | ErrorReason.ValueType"


@dataclass
class ReplayOutcome:
    """What became of the entries judged."""

    accepted: int = 0
    refused: "Counter[_Reason]" = field(default_factory=Counter)
    # Leads to those not judged; "" when there are none.
    next_page_token: str = ""


def no_translator() -> Translator:
    """Refuse: who runs this core gave it no translator, so that what came over HTTP can't be replayed."""
    raise CoreError(
        reasons.ERROR_REASON_INTERNAL,
        "This core was started without a translator of dialects",
        status=grpc.StatusCode.UNIMPLEMENTED,
    )


class Replayer:
    """Judges entries of one source again, one call at a time."""

    def __init__(
        self,
        admission: Admission,
        keys: KeyRing,
        fingerprints: Fingerprints,
        *,
        entries: QuarantineStore,
        queue: Queue,
        clock: Callable[[], datetime],
        load_translator: LoadTranslator,
    ) -> None:
        """Take the parts; `queue` gets what is accepted. The translator is loaded when first needed."""
        self._admission = admission
        self._keys = keys
        self._fingerprints = fingerprints
        self._entries = entries
        self._queue = queue
        self._clock = clock
        self._load_translator = load_translator
        self._translator: Translator | None = None
        self._turn = asyncio.Lock()

    async def replay(
        self,
        source_id: str,
        filters: QuarantineFilter,
        quarantine_ids: Sequence[str],
        limit: int,
        page_token: str,
        *,
        dry_run: bool,
    ) -> ReplayOutcome:
        """Judge at most `limit` entries, oldest first, and make durable what is accepted, unless `dry_run`.

        An entry that its key did not permit is accepted only when entries were chosen by id or by that
        reason: who holds a public key could otherwise have revenue booked by whoever replays all.

        Raises CoreError for a bad page token, ConnectionError: what was accepted before may be durable.
        """
        outcome = ReplayOutcome(next_page_token=page_token)
        permits = bool(quarantine_ids) or filters.reason == _NOT_PERMITTED
        async with self._turn:
            ends_at = monotonic() + _CALL_SECONDS
            while limit > 0:
                with refusing_page_token(outcome.next_page_token):
                    page, outcome.next_page_token = await self._entries.oldest_entries(
                        source_id, filters, quarantine_ids, min(limit, _PAGE_ENTRIES), outcome.next_page_token
                    )
                limit -= len(page)
                accepted = await self._judge(page, outcome, permits=permits)
                if accepted and not dry_run:
                    # They were received when their entries were: the ledger counts them as that.
                    batch = EventBatch(replayed=accepted).SerializeToString()
                    await self._queue.append(batch, len(accepted), {})
                outcome.accepted += len(accepted)
                if not outcome.next_page_token or monotonic() > ends_at:
                    break
        return outcome

    async def _judge(
        self, page: Sequence[QuarantinedEvent], outcome: ReplayOutcome, *, permits: bool
    ) -> list[Event]:
        accepted = []
        rests_at = monotonic() + _STEP_SECONDS
        for entry in page:
            is_barred = entry.rejection.reason == _NOT_PERMITTED and not permits
            verdict: _Verdict = _NOT_PERMITTED if is_barred else await self._judge_one(entry)
            if isinstance(verdict, Event):
                accepted.append(verdict)
            else:
                outcome.refused[verdict] += 1
            if monotonic() > rests_at:
                await asyncio.sleep(0)
                rests_at = monotonic() + _STEP_SECONDS
        return accepted

    async def _judge_one(self, entry: QuarantinedEvent) -> _Verdict:
        if entry.rejection.reason == reasons.ERROR_REASON_UNWRITABLE:
            return _accepted_before(entry)
        now = self._clock().timestamp()
        key = self._keys.all_granted(entry.source_id, now)
        if key is None:
            return reasons.ERROR_REASON_CREDENTIAL_INVALID
        if entry.dialect == GRPC:
            request = ClientRequest(dialect=entry.dialect, endpoint=entry.endpoint)
        else:
            request = await self._translated(entry)
        request.request_id, request.client_ip = entry.request_id, entry.client_ip
        if list(request.accepted_kinds) == [KEY_KIND_PULSE]:
            key = replace(key, kind=KEY_KIND_PULSE)
        results = ClientOutcome().results
        receipt = Receipt(key, entry.received_at, request, results)
        receipt.vendor_ids = entry.circumstances.vendor_ids
        if entry.dialect == GRPC:
            try:
                self._admission.judge_direct([Event.FromString(entry.raw)], receipt)
            except DecodeError:
                return reasons.ERROR_REASON_PAYLOAD_UNREADABLE
        else:
            (item,) = request.items
            if not await self._tell_visitor(item, entry, now):
                return reasons.ERROR_REASON_FIELD_MISSING
            self._admission.judge_item(item, receipt)
        if results[0].HasField("rejection"):
            return results[0].rejection.reason
        (event,) = EventBatch.FromString(receipt.items[0]).events
        # Two replays of one entry are so one event, and its id tells when it was received.
        event.event_id = entry.quarantine_id
        return event

    async def _translated(self, entry: QuarantinedEvent) -> ClientRequest:
        if self._translator is None:
            self._translator = await asyncio.to_thread(self._load_translator)
        return self._translator(entry)

    async def _tell_visitor(self, item: ClientItem, entry: QuarantinedEvent, now: float) -> bool:
        """See that an anonymous id there must be can be made; False when its salt is gone."""
        if not item.fingerprint_visitor:
            return True
        fingerprint, seconds = entry.circumstances.fingerprint, entry.received_at.seconds
        if not item.HasField("event") or fingerprint:
            item.fingerprint_visitor = False
            if item.HasField("event"):
                item.event.anonymous_id = fingerprint
            return True
        if seconds // _DAY_SECONDS != now // _DAY_SECONDS:
            return False
        await self._fingerprints.prepare(seconds)
        return True


def _accepted_before(entry: QuarantinedEvent) -> _Verdict:
    """Give the event that could not be written, stamped as it was; of what is none, the reason it has."""
    try:
        event = Event.FromString(entry.raw)
    except DecodeError:
        return reasons.ERROR_REASON_UNWRITABLE
    if (event.event_id, event.source_id) != (entry.quarantine_id, entry.source_id):
        return reasons.ERROR_REASON_UNWRITABLE
    return event
