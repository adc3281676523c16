"""One part of the running system: a process that is started again when it dies.

Hides spawning, back-off and the group's end. Knows nothing of which parts there are.
"""

import asyncio
import contextlib
import os
import signal
import sys
import time
from collections import deque
from collections.abc import Callable

from storage.tether import tether

_FIRST_DELAY_SECONDS = 0.2
_LAST_DELAY_SECONDS = 5.0
_DEATHS_TO_GIVE_UP = 8
_GIVE_UP_WINDOW_SECONDS = 60.0
_GROUP_PATIENCE_SECONDS = 5.0
_POLL_SECONDS = 0.02

Say = Callable[[str, str], None]
"""Tells the operator: level (info, warning, error), sentence."""


class GaveUpError(Exception):
    """Says which part can't be kept alive, and where to look."""


class BackOff:
    """When to start again what died: after 0.2 s, doubling to 5 s, and no more after 8 deaths in a minute."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._deaths: deque[float] = deque()
        self._delay_seconds = _FIRST_DELAY_SECONDS

    def died(self) -> float | None:
        """Note a death; give the seconds to wait, None when it is time to give up."""
        now = self._clock()
        if self._deaths and now - self._deaths[-1] > _GIVE_UP_WINDOW_SECONDS:
            self._delay_seconds = _FIRST_DELAY_SECONDS
        self._deaths.append(now)
        while now - self._deaths[0] > _GIVE_UP_WINDOW_SECONDS:
            self._deaths.popleft()
        if len(self._deaths) >= _DEATHS_TO_GIVE_UP:
            return None
        delay_seconds = self._delay_seconds
        self._delay_seconds = min(2 * delay_seconds, _LAST_DELAY_SECONDS)
        return delay_seconds


class Part:
    """A process `python -m module`, its own session, that ends (SIGTERM) with us.

    `packed` is asked at every start for what goes to its standard input.
    """

    def __init__(self, name: str, module: str, word: str, packed: Callable[[], bytes], say: Say) -> None:
        self.name = name
        # -P: a directory named as one of our packages, where the operator stands, must not be imported.
        self._command = (sys.executable, "-P", "-m", module, f"--instance={word}")
        self._packed = packed
        self._say = say
        self._process: asyncio.subprocess.Process | None = None
        self._stopping = asyncio.Event()

    async def run_once(self) -> int:
        """Start it, give its exit code when it and all its children have ended."""
        process = await asyncio.create_subprocess_exec(
            *self._command, stdin=asyncio.subprocess.PIPE, preexec_fn=tether(signal.SIGTERM)
        )
        self._process = process
        if self._stopping.is_set():  # asked while it was being started
            process.terminate()
        # A part that dies at once has not read: its exit code says so.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            await process.communicate(self._packed())
        code = await process.wait()
        await _end_group(process.pid)
        return code

    async def keep(self) -> None:
        """Keep it running until `stop`. Raises GaveUpError when it dies too often."""
        back_off = BackOff()
        while not self._stopping.is_set():
            code = await self.run_once()
            if self._stopping.is_set():
                return
            delay_seconds = back_off.died()
            if delay_seconds is None:
                raise GaveUpError(
                    f"{self.name} ended {_DEATHS_TO_GIVE_UP} times within a minute, the last time by "
                    f"{describe_exit(code)}; its own lines above say why"
                )
            self._say(
                "warning",
                f"{self.name} ended by {describe_exit(code)}; starting it again in {delay_seconds:.1f} s",
            )
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), delay_seconds)

    def restart(self) -> None:
        """Let it end; `keep` starts it again."""
        if self._process and self._process.returncode is None:
            self._process.terminate()

    async def stop(self, patience_seconds: float, hurry: asyncio.Event) -> None:
        """Let it end, after the patience (at once when told to hurry) by force."""
        self._stopping.set()
        process = self._process
        if process is None or process.returncode is not None:
            return
        process.terminate()
        ended = asyncio.ensure_future(process.wait())
        hurried = asyncio.ensure_future(hurry.wait())
        await asyncio.wait({ended, hurried}, timeout=patience_seconds, return_when=asyncio.FIRST_COMPLETED)
        hurried.cancel()
        if not ended.done():
            # In a hurry it still has a moment: what it accepted is in the database already.
            await asyncio.wait({ended}, timeout=1)
        if not ended.done():
            self._say("warning", f"{self.name} does not stop by itself; ending it by force")
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        await ended


def describe_exit(code: int) -> str:
    """Say how a process ended."""
    return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"


async def _end_group(leader: int) -> None:
    """Wait for what a dead leader left behind (it holds ports), then end it by force."""
    deadline = time.monotonic() + _GROUP_PATIENCE_SECONDS
    with contextlib.suppress(ProcessLookupError):
        os.killpg(leader, signal.SIGTERM)
        while True:
            await asyncio.sleep(_POLL_SECONDS)
            os.killpg(leader, signal.SIGKILL if time.monotonic() >= deadline else 0)
