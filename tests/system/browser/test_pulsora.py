"""/pulsora.js: window.pulsora, as the core SDK of the Pulsora document has it."""

from playwright.sync_api import BrowserContext

from ..edge import SHOP, Edge
from ..stack import Stack
from ..waiting import eventually
from .site import API, PULSORA_HTML, await_events, open_page, open_watched, posts


def test_what_pulsora_events_say(visitor: BrowserContext, edge: Edge, stack: Stack) -> None:
    path = "/pricing?utm_source=newsletter&utm_medium=email&utm_campaign=launch&x=1"
    edge.pages["shop.example.com" + path] = PULSORA_HTML
    page = visitor.new_page()
    page.goto(SHOP + path, referer="https://www.google.com/")
    page.evaluate("pulsora.event('signup_submit', {plan: 'pro'}); pulsora.identify('cus_123')")
    view, event, identify = posts(edge, 3)
    session = page.evaluate("pulsora.getSessionId()")
    url = SHOP + path
    common = {"visitor_fingerprint": None, "session_id": session, "timestamp": 0}
    for one in (view, event, identify):
        assert abs(one["data"]["timestamp"] - page.evaluate("Date.now()")) < 60_000
        one["data"]["timestamp"] = 0
    assert view == {
        "token": "pub_123",
        "type": "pageview",
        "data": {
            **common,
            "url": url,
            "path": "/pricing",
            "referrer": "https://www.google.com/",
            "referrer_source": "google.com",
            "title": "Pricing",
            "locale": "en-US",
            "utm_source": "newsletter",
            "utm_medium": "email",
            "utm_campaign": "launch",
        },
    }
    about = {"event_name": "signup_submit", "event_data": {"plan": "pro"}, "url": url, "path": "/pricing"}
    assert event == {"token": "pub_123", "type": "event", "data": {**common, **about}}
    customer = {**common, "customer_id": "cus_123"}
    assert identify == {"token": "pub_123", "type": "identify", "data": customer}
    rows = eventually(
        lambda: (
            found
            if len(
                found := stack.sql(
                    "select kind, name, user_id, page_url, properties, anonymous_id is not null from events"
                    " where session_id = %s and provenance_dialect = 'pulsora' order by event_id",
                    session,
                )
            )
            == 3
            else None
        ),
        "three events",
    )
    assert rows == [
        ("page", None, None, url, {}, True),
        ("track", "signup_submit", None, url, {"plan": "pro"}, True),
        ("identify", None, "cus_123", None, {}, True),
    ]


def test_an_address_too_long_for_the_service_loses_no_event(
    visitor: BrowserContext, edge: Edge, stack: Stack
) -> None:
    page = open_page(visitor, edge, PULSORA_HTML, "/" + "x" * 9_000)
    page.evaluate("pulsora.event('far'); pulsora.pageview({url: '/' + 'y'.repeat(9000)})")
    session = await_events(edge, 3)[0]["session_id"]
    query = "select max(length(page_url)) from events where session_id = %s having count(*) = 3"
    assert stack.await_rows(query, session) == [(8192,)]


def test_a_pulsora_session_is_a_tabs_until_reset(visitor: BrowserContext, edge: Edge) -> None:
    page = open_page(visitor, edge, PULSORA_HTML)
    await_events(edge, 1)
    page.reload()
    await_events(edge, 2)
    page.evaluate("pulsora.reset(); pulsora.event('after')")
    await_events(edge, 3)
    visitor.new_page().goto(f"{SHOP}/")
    sessions = [event["session_id"] for event in await_events(edge, 4)]
    assert sessions[0] == sessions[1]
    assert len(set(sessions)) == 3


def test_pulsora_without_a_token_waits_for_init(visitor: BrowserContext, edge: Edge) -> None:
    page, log = open_watched(visitor, edge, PULSORA_HTML.replace(' data-token="pub_123"', ""))
    page.evaluate("pulsora.event('too early')")
    assert any("data-token" in text for text in log.console)
    page.evaluate(
        f"pulsora.init({{apiToken: 'pub_123', endpoint: '{API}/api/ingest', autoPageviews: false}})"
    )
    page.evaluate("pulsora.event('now'); history.pushState({}, '', '/next')")
    page.evaluate("pulsora.pageview({url: '/virtual?utm_source=x', referrer: '', title: 'Virtual'})")
    event, view = posts(edge, 2)
    assert event["data"]["event_name"] == "now"
    about = {name: view["data"].get(name) for name in ("url", "path", "title", "referrer", "utm_source")}
    assert about == {
        "url": "/virtual?utm_source=x",
        "path": "/virtual",
        "title": "Virtual",
        "referrer": None,
        "utm_source": "x",
    }
    assert log.errors == []


def test_a_pulsora_endpoint_of_its_own(visitor: BrowserContext, edge: Edge) -> None:
    other = "https://other.example.com/api/ingest"
    tag = f'<script src="{API}/pulsora.js" data-token="pub_123" data-endpoint="{other}"></script>'
    open_page(visitor, edge, tag)
    await_events(edge, 1)
    assert edge.seen[0].headers["host"] == "other.example.com"


def test_pulsora_asks_no_leave_of_the_service(visitor: BrowserContext, edge: Edge) -> None:
    open_page(visitor, edge, PULSORA_HTML)
    await_events(edge, 1)
    # Neither custom header nor media type: browsers send it without a preflight.
    assert "x-api-token" not in edge.seen[0].headers
    assert edge.seen[0].headers["content-type"].startswith("text/plain")
