"""The documents' browser snippets in a real Chromium, on pages of other sites, against the running system."""

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import BrowserContext, Page, Playwright, sync_playwright

from .chromium import CHROMIUM, PageLog, flags
from .edge import Edge, Trouble
from .stack import Stack
from .waiting import eventually

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: apt-get install chromium")

# As seed 001 prints it.
_PULSE_HTML = """<!DOCTYPE html><title>Products</title>
<!-- Include the tracker script -->
<script src="https://your-api.example.com/tracker.js"></script>
<!-- Initialize PULSE -->
<script>
window.PULSE.init({
siteId: 'site_abc123',
apiKey: 'YOUR_API_KEY',
endpoint: 'https://your-api.example.com'
})
// Track page view
window.PULSE.trackPageView({
url: window.location.href,
referrer: document.referrer,
deviceType: 'desktop'
})
// Track custom event
window.PULSE.trackEvent('user_signup', {
userId: 'user_123',
plan: 'premium'
})
</script>"""

# As seed 003 prints it, but for the dots that stand for the rest of the key.
_DATAFLY_TAG = """<script
src="https://data.example.com/datafly.js"
data-pipeline-key="dk_live_abc123"
></script>"""
_DATAFLY_HTML = f"<!DOCTYPE html><title>Wireless Headphones | Shop</title>{_DATAFLY_TAG}"

_SHOP = "https://shop.example.com"


@pytest.fixture(scope="module")
def edge(stack: Stack) -> Iterator[Edge]:
    edge = Edge(stack.http_port)
    yield edge
    edge.close()


@pytest.fixture(scope="module")
def playwright() -> Iterator[Playwright]:
    with sync_playwright() as running:
        yield running


def _launch(playwright: Playwright, edge: Edge, profile: Path) -> BrowserContext:
    return playwright.chromium.launch_persistent_context(
        profile,
        executable_path=CHROMIUM,
        args=flags(edge),
        locale="en-US",
        timezone_id="America/New_York",
    )


@pytest.fixture
def browser(playwright: Playwright, edge: Edge, tmp_path: Path) -> Iterator[BrowserContext]:
    """A browser nobody has used before, and a front without a past."""
    edge.forget()
    browser = _launch(playwright, edge, tmp_path)
    yield browser
    browser.close()


def _open(browser: BrowserContext, edge: Edge, html: str, path: str = "/") -> Page:
    edge.pages["shop.example.com" + path] = html
    page = browser.new_page()
    page.goto(_SHOP + path)
    return page


def _posts(edge: Edge, number: int, within_seconds: float = 10.0) -> list[Any]:
    """Wait for so many POSTs; give their bodies."""
    eventually(lambda: len(edge.seen) >= number, f"{number} POSTs", within_seconds=within_seconds)
    assert len(edge.seen) == number, [(one.path, one.body) for one in edge.seen]
    return [json.loads(one.body) for one in edge.seen]


def _dfid(browser: BrowserContext) -> dict[str, Any]:
    def look() -> dict[str, Any] | None:
        return next((dict(cookie) for cookie in browser.cookies() if cookie["name"] == "_dfid"), None)

    return eventually(look, "the cookie _dfid is set")


_OF_VISITOR = """select kind, name, user_id, group_id, page_url, page_title, page_referrer, properties, traits
from events where anonymous_id = %s and provenance_dialect = 'datafly' order by event_id"""


def _events_of(stack: Stack, visitor: str, number: int) -> list[tuple[Any, ...]]:
    rows: list[tuple[Any, ...]] = eventually(
        lambda: found if len(found := stack.sql(_OF_VISITOR, visitor)) >= number else None,
        f"{number} events of {visitor}",
    )
    assert len(rows) == number
    return rows


# PULSE.


