"""What happens on all connections of a load, and how it becomes figures.

Knows nothing of the bytes on them.
"""

import asyncio
import json
import math
import time
from array import array
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

from benchmarks import slots

_TELL_SECONDS = 0.2
_PATIENCE_SECONDS = 30.0
_RECONNECT_SECONDS = 0.05


class Campaign:
    """What all connections share: the requests, when to stop, and what came back."""

    def __init__(
        self, writers: Sequence[Callable[[int], bytes]], limit: int | None, seconds: float | None
    ) -> None:
        self._writers = writers
        self._turn = 0
        self._limit = limit
        self.statuses: Counter[int] = Counter()
        self.latencies = array("d")
        self.broken = 0
        self.unanswered = 0
        self.last_answer_at = self.first_request_at = time.time()
        self._begun = time.perf_counter()
        self._deadline = self._begun + seconds if seconds is not None else None

    def next_request(self) -> bytes | None:
        """Give what to send now; None when it is enough."""
        turn = self._turn
        if self._limit is not None and turn >= self._limit:
            return None
        if self._deadline is not None and time.perf_counter() >= self._deadline:
            return None
        self._turn = turn + 1
        return self._writers[turn % len(self._writers)](turn)

    def take_answer(self, status: int, asked_at: float) -> None:
        """Note an answer: its status, and when it was asked for by `time.perf_counter`."""
        self.latencies.append(time.perf_counter() - asked_at)
        self.statuses[status] += 1
        self.last_answer_at = time.time()

    def take_back(self, requests: int = 1) -> None:
        """Note requests that got no answer; with a limit others take their place."""
        self.broken += requests
        if self._limit is not None:
            self._limit += requests

    def figures(self) -> dict[str, Any]:
        """Give what the parent is to know."""
        ordered = sorted(self.latencies)
        refused = {status: count for status, count in self.statuses.items() if not 200 <= status < 300}
        return {
            "requests": sum(self.statuses.values()),
            "seconds": self.last_answer_at - self.first_request_at,
            "first_request_at": self.first_request_at,
            "last_answer_at": self.last_answer_at,
            "p50_ms": _percentile_ms(ordered, 0.50),
            "p95_ms": _percentile_ms(ordered, 0.95),
            "p99_ms": _percentile_ms(ordered, 0.99),
            "max_ms": _percentile_ms(ordered, 1.0),
            "refused": sum(refused.values()),
            "refused_by_status": refused,
            "broken": self.broken,
            "unanswered": self.unanswered,
        }


class Connection(Protocol):
    """One connection, asking again as soon as it is answered."""

    # Done when the connection is gone.
    ended: asyncio.Future[None]
    # Requests under way; 0 in the end, when it closed because it was enough.
    asking: int

    def abort(self) -> None:
        """Give up waiting."""


Connect = Callable[[Campaign], Any]
"""Makes a connection's asyncio.Protocol, which is a `Connection` too."""


def _percentile_ms(ordered: list[float], share: float) -> float | None:
    """Give the latency that this share of all requests does not exceed."""
    if not ordered:
        return None
    return 1000 * ordered[max(0, math.ceil(share * len(ordered)) - 1)]


async def _keep_connected(
    campaign: Campaign, connect: Connect, host: str, port: int, open_ones: set[Connection]
) -> None:
    loop = asyncio.get_running_loop()
    while True:
        try:
            _, connection = await loop.create_connection(lambda: connect(campaign), host, port)
        except OSError:
            if campaign.next_request() is None:
                return
            campaign.take_back()
            await asyncio.sleep(_RECONNECT_SECONDS)
            continue
        open_ones.add(connection)
        await connection.ended
        open_ones.discard(connection)
        if not connection.asking:
            return


async def _tell(campaign: Campaign) -> None:
    while True:
        await asyncio.sleep(_TELL_SECONDS)
        print(json.dumps({"answers": len(campaign.latencies)}), flush=True)


def read_writers(order: dict[str, Any]) -> list[Callable[[int], bytes]]:
    """Read the requests the order names."""
    templates = slots.unpack(Path(order["requests_file"]).read_bytes())
    return [slots.writer(template, order["events_per_request"]) for template in templates]


async def run(
    order: dict[str, Any], writers: Sequence[Callable[[int], bytes]], connect: Connect
) -> dict[str, Any]:
    """Do what the order says over connections of that kind; give the figures."""
    campaign = Campaign(writers, order.get("requests"), order.get("seconds"))
    telling = asyncio.create_task(_tell(campaign))
    open_ones: set[Connection] = set()
    keepers = [
        asyncio.create_task(_keep_connected(campaign, connect, order["host"], order["port"], open_ones))
        for _ in range(order["connections"])
    ]
    await _all_done(campaign, keepers, order.get("seconds"))
    for connection in list(open_ones):
        campaign.unanswered += connection.asking
        connection.abort()
    telling.cancel()
    return campaign.figures()


async def _all_done(campaign: Campaign, keepers: list[asyncio.Task[None]], seconds: float | None) -> None:
    """Wait for the keepers, as long as answers come: not for ever for a server that fell silent."""
    await asyncio.wait(keepers, timeout=seconds)
    while True:
        before = len(campaign.latencies)
        _, pending = await asyncio.wait(keepers, timeout=_PATIENCE_SECONDS)
        if not pending:
            return
        if len(campaign.latencies) == before:
            for keeper in pending:
                keeper.cancel()
            return
