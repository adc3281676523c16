"""What the core counts as it goes: calls and their times, verdicts, commits.

Hides what keeps it cheap: plain integers, looked up and added once for all that shares a call, a message or a
commit, and no lock. Belongs to one event loop; others may read a copy at any time. How it is shown is
`metrics`'.
"""

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from time import monotonic

from polylect.v1 import error_reason_pb2 as reasons
from polylect.v1.error_reason_pb2 import ErrorReason

from core_service.ports import LedgerLine

_ITEM_BOUNDS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000)
_SECOND_BOUNDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
# Dialects are the facades' to name: more than there will ever be are counted together.
_MAX_EVENT_COUNTS = 2_000
_ANY_DIALECT = "other"
_NO_REASON = reasons.ERROR_REASON_UNSPECIFIED

CallCount = tuple[str, str, ErrorReason.ValueType]
"""RPC's full name, name of the gRPC status, reason."""

EventCount = tuple[str, str, ErrorReason.ValueType]
"""Dialect, verdict (accepted, quarantined, refused), reason."""


class Histogram:
    """How often values fell between bounds."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        """Start with none."""
        self.bounds = bounds
        # By the first bound that is not below the value; the last is for those beyond.
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        """Add one value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value


class Counts:
    """The counts of one core, since it started."""

    def __init__(self) -> None:
        """Start with none."""
        self.calls: dict[CallCount, int] = {}
        # By the RPC's full name; of those that end with their answer.
        self.call_seconds: dict[str, Histogram] = {}
        self.events: dict[EventCount, int] = {}
        self.commit_items = Histogram(_ITEM_BOUNDS)
        self.commit_seconds = Histogram(_SECOND_BOUNDS)

    def count_call(self, method: str, status: str = "OK", reason: ErrorReason.ValueType = _NO_REASON) -> None:
        """Count a call, or one message of a stream of requests, by what it was answered."""
        key = (method, status, reason)
        self.calls[key] = self.calls.get(key, 0) + 1

    def time_call(self, method: str, started: float) -> None:
        """Add the time a call took, `started` by the monotonic clock."""
        histogram = self.call_seconds.get(method)
        if histogram is None:
            histogram = self.call_seconds[method] = Histogram(_SECOND_BOUNDS)
        histogram.observe(monotonic() - started)

    def count_durable(
        self,
        received: Iterable[Mapping[LedgerLine, int]],
        quarantined: Mapping[tuple[str, ErrorReason.ValueType], int],
    ) -> None:
        """Count events that are durable; all but `quarantined`, by dialect and reason, were accepted."""
        accepted: dict[str, int] = {}
        for lines in received:
            for (_, dialect, _), events in lines.items():
                accepted[dialect] = accepted.get(dialect, 0) + events
        for (dialect, reason), events in quarantined.items():
            accepted[dialect] = accepted.get(dialect, 0) - events
            self._count_events(dialect, "quarantined", reason, events)
        for dialect, events in accepted.items():
            if events > 0:
                self._count_events(dialect, "accepted", _NO_REASON, events)

    def count_refused(self, dialect: str, reason: ErrorReason.ValueType, events: int) -> None:
        """Count events that were refused with their request."""
        self._count_events(dialect, "refused", reason, events)

    @contextmanager
    def commit(self, items: int) -> Iterator[None]:
        """Observe one commit, if it succeeds."""
        started = monotonic()
        yield
        self.commit_seconds.observe(monotonic() - started)
        self.commit_items.observe(items)

    def _count_events(self, dialect: str, verdict: str, reason: ErrorReason.ValueType, events: int) -> None:
        key = (dialect, verdict, reason)
        if key not in self.events and len(self.events) >= _MAX_EVENT_COUNTS:
            key = (_ANY_DIALECT, verdict, reason)
        self.events[key] = self.events.get(key, 0) + events
