"""Runs ceiling (c) on a free port, with grpc as the core has it."""

import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from benchmarks.ceilings.child import running
from benchmarks.spawning import HOST, free_ports

# As `polylect up` sets it: without its event engine a call takes half the CPU.
_ENVIRONMENT = {"GRPC_EXPERIMENTS": "-event_engine_client,-event_engine_listener"}


@contextmanager
def echo_server() -> Iterator[int]:
    """Give the port of a bare echo while it runs. Raises CeilingError."""
    (port,) = free_ports(1)
    command = [sys.executable, "-m", "benchmarks.ceilings.echo", str(port)]
    with running(command, lambda: _answers(port), {**_ENVIRONMENT, **os.environ}):
        yield port


def _answers(port: int) -> bool:
    # Not by a call: a process that has grpc in it is no good at starting others.
    try:
        socket.create_connection((HOST, port), timeout=5).close()
    except OSError:
        return False
    return True
