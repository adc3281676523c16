"""What is installed is what is documented; and a registry out of reach is told from a mistake."""

import json
import re
import shutil
from pathlib import Path

import pytest
from system.stack import free_port

from . import published
from .published import NPM_PINS, PYTHON_PINS, ROOT, OutOfReach
from .snippets import SNIPPETS


def test_the_documented_versions_are_those_that_run() -> None:
    text = (ROOT / "docs" / "clients.md").read_text()
    documented = dict(re.findall(r"^\| `([\w@/-]+)`[^|]*\| ([\d.]+) \|", text, re.MULTILINE))
    pinned = dict(re.findall(r"^(segment-analytics-python)==([\d.]+)", PYTHON_PINS.read_text(), re.MULTILINE))
    packages = json.loads(NPM_PINS[0].read_text())["dependencies"]
    assert documented == pinned | {name: packages[name] for name in documented if name.startswith("@")}
    assert len(documented) == 4
    ours = json.loads((ROOT / "sdk" / "package.json").read_text())["devDependencies"]
    assert packages["esbuild"] == ours["esbuild"]


def test_every_documented_snippet_is_run() -> None:
    here = Path(__file__).parent
    tests = "".join(path.read_text() for path in here.glob("test_*.py"))
    assert len(SNIPPETS) == 6
    assert [name for name in SNIPPETS if f'"{name}"' not in tests] == []
    fences = re.findall(r"^```(?:js|jsx|html|python)$", (ROOT / "docs/clients.md").read_text(), re.MULTILINE)
    assert len(fences) == len(SNIPPETS)


@pytest.mark.skipif(not shutil.which("npm"), reason="needs npm")
def test_an_npm_registry_out_of_reach(tmp_path: Path) -> None:
    nowhere = {"npm_config_registry": f"http://127.0.0.1:{free_port()}/", "npm_config_cache": str(tmp_path)}
    with pytest.raises(OutOfReach, match="the npm registry can't be reached"):
        published.npm_packages(nowhere, tmp_path)


def test_a_python_package_index_out_of_reach(tmp_path: Path) -> None:
    nowhere = {
        "PIP_CONFIG_FILE": "/dev/null",
        "PIP_FIND_LINKS": "",
        "PIP_INDEX_URL": f"http://127.0.0.1:{free_port()}/",
    }
    with pytest.raises(OutOfReach, match="the Python package index can't be reached"):
        published.python_packages(nowhere, tmp_path)


def test_a_pin_that_is_wrong_is_no_registry_out_of_reach(tmp_path: Path, python_packages: Path) -> None:
    pins = tmp_path / "clients.txt"
    pins.write_text("segment-analytics-python==2.4.0 --hash=sha256:" + "0" * 64 + "\n")
    with pytest.raises(AssertionError, match="DO NOT MATCH THE HASHES"):
        published.python_packages(cache=tmp_path, requirements=pins)
