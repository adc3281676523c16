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
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from polylect_cli.handover import part_environment
from storage.tether import tether

_GROUP_PATIENCE_SECONDS = 5.0
_POLL_SECONDS = 0.02

Say = Callable[[str, str], None]
"""Tells the operator: level (info, warning, error), sentence."""


class GaveUpError(Exception):
    """Says which part can't be kept alive, and where to look."""


@dataclass(frozen=True)
class Patience:
    """How often what dies is started again: after a delay that doubles, until it died too often."""

    first_delay_seconds: float = 0.2
    last_delay_seconds: float = 5.0
    deaths_to_give_up: int = 8
    window_seconds: float = 60.0


PATIENCE = Patience()


class BackOff:
    """When to start again what died. The delay grows with the deaths of the last window."""

    def __init__(self, patience: Patience, clock: Callable[[], float] = time.monotonic) -> None:
        self._patience = patience
        self._clock = clock
        self._deaths: deque[float] = deque()

    def died(self) -> float | None:
        """Note a death; give the seconds to wait, None when it is time to give up."""
        now = self._clock()
        while self._deaths and now - self._deaths[0] > self._patience.window_seconds:
            self._deaths.popleft()
        delay_seconds = self._patience.first_delay_seconds * 2.0 ** len(self._deaths)
        self._deaths.append(now)
        if len(self._deaths) >= self._patience.deaths_to_give_up:
            return None
        return min(delay_seconds, self._patience.last_delay_seconds)


class Part:
    """A process `python -m` with `arguments`, its own session, that ends (SIGTERM) with us.

    `word` marks it as of this installation. `packed` is asked at every start for its standard input.
    """

    def __init__(
        self,
        name: str,
        arguments: Sequence[str],
        word: str,
        packed: Callable[[], bytes],
        say: Say,
        patience: Patience = PATIENCE,
    ) -> None:
        self.name = name
        self._patience = patience
        # -P: a directory named as one of our packages, where the operator stands, must not be imported.
        self._command = (sys.executable, "-P", "-m", *arguments, f"--instance={word}")
        self._packed = packed
        self._say = say
        self._process: asyncio.subprocess.Process | None = None
        self._stopping = asyncio.Event()

    async def run_once(self) -> int:
        """Start it, give its exit code when it and all its children have ended."""
        process = await asyncio.create_subprocess_exec(
            *self._command,
            stdin=asyncio.subprocess.PIPE,
            env=part_environment(),
            preexec_fn=tether(signal.SIGTERM),
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
        back_off = BackOff(self._patience)
        while not self._stopping.is_set():
            code = await self.run_once()
            if self._stopping.is_set():
                return
            delay_seconds = back_off.died()
            if delay_seconds is None:
                raise GaveUpError(
                    f"{self.name} ended {self._patience.deaths_to_give_up} times within "
                    f"{self._patience.window_seconds:.0f} s, the last time by {describe_exit(code)}; "
                    "its own lines above say why"
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
