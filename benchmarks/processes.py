"""Who uses how much of the machine: CPU time and memory of the system's processes, by part.

Hides /proc, and how a process is known: by its place below the supervisor and by words of its command line.
"""

import contextlib
import os
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Mapping, Set
from dataclasses import dataclass
from pathlib import Path

import psutil  # type: ignore[import-untyped]

_PARTS = ("core", "facade", "worker", "prepare")
_PSS = re.compile(rb"^Pss:\s+(\d+) kB", re.MULTILINE)


class MemoryUnknownError(Exception):
    """Says whose memory can't be read."""


def processes_of(supervisor_pid: int) -> list[tuple[str, psutil.Process]]:
    """Give all living processes of the system with their part: supervisor, core, facade, worker, postgres."""
    supervisor = psutil.Process(supervisor_pid)
    found = [("supervisor", supervisor)]
    for process in supervisor.children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            part = _part(process)
            if part:
                found.append((part, process))
    return found


def _part(process: psutil.Process) -> str | None:
    command = " ".join(process.cmdline())
    for part in _PARTS:
        if f"run_part {part}" in command:
            return part
    if "postgres" in command:
        return "postgres"
    return None if process.status() == psutil.STATUS_ZOMBIE else f"other ({process.name()})"


def pss_bytes(pid: int) -> int:
    """Give a process' proportional set size: what it holds alone, and its share of what it shares.

    Raises MemoryUnknownError, ProcessLookupError.
    """
    path = f"/proc/{pid}/smaps_rollup"
    try:
        with open(path, "rb") as file:
            text = file.read()
    except FileNotFoundError as error:
        raise ProcessLookupError(pid) from error
    except PermissionError:
        text = _read_as_owner(path, psutil.Process(pid).uids().real)
    found = _PSS.search(text)
    if found is None:
        raise MemoryUnknownError(f"{path} can't be read, or has no Pss line")
    return int(found[1]) * 1024


def _read_as_owner(path: str, uid: int) -> bytes:
    """Read what only its owner may: in a container root may not look into another user's process."""
    if os.geteuid() != 0:
        raise MemoryUnknownError(f"{path} belongs to another user")
    return subprocess.run(["/bin/cat", path], user=uid, capture_output=True, check=False).stdout


def memory_by_part(supervisor_pid: int) -> dict[str, dict[str, int]]:
    """Give for each part the PSS of each of its processes in bytes, by pid and what it is."""
    memory: dict[str, dict[str, int]] = {}
    for part, process in processes_of(supervisor_pid):
        with contextlib.suppress(psutil.NoSuchProcess, ProcessLookupError):
            title = _title(process)
            memory.setdefault(part, {})[f"{process.pid} {title}"] = pss_bytes(process.pid)
    return memory


def _title(process: psutil.Process) -> str:
    command = process.cmdline()
    if command and command[0].startswith("postgres:"):
        return str(command[0][:60].strip())
    return " ".join([os.path.basename(command[0]), *command[1:3]]) if command else str(process.name())


@dataclass(frozen=True)
class CpuReading:
    """CPU seconds used so far, by part; and of the whole machine."""

    at: float
    parts: Mapping[str, float]
    # Of parts that live as long as the system; Postgres has processes that come and go.
    processes: Set[tuple[str, int]]
    bench: float
    machine: float
    cpus: int

    def since(self, before: "CpuReading") -> dict[str, float]:
        """Give the CPU seconds of each part since an earlier reading."""
        return {part: max(0.0, used - before.parts.get(part, 0.0)) for part, used in self.parts.items()}

    def ended(self, before: "CpuReading") -> list[str]:
        """Give the parts of which a process is gone since."""
        return sorted({part for part, _ in before.processes - self.processes})

    def others_share(self, before: "CpuReading") -> float:
        """Give the share of the machine that processes other than the system and the bench took, 0 to 1."""
        ours = sum(self.since(before).values()) + self.bench - before.bench
        others = self.machine - before.machine - ours
        return max(0.0, others / ((self.at - before.at) * self.cpus)) if self.at > before.at else 0.0


def read_cpu(supervisor_pid: int, besides: Mapping[str, int] | None = None) -> CpuReading:
    """Read the CPU time of the system's processes, their ended children included, and the bench's own.

    `besides` are parts that are not below the supervisor, by name with their process id.
    """
    parts: Counter[str] = Counter()
    lasting: set[tuple[str, int]] = set()
    others = [(part, psutil.Process(pid)) for part, pid in (besides or {}).items()]
    for part, process in [*processes_of(supervisor_pid), *others]:
        with contextlib.suppress(psutil.NoSuchProcess):
            used = process.cpu_times()
            parts[part] += used.user + used.system
            if part in _PARTS:
                lasting.add((part, process.pid))
            if part != "supervisor":
                parts[part] += used.children_user + used.children_system
    own = os.times()
    machine = psutil.cpu_times()
    busy = sum(machine) - machine.idle - getattr(machine, "iowait", 0.0) - getattr(machine, "guest", 0.0)
    return CpuReading(
        at=time.monotonic(),
        parts=parts,
        processes=lasting,
        bench=own.user + own.system + own.children_user + own.children_system,
        machine=busy,
        cpus=psutil.cpu_count() or 1,
    )


def _cpu_model() -> str:
    with contextlib.suppress(OSError):
        found = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
        if found:
            return found[1]
    return ""


def describe_machine() -> dict[str, object]:
    """Give what a reader of the figures wants to know of the machine."""
    return {
        "cpus": psutil.cpu_count(),
        "cpu": _cpu_model(),
        "memory_bytes": psutil.virtual_memory().total,
        "load_average": os.getloadavg(),
        "python": sys.version.split()[0],
        "kernel": os.uname().release,
    }
