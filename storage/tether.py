"""Ties child processes to the life of the one that starts them, and ends those an earlier life left.

Hides how: Linux' parent death signal; and that a process is known by words in its command line, which are
readable where nothing else of another user's process is (in a container root may not trace). Callers choose
words no other instance uses.
"""

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

_PR_SET_PDEATHSIG = 1
_PROC = Path("/proc")

Matches = Callable[[str], bool]
"""Tells by its command line, words separated by blanks, whether a process is meant."""


def inode_word(path: Path) -> str:
    """Give a word for a directory that no other one has, a copy of it neither."""
    status = path.stat()
    return f"polylect-{status.st_dev:x}-{status.st_ino:x}"


def tether(death_signal: signal.Signals) -> Callable[[], None]:
    """Give a `preexec_fn` by which a child leaves our terminal, and gets `death_signal` when we end, however.

    Linux sends it when the *thread* that started the child ends. It survives exec, but not a change of user.
    """
    if sys.platform != "linux":
        return os.setsid
    # Resolved here: after the fork, before the exec, as little as possible may happen.
    prctl, parent = ctypes.CDLL(None).prctl, os.getpid()

    def prepare() -> None:
        os.setsid()
        prctl(_PR_SET_PDEATHSIG, death_signal)
        if os.getppid() != parent:  # it died before the line above
            os._exit(1)

    return prepare


def find_processes(matches: Matches) -> list[int]:
    """Give the pids of all processes but this one whose command line matches."""
    return [pid for pid, command in _command_lines() if pid != os.getpid() and matches(command)]


def end_processes(matches: Matches, gentle: signal.Signals, patience_seconds: float) -> None:
    """End what matches: with `gentle`, after the patience with SIGKILL. Return when there is none left.

    Mostly they are ending already, and this only waits. Raises TimeoutError when even SIGKILL does not help.
    """
    for number, wait_seconds in ((gentle, patience_seconds), (signal.SIGKILL, 10.0)):
        for pid in find_processes(matches):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
        deadline = time.monotonic() + wait_seconds
        while find_processes(matches):
            if time.monotonic() >= deadline:
                break
            time.sleep(0.02)
        else:
            return
    raise TimeoutError(f"processes of an earlier run don't end: {find_processes(matches)}")


def _command_lines() -> Iterator[tuple[int, str]]:
    if _PROC.is_dir():
        for entry in os.scandir(_PROC):
            if entry.name.isdigit():
                # The process may end while we look.
                with contextlib.suppress(OSError):
                    command = Path(entry.path, "cmdline").read_bytes().decode(errors="replace")
                    yield int(entry.name), command.replace("\0", " ")
        return
    listed = subprocess.run(["/bin/ps", "-axo", "pid=,command="], capture_output=True, text=True, check=True)
    for line in listed.stdout.splitlines():
        pid, _, command = line.strip().partition(" ")
        yield int(pid), command
