"""Quotas; hides how use is counted over a sliding window in bounded memory.

A window is kept as at most about 32 slices, each counted until its *last* unit is a window old. So no window
of time, wherever it starts, ever holds more than the limit (two weighted fixed windows let through almost
twice as much), a wait is never longer than the window, and a steady client loses at most one slice's worth.
"""

from collections import OrderedDict
from collections.abc import Hashable
from math import ceil
from typing import NamedTuple

_SLICES = 32
# A counter of a client seen once takes some 600 bytes: at most 60 MB in an attack from that many addresses.
_MAX_COUNTERS = 100_000


class QuotaState(NamedTuple):
    """Where a quota stands after a request."""

    admitted: bool
    remaining: int
    # Until the window is empty again, at least 1.
    reset_seconds: int
    # Until the same request would be admitted; 0 when it was.
    retry_after_seconds: int


class _Counter:
    __slots__ = ("costs", "empty_at", "last_times", "slice_start", "used")

    def __init__(self) -> None:
        self.last_times: list[float] = []
        self.costs: list[int] = []
        self.used = 0
        self.slice_start = 0.0
        self.empty_at = 0.0


class QuotaCounters:
    """Counts what was admitted, by any hashable name; forgets the least recently used counters first."""

    def __init__(self, max_counters: int = _MAX_COUNTERS) -> None:
        """Start with nothing used."""
        self._counters: OrderedDict[Hashable, _Counter] = OrderedDict()
        self._max_counters = max_counters

    def __len__(self) -> int:
        """Tell how many counters are kept."""
        return len(self._counters)

    def take(self, name: Hashable, limit: int, window_seconds: int, cost: int, now: float) -> QuotaState:
        """Admit and count `cost` units under `name` if that leaves the last window within `limit`.

        `now` is in seconds. A cost above the limit is never admitted; its wait is the whole window.
        """
        counter = self._counters.get(name)
        if counter is None:
            counter = self._open(name, now)
        else:
            self._counters.move_to_end(name)
            self._forget(counter, window_seconds, now)
        if counter.used + cost > limit:
            wait = self._wait(counter, limit, window_seconds, cost, now)
            reset = max(1, ceil(counter.empty_at - now))
            return QuotaState(False, max(0, limit - counter.used), reset, wait)
        if cost:
            if counter.costs and now - counter.slice_start <= window_seconds / _SLICES:
                counter.last_times[-1] = now
                counter.costs[-1] += cost
            else:
                counter.last_times.append(now)
                counter.costs.append(cost)
                counter.slice_start = now
            counter.used += cost
            counter.empty_at = now + window_seconds
        reset = max(1, ceil(counter.empty_at - now))
        return QuotaState(True, limit - counter.used, reset, 0)

    def _open(self, name: Hashable, now: float) -> _Counter:
        counters = self._counters
        # Two out for one in: what is used up shrinks without a sweep.
        for _ in range(2):
            if counters and next(iter(counters.values())).empty_at <= now:
                counters.popitem(last=False)
        if len(counters) >= self._max_counters:
            counters.popitem(last=False)
        counter = counters[name] = _Counter()
        return counter

    @staticmethod
    def _forget(counter: _Counter, window_seconds: int, now: float) -> None:
        last_times = counter.last_times
        if last_times and now < last_times[-1]:
            # The clock was set back: nothing may count longer than a window from now.
            last_times[:] = [min(time, now) for time in last_times]
            counter.slice_start = min(counter.slice_start, now)
            counter.empty_at = min(counter.empty_at, now + window_seconds)
        while last_times and last_times[0] + window_seconds <= now:
            last_times.pop(0)
            counter.used -= counter.costs.pop(0)

    @staticmethod
    def _wait(counter: _Counter, limit: int, window_seconds: int, cost: int, now: float) -> int:
        if cost > limit:
            return max(1, window_seconds)
        excess = counter.used + cost - limit
        for last_time, units in zip(counter.last_times, counter.costs, strict=True):
            excess -= units
            if excess <= 0:
                return max(1, ceil(last_time + window_seconds - now))
        return max(1, window_seconds)