def test_the_page_of_the_pulse_document(browser: BrowserContext, edge: Edge, stack: Stack) -> None:
    page = _open(browser, edge, _PULSE_HTML, "/products")
    log = PageLog(page)
    session = page.evaluate("sessionStorage.pulse_session_id")
    rows = eventually(
        lambda: (
            found
            if len(
                found := stack.sql(
                    "select kind, name, session_id, user_id, page_url, page_title, device_type, properties,"
                    " provenance_dialect, provenance_endpoint,"
                    " abs(extract(epoch from received_at - occurred_at)) < 30"
                    " from events where session_id = %s order by event_id",
                    session,
                )
            )
            == 2
            else None
        ),
        "both events",
    )
    url = f"{_SHOP}/products"
    at = ("pulse", "/collect", True)
    assert rows == [
        ("page", None, session, None, url, None, "desktop", {}, *at),
        ("track", "user_signup", session, "user_123", url, None, "desktop", {"plan": "premium"}, *at),
    ]
    assert log.errors == []
    assert page.evaluate("Object.keys(PULSE)") == ["init", "trackPageView", "trackEvent"]


def test_a_session_is_a_tabs(browser: BrowserContext, edge: Edge) -> None:
    page = _open(browser, edge, _PULSE_HTML)
    _posts(edge, 2)
    page.reload()
    _posts(edge, 4)
    browser.new_page().goto(f"{_SHOP}/")
    sessions = [event["session_id"] for event in _posts(edge, 6)]
    assert sessions[0] == sessions[1] == sessions[2] == sessions[3] != sessions[4] == sessions[5]


def test_props_of_a_pulse_event_take_no_fields_place(
    browser: BrowserContext, edge: Edge, stack: Stack
) -> None:
    page = _open(browser, edge, _PULSE_HTML)
    session = page.evaluate("sessionStorage.pulse_session_id")
    page.evaluate(
        "PULSE.trackEvent('click', {country: 'Germany', url: {a: 1}, timestamp: 'soon', userId: 7})"
    )
    found = stack.await_rows(
        "select user_id, geo_country, page_url, properties from events"
        " where session_id = %s and name = 'click'",
        session,
    )
    assert found == [("7", None, f"{_SHOP}/", {"country": "Germany", "url": {"a": 1}, "timestamp": "soon"})]


def test_pulse_events_before_init_wait_for_it(browser: BrowserContext, edge: Edge) -> None:
    page = _open(browser, edge, '<script src="https://your-api.example.com/tracker.js"></script>')
    page.evaluate("PULSE.trackEvent('early', {})")
    page.evaluate(
        "PULSE.init({siteId: 'site_abc123', apiKey: 'YOUR_API_KEY', endpoint: 'https://your-api.example.com/'})"
    )
    (event,) = _posts(edge, 1)
    assert (edge.seen[0].path, event["event_type"], event["site_id"]) == ("/collect", "early", "site_abc123")


# Datafly.


def test_the_tag_of_the_datafly_document(browser: BrowserContext, edge: Edge, stack: Stack) -> None:
    page = _open(browser, edge, _DATAFLY_HTML, "/products/headphones?color=black")
    cookie = _dfid(browser)
    assert (cookie["domain"], cookie["secure"], cookie["httpOnly"]) == ("data.example.com", True, True)
    page.evaluate("datafly.track('Product Added', {product_id: 'SKU-1234', price: 79.99})")
    page.evaluate("datafly.identify('user_98765', {plan: 'premium'})")
    page.evaluate("datafly.group('org_555', {name: 'Acme Corp'})")
    page.evaluate("datafly.page('Product Detail')")
    url = f"{_SHOP}/products/headphones?color=black"
    seen = {
        "url": url,
        "path": "/products/headphones",
        "search": "?color=black",
        "title": "Wireless Headphones | Shop",
        "referrer": "",
    }
    at = (url, "Wireless Headphones | Shop")
    rows = _events_of(stack, cookie["value"], 5)
    assert [row[:6] for row in rows] == [
        ("page", None, None, None, *at),
        ("track", "Product Added", None, None, *at),
        ("identify", None, "user_98765", None, *at),
        ("group", None, None, "org_555", *at),
        ("page", "Product Detail", None, None, *at),
    ]
    assert rows[0][7] == seen
    assert rows[1][7] == {"product_id": "SKU-1234", "price": 79.99}
    assert (rows[2][8], rows[3][8]) == ({"plan": "premium"}, {"name": "Acme Corp"})
    assert stack.sql("select user_id from identity_links where anonymous_id = %s", cookie["value"]) == [
        ("user_98765",)
    ]


