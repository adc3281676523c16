"""A shop with the scripts on its pages, and what comes of them."""

import json
from collections.abc import Mapping
from typing import Any

from playwright.sync_api import BrowserContext, Page

from ..chromium import PageLog
from ..edge import SHOP, Edge, Seen
from ..waiting import eventually

API = "https://data.example.com"

# As seed 003 prints it, but for the dots that stand for the rest of the key.
DATAFLY_TAG = """<script
src="https://data.example.com/datafly.js"
data-pipeline-key="dk_live_abc123"
></script>"""
APEX_TAG = f'<script src="{API}/apex.js" data-project-key="pk_live_xyz"></script>'
PULSORA_TAG = f'<script src="{API}/pulsora.js" data-token="pub_123"></script>'
PULSE_TAG = f'<script src="{API}/tracker.js"></script>'
PULSE_INIT = f"PULSE.init({{siteId: 'site_abc123', apiKey: 'YOUR_API_KEY', endpoint: '{API}'}})"

DATAFLY_HTML = f"<!DOCTYPE html><title>Wireless Headphones | Shop</title>{DATAFLY_TAG}"
APEX_HTML = f"<!DOCTYPE html><title>Pricing</title><body>{APEX_TAG}"
PULSORA_HTML = f"<!DOCTYPE html><title>Pricing</title>{PULSORA_TAG}"
PULSE_HTML = f"<!DOCTYPE html><title>Products</title>{PULSE_TAG}<script>{PULSE_INIT}</script>"
ALL_TAGS = DATAFLY_TAG + APEX_TAG + PULSORA_TAG + PULSE_TAG

# Where the scripts' events go.
PATHS = {"datafly": "/v1/", "apex": "/api/events", "pulsora": "/api/ingest", "pulse": "/collect"}
# How each is told of something, by name.
TRACK = {
    "datafly": "datafly.track(NAME)",
    "apex": "apex.track(NAME)",
    "pulsora": "pulsora.event(NAME)",
    "pulse": "PULSE.trackEvent(NAME)",
}
HTML = {"datafly": DATAFLY_HTML, "apex": APEX_HTML, "pulsora": PULSORA_HTML, "pulse": PULSE_HTML}
# How many events each sends by itself when its page is loaded.
ON_LOAD = {"datafly": 1, "apex": 1, "pulsora": 1, "pulse": 0}


def track(script: str, *names: str) -> str:
    """JavaScript that tells of these, in one turn."""
    return "; ".join(TRACK[script].replace("NAME", json.dumps(name)) for name in names)


def open_page(visitor: BrowserContext, edge: Edge, html: str, path: str = "/") -> Page:
    """Open a page of the shop with this on it. Its scripts have run, and nothing was thrown."""
    return open_watched(visitor, edge, html, path)[0]


def open_watched(
    visitor: BrowserContext,
    edge: Edge,
    html: str | tuple[str, Mapping[str, str]],
    path: str = "/",
    *,
    init: str = "",
) -> tuple[Page, PageLog]:
    """Open a page as open_page does; give what it complains about, too.

    `html` may have headers; `init` runs before all scripts.
    """
    edge.pages["shop.example.com" + path] = html
    page = visitor.new_page()
    log = PageLog(page)
    if init:
        page.add_init_script(init)
    page.goto(SHOP + path)
    assert log.errors == []
    return page, log


def posts(edge: Edge, number: int) -> list[Any]:
    """Wait for so many POSTs; give their bodies."""
    return [json.loads(one.body) for one in edge.await_posts(number)]


def events_in(one: Seen) -> list[dict[str, Any]]:
    """The events of one POST: of a batch, or the one it is."""
    body = json.loads(one.body)
    batch = body.get("batch") or body.get("events") or [body]
    return [event.get("data", {}) | {"type": event["type"]} if "token" in event else event for event in batch]


def name_of(event: dict[str, Any]) -> str:
    """What an event of any dialect is called: its name, or what kind of event it is."""
    for member in ("event_type", "event", "event_name", "name", "type"):
        if event.get(member):
            return str(event[member])
    return ""


def sent(edge: Edge, path: str = "") -> list[dict[str, Any]]:
    """All events that came so far, those sent again too, in order."""
    return [event for one in list(edge.seen) if one.path.startswith(path) for event in events_in(one)]


def names(edge: Edge, path: str = "") -> list[str]:
    return [name_of(event) for event in sent(edge, path)]


def await_events(edge: Edge, number: int, path: str = "") -> list[dict[str, Any]]:
    """Wait for so many events, in however many POSTs."""
    eventually(
        lambda: len(sent(edge, path)) >= number,
        f"{number} events",
        context=lambda: repr(names(edge)),
    )
    assert len(sent(edge, path)) == number, names(edge, path)
    return sent(edge, path)


def await_name(edge: Edge, name: str, path: str = "") -> dict[str, Any]:
    """Wait for an event of this name."""
    return eventually(
        lambda: next((event for event in sent(edge, path) if name_of(event) == name), None),
        f"an event {name}",
        context=lambda: repr(names(edge)),
    )


def shelf(page: Page) -> dict[str, str]:
    """What the scripts keep in the browser for later."""
    kept: dict[str, str] = page.evaluate(
        "Object.fromEntries(Object.entries(localStorage).filter(([name]) => name.startsWith('polylect.')))"
    )
    return kept


def await_empty_shelf(page: Page) -> None:
    """Wait until everything was delivered, as the page knows."""
    eventually(
        lambda: all(name.endswith(".until") for name in shelf(page)),
        "everything is delivered",
        context=lambda: repr(shelf(page)),
    )
