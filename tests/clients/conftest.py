"""The running system, and published clients to send to it."""

import os
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from playwright.sync_api import Browser, sync_playwright
from system.chromium import CHROMIUM, flags
from system.conftest import running_stack
from system.edge import Edge
from system.stack import Stack

from . import published
from .shop import Shop
from .snippets import SNIPPETS

# What docs/clients.md says to add; the other waits less than the client's 5 s for a batch to be full.
_DELIVERY = "deliveryStrategy: { config: {"
_BATCHING = 'deliveryStrategy: { strategy: "batching", config: {'
_OFTEN = f"{_BATCHING} timeout: 1000,"


@pytest.fixture(scope="package")
def stack() -> Iterator[Stack]:
    """A system as `make run` gives it."""
    with running_stack() as running:
        yield running


@pytest.fixture(scope="package")
def npm_packages() -> Path:
    try:
        return published.npm_packages()
    except published.OutOfReach as reason:
        pytest.skip(str(reason))


@pytest.fixture(scope="package")
def python_packages() -> Path:
    try:
        return published.python_packages()
    except published.OutOfReach as reason:
        pytest.skip(str(reason))


@pytest.fixture(scope="package")
def bundles(npm_packages: Path, tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, str]:
    """The JavaScript snippets, each with what it imports; what it exports is in the global `snippet`."""
    sources = {name: text for name, text in SNIPPETS.items() if name.endswith((".js", ".jsx"))}
    for name in ("segment.js", "segment-bearer.js"):
        assert _DELIVERY in sources[name]
        sources[name.replace(".js", "-batching.js")] = sources[name].replace(_DELIVERY, _BATCHING)
        sources[name.replace(".js", "-batching-often.js")] = sources[name].replace(_DELIVERY, _OFTEN)
    directory = tmp_path_factory.mktemp("bundles")
    for name, text in sources.items():
        (directory / name).write_text(text)
    subprocess.run(
        [
            npm_packages / ".bin" / "esbuild",
            *sources,
            "--bundle",
            "--format=iife",
            "--global-name=snippet",
            "--jsx=automatic",
            '--define:process.env.NODE_ENV="production"',
            "--outdir=bundled",
            "--log-level=warning",
        ],
        cwd=directory,
        env={**os.environ, "NODE_PATH": str(npm_packages)},
        check=True,
    )
    return {name: (directory / "bundled" / name).with_suffix(".js").read_text() for name in sources}


@pytest.fixture(scope="package")
def edge(stack: Stack) -> Iterator[Edge]:
    edge = Edge(stack.http_port)
    yield edge
    edge.close()


@pytest.fixture(scope="package")
def chromium(edge: Edge) -> Iterator[Browser]:
    if CHROMIUM is None:
        pytest.skip("needs Chromium: apt-get install chromium")
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=CHROMIUM, args=flags(edge))
        yield running
        running.close()


@pytest.fixture
def shop(chromium: Browser, edge: Edge, bundles: Mapping[str, str]) -> Iterator[Shop]:
    """A visitor nobody has seen before, and an edge without a past."""
    edge.forget()
    visitor = chromium.new_context(locale="en-US", timezone_id="America/New_York")
    yield Shop(visitor, edge, bundles)
    visitor.close()
