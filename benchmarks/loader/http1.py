"""HTTP/1.1, one request in flight on each connection.

Hides parsing: only what is needed of an answer, as cheaply as Python can.
"""

import asyncio
import time

from benchmarks.loader.campaign import Campaign

_HEAD_END = b"\r\n\r\n"
_LENGTH = b"content-length:"


class HttpConnection(asyncio.Protocol):
    """One kept-alive connection."""

    def __init__(self, campaign: Campaign) -> None:
        self._campaign = campaign
        self.ended = asyncio.get_running_loop().create_future()
        self.asking = 0
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
            self.asking = 0
            self._transport.close()
            return
        self.asking = 1
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
            self._campaign.take_answer(int(self._received[9:12]), self._sent_at)
            self._received = b""
            self._ask()
        elif self._missing < 0:  # more than was asked for
            self._transport.abort()

    def connection_lost(self, error: Exception | None) -> None:
        """Tell whoever opened it."""
        if self.asking:
            self._campaign.take_back()
        if not self.ended.done():
            self.ended.set_result(None)

    def abort(self) -> None:
        """Give up waiting."""
        self.asking = 0
        self._transport.abort()


def _content_length(head: bytes) -> int:
    lowered = head.lower()
    start = lowered.find(_LENGTH)
    if start < 0:
        return 0
    end = lowered.find(b"\r", start)
    return int(lowered[start + len(_LENGTH) : end if end >= 0 else None])
