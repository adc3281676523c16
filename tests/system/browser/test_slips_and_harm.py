"""What pages do wrong with the scripts, and what they have that stands in a script's way."""

import json

import pytest
from playwright.sync_api import BrowserContext

from ..edge import SHOP, Edge, Trouble
from .site import (
    ALL_TAGS,
    APEX_HTML,
    API,
    DATAFLY_TAG,
    HTML,
    PATHS,
    PULSE_HTML,
    PULSE_INIT,
    await_empty_shelf,
    await_events,
    await_name,
    names,
    open_page,
    open_watched,
    track,
)

_HELLO = f"{PULSE_INIT}; {'; '.join(track(script, 'hello') for script in HTML)}"
_WANTS_NONE = "Object.defineProperty(Navigator.prototype, 'globalPrivacyControl', {get: () => true})"


def test_elements_with_the_documents_names(visitor: BrowserContext, edge: Edge) -> None:
    named = "".join(
        f'<form name="{name}"></form>' for name in ("prerendering", "referrer", "title", "hidden")
    )
    page, log = open_watched(visitor, edge, f'<body>{named}<img name="currentScript">{ALL_TAGS}')
    page.evaluate(_HELLO)
    for path in PATHS.values():
        await_name(edge, "hello", path)
    assert "referrer" not in await_name(edge, "hello", PATHS["pulse"])
    # Nor is any of it told as something the services would refuse.
    assert not any(b"{}" in one.body for one in edge.seen)
    assert log.errors == []


@pytest.mark.parametrize(
    "harm",
    ["Object.freeze(history)", "Object.defineProperty(history, 'pushState', {value() {}, writable: false})"],
)
def test_a_history_that_cannot_be_written(visitor: BrowserContext, edge: Edge, harm: str) -> None:
    page, log = open_watched(visitor, edge, f"<body>{ALL_TAGS}", init=harm)
    page.evaluate(_HELLO)
    for path in PATHS.values():
        await_name(edge, "hello", path)
    assert log.errors == []


def test_pulsora_that_was_set_up_wrong_can_be_set_up_right(visitor: BrowserContext, edge: Edge) -> None:
    page, log = open_watched(visitor, edge, f'<script src="{API}/pulsora.js"></script>')
    page.evaluate("pulsora.init(); pulsora.init({}); pulsora.event('lost')")
    assert sum("pulsora.js:" in text for text in log.console) == 3
    page.evaluate("pulsora.init({apiToken: 'pub_123', autoPageviews: false}); pulsora.event('told')")
    await_events(edge, 1)
    assert names(edge) == ["told"]
    assert json.loads(edge.seen[0].body)["token"] == "pub_123"
    assert log.errors == []


def test_an_opt_out_that_is_honoured_later_or_in_other_words(visitor: BrowserContext, edge: Edge) -> None:
    honouring = DATAFLY_TAG.replace("\ndata-", '\ndata-honor-opt-out="1" data-')
    page, _ = open_watched(visitor, edge, honouring + PULSE_HTML, "/honouring", init=_WANTS_NONE)
    page.evaluate(PULSE_INIT.replace("siteId", "honorOptOut: true, siteId"))
    page.evaluate(f"{track('pulse', 'unwanted')}; {track('datafly', 'unwanted')}")
    other = open_page(visitor, edge, PULSE_HTML)
    other.evaluate(track("pulse", "other"))
    await_name(edge, "other")
    assert names(edge) == ["other"]


def test_an_address_that_was_wrong_keeps_nothing_waiting(visitor: BrowserContext, edge: Edge) -> None:
    """What a page left for a host that is not there, and for a key no request can carry."""
    page = open_page(visitor, edge, "<title>Bare</title>", "/bare")
    page.evaluate(
        """(to) => {
            const parcel = {key: 'k', path: '/collect', body: '{}', at: Date.now(), tries: 0}
            const parcels = [{...parcel, to: 'https://gone.invalid'}, {...parcel, to, key: '\\u0100'}]
            localStorage.setItem('polylect.pulse:left', JSON.stringify([0, parcels]))
        }""",
        API,
    )
    page = open_page(visitor, edge, PULSE_HTML)
    for name in ("a", "b", "c"):
        page.evaluate(track("pulse", name))
        await_name(edge, name)
    assert names(edge) == ["a", "b", "c"]


def test_one_event_that_is_too_big_drives_out_no_other(visitor: BrowserContext, edge: Edge) -> None:
    page, log = open_watched(visitor, edge, PULSE_HTML)
    big = "PULSE.trackEvent('big', {x: 'x'.repeat(4e6)})"
    page.evaluate(f"{track('pulse', 'a', 'b', 'c')}; {big}; {big}")
    await_events(edge, 3)
    assert names(edge) == ["a", "b", "c"]
    assert sum("events are lost" in text for text in log.console) == 1


def test_arrays_that_make_strings_of_themselves(visitor: BrowserContext, edge: Edge) -> None:
    """As an old library makes them; what is kept can be read again."""
    harm = "Array.prototype.toJSON = function () { return '[' + this.join() + ']' }"
    edge.troubles.append(Trouble(503, {"Retry-After": "1"}))
    page, _ = open_watched(visitor, edge, PULSE_HTML, init=harm)
    page.evaluate(track("pulse", "a", "b"))
    edge.await_posts(1)
    page.reload()
    await_empty_shelf(page)
    assert sorted({*names(edge)}) == ["a", "b"]


def test_an_outbound_link_is_told_without_who_signs_in(visitor: BrowserContext, edge: Edge) -> None:
    away = "elsewhere.example.com/there?to=//me@example.com"
    html = f"""{APEX_HTML}<a href="https://bob:hunter2@{away}">Out</a> <a href="https://{away}">Off</a>
    <script>addEventListener("click", (event) => event.preventDefault())</script>"""
    page = open_page(visitor, edge, html)
    page.get_by_text("Out").click()
    page.get_by_text("Off").click()
    assert [event["data"]["href"] for event in await_events(edge, 3)[1:]] == [f"https://{away}"] * 2
    assert not any(b"hunter2" in one.body for one in edge.seen)


def test_a_form_with_a_field_of_a_methods_name(visitor: BrowserContext, edge: Edge) -> None:
    form = '<form id="f" onsubmit="return false"><input name="getAttribute"></form>'
    page = open_page(visitor, edge, APEX_HTML + form, f"/?from={SHOP}")
    page.evaluate("document.forms[0].requestSubmit()")
    told = await_name(edge, "form_submit")["data"]
    assert told == {"elementId": "f", "fields": ["getAttribute"]}
