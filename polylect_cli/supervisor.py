"""The whole system on one machine, as a process with children: what starts after what, and ends before what.

Hides the order, the locks, and what is done when a part dies. Reads no settings: a Plan says all. Imports
neither gRPC nor SQLAlchemy, which would double its memory.
"""

import asyncio
import contextlib
import errno
import fcntl
import os
import signal
import socket
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from polylect_cli.handover import RUN_PART, LogOptions, pack
from polylect_cli.part import PATIENCE, BackOff, GaveUpError, Part, Say, describe_exit
from storage.embedded import EmbeddedPostgres
from storage.postgres_binaries import EmbeddedPostgresError
from storage.tether import end_processes, inode_word

_READY_SECONDS = 60.0
_PART_PATIENCE_SECONDS = 25.0
_POSTGRES_PATIENCE_SECONDS = 30.0
_POLL_SECONDS = 0.1

Result = TypeVar("Result")

_LISTEN_REMEDIES = {
    errno.EADDRINUSE: "stop what uses it, or set {port}",
    errno.EACCES: "set {port} to one above 1023",
    errno.EADDRNOTAVAIL: "set POLYLECT_HOST to an address of this machine",
}


class CannotStartError(Exception):
    """Says what is in the way and what to do about it."""


class Plan(msgspec.Struct, frozen=True):
    """What to run. Options of core, worker and prepare lack `database_url`, which the supervisor adds."""

    mode: str
    data_dir: str
    database_url: str | None
    pg_bin: str | None
    # Where HTTP and gRPC listen: host, port.
    http: tuple[str, int]
    grpc: tuple[str, int]
    # Where this machine reaches HTTP.
    http_target: tuple[str, int]
    # The same for people, and gRPC's.
    http_url: str
    grpc_target: str
    workers: int
    log: LogOptions
    core: dict[str, Any]
    facade: dict[str, Any]
    worker: dict[str, Any]
    prepare: dict[str, Any]
    # Settings that another terminal needs too, as `NAME=value ` each.
    elsewhere: str = ""


class _StopAskedError(Exception):
    """An operator's wish came in the middle of starting."""


