"""Counts what the facade answered, by the reasons of the one vocabulary, and shows it to Prometheus.

Several workers share one directory of counters (prometheus-client's multiprocess mode), so that any of them
can show the sum. Label children are looked up once and kept: a lookup costs more than the counting.
"""

from polylect.v1.error_reason_pb2 import ERROR_REASON_UNSPECIFIED, ErrorReason
from polylect.v1.ingest_pb2 import ClientOutcome
from prometheus_client import CollectorRegistry, Counter, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Metrics:
    """The counters of this process."""

    def __init__(self, shared_dir: str) -> None:
        """Count into `shared_dir` when given; prometheus-client was then told so before it was imported."""
        self._shared_dir = shared_dir
        self._registry = CollectorRegistry()
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

    def of(self, dialect: str, endpoint: str) -> "EndpointMetrics":
        """Give the counters of one endpoint."""
        return EndpointMetrics(self._requests, self._events, dialect, endpoint)

    def exposition(self) -> bytes:
        """Give all workers' counters in the text format."""
        if not self._shared_dir:
            return generate_latest(self._registry)
        together = CollectorRegistry()
        MultiProcessCollector(together, path=self._shared_dir)  # type: ignore[no-untyped-call]
        return generate_latest(together)


class EndpointMetrics:
    """The counters of one endpoint."""

    def __init__(self, requests: Counter, events: Counter, dialect: str, endpoint: str) -> None:
        self._requests = requests
        self._events = events
        self._labels = (dialect, endpoint)
        self._by_answer: dict[tuple[int, int], Counter] = {}
        self._by_reason: dict[int, Counter] = {}

    def count_answer(self, status: int, reason: ErrorReason.ValueType = ERROR_REASON_UNSPECIFIED) -> None:
        """Count one answer."""
        child = self._by_answer.get((status, reason))
        if child is None:
            child = self._requests.labels(*self._labels, str(status), reason_word(reason))
            self._by_answer[status, reason] = child
        child.inc()

    def count_outcome(self, status: int, outcome: ClientOutcome) -> None:
        """Count one answer and the events it is about."""
        if outcome.HasField("refusal"):
            self.count_answer(status, outcome.refusal.reason)
            return
        self.count_answer(status)
        tally: dict[ErrorReason.ValueType, int] = {}
        for result in outcome.results:
            # 0 where there is no rejection.
            reason = result.rejection.reason
            tally[reason] = tally.get(reason, 0) + 1
        for reason, number in tally.items():
            child = self._by_reason.get(reason)
            if child is None:
                child = self._by_reason[reason] = self._events.labels(*self._labels, reason_word(reason))
            child.inc(number)


def reason_word(reason: ErrorReason.ValueType) -> str:
    """Give a reason as label, log field and test id have it; "" for none."""
    return ErrorReason.Name(reason).removeprefix("ERROR_REASON_").lower() if reason else ""
