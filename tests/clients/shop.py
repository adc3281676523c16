"""A shop in the browser of somebody who was never there, with a published client on its pages."""

from collections.abc import Mapping
from dataclasses import dataclass

from playwright.sync_api import BrowserContext, Page
from system.chromium import PageLog
from system.edge import SHOP, Edge

_PATH = "/products/headphones?color=black"


@dataclass
class Shop:
    """One visitor. `bundles` maps a snippet's name to a script."""

    visitor: BrowserContext
    edge: Edge
    bundles: Mapping[str, str]

    def open(self, snippet: str, path: str = _PATH, *, keys: Mapping[str, str] | None = None) -> Page:
        """Open a page with a bundled snippet on it; `keys` gives others for the snippet's own."""
        script = self.bundles[snippet]
        for documented, key in (keys or {}).items():
            assert documented in script
            script = script.replace(documented, key)
        self.edge.pages["shop.example.com/bundle.js"] = (script, {"Content-Type": "text/javascript"})
        return self.open_html('<div id="root"></div><script src="/bundle.js"></script>', path)

    def open_html(self, html: str, path: str = _PATH) -> Page:
        """Open a page with this on it. Its scripts have run, and nothing was thrown."""
        self.edge.pages["shop.example.com" + path] = (
            f'<!DOCTYPE html><meta charset="utf-8"><title>Headphones</title>{html}'
        )
        page = self.visitor.new_page()
        log = PageLog(page)
        page.goto(SHOP + path)
        assert log.errors == []
        return page
