"""Counts what the facade answered, by the reasons of the one vocabulary, and shows it to Prometheus.

Several workers share one directory of counters (prometheus-client's multiprocess mode), so that any of them
can show the sum. Label children are looked up once and kept: a lookup costs more than the counting.
"""

import asyncio
import collections
from bisect import bisect_left
from collections.abc import Mapping
from time import monotonic
from types import MappingProxyType
from typing import cast

from polylect.v1.error_reason_pb2 import ERROR_REASON_UNSPECIFIED, ErrorReason
from polylect.v1.ingest_pb2 import ClientOutcome
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

_FLUSH_SECONDS = 0.25
# The core's, so that both can be laid over each other.
_SECOND_BOUNDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
_NOTHING: Mapping[int, int] = MappingProxyType({})
_REQUEST_BOUNDS = (1, 2, 5, 10, 20, 50, 100, 200, 512)

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Metrics:
    """The counters of this process."""

    def __init__(self, shared_dir: str) -> None:
        """Count into `shared_dir` when given; prometheus-client was then told so before it was imported."""
        self._shared_dir = shared_dir
        self._registry = CollectorRegistry()
        self._endpoints: dict[tuple[str, str], EndpointMetrics] = {}
        self._requests = Counter(
            "polylect_facade_requests",
            "HTTP requests answered. reason: of the refusal, empty when there was none.",
            ("dialect", "endpoint", "status", "reason"),
            registry=self._registry,
        )
        self._events = Counter(
            "polylect_facade_events",
            "Events that reached the core. reason: of the rejection, empty when accepted.",
            ("dialect", "endpoint", "reason"),
            registry=self._registry,
        )
        self._seconds = _Histogram(
            "polylect_facade_request_seconds",
            "Time from the last byte of a request to its answer, of those the core was asked about.",
            ("dialect", "endpoint"),
            buckets=_SECOND_BOUNDS,
            registry=self._registry,
        )
        self._message_requests = _Histogram(
            "polylect_facade_message_requests",
            "Requests that shared a message to the core.",
            buckets=_REQUEST_BOUNDS,
            registry=self._registry,
        )
        self._messages = _Spread(_REQUEST_BOUNDS)

    def note_message(self, requests: int) -> None:
        """Observe a message to the core, of so many requests."""
        self._messages.observe(requests)

    def of(self, dialect: str, endpoint: str) -> "EndpointMetrics":
        """Give the counters of one endpoint."""
        key = (dialect, endpoint)
        if key not in self._endpoints:
            self._endpoints[key] = EndpointMetrics(
                self._requests, self._events, self._seconds, (dialect, endpoint)
            )
        return self._endpoints[key]

    def flush(self) -> None:
        """Make what this process counted visible to all."""
        for endpoint in self._endpoints.values():
            endpoint.flush()
        self._messages.flush_into(self._message_requests)

    async def keep_flushing(self) -> None:
        """Flush for ever, often enough for any scraper."""
        while True:
            await asyncio.sleep(_FLUSH_SECONDS)
            self.flush()

    def exposition(self) -> bytes:
        """Give all workers' counters in the text format."""
        self.flush()
        if not self._shared_dir:
            return generate_latest(self._registry)
        together = CollectorRegistry()
        MultiProcessCollector(together, path=self._shared_dir)  # type: ignore[no-untyped-call]
        return generate_latest(together)


class EndpointMetrics:
    """The counters of one endpoint.

    Counts go to a dict first and, a moment later, to prometheus-client, whose increments into shared memory
    cost ten times as much.
    """

    def __init__(
        self, requests: Counter, events: Counter, seconds: "_Histogram", labels: tuple[str, str]
    ) -> None:
        self._requests = requests
        self._events = events
        self._seconds = seconds
        self._labels = labels
        self._times = _Spread(_SECOND_BOUNDS)
        self._answers: dict[tuple[int, int], int] = {}
        self._verdicts: collections.Counter[int] = collections.Counter()
        # Answers, by status, to one event that was accepted.
        self._stored: dict[int, int] = {}

    def count_answer(self, status: int, reason: ErrorReason.ValueType = ERROR_REASON_UNSPECIFIED) -> None:
        """Count one answer."""
        answers = self._answers
        key = (status, reason)
        answers[key] = answers.get(key, 0) + 1

    def count_outcome(self, status: int, outcome: ClientOutcome, *, as_batch: bool) -> Mapping[int, int]:
        """Count one answer and the events it is about; give those that were refused, by reason.

        A request that was refused whole counts as one.
        """
        if status < 300 and not as_batch:
            stored = self._stored
            stored[status] = stored.get(status, 0) + 1
            return _NOTHING
        # 0 where there is none.
        whole = outcome.refusal.reason
        self.count_answer(status, whole)
        # To ask for a rejection where there is none costs twice as much as for the id.
        rejected = collections.Counter(
            int(result.rejection.reason) for result in outcome.results if not result.event_id
        )
        self._verdicts.update(rejected)
        if accepted := len(outcome.results) - rejected.total():
            self._verdicts[0] += accepted
        return {whole: 1} if whole else rejected

    def time(self, started: float) -> None:
        """Observe the time of a request, `started` by the monotonic clock."""
        self._times.observe(monotonic() - started)

    def flush(self) -> None:
        """Hand over what was counted."""
        if self._times.total:
            self._times.flush_into(self._seconds.labels(*self._labels))
        stored, self._stored = self._stored, {}
        for status, number in stored.items():
            self._requests.labels(*self._labels, str(status), "").inc(number)
            self._events.labels(*self._labels, "").inc(number)
        answers, self._answers = self._answers, {}
        for (status, reason), number in answers.items():
            self._requests.labels(*self._labels, str(status), reason_word(reason)).inc(number)
        verdicts, self._verdicts = self._verdicts, collections.Counter()
        for reason, number in verdicts.items():
            self._events.labels(*self._labels, reason_word(reason)).inc(number)


class _Histogram(Histogram):
    """prometheus-client's, which takes many values at once."""

    def add(self, counts: list[int], total: float) -> None:
        """Add values by their buckets, the last of which is +Inf, and their sum."""
        for bucket, number in zip(self._buckets, counts, strict=True):
            if number:
                bucket.inc(number)
        self._sum.inc(total)


class _Spread:
    """How often values fell between bounds, since the last flush."""

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        self._counts[bisect_left(self._bounds, value)] += 1
        self.total += value

    def flush_into(self, histogram: _Histogram) -> None:
        if self.total:
            histogram.add(self._counts, self.total)
            self._counts = [0] * len(self._counts)
            self.total = 0.0


def reason_word(reason: int) -> str:
    """Give a reason as label, log field and test id have it; "" for none, reason_61 for a newer core's."""
    if not reason:
        return ""
    if reason not in ErrorReason.values():
        return f"reason_{reason}"
    name = ErrorReason.Name(cast(ErrorReason.ValueType, reason))
    return name.removeprefix("ERROR_REASON_").lower()
