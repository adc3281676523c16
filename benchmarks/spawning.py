"""Children of the bench: where they may listen, and that they end with it, however it ends."""

import ctypes
import os
import signal
import socket
from collections.abc import Callable

HOST = "127.0.0.1"
_PR_SET_PDEATHSIG = 1


def free_ports(count: int) -> list[int]:
    """Give ports of this machine that nobody listens on."""
    probes = [socket.create_server((HOST, 0)) for _ in range(count)]
    ports = [int(probe.getsockname()[1]) for probe in probes]
    for probe in probes:
        probe.close()
    return ports


def die_with_us() -> Callable[[], None]:
    """Give a preexec_fn: the child gets SIGTERM when the bench ends, and no Ctrl-C of its own."""
    prctl, parent = getattr(ctypes.CDLL(None), "prctl", None), os.getpid()

    def prepare() -> None:
        os.setsid()
        if prctl:
            prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:
            os._exit(1)

    return prepare
