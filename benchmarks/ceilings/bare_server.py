"""Runs ceiling (a) on a free port. Hides gunicorn's settings, which are the facade's."""

import http.client
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.spawning import HOST, die_with_us, free_ports

_ROOT = Path(__file__).resolve().parents[2]
_READY_SECONDS = 30.0


class CeilingError(Exception):
    """Says why there is nothing to compare with."""


@contextmanager
def bare_server() -> Iterator[int]:
    """Give the port of a bare Falcon route while it runs. Raises CeilingError."""
    (port,) = free_ports(1)
    command = [sys.executable, "-m", "gunicorn", "--workers=1", f"--bind={HOST}:{port}", "--backlog=2048"]
    command += ["--keep-alive=75", "--timeout=60", "--no-control-socket", "--log-level=warning"]
    command += ["--worker-class=benchmarks.ceilings.bare.Worker", "benchmarks.ceilings.bare:app"]
    with tempfile.TemporaryFile() as log:
        server = subprocess.Popen(
            command,
            cwd=_ROOT,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            preexec_fn=die_with_us(),  # noqa: PLW1509
        )
        try:
            deadline = time.monotonic() + _READY_SECONDS
            while not _answers(port):
                if server.poll() is not None or time.monotonic() > deadline:
                    log.seek(0)
                    raise CeilingError(f"the bare server does not run: {log.read().decode()[-2000:]}")
                time.sleep(0.02)
            yield port
        finally:
            server.terminate()
            try:
                server.wait(10)
            except subprocess.TimeoutExpired:
                server.kill()
                server.wait()


def _answers(port: int) -> bool:
    connection = http.client.HTTPConnection(HOST, port, timeout=5)
    try:
        connection.request("POST", "/api/ingest", b"{}")
        return connection.getresponse().status == 202
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