def test_what_a_datafly_event_says_of_itself(browser: BrowserContext, edge: Edge) -> None:
    page = _open(browser, edge, _DATAFLY_HTML)
    page.evaluate("datafly.track('a')")
    first, second = _posts(edge, 2)
    assert edge.paths() == ["/v1/p", "/v1/t"]
    assert edge.seen[0].headers["authorization"] == "Bearer dk_live_abc123"
    assert "cookie" not in edge.seen[0].headers
    assert f"_dfid={_dfid(browser)['value']}" in edge.seen[1].headers["cookie"]
    assert first["messageId"] != second["messageId"]
    assert second["context"] == {
        "page": {
            "url": f"{_SHOP}/",
            "path": "/",
            "search": "",
            "title": "Wireless Headphones | Shop",
            "referrer": "",
        },
        "userAgent": page.evaluate("navigator.userAgent"),
        "locale": "en-US",
        "timezone": "America/New_York",
        "library": {"name": "datafly.js", "version": second["context"]["library"]["version"]},
    }


def test_a_visitor_is_known_again(browser: BrowserContext, edge: Edge, stack: Stack) -> None:
    page = _open(browser, edge, _DATAFLY_HTML)
    visitor = _dfid(browser)["value"]
    page.reload()
    _posts(edge, 2)
    _events_of(stack, visitor, 2)
    assert _dfid(browser)["value"] == visitor


def test_every_navigation_is_a_page(browser: BrowserContext, edge: Edge) -> None:
    page = _open(browser, edge, _DATAFLY_HTML)
    _posts(edge, 1)
    page.evaluate("history.pushState({}, '', '/cart'); document.title = 'Cart'")
    _posts(edge, 2)
    page.evaluate("history.replaceState({step: 1}, '', location.href)")
    page.evaluate("location.hash = 'reviews'")
    page.evaluate("history.pushState({}, '', '/pay?step=1#/card'); datafly.track('Paying')")
    _posts(edge, 4)
    page.evaluate("history.go(-2)")
    page.wait_for_url(f"{_SHOP}/cart")
    events = _posts(edge, 5)
    pages = [
        (event["properties"]["url"], event["properties"]["referrer"])
        for event in events
        if event["type"] == "page"
    ]
    assert pages == [
        (f"{_SHOP}/", ""),
        (f"{_SHOP}/cart", f"{_SHOP}/"),
        (f"{_SHOP}/pay?step=1#/card", f"{_SHOP}/cart"),
        (f"{_SHOP}/cart", f"{_SHOP}/pay?step=1#/card"),
    ]
    assert [event["type"] for event in events] == ["page", "page", "page", "track", "page"]
    assert events[1]["properties"]["title"] == "Cart"


def test_commands_queued_before_the_script(browser: BrowserContext, edge: Edge) -> None:
    queue = "window.datafly = [['track', 'Early', {a: 1}], ['nonsense'], 7, ['group', 'org_555']]"
    page = _open(browser, edge, f"<script>{queue}</script>{_DATAFLY_HTML}")
    page.evaluate("datafly.push(['track', 'Later'])")
    assert [event["type"] for event in _posts(edge, 4)] == ["page", "track", "group", "track"]


def test_the_script_twice_is_once(browser: BrowserContext, edge: Edge) -> None:
    page = _open(browser, edge, _DATAFLY_HTML + _DATAFLY_TAG)
    page.evaluate("datafly.track('last')")
    assert [event["type"] for event in _posts(edge, 2)] == ["page", "track"]


# Surroundings.

_BOTH_HTML = f"""<!DOCTYPE html><title>Both</title>
{_DATAFLY_TAG}<script src="https://data.example.com/tracker.js"></script>"""
_INIT = "PULSE.init({siteId: 'site_abc123', apiKey: 'YOUR_API_KEY', endpoint: 'https://data.example.com'})"


