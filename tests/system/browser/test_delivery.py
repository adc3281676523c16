"""What becomes of events when services are busy, connections break and browsers go offline."""

import json

import pytest
from playwright.sync_api import BrowserContext

from ..chromium import await_cookie
from ..edge import SHOP, Edge, Trouble
from ..stack import Stack
from ..waiting import eventually
from .site import (
    API,
    DATAFLY_HTML,
    HTML,
    ON_LOAD,
    PULSE_INIT,
    await_empty_shelf,
    await_events,
    await_name,
    events_in,
    names,
    open_page,
    posts,
    sent,
    shelf,
    track,
)

_BARE = "<!DOCTYPE html><title>Bare</title>"


def test_a_busy_service_is_asked_again_when_it_said(
    visitor: BrowserContext, edge: Edge, stack: Stack
) -> None:
    edge.troubles += [Trouble(503, {"Retry-After": "2"}), Trouble(429, {"Retry-After": "1"})]
    page = open_page(visitor, edge, DATAFLY_HTML)
    page.evaluate("datafly.track('after')")
    posts(edge, 3)
    await_empty_shelf(page)
    first, second, third = edge.seen
    assert edge.paths() == ["/v1/p", "/v1/batch", "/v1/batch"]
    assert events_in(first) == events_in(second)[:1]
    assert events_in(second) == events_in(third)
    assert second.at - first.at >= 2
    assert third.at - second.at >= 1
    visitor_id = await_cookie(visitor, "_dfid")["value"]
    stack.await_rows("select 1 from events where anonymous_id = %s and name = 'after'", visitor_id)


@pytest.mark.parametrize("script", ["apex", "pulse"])
def test_what_could_not_be_taken_is_sent_again(visitor: BrowserContext, edge: Edge, script: str) -> None:
    edge.troubles += [Trouble(503), Trouble()]
    page = open_page(visitor, edge, HTML[script])
    page.evaluate(track(script, "stubborn"))
    await_empty_shelf(page)
    assert names(edge)[-1] == "stubborn"
    assert len(edge.seen) >= 3


def test_what_was_stored_but_not_answered_is_stored_once(
    visitor: BrowserContext, edge: Edge, stack: Stack
) -> None:
    edge.troubles += [Trouble(forwarded=True), Trouble()]
    open_page(visitor, edge, DATAFLY_HTML)
    message_ids = {event["messageId"] for event in posts(edge, 3)}
    assert len(message_ids) == 1
    stack.wait_until_drained()
    assert stack.sql("select count(*) from events where message_id = %s", *message_ids) == [(1,)]


@pytest.mark.parametrize(("script", "status"), [("datafly", 401), ("pulsora", 403)])
def test_a_refusal_is_final(visitor: BrowserContext, edge: Edge, script: str, status: int) -> None:
    edge.troubles += [Trouble(status)] * (ON_LOAD[script] + 1)
    page = open_page(visitor, edge, HTML[script])
    await_empty_shelf(page)
    page.evaluate(track(script, "refused"))
    await_empty_shelf(page)
    page.evaluate(track(script, "taken"))
    await_empty_shelf(page)
    assert names(edge)[ON_LOAD[script] :] == ["refused", "taken"]


def test_an_error_over_one_event_does_not_stop_the_others(visitor: BrowserContext, edge: Edge) -> None:
    """What a batch failed with goes alone: then one event may be at fault, not all."""
    page = open_page(visitor, edge, DATAFLY_HTML)
    await_empty_shelf(page)
    edge.troubles += [Trouble(429, {"Retry-After": "1"}), Trouble(500)]
    page.evaluate(track("datafly", "a", "b", "c"))
    await_empty_shelf(page)
    paths = edge.paths()
    assert paths[1:] == ["/v1/t", "/v1/batch", "/v1/t", "/v1/t", "/v1/t"]


def test_a_wait_the_service_asked_for_holds_on_the_next_page_too(visitor: BrowserContext, edge: Edge) -> None:
    page = open_page(visitor, edge, DATAFLY_HTML)
    await_empty_shelf(page)
    edge.troubles.append(Trouble(429, {"Retry-After": "3"}))
    page.evaluate(track("datafly", "early"))
    eventually(lambda: len(edge.seen) == 2, "it was sent")
    eventually(lambda: any(name.endswith(".until") for name in shelf(page)), "and answered")
    page.reload()
    page.evaluate(track("datafly", "late"))
    await_name(edge, "late")
    assert edge.seen[2].at - edge.seen[1].at >= 3
    await_empty_shelf(page)
    assert sorted(names(edge)[2:]) == ["early", "late", "page"]


