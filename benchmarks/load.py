"""Sends a payload to a port and gives what came of it: by wrk where there is one, else by the own loader.

Hides the two programs' ways. Each is a process of its own; both send the same requests, read from the same
file. wrk speaks HTTP/1.1 and stops by the clock: gRPC, and a load of a number of requests, is the own
loader's. h2load would speak gRPC, but sends one and the same body again and again, and counts a refused call
as a good one.
"""

import json
import resource
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from benchmarks import slots
from benchmarks.payloads import Payload
from benchmarks.spawning import HOST

_GRACE_SECONDS = 60.0
_WRK_TIMEOUT = "30s"
_WRK_SCRIPT = Path(__file__).with_name("wrk.lua")
_ROOT = Path(__file__).resolve().parent.parent

Tool = Literal["wrk", "own"]
Progress = Callable[[float], None]
"""Told the share that is done, 0 to 1."""


class LoadError(Exception):
    """Says that a loader failed, which says nothing of the server."""


@dataclass(frozen=True)
class Load:
    """How much, and over how many connections: for a time, or a number of requests (own loader only)."""

    connections: int
    seconds: float | None = None
    requests: int | None = None


@dataclass(frozen=True)
class Outcome:
    """What one load gave. Percentiles are over all requests, refused ones included."""

    tool: Tool
    connections: int
    requests: int
    seconds: float
    p50_ms: float | None
    p95_ms: float | None
    p99_ms: float | None
    max_ms: float | None
    # Answered, but not with 2xx.
    refused: int
    # Connections that failed: nothing is known of their request.
    broken: int
    # The most requests that may have been done without the loader having taken the answer.
    unanswered: int
    # By this machine's clock.
    first_request_at: float
    last_answer_at: float
    loader_cpu_seconds: float
    refused_by_status: dict[str, int] = field(default_factory=dict)

    @property
    def rate(self) -> float:
        """Answers per second."""
        return self.requests / self.seconds if self.seconds else 0.0

    @property
    def acknowledged(self) -> int:
        """Requests answered with 2xx."""
        return self.requests - self.refused

    @property
    def failed(self) -> int:
        """Requests answered with 5xx: the service can't tell what became of them."""
        return sum(count for status, count in self.refused_by_status.items() if int(status) >= 500)

    def as_json(self) -> dict[str, Any]:
        """Give all of it."""
        return {**asdict(self), "rate": self.rate, "acknowledged": self.acknowledged}


def choose_tool(wish: Literal["auto", "wrk", "own"]) -> Tool:
    """Give wrk where it is installed, unless another wish is stated. Raises LoadError."""
    if wish == "own":
        return "own"
    if shutil.which("wrk"):
        return "wrk"
    if wish == "wrk":
        raise LoadError("wrk is not installed: apt-get install wrk, or --loader own")
    return "own"


def send(tool: Tool, payload: Payload, port: int, load: Load, progress: Progress) -> Outcome:
    """Send `payload`'s requests in turn to a port of this machine. Raises LoadError."""
    with tempfile.NamedTemporaryFile(prefix="polylect-bench-", suffix=".requests") as file:
        file.write(slots.pack(payload.templates(HOST, port)))
        file.flush()
        if tool == "wrk" and load.requests is None and payload.protocol == "http":
            return _by_wrk(Path(file.name), payload, port, load, progress)
        return _by_own(Path(file.name), payload, port, load, progress)


def _by_wrk(path: Path, payload: Payload, port: int, load: Load, progress: Progress) -> Outcome:
    assert load.seconds is not None
    seconds = max(1, round(load.seconds))
    command = ["wrk", "-t1", f"-c{load.connections}", f"-d{seconds}s", f"--timeout={_WRK_TIMEOUT}"]
    command += ["-s", str(_WRK_SCRIPT), f"http://{HOST}:{port}/", "--", str(path)]
    command.append(str(payload.events_per_request))
    begun_at = time.time()
    with _child_cpu() as cpu, subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as wrk:
        _watch(wrk, seconds, progress)
        output = wrk.communicate()[0]
    if wrk.returncode:
        raise LoadError(f"wrk failed: {output}")
    figures = json.loads(output.strip().splitlines()[-1])
    return Outcome(
        tool="wrk",
        connections=load.connections,
        first_request_at=begun_at,
        last_answer_at=begun_at + figures["seconds"],
        # It hangs up when the time is over, whatever is under way.
        unanswered=load.connections + figures["broken"],
        loader_cpu_seconds=cpu(),
        **figures,
    )


def _by_own(path: Path, payload: Payload, port: int, load: Load, progress: Progress) -> Outcome:
    order = {
        "requests_file": str(path),
        "events_per_request": payload.events_per_request,
        "protocol": payload.protocol,
        "host": HOST,
        "port": port,
        "path": payload.requests[0].path,
        "metadata": dict(payload.requests[0].headers),
        "answer_bytes": payload.answer_bytes,
        **asdict(load),
    }
    command = [sys.executable, "-m", "benchmarks.loader"]
    with (
        _child_cpu() as cpu,
        subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=_ROOT
        ) as loader,
    ):
        assert loader.stdin is not None
        assert loader.stdout is not None
        loader.stdin.write(json.dumps(order))
        loader.stdin.close()
        if load.requests is None:
            _watch(loader, load.seconds or 0.0, progress)
        figures: dict[str, Any] = {}
        for line in loader.stdout:
            figures = json.loads(line)
            if load.requests is not None and "answers" in figures:
                progress(figures["answers"] / load.requests)
    if loader.returncode or "requests" not in figures:
        raise LoadError(f"the bench's own loader failed with code {loader.returncode}")
    figures["unanswered"] += figures["broken"]
    return Outcome(tool="own", connections=load.connections, loader_cpu_seconds=cpu(), **figures)


def _watch(process: subprocess.Popen[str], seconds: float, progress: Progress) -> None:
    """Tell the progress of what takes a known time, from a thread beside; end what takes far longer."""

    def watch() -> None:
        begun = time.monotonic()
        while process.poll() is None:
            passed = time.monotonic() - begun
            progress(min(1.0, passed / seconds))
            if passed > seconds + _GRACE_SECONDS:
                process.kill()
            time.sleep(0.1)

    threading.Thread(target=watch, daemon=True).start()


@contextmanager
def _child_cpu() -> Iterator[Callable[[], float]]:
    """Measure the CPU seconds of the one child that is started and waited for within."""
    before = _children_seconds()
    yield lambda: _children_seconds() - before


def _children_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime
