"""Ends connections that would hold up others: whose client takes nothing of its answer. Knows no requests.

What was answered and not taken is kept, by the loop and by whoever waits to write more; a client that stopped
reading would have it kept until TCP gives up.
"""

import asyncio

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

END_STREAMS = "end_streams"
"""Where the lifespan's state may hold a function that ends, for a stop, answers which would have no end."""

_STALL_SECONDS = 15.0
_STALL_SECONDS_AT_STOP = 1.0


class StallGuard(HttpToolsProtocol):
    """A connection with a deadline for its client to take some of what waits for it."""

    _stall: asyncio.TimerHandle | None = None

    def pause_writing(self) -> None:
        """Have the writers wait, not for ever."""
        super().pause_writing()
        self._give_seconds(_STALL_SECONDS)

    def resume_writing(self) -> None:
        """Let the writers go on."""
        super().resume_writing()
        self._forget_stall()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the deadline."""
        super().connection_lost(exc)
        self._forget_stall()

    def hurry_stalled(self) -> None:
        """Have who takes nothing hold nobody up who wants to stop."""
        if self._stall is not None:
            self._give_seconds(_STALL_SECONDS_AT_STOP)

    def _give_seconds(self, seconds: float) -> None:
        self._forget_stall()
        self._stall = self.loop.call_later(seconds, self.transport.abort)

    def _forget_stall(self) -> None:
        if self._stall is not None:
            self._stall.cancel()
            self._stall = None
