"""/datafly.js: the tag of the Datafly document, and what window.datafly does."""

from typing import Any

from playwright.sync_api import BrowserContext

from ..chromium import await_cookie
from ..edge import SHOP, Edge
from ..stack import Stack
from ..waiting import eventually
from .site import DATAFLY_HTML, DATAFLY_TAG, await_events, open_page, posts

_OF_VISITOR = """select kind, name, user_id, group_id, page_url, page_title, page_referrer, properties, traits
from events where anonymous_id = %s and provenance_dialect = 'datafly' order by event_id"""


def _events_of(stack: Stack, visitor_id: str, number: int) -> list[tuple[Any, ...]]:
    rows: list[tuple[Any, ...]] = eventually(
        lambda: found if len(found := stack.sql(_OF_VISITOR, visitor_id)) >= number else None,
        f"{number} events of {visitor_id}",
    )
    assert len(rows) == number
    return rows


def test_the_tag_of_the_datafly_document(visitor: BrowserContext, edge: Edge, stack: Stack) -> None:
    page = open_page(visitor, edge, DATAFLY_HTML, "/products/headphones?color=black")
    cookie = await_cookie(visitor, "_dfid")
    assert (cookie["domain"], cookie["secure"], cookie["httpOnly"]) == ("data.example.com", True, True)
    page.evaluate("datafly.track('Product Added', {product_id: 'SKU-1234', price: 79.99})")
    page.evaluate("datafly.identify('user_98765', {plan: 'premium'})")
    page.evaluate("datafly.group('org_555', {name: 'Acme Corp'})")
    page.evaluate("datafly.page('Product Detail')")
    url = f"{SHOP}/products/headphones?color=black"
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


def test_what_a_datafly_event_says_of_itself(visitor: BrowserContext, edge: Edge) -> None:
    page = open_page(visitor, edge, DATAFLY_HTML)
    page.evaluate("datafly.track('a')")
    first, second = posts(edge, 2)
    assert edge.paths() == ["/v1/p", "/v1/t"]
    assert edge.seen[0].headers["authorization"] == "Bearer dk_live_abc123"
    assert "cookie" not in edge.seen[0].headers
    assert f"_dfid={await_cookie(visitor, '_dfid')['value']}" in edge.seen[1].headers["cookie"]
    assert first["messageId"] != second["messageId"]
    assert second["context"] == {
        "page": {
            "url": f"{SHOP}/",
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


def test_a_visitor_is_known_again(visitor: BrowserContext, edge: Edge, stack: Stack) -> None:
    page = open_page(visitor, edge, DATAFLY_HTML)
    visitor_id = await_cookie(visitor, "_dfid")["value"]
    page.reload()
    posts(edge, 2)
    _events_of(stack, visitor_id, 2)
    assert await_cookie(visitor, "_dfid")["value"] == visitor_id


def test_every_navigation_is_a_page(visitor: BrowserContext, edge: Edge) -> None:
    page = open_page(visitor, edge, DATAFLY_HTML)
    posts(edge, 1)
    page.evaluate("history.pushState({}, '', '/cart'); document.title = 'Cart'")
    posts(edge, 2)
    page.evaluate("history.replaceState({step: 1}, '', location.href)")
    page.evaluate("location.hash = 'reviews'")
    page.evaluate("history.pushState({}, '', '/pay?step=1#/card'); datafly.track('Paying')")
    await_events(edge, 4)
    page.evaluate("history.go(-2)")
    page.wait_for_url(f"{SHOP}/cart")
    events = await_events(edge, 5)
    pages = [
        (event["properties"]["url"], event["properties"]["referrer"])
        for event in events
        if event["type"] == "page"
    ]
    assert pages == [
        (f"{SHOP}/", ""),
        (f"{SHOP}/cart", f"{SHOP}/"),
        (f"{SHOP}/pay?step=1#/card", f"{SHOP}/cart"),
        (f"{SHOP}/cart", f"{SHOP}/pay?step=1#/card"),
    ]
    assert [event["type"] for event in events] == ["page", "page", "page", "track", "page"]
    assert events[1]["properties"]["title"] == "Cart"


def test_commands_queued_before_the_script(visitor: BrowserContext, edge: Edge) -> None:
    queue = "window.datafly = [['track', 'Early', {a: 1}], ['nonsense'], 7, ['group', 'org_555']]"
    page = open_page(visitor, edge, f"<script>{queue}</script>{DATAFLY_HTML}")
    page.evaluate("datafly.push(['track', 'Later'])")
    assert [event["type"] for event in await_events(edge, 4)] == ["page", "track", "group", "track"]


def test_the_script_twice_is_once(visitor: BrowserContext, edge: Edge) -> None:
    page = open_page(visitor, edge, DATAFLY_HTML + DATAFLY_TAG)
    page.evaluate("datafly.track('last')")
    assert [event["type"] for event in posts(edge, 2)] == ["page", "track"]
