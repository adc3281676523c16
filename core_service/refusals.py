"""What is refused whole: counted exactly, and some of it remembered, a moment later.

Hides that both are gathered in memory and written once a second, in one statement: a refusal costs the
database nothing of its own, however many there are. A crash loses at most that second, of what came in and of
what was refused alike. It must not know what makes a refusal.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable
from datetime import datetime
from typing import NamedTuple

import structlog
from google.protobuf.timestamp_pb2 import Timestamp
from polylect.v1 import error_reason_pb2 as reasons
from polylect.v1.error_reason_pb2 import Rejection
from polylect.v1.ingest_pb2 import ClientRequest
from polylect.v1.trail_pb2 import Refusal, ReportRefusalsRequest
from uuid_utils import uuid7

from core_service.counts import Counts
from core_service.errors import CoreError
from core_service.moments import hour_of, timestamp_of
from core_service.ports import GRPC, NO_SOURCE, LedgerLine, RefusalStore

MAX_REPORTED = 1_000
"""Counts, and samples, of one report."""

_PERIOD_SECONDS = 1.0
# Remembered of a period: of all, and of one source, so that one that floods leaves the others room.
_SAMPLES = 1_000
_SAMPLES_OF_SOURCE = 500
# Sources times dialects, and two hours; more are counted together.
_MAX_LINES = 10_000
# Ten thousand years from 1970 do not fit a date.
_LAST_SECOND = 253_087_718_400

log = structlog.get_logger()


class RefusedCall(NamedTuple):
    """A gRPC call that was refused: where it came to, by whom, and as which request."""

    endpoint: str
    source_id: str
    request_id: str
    client_ip: str


class Refusals:
    """Gathers what is refused."""

    def __init__(self, store: RefusalStore, clock: Callable[[], datetime], counts: Counts) -> None:
        """Write to `store`."""
        self._verdicts = counts
        self._store = store
        self._clock = clock
        self._counts: Counter[LedgerLine] = Counter()
        self._samples: list[Refusal] = []
        self._sampled: Counter[str] = Counter()
        self._failing = False

    def note_request(self, request: ClientRequest, rejection: Rejection, source_id: str) -> None:
        """Take a client's request that was refused whole; `source_id` "" when its key told none."""
        refusal = Refusal(
            source_id=source_id or NO_SOURCE,
            rejection=rejection,
            received_at=request.received_at if request.HasField("received_at") else self._now(),
            dialect=request.dialect,
            endpoint=request.endpoint,
            request_id=request.request_id,
            client_ip=request.client_ip,
            event_count=len(request.items) or 1,
        )
        self._take(refusal)

    def note_call(self, call: RefusedCall, error: CoreError) -> None:
        """Take a gRPC caller's events that were refused with their call."""
        refusal = Refusal(
            source_id=call.source_id or NO_SOURCE,
            rejection=Rejection(reason=error.reason, message=error.message),
            received_at=self._now(),
            dialect=GRPC,
            endpoint=call.endpoint,
            request_id=call.request_id,
            client_ip=call.client_ip,
            event_count=error.event_count,
        )
        self._take(refusal)

    def note_report(self, report: ReportRefusalsRequest) -> None:
        """Take what a facade refused by itself. Raises CoreError for a report that is too long."""
        for field, length in (("counts", len(report.counts)), ("samples", len(report.samples))):
            if length > MAX_REPORTED:
                message = f"More than {MAX_REPORTED} {field} in one report"
                raise CoreError(reasons.ERROR_REASON_ARGUMENT_INVALID, message, field=field)
        for count in report.counts:
            self._count(NO_SOURCE, count.dialect, count.received_at, count.events)
        for sample in report.samples:
            sample.source_id = NO_SOURCE
            self._sample(sample)

    async def follow(self) -> None:
        """Write for ever."""
        while True:
            await asyncio.sleep(_PERIOD_SECONDS)
            await self.flush()

    async def flush(self) -> None:
        """Write what there is; what can't be written stays for the next time."""
        counts, self._counts = self._counts, Counter()
        samples, self._samples = self._samples, []
        self._sampled.clear()
        if not counts and not samples:
            return
        try:
            await self._store.add_refused(counts, samples)
        except BaseException as error:
            self._take_back(counts, samples)
            if not isinstance(error, ConnectionError):
                raise
            if not self._failing:
                log.warning("refusals_unwritten", error=str(error))
            self._failing = True
        else:
            if self._failing:
                log.info("refusals_written")
            self._failing = False

    def _take_back(self, counts: Counter[LedgerLine], samples: Iterable[Refusal]) -> None:
        newer, self._samples = self._samples, []
        self._sampled.clear()
        self._counts.update(counts)
        for sample in (*samples, *newer):
            self._sample(sample)

    def _take(self, refusal: Refusal) -> None:
        self._count(refusal.source_id, refusal.dialect, refusal.received_at, refusal.event_count)
        self._verdicts.count_refused(refusal.dialect, refusal.rejection.reason, refusal.event_count)
        self._sample(refusal)

    def _count(self, source_id: str, dialect: str, received_at: Timestamp, events: int) -> None:
        line = (source_id, dialect, hour_of(received_at))
        if len(self._counts) >= _MAX_LINES and line not in self._counts:
            line = (NO_SOURCE, "", line[2])
        self._counts[line] += events

    def _sample(self, refusal: Refusal) -> None:
        source_id = refusal.source_id
        if len(self._samples) >= _SAMPLES or self._sampled[source_id] >= _SAMPLES_OF_SOURCE:
            return
        self._sampled[source_id] += 1
        refusal.refusal_id = refusal.refusal_id or str(uuid7())
        if not 0 <= refusal.received_at.seconds < _LAST_SECOND:
            refusal.received_at.CopyFrom(self._now())
        self._samples.append(refusal)

    def _now(self) -> Timestamp:
        return timestamp_of(self._clock())
