"""Pages that go, come back from the browser's cache, are hidden, or are made before anybody sees them."""

import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

import pytest
from playwright.sync_api import BrowserContext

from ..chromium import CHROMIUM, await_cookie, flags
from ..edge import SHOP, Edge, Trouble
from ..stack import Stack
from ..waiting import eventually
from .site import (
    ALL_TAGS,
    DATAFLY_HTML,
    HTML,
    ON_LOAD,
    PATHS,
    PULSE_INIT,
    await_empty_shelf,
    await_events,
    await_name,
    name_of,
    names,
    open_page,
    sent,
    shelf,
    track,
)

_OTHER = "<!DOCTYPE html><title>Elsewhere</title>"
# Each with what browsers send in place of fetch's "cors" when a beacon is meant.
_MODES = {"datafly": "cors", "apex": "no-cors", "pulsora": "no-cors", "pulse": "cors"}


@pytest.mark.parametrize("script", HTML)
def test_what_waits_is_sent_when_the_page_goes(
    visitor: BrowserContext, edge: Edge, stack: Stack, script: str
) -> None:
    held = threading.Event()
    edge.pages["shop.example.com/elsewhere"] = _OTHER
    page = open_page(visitor, edge, HTML[script])
    await_events(edge, ON_LOAD[script])
    await_empty_shelf(page)
    edge.troubles.append(Trouble(held_until=held))
    page.evaluate(track(script, "held", "waits"))
    await_name(edge, "held")
    page.goto(f"{SHOP}/elsewhere")
    await_name(edge, "waits")
    held.set()
    assert edge.seen[-1].headers["sec-fetch-mode"] == _MODES[script]
    kept = shelf(page)
    if script == "datafly":
        # The service knows a message again: the next page repeats what nobody knows the end of.
        page.goto(f"{SHOP}/")
        await_empty_shelf(page)
        assert sorted(names(edge)[1:]) == ["held", "held", "page", "waits", "waits"]
        repeated = {event["messageId"] for event in sent(edge) if name_of(event) in {"held", "waits"}}
        assert len(repeated) == 2
        visitor_id = await_cookie(visitor, "_dfid")["value"]
        stack.await_rows("select 1 from events where anonymous_id = %s having count(*) = 4", visitor_id)
        stack.wait_until_drained()
        assert stack.sql("select count(*) from events where anonymous_id = %s", visitor_id) == [(4,)]
    else:
        assert kept == {}
        # What was under way is not sent again, though Chromium tells the page it failed.
        page.goto(f"{SHOP}/")
        page.evaluate(track(script, "next"))
        await_name(edge, "next")
        await_empty_shelf(page)
        on_load = names(edge)[: ON_LOAD[script]]
        assert names(edge) == [*on_load, "held", "waits", *on_load, "next"]


@pytest.mark.parametrize("script", HTML)
def test_what_failed_waits_for_the_next_page(
    visitor: BrowserContext, edge: Edge, stack: Stack, script: str
) -> None:
    name = f"failed_{uuid4().hex}"
    edge.pages["shop.example.com/elsewhere"] = _OTHER
    page = open_page(visitor, edge, HTML[script])
    await_events(edge, ON_LOAD[script])
    await_empty_shelf(page)
    # The service is away, and still is when the page goes.
    edge.troubles += [Trouble(503)] * 3
    page.evaluate(track(script, name))
    eventually(lambda: '"tries":1' in str(shelf(page)), "the page knows that it failed")
    page.goto(f"{SHOP}/elsewhere")
    assert name in str(shelf(page))
    edge.troubles.clear()
    page.goto(f"{SHOP}/")
    await_empty_shelf(page)
    stack.await_rows("select 1 from events where name = %s", name)
    stack.wait_until_drained()
    assert stack.sql("select count(*) from events where name = %s", name) == [(1,)]


@pytest.mark.parametrize("script", ["datafly", "apex", "pulse"])
def test_more_than_browsers_let_outlive_a_page_is_sent_by_the_next(
    visitor: BrowserContext, edge: Edge, script: str
) -> None:
    held = threading.Event()
    page = open_page(visitor, edge, HTML[script])
    await_events(edge, ON_LOAD[script])
    await_empty_shelf(page)
    edge.troubles.append(Trouble(held_until=held))
    big = track(script, "big").replace('"big")', '"big" + i, {text: "ä".repeat(3000)})')
    page.evaluate(f"{track(script, 'first')}; for (let i = 0; i < 25; i++) {big}")
    await_name(edge, "first")
    before = len(edge.seen)
    page.goto("about:blank")
    held.set()
    eventually(lambda: len(edge.seen) > before, "some were sent when the page went")
    page.goto(f"{SHOP}/")
    for number in range(25):
        await_name(edge, f"big{number}")
    await_empty_shelf(page)
    if script != "datafly":
        assert sorted(name for name in names(edge) if name.startswith("big")) == sorted(
            f"big{number}" for number in range(25)
        )


