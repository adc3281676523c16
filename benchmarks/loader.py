"""The bench's own loader: one process, raw HTTP/1.1, kept-alive connections, one request in flight on each.

`python -m benchmarks.loader` takes a JSON order on standard input, prints the number of answers now and then,
and the figures last; each a line of JSON. Hides parsing: only what it needs of an answer, as cheaply as
Python can. Other than wrk it never hangs up on a request: it stops asking, and waits for every answer.
"""

import asyncio
import json
import math
import sys
import time
from array import array
from collections import Counter
from typing import Any

import uvloop

_TELL_SECONDS = 0.2
_PATIENCE_SECONDS = 30.0
_RECONNECT_SECONDS = 0.05
_HEAD_END = b"\r\n\r\n"
_LENGTH = b"content-length:"


class Campaign:
    """What all connections share: the requests, when to stop, and what came back."""

    def __init__(self, requests: list[bytes], limit: int | None, seconds: float | None) -> None:
        self._requests = requests
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
        return self._requests[turn % len(self._requests)]

    def take_back(self) -> None:
        """Note a request that got no answer; with a limit another one takes its place."""
        self.broken += 1
        if self._limit is not None:
            self._limit += 1

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


class Connection(asyncio.Protocol):
    """One connection, asking again as soon as it is answered."""

    def __init__(self, campaign: Campaign) -> None:
        self._campaign = campaign
        self.ended = asyncio.get_running_loop().create_future()
        self.asking = False
        self._transport: asyncio.WriteTransport
        self._received = b""
        self._missing = 0
        self._sent_at = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Ask for the first time."""
        self._transport = transport  # type: ignore[assignment]
        self._ask()

    def _ask(self) -> None:
        request = self._campaign.next_request()
        if request is None:
            self.asking = False
            self._transport.close()
            return
        self.asking = True
        self._sent_at = time.perf_counter()
        self._transport.write(request)

    def data_received(self, received: bytes) -> None:
        """Find where the answer ends."""
        if self._missing:
            self._missing -= len(received)
        else:
            if self._received:
                received = self._received + received
            head_end = received.find(_HEAD_END)
            if head_end < 0:
                self._received = received
                return
            self._missing = head_end + 4 + _content_length(received[:head_end]) - len(received)
            self._received = received[:12]
        if self._missing == 0:
            self._answered()
        elif self._missing < 0:  # more than was asked for
            self._transport.abort()

    def _answered(self) -> None:
        campaign = self._campaign
        campaign.latencies.append(time.perf_counter() - self._sent_at)
        campaign.statuses[int(self._received[9:12])] += 1
        self._received = b""
        self._ask()

    def connection_lost(self, error: Exception | None) -> None:
        """Tell whoever opened it."""
        if self.asking:
            self._campaign.take_back()
        if not self.ended.done():
            self.ended.set_result(None)

    def abort(self) -> None:
        """Give up waiting."""
        if self.asking:
            self._campaign.unanswered += 1
            self.asking = False
        self._transport.abort()


def _content_length(head: bytes) -> int:
    lowered = head.lower()
    start = lowered.find(_LENGTH)
    if start < 0:
        return 0
    end = lowered.find(b"\r", start)
    return int(lowered[start + len(_LENGTH) : end if end >= 0 else None])


def _percentile_ms(ordered: list[float], share: float) -> float | None:
    """Give the latency that this share of all requests does not exceed."""
    if not ordered:
        return None
    return 1000 * ordered[max(0, math.ceil(share * len(ordered)) - 1)]


async def _keep_connected(campaign: Campaign, host: str, port: int, open_ones: set[Connection]) -> None:
    loop = asyncio.get_running_loop()
    while True:
        try:
            _, connection = await loop.create_connection(lambda: Connection(campaign), host, port)
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


async def _run(order: dict[str, Any], requests: list[bytes]) -> dict[str, Any]:
    campaign = Campaign(requests, order.get("requests"), order.get("seconds"))
    telling = asyncio.create_task(_tell(campaign))
    open_ones: set[Connection] = set()
    keepers = [
        asyncio.create_task(_keep_connected(campaign, order["host"], order["port"], open_ones))
        for _ in range(order["connections"])
    ]
    await _all_done(campaign, keepers, order.get("seconds"))
    campaign.last_answer_at = time.time()
    for connection in list(open_ones):
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


def read_requests(path: str) -> list[bytes]:
    """Read what `benchmarks.load` wrote for wrk.lua too: ten digits of length, the bytes, and again."""
    with open(path, "rb") as file:
        requests = []
        while digits := file.read(10):
            requests.append(file.read(int(digits)))
    return requests


def main() -> None:
    """Do what the order says."""
    order = json.load(sys.stdin)
    figures = uvloop.run(_run(order, read_requests(order["requests_file"])))
    print(json.dumps(figures), flush=True)


if __name__ == "__main__":
    main()
