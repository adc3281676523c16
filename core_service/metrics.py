"""What Prometheus reads of the core: how commits go, what waits, and whether the ledger balances.

Hides that the first is counted here and the rest asked of the store, at each look; so the path of an event
pays for one observation a commit.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from time import monotonic
from typing import TypeVar

from polylect.v1.trail_pb2 import GetLedgerResponse
from prometheus_client import CollectorRegistry, Histogram, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from core_service.ports import TrailStore

_ASK_SECONDS = 5.0
_FATES = ("received", "stored", "duplicate", "quarantined", "refused")
_ITEM_BUCKETS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000)
_SECOND_BUCKETS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5)

Family = CounterMetricFamily | GaugeMetricFamily
T = TypeVar("T")


class CoreMetrics:
    """The figures of this core. Belongs to the event loop it is made in."""

    def __init__(self, store: TrailStore) -> None:
        """Ask `store` for what others know."""
        self._registry = CollectorRegistry()
        self._items = Histogram(
            "polylect_core_commit_items",
            "Events in one commit to the queue, refused ones among them.",
            buckets=_ITEM_BUCKETS,
            registry=self._registry,
        )
        self._seconds = Histogram(
            "polylect_core_commit_seconds",
            "Time one commit to the queue took; each answer waits for one.",
            buckets=_SECOND_BUCKETS,
            registry=self._registry,
        )
        self._registry.register(_Stored(store, asyncio.get_running_loop()))

    @contextmanager
    def commit(self, items: int) -> Iterator[None]:
        """Observe one commit, if it succeeds."""
        started = monotonic()
        yield
        self._seconds.observe(monotonic() - started)
        self._items.observe(items)

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


class _Stored(Collector):
    """Asks the store, from the thread of whoever scrapes."""

    def __init__(self, store: TrailStore, loop: asyncio.AbstractEventLoop) -> None:
        self._store = store
        self._loop = loop

    def describe(self) -> list[Family]:
        """Tell nothing before it is asked: the registry would ask the store for names only."""
        return []

    def collect(self) -> Iterator[Family]:
        """Give queue and ledger; without the store only that it is away."""
        try:
            queue = self._ask(self._store.queue_state)
            ledger = self._ask(lambda: self._store.ledger(None, None, None, 1, ""))
        except (ConnectionError, TimeoutError):
            yield _gauge("polylect_core_store_up", "Whether the database answered.", 0)
            return
        yield _gauge("polylect_core_store_up", "Whether the database answered.", 1)
        yield _gauge("polylect_queue_items", "Events that wait for a worker.", queue.items)
        yield _gauge(
            "polylect_queue_age_seconds", "Age of the oldest of them: the workers' lag.", queue.age_seconds
        )
        yield _fates(ledger)
        yield _gauge(
            "polylect_ledger_unbalanced",
            "Lines of the ledger (source, dialect, hour) that do not balance: 0, or something was lost.",
            ledger.unbalanced_entries,
        )

    def _ask(self, question: Callable[[], Awaitable[T]]) -> T:
        async def ask() -> T:
            return await question()

        return asyncio.run_coroutine_threadsafe(ask(), self._loop).result(_ASK_SECONDS)


def _fates(ledger: GetLedgerResponse) -> CounterMetricFamily:
    family = CounterMetricFamily(
        "polylect_ledger_events", "Events by what became of them, of all cores.", labels=("fate",)
    )
    for fate in _FATES:
        family.add_metric((fate,), getattr(ledger.total, fate))
    return family


def _gauge(name: str, meaning: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, meaning, value=value)
