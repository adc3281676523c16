"""What Prometheus reads of the core: what it counts, what waits, and whether the ledger balances.

Hides that nothing is made up before somebody looks: at each scrape counts become samples, and the rest is
asked of the store. What has to read a whole table takes at most a twentieth of the time, whoever scrapes how
often: meanwhile its last answer is repeated.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from itertools import accumulate
from time import monotonic
from typing import Generic, TypeVar

from polylect.v1.trail_pb2 import GetLedgerResponse
from prometheus_client import CollectorRegistry, ProcessCollector, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from core_service.counts import Counts, Histogram
from core_service.errors import reason_label
from core_service.ports import QuarantineExtent, QuarantineStore, TrailStore

_ASK_SECONDS = 5.0
# For a dear question; it goes on, for the next scrape.
_PATIENCE_SECONDS = 3.0
# The pause after a question, in times of what it took.
_PAUSE_TIMES = 20
# What takes less is asked each time.
_QUICK_SECONDS = 0.05
_FATES = ("received", "stored", "duplicate", "quarantined", "refused")

Family = CounterMetricFamily | GaugeMetricFamily | HistogramMetricFamily
T = TypeVar("T")


class CoreMetrics:
    """The figures of this core. Belongs to the event loop it is made in."""

    def __init__(self, counts: Counts, trail: TrailStore, quarantine: QuarantineStore) -> None:
        """Show `counts`, and ask the stores for what others know."""
        self._registry = CollectorRegistry()
        self._registry.register(_Counted(counts))
        self._registry.register(_Stored(trail, quarantine, asyncio.get_running_loop()))
        ProcessCollector(registry=self._registry)

    @contextmanager
    def served(self, host: str, port: int) -> Iterator[None]:
        """Serve GET /metrics there. Raises OSError when it can't listen."""
        server, thread = start_http_server(port, host, self._registry)
        try:
            yield
        finally:
            server.shutdown()
            server.server_close()
            thread.join()


class _Collector(Collector):
    def describe(self) -> list[Family]:
        """Tell nothing before it is asked: the registry would collect for names only."""
        return []


class _Counted(_Collector):
    """Shows what this process counted."""

    def __init__(self, counts: Counts) -> None:
        self._counts = counts

    def collect(self) -> Iterator[Family]:
        """Give requests, their times, verdicts and commits."""
        counts = self._counts
        requests = CounterMetricFamily(
            "polylect_core_requests",
            "gRPC calls of our services answered, and each message of a stream of requests. "
            "reason: of the refusal, empty when there was none.",
            labels=("endpoint", "status", "reason"),
        )
        for (method, status, reason), number in counts.calls.copy().items():
            requests.add_metric((method, status, reason_label(reason)), number)
        yield requests
        seconds = HistogramMetricFamily(
            "polylect_core_request_seconds",
            "Time from a request's arrival to its answer.",
            labels=("endpoint",),
        )
        for method, histogram in counts.call_seconds.copy().items():
            seconds.add_metric((method,), *_samples_of(histogram))
        yield seconds
        events = CounterMetricFamily(
            "polylect_core_events",
            "Events by verdict: accepted or quarantined, both durable, or refused with their request. "
            "reason: empty when accepted.",
            labels=("dialect", "verdict", "reason"),
        )
        for (dialect, verdict, reason), number in counts.events.copy().items():
            events.add_metric((dialect, verdict, reason_label(reason)), number)
        yield events
        yield _histogram(
            "polylect_core_commit_items",
            "Events in one commit to the queue, refused ones among them.",
            counts.commit_items,
        )
        yield _histogram(
            "polylect_core_commit_seconds",
            "Time one commit to the queue took; each answer waits for one.",
            counts.commit_seconds,
        )


