"""Pages that make it hard for a script, and browsers and visitors that forbid things."""

import json
from pathlib import Path

import pytest
from playwright.sync_api import BrowserContext, Playwright

from ..chromium import CHROMIUM, flags
from ..edge import Edge
from ..stack import Stack
from ..waiting import eventually
from .site import (
    ALL_TAGS,
    API,
    HTML,
    ON_LOAD,
    PATHS,
    PULSE_HTML,
    PULSE_INIT,
    await_events,
    await_name,
    names,
    open_page,
    open_watched,
    sent,
    shelf,
    track,
)

_ALL_HTML = f"<!DOCTYPE html><title>All</title>{ALL_TAGS}"
_GLOBALS = {"PULSE", "datafly", "apex", "pulsora"}
_HELLO = f"{PULSE_INIT}; {'; '.join(track(script, 'hello') for script in HTML)}"


def _assert_all_said_hello(edge: Edge) -> None:
    for script, path in PATHS.items():
        eventually(lambda path=path: "hello" in names(edge, path), f"{script} says hello")


def test_a_policy_that_allows_only_the_scripts_origin(visitor: BrowserContext, edge: Edge) -> None:
    policy = f"default-src 'none'; script-src {API}; connect-src {API}; require-trusted-types-for 'script'"
    headers = {
        "Content-Security-Policy": policy,
        "Cross-Origin-Embedder-Policy": "require-corp",
        "Cross-Origin-Opener-Policy": "same-origin",
        "Referrer-Policy": "no-referrer",
    }
    page, log = open_watched(visitor, edge, (_ALL_HTML, headers))
    page.evaluate(_HELLO)
    _assert_all_said_hello(edge)
    assert (log.errors, log.console) == ([], [])


def test_cookies_and_storage_blocked(
    playwright: Playwright, edge: Edge, stack: Stack, tmp_path: Path
) -> None:
    settings = tmp_path / "Default" / "Preferences"
    settings.parent.mkdir()
    settings.write_text(json.dumps({"profile": {"default_content_setting_values": {"cookies": 2}}}))
    visitor = playwright.chromium.launch_persistent_context(
        tmp_path, executable_path=CHROMIUM, args=flags(edge)
    )
    try:
        page, log = open_watched(visitor, edge, _ALL_HTML)
        for storage in ("sessionStorage", "localStorage"):
            blocked = (
                f"(() => {{ try {{ return {storage}.length }} catch (error) {{ return error.name }} }})()"
            )
            assert page.evaluate(blocked) == "SecurityError"
        page.evaluate(f"{_HELLO}; {track('pulse', 'again')}; {track('apex', 'again')}")
        _assert_all_said_hello(edge)
        await_events(edge, 2, PATHS["pulse"])
        await_events(edge, 3, PATHS["apex"])
        assert log.errors == []
        (session,) = {event["session_id"] for event in sent(edge, PATHS["pulse"])}
        (visitor_id,) = {event["visitorId"] for event in sent(edge, PATHS["apex"])}
        stack.await_rows("select 1 from events where session_id = %s and name = 'hello'", session)
        stack.await_rows("select 1 from events where anonymous_id = %s and name = 'hello'", visitor_id)
        message_id = await_name(edge, "hello", PATHS["datafly"])["messageId"]
        stack.await_rows("select 1 from events where message_id = %s", message_id)
        assert visitor.cookies() == []
    finally:
        visitor.close()


def test_in_a_frame_without_an_origin(visitor: BrowserContext, edge: Edge, stack: Stack) -> None:
    """Storage, cookies and locks throw there; Datafly's service refuses it, for it is of no origin."""
    framed = f"{_ALL_HTML}<script>{_HELLO}</script>"
    edge.pages["shop.example.com/framed"] = framed
    _, log = open_watched(visitor, edge, '<iframe sandbox="allow-scripts" src="/framed"></iframe>')
    for script in ("pulse", "apex", "pulsora"):
        await_events(edge, ON_LOAD[script] + 1, PATHS[script])
    session = sent(edge, PATHS["pulse"])[0]["session_id"]
    stack.await_rows("select 1 from events where session_id = %s and name = 'hello'", session)
    assert log.errors == []


