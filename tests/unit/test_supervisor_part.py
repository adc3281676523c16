"""One supervised part, as a real process."""

import asyncio
import signal
import sys
from pathlib import Path

import pytest

from polylect_cli.part import BackOff, GaveUpError, Part, Patience, describe_exit

HASTE = Patience(first_delay_seconds=0.01, last_delay_seconds=0.02, deaths_to_give_up=3, window_seconds=60)

# Writes its pid where it is told, then does as it is told.
MODULE = """
import json, os, signal, subprocess, sys, time
told = json.load(sys.stdin)
if told.get("deaf"):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
with open(told["file"], "a") as file:
    if told.get("child"):
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
        file.write(f"{child.pid}\\n")
    file.write(f"{os.getpid()}\\n")
if told.get("stay"):
    time.sleep(60)
sys.exit(3)
"""


class Trial:
    """A part that runs MODULE, and what was said of it."""

    def __init__(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, told: str) -> None:
        (tmp_path / "trial_part.py").write_text(MODULE)
        monkeypatch.setenv("PYTHONPATH", str(tmp_path))
        self.said: list[str] = []
        self._file = tmp_path / "pids"
        packed = f'{{"file": "{self._file}", {told}}}'.encode()
        self.part = Part("trial", ("trial_part", "x"), "trial-word", lambda: packed, self._say, HASTE)

    def _say(self, level: str, sentence: str) -> None:
        self.said.append(f"{level}: {sentence}")

    async def pids(self, count: int) -> list[int]:
        async with asyncio.timeout(20):
            while len(found := self._written()) < count:  # noqa: ASYNC110 (another process writes)
                await asyncio.sleep(0.01)
        return found

    def _written(self) -> list[int]:
        return [int(line) for line in self._file.read_text().splitlines()] if self._file.exists() else []


def command_of(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/cmdline").read_text().split("\0")[:-1]


def runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


async def test_is_started_again_and_given_up_at_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trial = Trial(tmp_path, monkeypatch, '"stay": false')
    with pytest.raises(GaveUpError, match=r"trial ended 3 times within 60 s, the last time by exit code 3"):
        await trial.part.keep()
    assert len(await trial.pids(3)) == 3
    assert trial.said == [
        "warning: trial ended by exit code 3; starting it again in 0.0 s",
        "warning: trial ended by exit code 3; starting it again in 0.0 s",
    ]


async def test_stops_when_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trial = Trial(tmp_path, monkeypatch, '"stay": true')
    keeper = asyncio.ensure_future(trial.part.keep())
    (pid,) = await trial.pids(1)
    assert command_of(pid) == [sys.executable, "-P", "-m", "trial_part", "x", "--instance=trial-word"]
    await trial.part.stop(20, asyncio.Event())
    await keeper
    assert not runs(pid)
    assert trial.said == []


async def test_is_ended_by_force_when_it_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trial = Trial(tmp_path, monkeypatch, '"stay": true, "deaf": true')
    keeper = asyncio.ensure_future(trial.part.keep())
    (pid,) = await trial.pids(1)
    await trial.part.stop(0.1, asyncio.Event())
    await keeper
    assert not runs(pid)
    assert trial.said == ["warning: trial does not stop by itself; ending it by force"]


async def test_hurry_cuts_the_patience(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trial = Trial(tmp_path, monkeypatch, '"stay": true, "deaf": true')
    keeper = asyncio.ensure_future(trial.part.keep())
    await trial.pids(1)
    hurry = asyncio.Event()
    hurry.set()
    async with asyncio.timeout(20):
        await trial.part.stop(600, hurry)
        await keeper


async def test_leaves_no_child_of_a_dead_leader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trial = Trial(tmp_path, monkeypatch, '"child": true')
    assert await trial.part.run_once() == 3
    child, leader = await trial.pids(2)
    assert not runs(child)
    assert not runs(leader)


async def test_a_stop_before_the_start_is_not_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trial = Trial(tmp_path, monkeypatch, '"stay": true')
    await trial.part.stop(20, asyncio.Event())
    async with asyncio.timeout(20):
        await trial.part.keep()


class Clock:
    now = 1_000.0

    def __call__(self) -> float:
        return self.now


def test_back_off_doubles_and_gives_up() -> None:
    clock = Clock()
    back_off = BackOff(Patience(), clock)
    delays = []
    while (delay := back_off.died()) is not None:
        delays.append(delay)
        clock.now += delay
    assert delays == pytest.approx([0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0])


def test_back_off_forgets() -> None:
    clock = Clock()
    back_off = BackOff(Patience(), clock)
    for _ in range(50):
        assert back_off.died() == 0.2
        clock.now += 61


def test_exits_in_words() -> None:
    assert describe_exit(-signal.SIGKILL) == "signal SIGKILL"
    assert describe_exit(2) == "exit code 2"
