"""One Chromium for all, behind one front; a browser nobody has used before for each test."""

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
def front(stack: Stack) -> Iterator[Edge]:
    front = Edge(stack.http_port)
    yield front
    front.close()


@pytest.fixture
def edge(front: Edge) -> Edge:
    """The front, without a past."""
    front.forget()
    return front


@pytest.fixture(scope="package")
def chromium(playwright: Playwright, front: Edge) -> Iterator[Browser]:
    running = playwright.chromium.launch(
        executable_path=CHROMIUM,
        args=flags(front),
        # What the scripts do about it is a subject here.
        ignore_default_args=["--disable-back-forward-cache"],
    )
    yield running
    running.close()


@pytest.fixture
def browser(chromium: Browser, edge: Edge) -> Iterator[BrowserContext]:
    """A browser nobody has used before, and a front without a past."""
    context = chromium.new_context(locale="en-US", timezone_id="America/New_York")
    yield context
    context.close()
