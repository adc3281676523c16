"""Which Chromium the tests drive, and how it finds the pages and the facade behind an edge."""

import shutil

from playwright.sync_api import Page

from .edge import Edge

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


class PageLog:
    """What a page complains about: errors of scripts, and what the console says."""

    def __init__(self, page: Page) -> None:
        self.errors: list[str] = []
        self.console: list[str] = []
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("console", lambda message: self.console.append(message.text))