@pytest.mark.parametrize("script", ["datafly", "pulsora"])
def test_offline_and_back(visitor: BrowserContext, edge: Edge, script: str) -> None:
    page = open_page(visitor, edge, HTML[script])
    await_events(edge, ON_LOAD[script])
    await_empty_shelf(page)
    visitor.set_offline(True)
    page.evaluate(track(script, "a", "b"))
    page.wait_for_function("Object.keys(localStorage).some((name) => name.startsWith('polylect.'))")
    visitor.set_offline(False)
    await_empty_shelf(page)
    assert sorted(names(edge)[ON_LOAD[script] :]) == ["a", "b"]


@pytest.mark.parametrize("script", HTML)
def test_what_an_offline_page_left_is_sent_by_the_next(
    visitor: BrowserContext, edge: Edge, stack: Stack, script: str
) -> None:
    edge.pages["shop.example.com/bare"] = _BARE
    page = open_page(visitor, edge, HTML[script])
    await_events(edge, ON_LOAD[script])
    await_empty_shelf(page)
    visitor.set_offline(True)
    # What is under way when a page closes escapes the emulation.
    with page.expect_event("requestfailed"):
        page.evaluate(track(script, "kept", "too"))
    page.close()
    assert len(names(edge)) == ON_LOAD[script]
    visitor.set_offline(False)
    bare = visitor.new_page()
    bare.goto(f"{SHOP}/bare")
    (left,) = shelf(bare).values()
    bodies = [json.loads(parcel["body"]) for parcel in json.loads(left)[1]]
    bare.goto(f"{SHOP}/")
    await_empty_shelf(bare)
    arrived = [event for event in sent(edge) if any(word in event.values() for word in ("kept", "too"))]
    assert len(arrived) == 2
    if script == "datafly":
        assert arrived == bodies
        for one in bodies:
            stack.await_rows("select 1 from events where message_id = %s", one["messageId"])


def test_what_a_dead_page_left_waits_for_its_lease(visitor: BrowserContext, edge: Edge) -> None:
    """A page that crashed said nothing; its item's date tells. Another's date is respected."""
    page = open_page(visitor, edge, _BARE, "/bare")
    bodies = [json.dumps({"type": "track", "event": name}) for name in ("dead", "alive")]
    page.evaluate(
        """([dead, alive]) => {
            const item = (name, age, body) => {
                const to = 'https://data.example.com', key = 'dk_live_abc123'
                const parcel = {to, key, path: '/v1/t', body, at: Date.now(), tries: 0}
                localStorage.setItem('polylect.datafly:' + name, JSON.stringify([Date.now() - age, [parcel]]))
            }
            item('dead', 6 * 60e3, dead)
            item('alive', 60e3, alive)
            localStorage.setItem('polylect.datafly:bad', '{')
            localStorage.setItem('polylect.datafly:worse', '[0, [null]]')
            localStorage.setItem('polylect.apex:', '[0, 7]')
        }""",
        bodies,
    )
    open_page(visitor, edge, DATAFLY_HTML)
    await_name(edge, "dead")
    eventually(
        lambda: sorted(shelf(page)) == ["polylect.apex:", "polylect.datafly:alive"],
        "only the live one stays",
        context=lambda: repr(shelf(page)),
    )
    assert sorted(names(edge)) == ["dead", "page"]


# A tab that begins to track when another says so.
_STARTING = f"""<!DOCTYPE html><title>Tab</title><script>
addEventListener("storage", ({{ key }}) => {{
  if (key != "start") return
  const script = document.createElement("script")
  script.src = "{API}/tracker.js"
  script.onload = () => {{ {PULSE_INIT}; {track("pulse", "here")} }}
  document.head.append(script)
}})</script>"""


def test_tabs_that_open_at_once_send_it_once(visitor: BrowserContext, edge: Edge) -> None:
    edge.pages["shop.example.com/tab"] = _STARTING
    page = open_page(visitor, edge, HTML["pulse"])
    visitor.set_offline(True)
    with page.expect_event("requestfailed"):
        page.evaluate(track("pulse", "only once"))
    page.close()
    visitor.set_offline(False)
    tabs = [visitor.new_page() for _ in range(6)]
    for tab in tabs:
        tab.goto(f"{SHOP}/tab")
    tabs[0].evaluate("localStorage.setItem('start', 'now')")
    # What was left, and one event of each but the first: who sets an item does not hear of it.
    await_events(edge, len(tabs))
    for tab in tabs:
        await_empty_shelf(tab)
    assert sorted(names(edge)) == ["here"] * (len(tabs) - 1) + ["only once"]


def test_a_tab_does_not_take_what_another_is_about_to_send(visitor: BrowserContext, edge: Edge) -> None:
    page = open_page(visitor, edge, HTML["pulse"])
    edge.troubles.append(Trouble(503))
    page.evaluate(track("pulse", "mine"))
    eventually(lambda: len(edge.seen) == 1, "it was tried")
    other = visitor.new_page()
    other.goto(f"{SHOP}/")
    other.evaluate(track("pulse", "other"))
    await_empty_shelf(page)
    assert sorted(names(edge)) == ["mine", "mine", "other"]