class _Stored(_Collector):
    """Asks the store, from the thread of whoever scrapes."""

    def __init__(
        self, trail: TrailStore, quarantine: QuarantineStore, loop: asyncio.AbstractEventLoop
    ) -> None:
        self._trail = trail
        self._loop = loop
        self._ledger = Remembered(trail.ledger_by_dialect)
        self._quarantine = Remembered(quarantine.extent)

    def collect(self) -> Iterator[Family]:
        """Give queue, quarantine and ledger, as far as the store answers; and whether it does."""
        queue = self._ask(self._trail.queue_state)
        yield _gauge("polylect_core_store_up", "Whether the database answered.", queue is not None)
        if queue is None:
            return
        yield _gauge("polylect_queue_items", "Events that wait for a worker.", queue.items)
        yield _gauge(
            "polylect_queue_age_seconds", "Age of the oldest of them: the workers' lag.", queue.age_seconds
        )
        yield _gauge(
            "polylect_rollup_age_seconds",
            "Age of the oldest stored event that the tables of statistics have yet to take in.",
            queue.rollup_age_seconds,
        )
        if (quarantine := self._ask(self._quarantine.answer)) is not None:
            yield from _of_quarantine(quarantine)
        if (ledger := self._ask(self._ledger.answer)) is not None:
            yield from _of_ledger(ledger)

    def _ask(self, question: Callable[[], Awaitable[T]]) -> T | None:
        async def ask() -> T:
            return await question()

        try:
            return asyncio.run_coroutine_threadsafe(ask(), self._loop).result(_ASK_SECONDS)
        except (ConnectionError, TimeoutError):
            return None


class Remembered(Generic[T]):
    """A dear question, asked once at a time and not too often; its answer is repeated meanwhile."""

    def __init__(
        self,
        question: Callable[[], Awaitable[T]],
        clock: Callable[[], float] = monotonic,
        patience_seconds: float = _PATIENCE_SECONDS,
    ) -> None:
        """Ask nothing yet. After the patience the last answer stands for one that is not there yet."""
        self._question = question
        self._clock = clock
        self._patience_seconds = patience_seconds
        self._answers: list[T] = []
        self._asking: asyncio.Task[None] | None = None
        self._next_at = 0.0

    async def answer(self) -> T:
        """Give the answer, of now or of a while ago. Raises TimeoutError when there is none."""
        if self._asking is None and self._clock() >= self._next_at:
            self._asking = asyncio.create_task(self._ask())
        if self._asking is not None:
            await asyncio.wait({self._asking}, timeout=self._patience_seconds)
        if not self._answers:
            raise TimeoutError("not answered yet")
        return self._answers[0]

    async def _ask(self) -> None:
        started = self._clock()
        try:
            self._answers = [await self._question()]
        except ConnectionError:
            # What it was says nothing of what it is.
            self._answers = []
        finally:
            took_seconds = self._clock() - started
            pause_seconds = _PAUSE_TIMES * took_seconds if took_seconds > _QUICK_SECONDS else 0.0
            self._next_at = self._clock() + pause_seconds
            self._asking = None


def _of_quarantine(extent: QuarantineExtent) -> Iterator[Family]:
    yield _gauge("polylect_quarantine_items", "Events in quarantine.", extent.entries)
    dropped = CounterMetricFamily(
        "polylect_quarantine_dropped_items",
        "Events dropped from quarantine: because a source had too many, or for their age.",
        labels=("cause",),
    )
    dropped.add_metric(("room",), extent.for_room)
    dropped.add_metric(("age",), extent.for_age)
    yield dropped


def _of_ledger(ledger: GetLedgerResponse) -> Iterator[Family]:
    # No counter: a replay takes events out of the quarantined.
    events = GaugeMetricFamily(
        "polylect_ledger_events",
        "Events by what became of them, of all cores and times.",
        labels=("dialect", "fate"),
    )
    for entry in ledger.entries:
        for fate in _FATES:
            events.add_metric((entry.dialect, fate), getattr(entry, fate))
    yield events
    yield _gauge(
        "polylect_ledger_unbalanced",
        "Lines of the ledger (source, dialect, hour) that do not balance: 0, or something was lost.",
        ledger.unbalanced_entries,
    )


def _gauge(name: str, meaning: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, meaning, value=value)


def _histogram(name: str, meaning: str, histogram: Histogram) -> HistogramMetricFamily:
    buckets, total = _samples_of(histogram)
    return HistogramMetricFamily(name, meaning, buckets=buckets, sum_value=total)


def _samples_of(histogram: Histogram) -> tuple[list[tuple[str, float]], float]:
    bounds = (*map(floatToGoString, histogram.bounds), "+Inf")
    return list(zip(bounds, accumulate(histogram.counts.copy()), strict=True)), histogram.total