def test_a_policy_that_allows_only_the_scripts_origin(browser: BrowserContext, edge: Edge) -> None:
    own = "https://data.example.com"
    policy = f"default-src 'none'; script-src {own}; connect-src {own}; require-trusted-types-for 'script'"
    headers = {
        "Content-Security-Policy": policy,
        "Cross-Origin-Embedder-Policy": "require-corp",
        "Cross-Origin-Opener-Policy": "same-origin",
        "Referrer-Policy": "no-referrer",
    }
    edge.pages["shop.example.com/"] = (_BOTH_HTML, headers)
    page = browser.new_page()
    log = PageLog(page)
    page.goto(f"{_SHOP}/")
    page.evaluate(f"{_INIT}; PULSE.trackPageView()")
    _posts(edge, 2)
    assert sorted(edge.paths()) == ["/collect", "/v1/p"]
    assert (log.errors, log.console) == ([], [])


def test_cookies_and_storage_blocked(
    playwright: Playwright, edge: Edge, stack: Stack, tmp_path: Path
) -> None:
    settings = tmp_path / "Default" / "Preferences"
    settings.parent.mkdir()
    settings.write_text(json.dumps({"profile": {"default_content_setting_values": {"cookies": 2}}}))
    edge.seen.clear()
    browser = _launch(playwright, edge, tmp_path)
    try:
        page = _open(browser, edge, _BOTH_HTML)
        log = PageLog(page)
        blocked = "(() => { try { return sessionStorage.length } catch (error) { return error.name } })()"
        assert page.evaluate(blocked) == "SecurityError"
        page.evaluate(f"{_INIT}; PULSE.trackPageView(); PULSE.trackEvent('click')")
        events = _posts(edge, 3)
        assert log.errors == []
        sessions = {event["session_id"] for event in events if "session_id" in event}
        assert len(sessions) == 1
        stack.await_rows("select 1 from events where session_id = %s and name = 'click'", *sessions)
        (message_id,) = (event["messageId"] for event in events if "messageId" in event)
        stack.await_rows("select 1 from events where message_id = %s", message_id)
        assert browser.cookies() == []
    finally:
        browser.close()


def test_in_a_frame_without_an_origin(browser: BrowserContext, edge: Edge, stack: Stack) -> None:
    edge.pages["shop.example.com/framed"] = _PULSE_HTML
    page = _open(browser, edge, '<iframe sandbox="allow-scripts" src="/framed"></iframe>')
    log = PageLog(page)
    session = _posts(edge, 2)[1]["session_id"]
    stack.await_rows("select 1 from events where session_id = %s and name = 'user_signup'", session)
    assert log.errors == []


def test_nothing_is_thrown_into_the_page_and_nothing_else_is_defined(
    browser: BrowserContext, edge: Edge
) -> None:
    bare = _open(browser, edge, "<!DOCTYPE html><title>Bare</title>", "/bare")
    page = _open(browser, edge, _BOTH_HTML)
    log = PageLog(page)
    names = "Object.getOwnPropertyNames(window)"
    assert set(page.evaluate(names)) - set(bare.evaluate(names)) == {"PULSE", "datafly"}
    page.evaluate(
        """() => {
            const circle = {}; circle.circle = circle
            PULSE.init(); PULSE.init({}); PULSE.trackPageView(null); PULSE.trackEvent()
            PULSE.trackEvent('a', circle); PULSE.trackEvent('b', {big: 1n})
            datafly.track('a', circle); datafly.identify(undefined, {big: 1n}); datafly.push(null, 7, ['x'])
            history.pushState(circle, '', '/next')
        }"""
    )
    page.evaluate(f"{_INIT}; PULSE.trackEvent('good', {{a: 1}}); datafly.track('good')")
    eventually(lambda: [s for s in edge.seen if s.path == "/v1/t" and b'"good"' in s.body], "datafly goes on")
    eventually(
        lambda: [s for s in edge.seen if s.path == "/collect" and b'"good"' in s.body], "PULSE goes on"
    )
    assert log.errors == []


