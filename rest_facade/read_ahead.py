"""How far a connection is read ahead of its answers. Knows nothing of HTTP but how a head ends.

A client may send request after request without waiting. What waits for its turn takes some 5 KB for each of
them, and a packet may hold thirteen thousand: so many are parsed a piece at a time, the next when those
before are answered, and nothing more is read meanwhile.
"""

import asyncio
from abc import ABC, abstractmethod
from typing import Any

from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT, FlowControl

from rest_facade.stalls import StallGuard

# llhttp takes no other.
_END_OF_HEAD = b"\r\n\r\n"
_HEADS_AT_ONCE = 32
# Some 200 of the shortest requests.
_PIECE_BYTES = 4096


class ReadAhead(FlowControl):
    """uvicorn's, which reads on only when nothing that was read waits."""

    def __init__(self, transport: asyncio.Transport) -> None:
        super().__init__(transport)
        # Not parsed yet.
        self.rest = b""
        # By a request that waits for its turn.
        self.is_held = False

    def hold(self) -> None:
        """Read no more while a request waits, whoever wants to resume."""
        self.is_held = True
        self.pause_reading()

    def resume_reading(self) -> None:
        """Read on: what was read first."""
        if self.is_held:
            return
        if self.rest:
            # Found by the transport: a reference of our own would be a circle, of each connection.
            self._transport.get_protocol().read_on()  # type: ignore[attr-defined]
        else:
            super().resume_reading()


class PacedProtocol(StallGuard, ABC):
    """A connection that parses no more than shall wait. Requests that do stand in `pipeline`."""

    flow: ReadAhead

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._is_rest_due = False

    @abstractmethod
    def take(self, data: bytes) -> None:
        """Parse a piece."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Have its reading paced."""
        super().connection_made(transport)
        self.flow = ReadAhead(transport)

    def data_received(self, data: bytes) -> None:
        """Take what came, or the first of very many requests."""
        flow = self.flow
        if flow.rest:
            flow.rest += data
        elif data.count(_END_OF_HEAD) <= _HEADS_AT_ONCE:
            self.take(data)
        else:
            flow.rest = data
            flow.pause_reading()
            self._take_rest()

    def read_on(self) -> None:
        """Go on with what was read, then with reading: no request waits for its turn any more."""
        self.flow.is_held = False
        if self._has_enough_body():
            # Who receives it goes on.
            return
        if not self.flow.rest:
            self.flow.resume_reading()
        elif not self._is_rest_due:
            self._is_rest_due = True
            self.loop.call_soon(self._take_rest)

    def _take_rest(self) -> None:
        self._is_rest_due = False
        if not (self.pipeline or self.transport.is_closing() or self._has_enough_body()):
            rest = self.flow.rest
            self.flow.rest = rest[_PIECE_BYTES:]
            self.take(rest[:_PIECE_BYTES])
            if not self.pipeline:
                self.read_on()

    def _has_enough_body(self) -> bool:
        cycle = self.cycle
        return cycle is not None and not cycle.response_complete and len(cycle.body) > HIGH_WATER_LIMIT
