"""Runs the facade: a gunicorn master that minds its workers, without command line or configuration file.

The master imports no more than it needs. The application is imported by each worker, after the fork and after
prometheus-client has been told, by its environment variable, where the workers' counters meet.
"""

import ctypes
import fcntl
import logging
import os
import shutil
import signal
import tempfile
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from importlib import import_module
from pathlib import Path
from typing import Any

import structlog
from gunicorn.app.base import BaseApplication  # type: ignore[import-untyped]
from gunicorn.glogging import Logger  # type: ignore[import-untyped]

from rest_facade.options import FacadeOptions

__all__ = ["FacadeOptions", "run"]

_PR_SET_PDEATHSIG = 1
_SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - for heartbeats, as gunicorn advises

_log = structlog.get_logger()


def run(options: FacadeOptions, clock: Callable[[], datetime] | None = None) -> None:
    """Serve until SIGTERM or SIGINT, answer what was accepted, and exit the process with 0."""
    own = _own_directory(Path(options.metrics_dir), options.port)
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(own)
    _Facade(replace(options, metrics_dir=str(own)), clock).run()


def _own_directory(metrics_dir: Path, port: int) -> Path:
    """Make a directory for the counters of this master and its workers, and remove those of dead ones.

    A living facade holds a lock on its own, which ends with the last of its processes, however they end. The
    port in the name is for people: a new facade may meet an old one of the same port.
    """
    metrics_dir.mkdir(parents=True, exist_ok=True)
    # Held so that nobody takes a directory for a dead one's before it is locked.
    turn = _lock(metrics_dir, wait=True)
    try:
        for found in metrics_dir.iterdir():
            if (abandoned := _lock(found)) is None:
                continue
            shutil.rmtree(found, ignore_errors=True)
            os.close(abandoned)
        own = Path(tempfile.mkdtemp(prefix=f"{port}-", dir=metrics_dir))
        # Left open: the workers inherit it.
        _lock(own)
    finally:
        if turn is not None:
            os.close(turn)
    return own


def _lock(directory: Path, *, wait: bool = False) -> int | None:
    """Give the descriptor that holds the lock; None when another process does, or there is no directory."""
    try:
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor


class _Facade(BaseApplication):  # type: ignore[misc]
    def __init__(self, options: FacadeOptions, clock: Callable[[], datetime] | None) -> None:
        self._options = options
        self._clock = clock
        super().__init__()

    def load_config(self) -> None:
        for name, value in _settings(self._options).items():
            self.cfg.set(name, value)

    def load(self) -> Any:
        return import_module("rest_facade.app").create_app(self._options, self._clock)


class _QuietLogger(Logger):  # type: ignore[misc]
    """Leaves format and place of gunicorn's lines to the root logger."""

    def setup(self, cfg: Any) -> None:
        self.cfg = cfg
        # Of what goes well, what concerns an operator is told in words of our own.
        self.error_log.setLevel(logging.WARNING)
        self.error_log.propagate = True

    def access(self, *args: Any, **kwargs: Any) -> None:
        """Log no requests."""


def _settings(options: FacadeOptions) -> dict[str, Any]:
    host = f"[{options.host}]" if ":" in options.host else options.host
    settings: dict[str, Any] = {
        "bind": f"{host}:{options.port}",
        "workers": options.workers,
        "worker_class": "rest_facade.gunicorn_worker.FacadeWorker",
        "worker_connections": options.max_connections,
        "backlog": options.backlog,
        "keepalive": options.keep_alive_seconds,
        "graceful_timeout": options.graceful_timeout_seconds,
        "timeout": 30,
        "max_requests": 0,
        "preload_app": False,
        "control_socket_disable": True,
        "logger_class": _QuietLogger,
        "accesslog": None,
        "proc_name": "polylect-facade",
        "when_ready": _tell_listening,
        "post_fork": _die_with_parent,
        "child_exit": _forget_gauges,
    }
    if _SHARED_MEMORY.is_dir() and os.access(_SHARED_MEMORY, os.W_OK):
        settings["worker_tmp_dir"] = str(_SHARED_MEMORY)
    return settings


def _tell_listening(arbiter: Any) -> None:
    [listener] = arbiter.LISTENERS
    _log.info("facade_listening", address=str(listener), workers=arbiter.num_workers)


def _die_with_parent(arbiter: Any, worker: Any) -> None:
    """Have the kernel stop the worker when its master is killed."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != arbiter.pid:
        os._exit(0)


def _forget_gauges(arbiter: Any, worker: Any) -> None:
    import_module("prometheus_client.multiprocess").mark_process_dead(worker.pid)