def test_a_page_without_a_key_is_told(browser: BrowserContext, edge: Edge) -> None:
    edge.pages["shop.example.com/"] = '<script src="https://data.example.com/datafly.js"></script>'
    page = browser.new_page()
    log = PageLog(page)
    page.goto(f"{_SHOP}/")
    page.evaluate("datafly.track('a')")
    assert log.errors == []
    assert any("data-pipeline-key" in text for text in log.console)
    assert edge.seen == []


# Delivery.


def test_a_busy_service_is_asked_again_when_it_said(
    browser: BrowserContext, edge: Edge, stack: Stack
) -> None:
    edge.troubles += [Trouble(503, {"Retry-After": "2"}), Trouble(429, {"Retry-After": "1"})]
    page = _open(browser, edge, _DATAFLY_HTML)
    page.evaluate("datafly.track('after')")
    bodies = _posts(edge, 4)
    first, second, third, _ = edge.seen
    assert edge.paths() == ["/v1/p", "/v1/p", "/v1/p", "/v1/t"]
    assert bodies[0] == bodies[1] == bodies[2]
    assert second.at - first.at >= 2
    assert third.at - second.at >= 1
    _events_of(stack, _dfid(browser)["value"], 2)


def test_what_was_stored_but_not_answered_is_stored_once(
    browser: BrowserContext, edge: Edge, stack: Stack
) -> None:
    edge.troubles += [Trouble(forwarded=True), Trouble()]
    _open(browser, edge, _DATAFLY_HTML)
    message_ids = {event["messageId"] for event in _posts(edge, 3)}
    assert len(message_ids) == 1
    stack.wait_until_drained()
    assert stack.sql("select count(*) from events where message_id = %s", *message_ids) == [(1,)]


def test_a_refusal_is_final(browser: BrowserContext, edge: Edge) -> None:
    page = _open(browser, edge, _DATAFLY_HTML.replace("dk_live_abc123", "dk_live_wrong"))
    page.evaluate("datafly.track('a'); datafly.track('b')")
    assert [event["type"] for event in _posts(edge, 3)] == ["page", "track", "track"]


def test_what_waits_is_sent_when_the_page_goes(browser: BrowserContext, edge: Edge, stack: Stack) -> None:
    held = threading.Event()
    edge.pages["shop.example.com/elsewhere"] = "<title>Elsewhere</title>"
    page = _open(browser, edge, _DATAFLY_HTML)
    _dfid(browser)
    edge.troubles.append(Trouble(held_until=held))
    page.evaluate("datafly.track('held'); datafly.track('waits'); history.pushState({}, '', '/unannounced')")
    _posts(edge, 2)
    page.goto(f"{_SHOP}/elsewhere")
    _posts(edge, 4)
    held.set()
    # What was under way is not sent again, though Chromium tells the page it failed.
    assert sorted(edge.paths()) == ["/v1/p", "/v1/p", "/v1/t", "/v1/t"]
    rows = _events_of(stack, _dfid(browser)["value"], 4)
    assert {(row[0], row[1]) for row in rows} == {("page", None), ("track", "held"), ("track", "waits")}
    assert {row[4] for row in rows} == {f"{_SHOP}/", f"{_SHOP}/unannounced"}


def test_a_copy_in_the_cache_is_asked_about_and_kept(stack: Stack) -> None:
    for path in ("/tracker.js", "/datafly.js", "/tracker.js.map", "/datafly.js.map"):
        answer = stack.get(path)
        assert answer.status == 200
        again = stack.get(path, {"If-None-Match": f'"other", W/{answer.headers["etag"]}'})
        assert (again.status, again.body, again.headers["etag"]) == (304, b"", answer.headers["etag"])
        head = stack.request("HEAD", path)
        assert (head.status, head.body) == (200, b"")
        assert head.headers["content-length"] == str(len(answer.body))
