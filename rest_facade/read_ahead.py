"""How far a connection is read ahead of its answers. Knows nothing of HTTP but how a request's line ends.

A client may send request after request without waiting. What waits for its turn takes some 5 KB for each of
them, and a packet may hold nine thousand: so many are parsed a piece at a time, the next when those before
are answered, and nothing more is read meanwhile.
"""

import asyncio
from typing import Any

from uvicorn.protocols.http.flow_control import FlowControl

from rest_facade.stalls import StallGuard

_REQUEST = b" HTTP/1."
_REQUESTS_AT_ONCE = 32
# Some 150 of the shortest requests.
_PIECE_BYTES = 4096


class ReadAhead(FlowControl):
    """uvicorn's, which reads on only when nothing that was read waits."""

    def __init__(self, transport: asyncio.Transport) -> None:
        super().__init__(transport)
        # Not parsed yet.
        self.rest = b""
        self._is_held = False

    def hold(self) -> None:
        """Read no more until `go_on`, whoever wants to resume."""
        self._is_held = True
        self.pause_reading()

    def go_on(self) -> None:
        """Read on, if nothing is left to parse."""
        self._is_held = False
        self.resume_reading()

    def resume_reading(self) -> None:
        """Read on, if nothing waits."""
        if not (self._is_held or self.rest):
            super().resume_reading()


class PacedProtocol(StallGuard):
    """A connection that parses no more than shall wait. Requests that do stand in `pipeline`."""

    flow: ReadAhead

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._is_rest_due = False

    def take(self, data: bytes) -> None:
        """Parse a piece."""
        raise NotImplementedError

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Have its reading paced."""
        super().connection_made(transport)
        self.flow = ReadAhead(transport)

    def data_received(self, data: bytes) -> None:
        """Take what came, or the first of very many requests."""
        flow = self.flow
        if flow.rest:
            flow.rest += data
        elif data.count(_REQUEST) <= _REQUESTS_AT_ONCE:
            self.take(data)
        else:
            flow.rest = data
            flow.pause_reading()
            self._take_rest()

    def read_on(self) -> None:
        """Go on with what was read, then with reading: no request waits any more."""
        if not self.flow.rest:
            self.flow.go_on()
        elif not self._is_rest_due:
            self._is_rest_due = True
            self.loop.call_soon(self._take_rest)

    def _take_rest(self) -> None:
        self._is_rest_due = False
        if not (self.pipeline or self.transport.is_closing()):
            rest = self.flow.rest
            self.flow.rest = rest[_PIECE_BYTES:]
            self.take(rest[:_PIECE_BYTES])
            if not self.pipeline:
                self.read_on()
