"""What an earlier embedded server may have left, and how it is cleared without ever touching another's.

Hides how a cluster's processes are recognised: by a `cluster_name` made of the data directory's inode, which
PostgreSQL shows in the command line of each. Command lines are readable where nothing else of another user's
process is (a container's root has no ptrace right).
"""

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

_PROC = Path("/proc")
# Seconds of waiting before each signal: a server whose owner was killed is usually shutting down already.
_LADDER = (
    (0.0, signal.SIGINT, signal.SIGTERM),
    (20.0, signal.SIGQUIT, signal.SIGQUIT),
    (10.0, signal.SIGKILL, signal.SIGKILL),
    (10.0, signal.SIGKILL, signal.SIGKILL),
)


def cluster_name(cluster: Path) -> str:
    """Give a name no other cluster has, a copy of this one neither."""
    status = cluster.stat()
    return f"polylect-{status.st_dev:x}-{status.st_ino:x}"


def end_leftovers(name: str) -> None:
    """End all processes of the cluster `name`, cleanly if they let us; return when there are none.

    The caller holds the cluster's lock, so whatever runs has lost its owner.
    """
    for patience_seconds, to_server, to_child in _LADDER:
        deadline = time.monotonic() + patience_seconds
        while leftovers := dict(_processes(name)):
            if time.monotonic() >= deadline:
                break
            time.sleep(0.02)
        if not leftovers:
            return
        has_server = any(leftovers.values())
        for pid, is_server in leftovers.items():
            # A server ends its children itself, and better.
            if is_server or not has_server or to_child is signal.SIGKILL:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, to_server if is_server else to_child)
    raise TimeoutError(f"processes of an earlier server ({name}) don't end: {sorted(dict(_processes(name)))}")


def _processes(name: str) -> Iterator[tuple[int, bool]]:
    """Yield the pid of each process of the cluster, and whether it is the server itself."""
    server, child = f"cluster_name={name}", f"postgres: {name}: "
    for pid, command in _command_lines():
        is_server = server in command.split(" ")
        if is_server or command.startswith(child):
            yield pid, is_server


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


def adopt_lock_file(lock_file: Path) -> None:
    """Make a stale postmaster.pid harmless; to be called when no process of the cluster is left.

    Its pid may by now be that of any other process, and PostgreSQL would refuse to start. It takes its
    parent's pid for stale, so that goes in; the rest stays for PostgreSQL's own check of the shared memory.
    """
    try:
        lines = lock_file.read_text().splitlines(keepends=True)
    except FileNotFoundError:
        return
    if not lines:  # cut off while it was being written
        lock_file.unlink()
        return
    lines[0] = f"{os.getpid()}\n"
    lock_file.write_text("".join(lines))
