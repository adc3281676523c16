"""One running Polylect, as an operator has it: a command, two ports, a data directory, processes."""

import contextlib
import http.client
import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

import psutil
import psycopg

from .waiting import eventually

POLYLECT = str(Path(sys.executable).parent / "polylect")
# Long enough for a machine that has something else to do too; the time itself is the benchmark's affair.
READY_SECONDS = 30.0
STOP_SECONDS = 30.0
NOBODY = 65534

_MARK = "SYSTEM_TEST_STACK"
_ROLE = re.compile(r"(?:polylect_cli\.run_(?:part )?|/polylect )(\w+)")
_GONE = (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)


def free_port() -> int:
    """Find a port nobody listens on, below those the system gives to connections that go out."""
    for port in random.sample(range(20_000, 32_000), 500):
        if is_free(port):
            return port
    raise AssertionError("no free port")


def is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


@dataclass(frozen=True)
class Answer:
    """An HTTP answer; header names in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    cookies: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        return self.body.decode()

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Stack:
    """`polylect up` over a data directory of its own, or one given.

    `user` runs it, and its commands, under another user id.
    """

    environment: dict[str, str] = field(default_factory=dict)
    user: int | None = None
    data_dir: Path = field(default_factory=lambda: Path(tempfile.mkdtemp(prefix="polylect-")))
    http_port: int = field(default_factory=free_port)
    grpc_port: int = field(default_factory=free_port)
    # How `polylect` is called.
    program: tuple[str, ...] = (POLYLECT,)
    process: "subprocess.Popen[bytes] | None" = None
    # Inherited by every process of this one, by which they are known.
    _mark: str = field(default_factory=lambda: uuid4().hex)
    _seen: set[psutil.Process] = field(default_factory=set)
    _database_url: str = ""

    def __post_init__(self) -> None:
        if self.user is not None:
            os.chown(self.data_dir, self.user, self.user)

    @property
    def variables(self) -> dict[str, str]:
        """The environment of every command: nothing of Polylect's from outside."""
        inherited = {
            name: setting
            for name, setting in os.environ.items()
            if not name.startswith("POLYLECT_") and name != "DATABASE_URL"
        }
        return {
            **inherited,
            "POLYLECT_MODE": "demo",
            "POLYLECT_HTTP_PORT": str(self.http_port),
            "POLYLECT_GRPC_PORT": str(self.grpc_port),
            "POLYLECT_DATA_DIR": str(self.data_dir / "data"),
            _MARK: self._mark,
            **self.environment,
        }

    @property
    def output_path(self) -> Path:
        return self.data_dir / "output"

    @property
    def output(self) -> str:
        """All that `polylect up` and its parts have said so far, standard output and error."""
        return self.output_path.read_text(errors="replace") if self.output_path.exists() else ""

    def tail(self) -> str:
        """The end of what was said, for a failing test's message."""
        return "\n".join(["--- last output ---", *self.output.splitlines()[-40:]])

    def launch(self) -> "Stack":
        """Start the command, without waiting."""
        self.process = self.launch_command("up")
        return self

    def launch_command(self, *arguments: str) -> "subprocess.Popen[bytes]":
        """Start another command of the same surroundings, without waiting."""
        with self.output_path.open("ab") as output:
            process = subprocess.Popen(
                [*self.program, *arguments],
                env=self.variables,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                cwd="/",
                **self._identity(),
            )
        return process

    def start(self) -> "Stack":
        """Start the command; return when GET /readyz says yes."""
        self.launch()
        self.wait_until_ready()
        return self

    def wait_until_ready(self, within_seconds: float = READY_SECONDS) -> None:
        def ready() -> bool:
            ended = self.process.poll() if self.process else None
            assert ended is None, f"polylect up ended with {ended}\n{self.tail()}"
            return self.get("/readyz").status == 200

        eventually(
            ready,
            "GET /readyz answers 200",
            within_seconds=within_seconds,
            despite=(OSError, http.client.HTTPException),
            context=self.tail,
        )
        self.descendants()

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Signal the command, give its exit code."""
        assert self.process is not None
        self.descendants()
        if self.process.poll() is None:
            self.process.send_signal(number)
        try:
            return self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"polylect up does not stop\n{self.tail()}") from None

    def destroy(self) -> None:
        """End whatever runs and remove the data directory, whatever state a failed test left."""
        if self.process and self.process.poll() is None:
            with contextlib.suppress(AssertionError):
                self.stop()
            self.process.kill()
            self.process.wait()
        for left in self.left_behind():
            with contextlib.suppress(psutil.Error):
                left.kill()
        eventually(lambda: not self.left_behind(), "everything ended", despite=(psutil.Error,))
        shutil.rmtree(self.data_dir, ignore_errors=True)

    def descendants(self) -> list[psutil.Process]:
        """All processes under the command; remembered, for `left_behind`."""
        if self.process is None:
            return []
        try:
            found = psutil.Process(self.process.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            return []
        self._seen.update(found)
        return found

    def left_behind(self) -> list[psutil.Process]:
        """Processes that ever belonged to this one and still run, by descent and by inherited environment."""
        owned = set(self._seen)
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.environ().get(_MARK) == self._mark:
                    owned.add(process)
        return [process for process in owned if _runs(process)]

    def parts(self, role: str) -> list[psutil.Process]:
        """The running processes of one role, parents first.

        Roles: core, worker, facade-master, facade-worker, postmaster, backend.
        """
        found = []
        for process in self.descendants():
            with contextlib.suppress(psutil.Error):
                if _runs(process) and _role(process) == role:
                    found.append(process)
        return sorted(found, key=lambda process: process.create_time())

    def part(self, role: str) -> psutil.Process:
        """The only, or eldest, process of a role. Waits for it: it may be just being started again."""
        return eventually(lambda: self.parts(role), f"a process {role} runs", context=self.tail)[0]

    def request(
        self,
        method: str,
        path: str,
        body: bytes | str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """Send one request on a connection of its own."""
        connection = http.client.HTTPConnection("127.0.0.1", self.http_port, timeout=15)
        try:
            payload = body.encode() if isinstance(body, str) else body
            connection.request(method, path, payload, dict(headers or {}))
            answer = connection.getresponse()
            received = answer.headers
            return Answer(
                answer.status,
                {name.lower(): value for name, value in received.items()},
                answer.read(),
                tuple(received.get_all("Set-Cookie", [])),
            )
        finally:
            connection.close()

    def get(self, path: str, headers: Mapping[str, str] | None = None) -> Answer:
        return self.request("GET", path, None, headers)

    def post(self, path: str, body: Any, headers: Mapping[str, str] | None = None) -> Answer:
        """Post an object as JSON, or text as it is."""
        text = body if isinstance(body, str | bytes) else json.dumps(body)
        return self.request("POST", path, text, {"Content-Type": "application/json", **(headers or {})})

    def command(
        self, *arguments: str, environment: Mapping[str, str] | None = None, given: str | None = None
    ) -> "subprocess.CompletedProcess[str]":
        """Run `polylect` with these arguments to its end."""
        return subprocess.run(
            [*self.program, *arguments],
            env={**self.variables, **(environment or {})},
            input=given,
            stdin=subprocess.DEVNULL if given is None else None,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            cwd="/",
            **self._identity(),
        )

    def polylect(self, *arguments: str) -> str:
        """Run `polylect`, which must succeed; give what it printed."""
        done = self.command(*arguments)
        assert done.returncode == 0, f"polylect {' '.join(arguments)}: {done.stdout}{done.stderr}"
        return done.stdout

    def polylect_json(self, *arguments: str) -> Any:
        """Run `polylect … --json`; give what it printed."""
        return json.loads(self.polylect(*arguments, "--json"))

    @property
    def database_url(self) -> str:
        """What `polylect database-url` prints; asked again after `forget_database_url`."""
        if not self._database_url:
            self._database_url = self.polylect("database-url").strip()
        return self._database_url

    def forget_database_url(self) -> None:
        self._database_url = ""

    def sql(self, query: str, *parameters: object) -> list[tuple[Any, ...]]:
        """Ask the database."""
        with psycopg.connect(self.database_url, connect_timeout=5) as connection:
            return connection.execute(query, parameters or None).fetchall()  # type: ignore[arg-type]

    def sql_script(self, statement: str) -> None:
        """Run a statement that gives nothing, outside of a transaction."""
        with psycopg.connect(self.database_url, autocommit=True) as connection:
            connection.execute(statement)  # type: ignore[arg-type]

    def wait_until_drained(self, within_seconds: float = 40.0) -> None:
        """Wait until all that was accepted has reached its table."""

        def drained() -> bool:
            try:
                return self.sql("select count(*) from queue")[0][0] == 0
            except psycopg.OperationalError:
                self.forget_database_url()
                raise

        eventually(
            drained,
            "the queue is empty",
            within_seconds=within_seconds,
            despite=(psycopg.OperationalError,),
            context=self.tail,
        )

    def await_rows(
        self, query: str, *parameters: object, within_seconds: float = 5.0
    ) -> list[tuple[Any, ...]]:
        """Wait until a query gives rows, 5 s by default: so soon an accepted event must be there."""
        return eventually(
            lambda: self.sql(query, *parameters), f"{query} {parameters}", within_seconds=within_seconds
        )

    def ports_are_free(self) -> bool:
        return all(is_free(port) for port in (self.http_port, self.grpc_port))

    def _identity(self) -> dict[str, Any]:
        if self.user is None:
            return {}
        return {"user": self.user, "group": self.user, "extra_groups": []}


def pause(processes: Iterable[psutil.Process]) -> list[psutil.Process]:
    """Stop processes without ending them; give those that were there to be stopped."""
    paused = []
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.suspend()
            paused.append(process)
    return paused


def await_restart(stack: Stack, role: str, dead: psutil.Process) -> psutil.Process:
    """Wait until another process has a dead one's role."""

    def another() -> psutil.Process | None:
        return next((process for process in stack.parts(role) if process.pid != dead.pid), None)

    return eventually(another, f"{role} was started again", within_seconds=15, context=stack.tail)


def _runs(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() not in _GONE
    except psutil.NoSuchProcess:
        return False


def _role(process: psutil.Process) -> str:
    words = process.cmdline()
    command = " ".join(words)
    parent = process.parent()
    above = " ".join(parent.cmdline()) if parent else ""
    if words and re.search(r"(^|/)postgres(:|$)", words[0].split(" ")[0]):
        if "postgres" not in above.split(" ")[0]:
            return "postmaster"
        # A backend's title names user, database and the client's address; housekeepers' titles don't.
        return "backend" if re.search(r"\d+\.\d+\.\d+\.\d+\(\d+\)", command) else "housekeeper"
    role = _part_name(command)
    if role != "facade":
        return role
    return "facade-worker" if _part_name(above) == "facade" else "facade-master"


def _part_name(command: str) -> str:
    found = _ROLE.search(command)
    return found.group(1) if found else ""
