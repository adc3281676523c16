"""Runs ceiling (a) on a free port. Hides gunicorn's settings, which are the facade's."""

import http.client
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from benchmarks.ceilings.child import running
from benchmarks.spawning import HOST, free_ports


@contextmanager
def bare_server() -> Iterator[int]:
    """Give the port of a bare Falcon route while it runs. Raises CeilingError."""
    (port,) = free_ports(1)
    command = [sys.executable, "-m", "gunicorn", "--workers=1", f"--bind={HOST}:{port}", "--backlog=2048"]
    command += ["--keep-alive=75", "--timeout=60", "--no-control-socket", "--log-level=warning"]
    command += ["--worker-class=benchmarks.ceilings.bare.Worker", "benchmarks.ceilings.bare:app"]
    with running(command, lambda: _answers(port)):
        yield port


def _answers(port: int) -> bool:
    connection = http.client.HTTPConnection(HOST, port, timeout=5)
    try:
        connection.request("POST", "/api/ingest", b"{}")
        return connection.getresponse().status == 202
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