def test_scripts_of_one_page_share_what_browsers_let_outlive_it(visitor: BrowserContext, edge: Edge) -> None:
    html = f"{ALL_TAGS}<script>{PULSE_INIT}</script>"
    page = open_page(visitor, edge, html)
    await_events(edge, sum(ON_LOAD.values()))
    await_empty_shelf(page)
    told = [
        track(script, script).replace(f'"{script}")', f'"{script}" + i, {{text: "x".repeat(900)}})')
        for script in HTML
    ]
    # Gone in the same turn: some 50 KB of each are left.
    page.evaluate(f"for (let i = 0; i < 45; i++) {{ {'; '.join(told)} }} location = 'about:blank'")
    page.wait_for_url("about:blank")
    page.goto(f"{SHOP}/")
    for script in HTML:
        await_name(edge, f"{script}44", PATHS[script])
    await_empty_shelf(page)
    for script in HTML:
        seen = [name for name in names(edge, PATHS[script]) if name.startswith(script)]
        expected = {f"{script}{number}" for number in range(45)}
        assert set(seen) == expected, script
        assert script == "datafly" or len(seen) == len(expected), script


def test_a_page_not_announced_yet_is_before_the_page_goes(visitor: BrowserContext, edge: Edge) -> None:
    edge.pages["shop.example.com/elsewhere"] = _OTHER
    page = open_page(visitor, edge, DATAFLY_HTML)
    await_empty_shelf(page)
    page.evaluate("history.pushState({}, '', '/unannounced'); setTimeout(() => location = '/elsewhere')")
    page.wait_for_url(f"{SHOP}/elsewhere")
    urls = [event["properties"]["url"] for event in await_events(edge, 2)]
    assert urls == [f"{SHOP}/", f"{SHOP}/unannounced"]


def test_a_page_that_is_hidden_sends_what_waits(visitor: BrowserContext, edge: Edge) -> None:
    held = threading.Event()
    page = open_page(visitor, edge, HTML["pulse"])
    edge.troubles.append(Trouble(held_until=held))
    page.evaluate(track("pulse", "held", "waits"))
    await_name(edge, "held")
    page.evaluate(
        """Object.defineProperty(document, 'hidden', {value: true, configurable: true});
        document.dispatchEvent(new Event('visibilitychange', {bubbles: true}))"""
    )
    await_name(edge, "waits")
    held.set()
    await_empty_shelf(page)
    assert names(edge) == ["held", "waits"]


def test_a_page_back_from_the_cache_is_a_visit_and_goes_on(visitor: BrowserContext, edge: Edge) -> None:
    """And no script keeps it from being cached."""
    edge.pages["shop.example.com/elsewhere"] = _OTHER
    page = open_page(visitor, edge, f"{ALL_TAGS}<script>{PULSE_INIT}</script>")
    await_events(edge, sum(ON_LOAD.values()))
    await_empty_shelf(page)
    page.evaluate("window.stillHere = true")
    page.goto(f"{SHOP}/elsewhere")
    page.evaluate("history.back()")
    page.wait_for_function("window.stillHere")
    page.evaluate("; ".join(track(script, "back") for script in HTML))
    for script, path in PATHS.items():
        await_events(edge, 2 * ON_LOAD[script] + 1, path)
        assert names(edge, path)[-1] == "back"
    await_empty_shelf(page)


# The page that has another prerendered, and goes there when it is told to.
_PRERENDERING = """<!DOCTYPE html><script type="speculationrules">
{"prerender": [{"urls": ["/next"], "eagerness": "immediate"}]}</script>
<script>
const wait = async () => (await fetch("/go")).ok ? location.href = "/next" : setTimeout(wait, 50)
wait()
</script>"""


@contextmanager
def _lone_chromium(edge: Edge, profile: Path) -> Iterator[None]:
    """A Chromium that opens the shop by itself: under a debugger it prerenders nothing."""
    arguments = ["--headless=new", "--no-sandbox", f"--user-data-dir={profile}", *flags(edge), f"{SHOP}/"]
    with subprocess.Popen(
        [str(CHROMIUM), *arguments], stderr=subprocess.DEVNULL, start_new_session=True
    ) as running:
        try:
            yield
        finally:
            os.killpg(running.pid, signal.SIGKILL)


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: apt-get install chromium")
def test_a_page_nobody_sees_yet_says_nothing(edge: Edge, tmp_path: Path) -> None:
    """Prerendered, it says all that happened on it as soon as it is seen."""
    during = "; ".join(track(script, "during") for script in HTML)
    edge.pages["shop.example.com/"] = _PRERENDERING
    edge.pages["shop.example.com/next"] = f"""<!DOCTYPE html><title>Next</title>{ALL_TAGS}
    <script>{PULSE_INIT}; {during}
    addEventListener("load", () => setTimeout(() => fetch("/loaded?" + document.prerendering), 200))
    document.addEventListener("prerenderingchange", () => fetch("/seen"))</script>"""
    with _lone_chromium(edge, tmp_path):
        loaded = "shop.example.com/loaded?true"
        eventually(lambda: loaded in edge.visits, "it is made, its scripts have run", within_seconds=30.0)
        assert edge.seen == []
        edge.pages["shop.example.com/go"] = "now"
        for script, path in PATHS.items():
            await_events(edge, ON_LOAD[script] + 1, path)
            assert names(edge, path)[-1] == "during"
        # It is that very page.
        eventually(lambda: "shop.example.com/seen" in edge.visits, "it is told that it is seen")
