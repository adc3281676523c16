"""Runs a ceiling's server as a child of the bench, from its first answer to the end of a block."""

import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from benchmarks.spawning import die_with_us

ROOT = Path(__file__).resolve().parents[2]
_READY_SECONDS = 30.0


class CeilingError(Exception):
    """Says why there is nothing to compare with."""


@contextmanager
def running(
    command: Sequence[str], answers: Callable[[], bool], environment: Mapping[str, str] | None = None
) -> Iterator[int]:
    """Lend the process id of a server that answers. Raises CeilingError."""
    with tempfile.TemporaryFile() as log:
        server = subprocess.Popen(
            command,
            cwd=ROOT,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            preexec_fn=die_with_us(),  # noqa: PLW1509
        )
        try:
            deadline = time.monotonic() + _READY_SECONDS
            while not answers():
                if server.poll() is not None or time.monotonic() > deadline:
                    log.seek(0)
                    raise CeilingError(f"{command[0]} does not run: {log.read().decode()[-2000:]}")
                time.sleep(0.02)
            yield server.pid
        finally:
            server.terminate()
            try:
                server.wait(10)
            except subprocess.TimeoutExpired:
                server.kill()
                server.wait()
