"""The system under the bench: `polylect up` on a scratch directory and free ports, and what is asked of it.

Hides start and end, the command line and the database. Imports nothing of it: it is driven as a user would.
"""

import contextlib
import http.client
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import psycopg

from benchmarks.payloads import Protocol
from benchmarks.spawning import HOST, die_with_us, free_ports

_READY_SECONDS = 120.0
_STOP_SECONDS = 60.0
_ROOT = Path(__file__).resolve().parent.parent
DURABILITY = ("fsync", "synchronous_commit", "full_page_writes")


class StackError(Exception):
    """Says why the system can't be measured."""


@dataclass(frozen=True)
class Source:
    """A source made for the bench, without a rate limit."""

    name: str
    source_id: str


class Stack:
    """One installation: start, stop, start again over the same data."""

    def __init__(self, parent: Path | None) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="polylect-bench-", dir=parent))
        self.http_port, self.grpc_port = free_ports(2)
        self._command = _polylect()
        self._environment = {
            name: text
            for name, text in os.environ.items()
            if not name.startswith("POLYLECT_") and name not in ("DATABASE_URL", "PG_BIN")
        } | {
            "POLYLECT_MODE": "production",
            "POLYLECT_DATA_DIR": str(self.directory / "data"),
            "POLYLECT_HTTP_PORT": str(self.http_port),
            "POLYLECT_GRPC_PORT": str(self.grpc_port),
        }
        self._process: subprocess.Popen[bytes] | None = None
        self.database: psycopg.Connection[Any]

    @property
    def pid(self) -> int:
        """The supervisor's process id."""
        assert self._process
        return self._process.pid

    @property
    def log_path(self) -> Path:
        """Where all parts write."""
        return self.directory / "log"

    def port(self, protocol: Protocol) -> int:
        """Tell where a protocol is spoken."""
        return self.http_port if protocol == "http" else self.grpc_port

    def start(self) -> float:
        """Start all parts; give the seconds until GET /readyz answers 200. Raises StackError."""
        begun = time.monotonic()
        with self.log_path.open("ab") as log:
            self._process = subprocess.Popen(
                [*self._command, "up"],
                env=self._environment,
                cwd=_ROOT,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                # A killed bench leaves nothing behind.
                preexec_fn=die_with_us(),  # noqa: PLW1509
            )
        while not self._is_ready():
            if self._process.poll() is not None:
                raise StackError(
                    f"`polylect up` ended with code {self._process.returncode}:\n{self.log_end()}"
                )
            if time.monotonic() - begun > _READY_SECONDS:
                raise StackError(f"not ready after {_READY_SECONDS:.0f} s:\n{self.log_end()}")
            time.sleep(0.01)
        return time.monotonic() - begun

    def stop(self) -> float:
        """End all parts in order; give the seconds it took. Raises StackError when it did not end well."""
        process = self._process
        if process is None or process.poll() is not None:
            return 0.0
        begun = time.monotonic()
        if hasattr(self, "database"):
            self.database.close()
        process.send_signal(signal.SIGTERM)
        try:
            code = process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise StackError(f"did not stop within {_STOP_SECONDS:.0f} s:\n{self.log_end()}") from None
        if code:
            raise StackError(f"`polylect up` stopped with code {code}:\n{self.log_end()}")
        return time.monotonic() - begun

    def remove(self) -> None:
        """Stop, and take the scratch directory away."""
        with contextlib.suppress(StackError):
            self.stop()
        shutil.rmtree(self.directory, ignore_errors=True)

    def stop_and_keep(self) -> None:
        """Stop, and leave the scratch directory."""
        self.stop()

    def connect(self) -> None:
        """Open `database`, to be used for looking and for ceilings."""
        self.database = psycopg.connect(self.ask("database-url").strip(), autocommit=True)

    def restart(self, **environment: str) -> None:
        """Start again over the same data, with these settings changed. Raises StackError."""
        self.stop()
        self._environment |= environment
        self.start()
        self.connect()

    def durability(self) -> dict[str, str]:
        """Give the settings that make 2xx mean stored. Raises StackError when one is off."""
        shown = dict.fromkeys(DURABILITY, "")
        for name in shown:
            for (setting,) in self.database.execute(f"SHOW {name}"):
                shown[name] = str(setting)
        off = [name for name, setting in shown.items() if setting != "on"]
        if off:
            raise StackError(f"{', '.join(off)} not on: the figures would mean nothing")
        return shown

    def make_source(self, name: str) -> Source:
        """Make a source without rate limit."""
        source = json.loads(self.ask("source", "create", name, "--json"))
        self.ask("source", "set", name, "--rate-limit", "off")
        return Source(name, source["source_id"])

    def make_key(self, source: Source, kind: str, *arguments: str) -> str:
        """Make a key of a source; give the secret."""
        key = json.loads(self.ask("key", "create", source.name, "--kind", kind, *arguments, "--json"))
        return str(key["secret"])

    def ask(self, *arguments: str) -> str:
        """Run the command line; give what it prints. Raises StackError."""
        done = subprocess.run(
            [*self._command, *arguments],
            env=self._environment,
            cwd=_ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise StackError(f"`polylect {' '.join(arguments)}` failed: {done.stderr or done.stdout}")
        return done.stdout

    def stored(self, source: Source, since: datetime) -> int:
        """Count the source's rows in `events` that were received since, to spare the days before."""
        statement = "SELECT count(*) FROM events WHERE source_id = %s AND received_at >= %s"
        return self._count(statement, source.source_id, since)

    def quarantined(self, source: Source) -> int:
        """Count the source's rows in `quarantine`."""
        return self._count("SELECT count(*) FROM quarantine WHERE source_id = %s", source.source_id)

    def queued(self) -> int:
        """Count the events that wait in the queue; a worker takes them out as it makes them visible."""
        return self._count("SELECT coalesce(sum(item_count), 0) FROM queue")

    def uncounted(self) -> int:
        """Count what a worker has yet to take into statistics, in claims."""
        return self._count("SELECT count(*) FROM rollup_queue")

    def _count(self, statement: str, *values: object) -> int:
        row = self.database.execute(statement, values).fetchone()
        assert row
        return int(row[0])

    def _is_ready(self) -> bool:
        connection = http.client.HTTPConnection(HOST, self.http_port, timeout=5)
        try:
            connection.request("GET", "/readyz")
            return connection.getresponse().status == 200
        except OSError:
            return False
        except http.client.HTTPException:
            return False
        finally:
            connection.close()

    def log_end(self) -> str:
        """Give the last of what all parts wrote."""
        return self.log_path.read_text(errors="replace")[-3000:]


def _polylect() -> list[str]:
    beside = Path(sys.executable).with_name("polylect")
    found = str(beside) if beside.exists() else shutil.which("polylect")
    if not found:
        raise StackError("the command `polylect` is not installed in this environment: make install")
    return [found]
