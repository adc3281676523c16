"""Runs the facade: a gunicorn master that minds its workers, without command line or configuration file.

The master imports no more than it needs. The application is imported by each worker, after the fork and after
prometheus-client has been told, by its environment variable, where the workers' counters meet.
"""

import ctypes
import logging
import os
import shutil
import signal
from collections.abc import Callable
from datetime import datetime
from importlib import import_module
from pathlib import Path
from typing import Any

from gunicorn.app.base import BaseApplication  # type: ignore[import-untyped]
from gunicorn.glogging import Logger  # type: ignore[import-untyped]

from rest_facade.options import FacadeOptions

__all__ = ["FacadeOptions", "run"]

_PR_SET_PDEATHSIG = 1
_SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - for heartbeats, as gunicorn advises


def run(options: FacadeOptions, clock: Callable[[], datetime] | None = None) -> None:
    """Serve until SIGTERM or SIGINT, answer what was accepted, and exit the process with 0."""
    metrics_dir = Path(options.metrics_dir)
    shutil.rmtree(metrics_dir, ignore_errors=True)
    metrics_dir.mkdir(parents=True)
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(metrics_dir)
    _Facade(options, clock).run()


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
        self.error_log.setLevel(logging.INFO)
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
        "post_fork": _die_with_parent,
        "child_exit": _forget_gauges,
    }
    if _SHARED_MEMORY.is_dir() and os.access(_SHARED_MEMORY, os.W_OK):
        settings["worker_tmp_dir"] = str(_SHARED_MEMORY)
    return settings


def _die_with_parent(arbiter: Any, worker: Any) -> None:
    """Have the kernel stop the worker when its master is killed."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != arbiter.pid:
        os._exit(0)


def _forget_gauges(arbiter: Any, worker: Any) -> None:
    import_module("prometheus_client.multiprocess").mark_process_dead(worker.pid)
