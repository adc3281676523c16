"""Ties a child process to the life of the process that starts it.

Hides how: Linux' parent death signal. Elsewhere an orphan is only found by the next start.
"""

import ctypes
import os
import signal
import sys
from collections.abc import Callable

_PR_SET_PDEATHSIG = 1


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
