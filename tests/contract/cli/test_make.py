"""What `make` answers to a target that misses its arguments."""

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]


def make(*arguments: str) -> "subprocess.CompletedProcess[str]":
    # Dry: nothing is installed, nothing sent.
    command = ["make", "--dry-run", "--no-print-directory", *arguments]
    # Not as a child of `make test`.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    return subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=60
    )


@pytest.mark.parametrize(
    "arguments", [(), ("DIALECT=pulsora",), ("BODY={}",), ("KEY=pub_123",)], ids=" ".join
)
def test_send_says_what_to_give(arguments: tuple[str, ...]) -> None:
    done = make("send", *arguments)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert (
        "send what? make send DIALECT=pulsora|pulse|apex|datafly BODY='{...}' [KEY=...], or make send" in line
    )


@pytest.mark.parametrize("arguments", [("DIALECT=apex", "BODY={}"), ("CASE=some.toml",)], ids=" ".join)
def test_send_with_enough_is_sent(arguments: tuple[str, ...]) -> None:
    done = make("send", *arguments)
    assert done.returncode == 0
    assert "polylect send" in done.stdout