def test_nothing_is_thrown_into_the_page_and_nothing_else_is_defined(
    visitor: BrowserContext, edge: Edge
) -> None:
    bare = open_page(visitor, edge, "<!DOCTYPE html><title>Bare</title>", "/bare")
    page, log = open_watched(visitor, edge, _ALL_HTML)
    own = "Object.getOwnPropertyNames(window)"
    assert set(page.evaluate(own)) - set(bare.evaluate(own)) == _GLOBALS
    page.evaluate(
        """() => {
            const circle = {}; circle.circle = circle
            PULSE.init(); PULSE.init({}); PULSE.trackPageView(null); PULSE.trackEvent()
            PULSE.trackEvent('a', circle); PULSE.trackEvent('b', {big: 1n})
            datafly.track('a', circle); datafly.identify(undefined, {big: 1n}); datafly.push(null, 7, ['x'])
            apex.track('a', circle); apex.track(); apex.push(null, ['toString'], [['track']])
            pulsora.event('a', {big: 1n}); pulsora.pageview({url: 'http://['}); pulsora.identify()
            pulsora.init(); pulsora.init({})
            history.pushState(circle, '', '/next')
        }"""
    )
    page.evaluate(_HELLO)
    _assert_all_said_hello(edge)
    assert log.errors == []


@pytest.mark.parametrize("script", ["datafly", "apex"])
def test_a_page_without_a_key_is_told(visitor: BrowserContext, edge: Edge, script: str) -> None:
    keyless = f'<script src="{API}/{script}.js"></script>'
    page, log = open_watched(visitor, edge, keyless + PULSE_HTML)
    page.evaluate(f"{track(script, 'a')}; {track('pulse', 'last')}")
    # What another script sends after it is there, and nothing else.
    await_name(edge, "last")
    assert (edge.paths(), names(edge)) == (["/collect"], ["last"])
    assert log.errors == []
    assert any(f"{script}.js: no data-" in text for text in log.console)


@pytest.mark.parametrize(
    "harm",
    [
        "delete window.fetch",
        "window.fetch = () => { throw new Error('no') }",
        "Object.defineProperty(window, 'localStorage', {get() { throw new Error('no') }})",
        "Storage.prototype.setItem = () => { throw new DOMException('full', 'QuotaExceededError') }",
        "delete Navigator.prototype.locks; delete Navigator.prototype.sendBeacon; delete AbortSignal.timeout",
    ],
)
def test_a_page_that_takes_things_away(visitor: BrowserContext, edge: Edge, stack: Stack, harm: str) -> None:
    page, log = open_watched(visitor, edge, _ALL_HTML, init=harm)
    page.evaluate(_HELLO)
    _assert_all_said_hello(edge)
    assert log.errors == []
    # Some of it by ways of its own, which the service takes as well.
    message_id = await_name(edge, "hello", PATHS["datafly"])["messageId"]
    stack.await_rows("select 1 from events where message_id = %s", message_id)
    for script in ("pulse", "pulsora"):
        session = await_name(edge, "hello", PATHS[script])["session_id"]
        stack.await_rows("select 1 from events where session_id = %s and name = 'hello'", session)


@pytest.mark.parametrize(("signal", "said"), [("globalPrivacyControl", "true"), ("doNotTrack", "'1'")])
def test_a_visitor_who_does_not_want_it(visitor: BrowserContext, edge: Edge, signal: str, said: str) -> None:
    """Where the site honours that nothing is sent and nothing kept; elsewhere it is as ever."""
    getter = f"{{get: () => {said}, configurable: true}}"
    visitor.add_init_script(f"Object.defineProperty(Navigator.prototype, '{signal}', {getter})")
    honouring = _ALL_HTML.replace(" data-", " data-honor-opt-out data-").replace(
        "\ndata-", "\ndata-honor-opt-out data-"
    )
    page = open_page(visitor, edge, honouring, "/honouring")
    page.evaluate(_HELLO.replace("siteId", "honorOptOut: true, siteId"))
    assert page.evaluate("pulsora.reset(); pulsora.getSessionId()") is None
    assert (shelf(page), page.evaluate("sessionStorage.length"), visitor.cookies()) == ({}, 0, [])
    page.goto("about:blank")
    indifferent = open_page(visitor, edge, _ALL_HTML, "/indifferent")
    indifferent.evaluate(_HELLO)
    for script, path in PATHS.items():
        await_events(edge, ON_LOAD[script] + 1, path)
