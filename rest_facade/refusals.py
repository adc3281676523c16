"""What this worker refuses without asking the core, told to the core once a second.

Hides that a refusal is only noted here: counts are exact however many there are, of the requests themselves
the first are told. What can't be told stays for the next time; a crash loses at most a second. It must not
know what makes a refusal.
"""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable

import structlog
from polylect.v1.error_reason_pb2 import ErrorReason, Rejection
from polylect.v1.trail_pb2 import Refusal, ReportRefusalsRequest

from rest_facade.core_refusal import CoreRefusal
from rest_facade.metrics import reason_word

_PERIOD_SECONDS = 1.0
_HOUR_US = 3_600_000_000
# Of one report. Dialects are few, and an outage has as many hours as it lasts: the oldest are told first.
_SAMPLES = 200
_COUNTS = 500

Report = Callable[[ReportRefusalsRequest], Awaitable[None]]
"""Tells the core; raises CoreRefusal."""

_log = structlog.get_logger()


class Refusals:
    """The refusals of one worker."""

    def __init__(self, report: Report) -> None:
        self._report = report
        # By dialect, and start of the hour in microseconds.
        self._counts: Counter[tuple[str, int]] = Counter()
        self._samples: list[Refusal] = []
        self._failing = False

    def note(
        self,
        reason: ErrorReason.ValueType,
        message: str,
        received_us: int,
        *,
        request_id: str,
        client_ip: str,
        dialect: str = "",
        endpoint: str = "",
        events: int = 1,
    ) -> None:
        """Take one request that was refused, and log it; `events` 1 when none could be read."""
        # Not its message, which may repeat what the client wrote, nor a path that is none of ours.
        _log.info(
            "request_refused",
            request_id=request_id,
            dialect=dialect,
            endpoint=endpoint,
            reason=reason_word(reason),
        )
        self._counts[dialect, received_us - received_us % _HOUR_US] += events
        if len(self._samples) >= _SAMPLES:
            return
        refusal = Refusal(
            rejection=Rejection(reason=reason, message=message),
            dialect=dialect,
            endpoint=endpoint,
            request_id=request_id,
            client_ip=client_ip,
            event_count=events,
        )
        refusal.received_at.FromMicroseconds(received_us)
        self._samples.append(refusal)

    async def keep_telling(self) -> None:
        """Tell for ever."""
        while True:
            await asyncio.sleep(_PERIOD_SECONDS)
            await self.tell()

    async def tell(self) -> None:
        """Tell what there is."""
        counts = sorted(self._counts.items(), key=lambda line: line[0][1])[:_COUNTS]
        if not counts:
            return
        samples, self._samples = self._samples, []
        request = ReportRefusalsRequest(samples=samples)
        for (dialect, hour_us), events in counts:
            request.counts.add(dialect=dialect, events=events).received_at.FromMicroseconds(hour_us)
        self._counts.subtract(dict(counts))
        # Counters keep what has come to nothing.
        self._counts = +self._counts
        try:
            await self._report(request)
        except BaseException as error:
            self._counts.update(dict(counts))
            self._samples = [*samples, *self._samples][:_SAMPLES]
            if not isinstance(error, CoreRefusal):
                raise
            if not self._failing:
                _log.warning("refusals_untold", error=str(error))
            self._failing = True
        else:
            self._failing = False
