"""The README's lines on sending an event, as somebody pastes them."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from .conftest import MakeStack
from .stack import POLYLECT, Stack
from .waiting import eventually

_README = Path(__file__).parents[2] / "README.md"
_SECTION = re.compile(r"^## Send an event, see it arrive\n(.*?)(?=^## )", re.MULTILINE | re.DOTALL)
_BLOCK = re.compile(r"^```sh\n(.*?)^```", re.MULTILINE | re.DOTALL)
_PAUSE = re.compile(r"^sleep \d .*\n", re.MULTILINE)


def _blocks() -> list[str]:
    section = _SECTION.search(_README.read_text())
    assert section
    # The last ones are for who has grpcurl and psql, or the development tools.
    elsewhere = re.compile(r"^(make )?grpcurl |^psql ", re.MULTILINE)
    return [block for block in _BLOCK.findall(section[1]) if not elsewhere.search(block)]


def _pasted(stack: Stack, lines: str) -> str:
    script = lines.replace("localhost:8080", f"localhost:{stack.http_port}")
    script = script.replace(".venv/bin/polylect", POLYLECT).replace("curl ", "curl -sS ")
    done = subprocess.run(
        ["bash", "-euc", script], env=stack.variables, capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.strip()


@pytest.mark.skipif(not shutil.which("curl"), reason="curl is not installed")
def test_what_is_pasted_answers_what_is_printed(make_stack: MakeStack) -> None:
    stack = make_stack().start()
    blocks = _blocks()
    assert len(blocks) == 5
    for block in blocks:
        sending, *looking = _PAUSE.split(block)
        assert re.fullmatch(_printed(sending), answer := _pasted(stack, sending)), answer
        for lines in looking:
            # The pause is for people, on a machine with nothing else to do.
            eventually(lambda: re.fullmatch(_printed(lines), _pasted(stack, lines)), lines)  # noqa: B023


def _printed(lines: str) -> str:
    """Give a pattern of what the README says that the lines print, "…" being anything."""
    (printed,) = re.findall(r"^# (\{.*\})", lines, re.MULTILINE)
    return ".*".join(map(re.escape, printed.split("…")))
