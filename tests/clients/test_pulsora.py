"""@pulsora/core and @pulsora/react in Chromium: by beacon, by fetch, bundled, and as the file a CDN has."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from system.edge import SHOP, Seen, Trouble
from system.stack import Stack

from .shop import Shop
from .snippets import SNIPPETS
from .stored import rows_of

_PATH = "/products/headphones?utm_source=newsletter&utm_campaign=launch"
_URL = SHOP + _PATH
_NO_BEACON = "navigator.sendBeacon = undefined"
_COLUMNS = "kind, name, properties, page_url, page_path, page_title, campaign_source, campaign_name"
_PLACE = (_URL, "/products/headphones")
_VIEWED = ("page", None, {}, *_PLACE, "Headphones", "newsletter", "launch")
_TRACKED = ("track", "signup_submit", {"plan": "pro", "seats": 3}, *_PLACE, None, "newsletter", "launch")
_SUBMIT = "pulsora.event('signup_submit', {plan: 'pro', seats: 3})"


def _by_beacon(post: Seen) -> bool:
    headers = post.headers
    return (headers.get("x-api-token"), headers["content-type"]) == (None, "text/plain;charset=utf-8")


def _by_fetch(post: Seen) -> bool:
    headers = post.headers
    return (headers.get("x-api-token"), headers["content-type"]) == ("pub_123", "application/json")


def _stored(stack: Stack, posts: list[Seen], columns: str = _COLUMNS) -> list[tuple[Any, ...]]:
    """Give the events of these POSTs of one page, by their kind, for they are sent side by side."""
    (session,) = {json.loads(post.body)["data"]["session_id"] for post in posts}
    found = rows_of(stack, f"kind, {columns}", "session_id", session, len(posts))
    return [row[1:] for row in sorted(found, key=lambda row: str(row[0]))]


@pytest.mark.parametrize("way", [_by_beacon, _by_fetch])
def test_core(shop: Shop, stack: Stack, way: Callable[[Seen], bool]) -> None:
    if way is _by_fetch:
        shop.visitor.add_init_script(_NO_BEACON)
    page = shop.open("pulsora.js", _PATH)
    page.evaluate(f"snippet.{_SUBMIT}")
    posts = shop.edge.await_posts(2)
    assert [(post.path, way(post)) for post in posts] == [("/api/ingest", True)] * 2
    assert _stored(stack, posts) == [_VIEWED, _TRACKED]
    columns = "anonymous_id, occurred_at = received_at, provenance_dialect"
    one, other = _stored(stack, posts, columns)
    # It sends neither a visitor nor a time: the service makes both.
    assert one == other == (one[0], True, "pulsora")
    assert re.fullmatch("[0-9a-f]{64}", one[0])


def test_every_navigation_is_a_page_view(shop: Shop, stack: Stack) -> None:
    page = shop.open("pulsora.js", _PATH)
    shop.edge.await_posts(1)
    page.evaluate("history.pushState({}, '', '/cart')")
    shop.edge.await_posts(2)
    page.go_back()
    posts = shop.edge.await_posts(3)
    paths = [json.loads(post.body)["data"]["path"] for post in posts]
    assert paths == ["/products/headphones", "/cart", "/products/headphones"]
    assert sorted(_stored(stack, posts, "page_path")) == [(path,) for path in sorted(paths)]


def test_the_built_file_with_its_tag(shop: Shop, stack: Stack, npm_packages: Path) -> None:
    built = (npm_packages / "@pulsora" / "core" / "dist" / "browser.js").read_text()
    shop.edge.pages["shop.example.com/pulsora.js"] = (built, {"Content-Type": "text/javascript"})
    page = shop.open_html(SNIPPETS["pulsora.html"], _PATH)
    page.evaluate(_SUBMIT)
    posts = shop.edge.await_posts(2)
    assert all(map(_by_beacon, posts))
    assert _stored(stack, posts) == [_VIEWED, _TRACKED]


@pytest.mark.parametrize("way", [_by_beacon, _by_fetch])
def test_react(shop: Shop, stack: Stack, way: Callable[[Seen], bool]) -> None:
    if way is _by_fetch:
        shop.visitor.add_init_script(_NO_BEACON)
    page = shop.open("pulsora-react.jsx", _PATH)
    shop.edge.await_posts(1)
    page.get_by_role("button", name="Sign up").click()
    posts = shop.edge.await_posts(2)
    assert all(map(way, posts))
    clicked = (*_TRACKED[:2], {"plan": "pro"}, *_TRACKED[3:])
    assert _stored(stack, posts) == [_VIEWED, clicked]


def test_a_source_that_gets_too_much_is_sent_the_rest_later(shop: Shop, stack: Stack) -> None:
    stack.polylect("source", "create", "narrow")
    stack.polylect("source", "set", "narrow", "--rate-limit", "2/second")
    key = stack.polylect_json("key", "create", "narrow", "--kind", "pulsora-public")["secret"]
    shop.visitor.add_init_script(_NO_BEACON)
    page = shop.open("pulsora.js", _PATH, keys={"pub_123": key})
    session = page.evaluate("snippet.pulsora.getSessionId()")
    page.evaluate("for (let i = 0; i < 4; i++) snippet.pulsora.event(`event ${i}`)")
    rows = rows_of(stack, "name", "session_id", session, 5)
    assert sorted(str(name) for (name,) in rows) == ["None", *(f"event {i}" for i in range(4))]
    posts = shop.edge.seen
    # Some were refused, and came again not before they were told to.
    again = [
        next(late for late in posts[at + 1 :] if late.body == post.body).at - post.at
        for at, post in enumerate(posts)
        if any(late.body == post.body for late in posts[at + 1 :])
    ]
    assert again
    assert min(again) >= 1


def test_what_was_put_off_is_sent_again(shop: Shop, stack: Stack) -> None:
    shop.visitor.add_init_script(_NO_BEACON)
    shop.edge.troubles.append(Trouble(503, {"Retry-After": "1"}))
    shop.open("pulsora.js", _PATH)
    first, again = shop.edge.await_posts(2)
    assert first.body == again.body
    assert _stored(stack, [again]) == [_VIEWED]
