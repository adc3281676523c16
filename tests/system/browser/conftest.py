"""One Chromium for all, behind one edge; a browser nobody has used before for each test."""

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, BrowserContext, Playwright, sync_playwright

from ..chromium import CHROMIUM, flags
from ..edge import Edge
from ..stack import Stack


@pytest.fixture(scope="package")
def playwright() -> Iterator[Playwright]:
    if CHROMIUM is None:
        pytest.skip("needs Chromium: apt-get install chromium")
    with sync_playwright() as running:
        yield running


@pytest.fixture(scope="package")
def shared_edge(stack: Stack) -> Iterator[Edge]:
    edge = Edge(stack.http_port)
    yield edge
    edge.close()


@pytest.fixture
def edge(shared_edge: Edge) -> Edge:
    """The edge, without a past."""
    shared_edge.forget()
    return shared_edge


@pytest.fixture(scope="package")
def chromium(playwright: Playwright, shared_edge: Edge) -> Iterator[Browser]:
    running = playwright.chromium.launch(
        executable_path=CHROMIUM,
        args=flags(shared_edge),
        # What the scripts do about it is a subject here.
        ignore_default_args=["--disable-back-forward-cache"],
    )
    yield running
    running.close()


@pytest.fixture
def visitor(chromium: Browser, edge: Edge) -> Iterator[BrowserContext]:
    """A browser nobody has used before, and an edge without a past."""
    context = chromium.new_context(locale="en-US", timezone_id="America/New_York")
    yield context
    context.close()
