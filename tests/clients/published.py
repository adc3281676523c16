"""Published clients, pinned, in a cache below build/.

Hides how npm and pip are asked, and how a registry out of reach is told from an install that is wrong.
"""

import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).parents[2]
_CACHE = ROOT / "build" / "clients"
NPM_PINS = (Path(__file__).with_name("package.json"), Path(__file__).with_name("package-lock.json"))
PYTHON_PINS = ROOT / "requirements" / "clients.txt"
# Below the limit of a test, whose fixture this is.
_INSTALL_SECONDS = 90.0
_UNREACHABLE = re.compile(
    # npm's words, then pip's.
    r"\b(?:ENOTFOUND|EAI_AGAIN|ECONNREFUSED|ECONNRESET|ETIMEDOUT|ENETUNREACH|EHOSTUNREACH|ERR_SOCKET_TIMEOUT)\b"
    r"|connection broken|Connection refused|Failed to establish a new connection|Read timed out|Max retries"
)


class OutOfReach(Exception):
    """A registry, or what asks it, is not to be had here."""


def npm_packages(environment: Mapping[str, str] | None = None, cache: Path = _CACHE) -> Path:
    """Give the node_modules with all npm packages of package.json.

    Raises OutOfReach without Node or without its registry.
    """
    if not (shutil.which("npm") and shutil.which("node")):
        raise OutOfReach("needs Node 20 or newer, with npm")

    def install(directory: Path) -> None:
        for pin in NPM_PINS:
            shutil.copy(pin, directory)
        quiet = ["--ignore-scripts", "--no-audit", "--no-fund"]
        patience = ["--fetch-retries=1", "--fetch-retry-mintimeout=1000", "--fetch-timeout=30000"]
        _run(["npm", "ci", *quiet, *patience], directory, environment, "the npm registry")

    return _cached("npm", NPM_PINS, install, cache) / "node_modules"


def python_packages(
    environment: Mapping[str, str] | None = None, cache: Path = _CACHE, requirements: Path = PYTHON_PINS
) -> Path:
    """Give the directory, for PYTHONPATH, with the packages of requirements/clients.txt.

    Raises OutOfReach without the registry.
    """

    def install(directory: Path) -> None:
        quiet = ["--quiet", "--disable-pip-version-check", "--no-input", "--no-compile", "--retries=1"]
        pinned = ["--require-hashes", "--only-binary=:all:", "-r", str(requirements)]
        command = [sys.executable, "-m", "pip", "install", *quiet, *pinned, "--target", str(directory)]
        _run(command, directory, environment, "the Python package index")

    return _cached(f"python-{sys.implementation.cache_tag}", (requirements,), install, cache)


def _cached(name: str, pins: Sequence[Path], install: Callable[[Path], None], cache: Path) -> Path:
    """Give what was installed for these pins; install it if that was not done yet, all of it or nothing."""
    digest = hashlib.sha256(b"\0".join(pin.read_bytes() for pin in pins)).hexdigest()[:16]
    installed = cache / f"{name}-{platform.machine()}-{digest}"
    if installed.exists():
        return installed
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache, prefix=f"{name}-", ignore_cleanup_errors=True) as scratch:
        made = Path(scratch) / "made"
        made.mkdir()
        install(made)
        try:
            made.rename(installed)
        except OSError:
            # Another run was quicker, and has the same.
            assert installed.exists()
    return installed


def _run(command: Sequence[str], cwd: Path, environment: Mapping[str, str] | None, registry: str) -> None:
    try:
        done = subprocess.run(
            command,
            cwd=cwd,
            env={**os.environ, **(environment or {})},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=_INSTALL_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise OutOfReach(f"{registry} gave nothing for {_INSTALL_SECONDS:.0f} s") from None
    if done.returncode and _UNREACHABLE.search(done.stdout):
        raise OutOfReach(f"{registry} can't be reached")
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}"
