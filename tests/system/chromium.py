"""Which Chromium the tests drive, and how it finds the pages and the facade behind an edge."""

import shutil
from typing import Any

from playwright.sync_api import BrowserContext, Page

from .edge import Edge
from .waiting import eventually

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)

_FLAGS = (
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


def flags(edge: Edge) -> list[str]:
    """Chromium's arguments for asking the edge for every *.example.com."""
    return [
        *_FLAGS,
        f"--host-resolver-rules=MAP *.example.com 127.0.0.1:{edge.port}",
        # Not ignore_https_errors: that asks the page about each new connection, which a page that goes
        # can't answer.
        f"--ignore-certificate-errors-spki-list={edge.key_hash}",
    ]


def await_cookie(visitor: BrowserContext, name: str) -> dict[str, Any]:
    """Wait for a visitor's cookie; give it."""

    def look() -> dict[str, Any] | None:
        return next((dict(each) for each in visitor.cookies() if each["name"] == name), None)

    return eventually(look, f"the cookie {name} is set")


class PageLog:
    """What a page complains about, errors of scripts and what the console says, and what it asks for."""

    def __init__(self, page: Page) -> None:
        self.errors: list[str] = []
        self.console: list[str] = []
        self.asked: list[str] = []
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("console", lambda message: self.console.append(message.text))
        page.on("request", lambda request: self.asked.append(request.url))