class Supervisor:
    """Runs a plan until it is told to stop, or has to give up."""

    def __init__(self, plan: Plan, say: Say) -> None:
        self._plan = plan
        self._say = say
        self._data_dir = Path(plan.data_dir)
        self._stop = asyncio.Event()
        self._hurry = asyncio.Event()
        self._postgres: EmbeddedPostgres | None = None
        self._database_url = plan.database_url or ""
        self._keepers: set[asyncio.Task[None]] = set()
        self._parts: list[Part] = []

    async def run(self, announce: Callable[[float], None]) -> int:
        """Start all, call `announce` with the seconds it took, keep all alive; give the exit code.

        0 after SIGINT, SIGTERM or SIGHUP, 1 when a part can't be kept alive, 2 when something is in the way.
        """
        begun = time.monotonic()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, self._ask_to_stop)
        code = 0
        lock: int | None = None
        try:
            lock = self._take_data_dir()
            await self._start_all()
            announce(time.monotonic() - begun)
            await self._unless_stopped(asyncio.Event().wait())
        except _StopAskedError:
            self._say("info", "stopping; once more to hurry")
        except GaveUpError as error:
            self._say("error", f"giving up: {error}")
            code = 1
        except (CannotStartError, EmbeddedPostgresError, TimeoutError) as error:
            self._say("error", f"can't start: {error}")
            code = 2
        finally:
            await self._stop_all()
            if lock is not None:
                os.close(lock)
        if code == 0:
            self._say("info", "stopped")
        return code

    def _ask_to_stop(self) -> None:
        if self._stop.is_set():
            self._hurry.set()
        self._stop.set()

    def _take_data_dir(self) -> int:
        """Lock the data directory, end what a killed supervisor left, see that the ports are free."""
        self._data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        lock = os.open(self._data_dir / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = os.read(lock, 20).decode().strip()
            os.close(lock)
            raise CannotStartError(
                f"{self._data_dir} is in use by another `polylect up` (process {owner}): stop that one, "
                "or set POLYLECT_DATA_DIR (and both ports) to run a second"
            ) from None
        os.ftruncate(lock, 0)
        os.write(lock, f"{os.getpid()}\n".encode())
        word = f"--instance={inode_word(self._data_dir)}"
        end_processes(lambda command: word in command.split(" "), signal.SIGTERM, _PART_PATIENCE_SECONDS)
        for (host, port), setting in (
            (self._plan.http, "POLYLECT_HTTP_PORT"),
            (self._plan.grpc, "POLYLECT_GRPC_PORT"),
        ):
            _check_free(host, port, setting)
        return lock

    async def _start_all(self) -> None:
        facade = self._part("facade", lambda: self._plan.facade)
        core = self._part("core", lambda: self._with_database(self._plan.core))
        workers = [
            self._part(name, lambda: self._with_database(self._plan.worker), kind="worker")
            for name in _numbered("worker", self._plan.workers)
        ]
        if self._plan.database_url is None:
            await self._start_postgres()
        prepare = self._part("prepare", lambda: self._with_database(self._plan.prepare))
        # The order in which they stop. The facade needs no database to start; its imports take longest.
        self._parts = [prepare, facade, core, *workers]
        self._keep(facade.keep())
        code = await self._unless_stopped(prepare.run_once())
        if code:
            raise GaveUpError(
                f"the database could not be prepared ({describe_exit(code)}); see the lines above"
            )
        for part in (core, *workers):
            self._keep(part.keep())
        await self._unless_stopped(self._await_ready())

    def _part(self, name: str, options: Callable[[], dict[str, Any]], kind: str = "") -> Part:
        word = inode_word(self._data_dir)
        return Part(name, (RUN_PART, kind or name), word, lambda: pack(self._plan.log, options()), self._say)

    def _with_database(self, options: dict[str, Any]) -> dict[str, Any]:
        return {**options, "database_url": self._database_url}

    async def _start_postgres(self) -> None:
        bin_dir = Path(self._plan.pg_bin) if self._plan.pg_bin else None
        self._postgres = EmbeddedPostgres(self._data_dir / "postgres", bin_dir=bin_dir)
        await self._unless_stopped(self._launch(self._postgres))
        self._keep(self._keep_postgres(self._postgres))

    async def _launch(self, postgres: EmbeddedPostgres) -> None:
        postgres.launch()
        while not postgres.is_ready():  # noqa: ASYNC110 (another process gets ready)
            await asyncio.sleep(0.01)
        self._database_url = postgres.url

    async def _keep_postgres(self, postgres: EmbeddedPostgres) -> None:
        back_off = BackOff(PATIENCE)
        while True:
            while (code := postgres.poll()) is None:  # noqa: ASYNC110 (likewise)
                await asyncio.sleep(_POLL_SECONDS)
            delay_seconds = back_off.died()
            if delay_seconds is None:
                raise GaveUpError(f"postgres does not stay up; its log is {postgres.log_path}")
            self._say(
                "warning",
                f"postgres ended by {describe_exit(code)}; starting it again in {delay_seconds:.1f} s",
            )
            await asyncio.sleep(delay_seconds)
            before = self._database_url
            try:
                await self._launch(postgres)
            except (EmbeddedPostgresError, TimeoutError) as error:
                self._say("error", f"postgres: {error}")
                continue
            if self._database_url != before:
                self._say("warning", "postgres had to take another port; core and workers start again")
                for part in self._parts:
                    if part.name != "facade":
                        part.restart()

    async def _await_ready(self) -> None:
        deadline = time.monotonic() + _READY_SECONDS
        answer = "nothing"
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError, TimeoutError):
                answer = await asyncio.wait_for(_ask_ready(*self._plan.http_target), 5)
                if " 200 " in answer:
                    return
            await asyncio.sleep(0.02)
        raise GaveUpError(f"not ready after {_READY_SECONDS:.0f} s; GET /readyz last answered: {answer}")

    def _keep(self, keeper: Any) -> None:
        self._keepers.add(asyncio.ensure_future(keeper))

    async def _unless_stopped(self, work: Awaitable[Result]) -> Result:
        """Await `work`. Raises _StopAskedError when told to stop, and whatever a keeper gives up with."""
        task = asyncio.ensure_future(work)
        stop = asyncio.ensure_future(self._stop.wait())
        try:
            await asyncio.wait({task, stop, *self._keepers}, return_when=asyncio.FIRST_COMPLETED)
            if stop.done():
                raise _StopAskedError
            for keeper in self._keepers:
                if keeper.done():
                    keeper.result()
            return await task
        finally:
            stop.cancel()
            if not task.done():
                task.cancel()

    async def _stop_all(self) -> None:
        """End the parts in order, each when the one before is gone, the database last."""
        for part in self._parts:
            await part.stop(_PART_PATIENCE_SECONDS, self._hurry)
        for keeper in self._keepers:
            keeper.cancel()
        await asyncio.gather(*self._keepers, return_exceptions=True)
        if self._postgres:
            self._postgres.stop(3 if self._hurry.is_set() else _POSTGRES_PATIENCE_SECONDS)


def _numbered(name: str, count: int) -> list[str]:
    return [name] if count == 1 else [f"{name}-{number}" for number in range(1, count + 1)]


def _check_free(host: str, port: int, setting: str) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        # As the parts bind: a port of a connection that just ended is free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            said, fallback = os.strerror(error.errno or 0), "set {port} or POLYLECT_HOST"
            if isinstance(error, socket.gaierror):  # numbers of its own
                said, fallback = error.strerror or "", _LISTEN_REMEDIES[errno.EADDRNOTAVAIL]
            remedy = _LISTEN_REMEDIES.get(error.errno or 0, fallback)
            raise CannotStartError(
                f"can't listen on {host} port {port} ({said}): " + remedy.format(port=setting)
            ) from error


async def _ask_ready(host: str, port: int) -> str:
    """Give the status line and the body of GET /readyz."""
    reader, writer = await asyncio.open_connection(host, port)
    try:
        writer.write(b"GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        head, _, body = (await reader.read()).decode(errors="replace").partition("\r\n\r\n")
        return f"{head.splitlines()[0]} {body}" if head else "nothing"
    finally:
        writer.close()
