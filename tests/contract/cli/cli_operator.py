"""Somebody at a shell: runs commands, and parts one by one (`polylect core`, `polylect worker`)."""

import json
import os
import pty
import random
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

POLYLECT = str(Path(sys.executable).parent / "polylect")


def _free_port() -> int:
    # Below those the system gives to connections that go out.
    while True:
        port = random.randrange(20_000, 32_000)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port


def wait_until(condition: Callable[[], bool], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)  # between two looks


class Operator:
    """Somebody at a shell, with settings of their own."""

    def __init__(self, directory: Path, **settings: str) -> None:
        self._directory = directory
        self.grpc_port = _free_port()
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("POLYLECT_")},
            "POLYLECT_DATA_DIR": str(directory / "data"),
            "POLYLECT_GRPC_PORT": str(self.grpc_port),
            **settings,
        }

    def run(self, *arguments: str, given: str | None = None) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [POLYLECT, *arguments],
            env=self.environment,
            input=given,
            capture_output=True,
            text=True,
            cwd=self._directory,
            timeout=60,
            check=False,
        )

    def asked(self, *arguments: str, answer: bytes) -> "subprocess.CompletedProcess[str]":
        """Run a command on a terminal, where `answer` is typed."""
        ours, theirs = pty.openpty()
        try:
            os.write(ours, answer)
            return subprocess.run(
                [POLYLECT, *arguments],
                env=self.environment,
                stdin=theirs,
                capture_output=True,
                text=True,
                cwd=self._directory,
                timeout=60,
                check=False,
            )
        finally:
            os.close(theirs)
            os.close(ours)

    def succeed(self, *arguments: str) -> str:
        done = self.run(*arguments)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def json(self, *arguments: str) -> Any:
        return json.loads(self.succeed(*arguments, "--json"))

    def fail(self, *arguments: str) -> tuple[int, str]:
        done = self.run(*arguments)
        assert done.returncode != 0, done.stdout
        assert "Traceback" not in done.stderr
        return done.returncode, done.stderr

    @contextmanager
    def part(self, name: str) -> Iterator["subprocess.Popen[bytes]"]:
        with (self._directory / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(
                [POLYLECT, name], env=self.environment, stderr=log, cwd=self._directory
            )
        try:
            yield process
        finally:
            process.terminate()
            assert process.wait(30) == 0, (self._directory / f"{name}.log").read_text()

    def wait_for_core(self) -> None:
        deadline = time.monotonic() + 30
        while self.run("source", "list").returncode == 3:
            assert time.monotonic() < deadline, (self._directory / "core.log").read_text()
