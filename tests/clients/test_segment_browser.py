"""@segment/analytics-next in Chromium: each call one request, or in batches; its own key's form, or ours."""

import json
from collections.abc import Mapping
from typing import Any

import pytest
from playwright.sync_api import Page
from system.chromium import await_cookie
from system.edge import SHOP, Seen, Trouble
from system.stack import Stack

from .shop import Shop
from .stored import rows_of

_STOCK = {"authorization": "Basic ZGtfbGl2ZV9hYmMxMjM6", "content-type": "text/plain"}
_BEARER = {"authorization": "Bearer dk_live_abc123", "content-type": "application/json"}
_KEY = "dk_live_abc123"
_LIBRARY = "analytics.js/npm:next-1.84.3"
_URL = f"{SHOP}/products/headphones?color=black"
_PAGE = {
    "url": _URL,
    "path": "/products/headphones",
    "search": "?color=black",
    "title": "Headphones",
    "referrer": "",
}
# With the page event of the snippet one full batch.
_FILLS_A_BATCH = 9
_ALONE_AND_IN_A_BATCH = [("segment.js", 0), ("segment-batching-often.js", _FILLS_A_BATCH)]

_EVERY_CALL = """async () => {
    await snippet.analytics.track('Product Added', {product_id: 'SKU-1234', price: 79.99})
    await snippet.analytics.identify('user_98765', {plan: 'premium'})
    await snippet.analytics.group('org_555', {name: 'Acme Corp'})
    await snippet.analytics.page('Shopping', 'Cart', {items: 2})
}"""
_TRACKS = "n => Promise.all(Array.from({length: n}, (_, i) => snippet.analytics.track(`track ${i}`)))"
# Keeps what the client says of a call that failed.
_WATCHED = """call => snippet.analytics.then(([analytics]) => {
    analytics.on('error', ({code, reason}) => { window.failure = `${code}: ${reason.message}` })
    analytics[call[0]](...call.slice(1))
})"""


def _failure(page: Page, call: list[Any]) -> str:
    page.evaluate("window.failure = undefined")
    page.evaluate(_WATCHED, call)
    said: str = page.wait_for_function("window.failure", timeout=10_000).json_value()
    return said


def _anonymous_id(page: Page) -> str:
    found: str = page.evaluate("snippet.analytics.then(([analytics]) => analytics.user().anonymousId())")
    return found


def _events(posts: list[Seen]) -> list[dict[str, Any]]:
    bodies = [json.loads(post.body) for post in posts]
    return [event for body in bodies for event in body.get("batch", [body])]


def _stored(stack: Stack, page: Page, number: int) -> list[tuple[Any, ...]]:
    columns = "kind, name, user_id, group_id, properties, traits"
    return rows_of(stack, columns, "anonymous_id", _anonymous_id(page), number)


def _has(headers: Mapping[str, str], form: Mapping[str, str]) -> bool:
    return {name: headers.get(name) for name in form} == form


_CALLS_STORED = [
    ("page", None, None, None, _PAGE, {}),
    ("track", "Product Added", None, None, {"product_id": "SKU-1234", "price": 79.99}, {}),
    ("identify", None, "user_98765", None, {}, {"plan": "premium"}),
    ("group", None, "user_98765", "org_555", {}, {"name": "Acme Corp"}),
    # The client itself repeats name and category in the properties.
    ("page", "Cart", "user_98765", None, _PAGE | {"items": 2, "category": "Shopping", "name": "Cart"}, {}),
]


@pytest.mark.parametrize(("snippet", "form"), [("segment.js", _STOCK), ("segment-bearer.js", _BEARER)])
def test_every_call_is_an_event(shop: Shop, stack: Stack, snippet: str, form: Mapping[str, str]) -> None:
    page = shop.open(snippet)
    cookie = await_cookie(shop.visitor, "_dfid")["value"]
    page.evaluate(_EVERY_CALL)
    posts = shop.edge.await_posts(5)
    assert [post.path for post in posts] == ["/v1/p", "/v1/t", "/v1/i", "/v1/g", "/v1/p"]
    assert all(_has(post.headers, form) for post in posts)
    assert [f"_dfid={cookie}" in post.headers.get("cookie", "") for post in posts] == [False, *[True] * 4]
    assert _stored(stack, page, 5) == _CALLS_STORED
    columns = "message_id, cookie_id, page_url, device_timezone, provenance_library, provenance_endpoint"
    assert rows_of(stack, columns, "anonymous_id", _anonymous_id(page), 5) == [
        (event["messageId"], cookie, _URL, "America/New_York", _LIBRARY, post.path)
        for event, post in zip(_events(posts), posts, strict=True)
    ]
    links = "select anonymous_id, user_id from identity_links where anonymous_id in (%s, %s)"
    found = stack.sql(links, _anonymous_id(page), cookie)
    assert sorted(found) == sorted([(_anonymous_id(page), "user_98765"), (cookie, "user_98765")])


@pytest.mark.parametrize(
    ("snippet", "form"), [("segment-batching.js", _STOCK), ("segment-bearer-batching.js", _BEARER)]
)
def test_every_call_is_an_event_of_a_batch(
    shop: Shop, stack: Stack, snippet: str, form: Mapping[str, str]
) -> None:
    page = shop.open(snippet)
    page.evaluate(_EVERY_CALL)
    page.evaluate(_TRACKS, 5)
    cookie = await_cookie(shop.visitor, "_dfid")["value"]
    page.evaluate(_TRACKS, 10)
    posts = shop.edge.await_posts(2)
    assert [post.path for post in posts] == ["/v1/b", "/v1/b"]
    assert all(_has(post.headers, form) for post in posts)
    assert [f"_dfid={cookie}" in post.headers.get("cookie", "") for post in posts] == [False, True]
    assert _stored(stack, page, 20)[:5] == _CALLS_STORED
    columns = "message_id, cookie_id, provenance_library, provenance_endpoint, context ? 'writeKey'"
    assert rows_of(stack, columns, "anonymous_id", _anonymous_id(page), 20) == [
        (event["messageId"], cookie, _LIBRARY, "/v1/b", False) for event in _events(posts)
    ]


def test_a_batch_that_is_not_full_goes_with_the_page(shop: Shop, stack: Stack) -> None:
    page = shop.open("segment-batching.js")
    shop.edge.pages["shop.example.com/elsewhere"] = "<title>Elsewhere</title>"
    page.evaluate(_EVERY_CALL)
    visitor = _anonymous_id(page)
    page.goto(f"{SHOP}/elsewhere")
    assert len(_events(shop.edge.await_posts(1))) == 5
    assert len(rows_of(stack, "kind", "anonymous_id", visitor, 5)) == 5


def test_a_source_that_gets_too_much_is_sent_the_rest_later(shop: Shop, stack: Stack) -> None:
    stack.polylect("source", "create", "hasty")
    stack.polylect("source", "set", "hasty", "--origin", SHOP, "--rate-limit", "2/second")
    key = stack.polylect_json("key", "create", "hasty", "--kind", "datafly")["secret"]
    page = shop.open("segment.js", keys={_KEY: key})
    page.evaluate(_TRACKS, 4)
    rows = _stored(stack, page, 5)
    assert sorted(str(row[1]) for row in rows) == ["None", *(f"track {i}" for i in range(4))]
    again = [post for post in shop.edge.seen if "x-retry-count" in post.headers]
    assert again
    # Not before it was told.
    assert min(post.at for post in again) - shop.edge.seen[0].at >= 1


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize(
    ("snippet", "tracks"), [("segment.js", 0), ("segment-batching-often.js", _FILLS_A_BATCH)]
)
def test_what_was_put_off_is_sent_again(
    shop: Shop, stack: Stack, snippet: str, tracks: int, status: int
) -> None:
    shop.edge.troubles.append(Trouble(status, {"Retry-After": "1"}))
    page = shop.open(snippet)
    page.evaluate(_TRACKS, tracks)
    first, again = shop.edge.await_posts(2)
    assert again.headers["x-retry-count"] == "1"
    sent, sent_again = _events([first]), _events([again])
    assert [event["messageId"] for event in sent_again] == [event["messageId"] for event in sent]
    assert len(_stored(stack, page, tracks + 1)) == len(sent)


@pytest.mark.parametrize(
    ("snippet", "tracks"), [("segment.js", 0), ("segment-batching-often.js", _FILLS_A_BATCH)]
)
def test_what_was_stored_but_not_answered_is_stored_once(
    shop: Shop, stack: Stack, snippet: str, tracks: int
) -> None:
    shop.edge.troubles.append(Trouble(forwarded=True))
    page = shop.open(snippet)
    page.evaluate(_TRACKS, tracks)
    assert len(_events(shop.edge.await_posts(2))) == 2 * (tracks + 1)
    _stored(stack, page, tracks + 1)


def _kept_for_the_next_page(page: Page) -> int:
    """Leave the page; give how many events the client has kept."""
    page.goto(f"{SHOP}/elsewhere")
    kept: int = page.evaluate("""() => Object.keys(localStorage)
        .filter(key => key.startsWith('persisted-queue') && key.endsWith(':items'))
        .reduce((sum, key) => sum + JSON.parse(localStorage[key]).length, 0)""")
    return kept


def test_what_waits_when_the_page_goes_is_sent_by_the_next(shop: Shop, stack: Stack) -> None:
    shop.edge.pages["shop.example.com/elsewhere"] = "<title>Elsewhere</title>"
    shop.edge.troubles.append(Trouble(429, {"Retry-After": "60"}))
    page = shop.open("segment.js")
    visitor = _anonymous_id(page)
    (first,) = shop.edge.await_posts(1)
    assert _kept_for_the_next_page(page) == 1
    page.goto(_URL)
    sent = _events(shop.edge.await_posts(3))
    assert _events([first])[0]["messageId"] in {event["messageId"] for event in sent[1:]}
    rows_of(stack, "kind", "anonymous_id", visitor, 2)


def test_a_bad_key_ends_it_at_once(shop: Shop, stack: Stack) -> None:
    shop.edge.pages["shop.example.com/elsewhere"] = "<title>Elsewhere</title>"
    page = shop.open("segment.js", keys={_KEY: "dk_live_wrong"})
    visitor = _anonymous_id(page)
    assert _failure(page, ["track", "a"]) == "delivery_failure: Non-retryable error: 401"
    shop.edge.await_posts(2)
    # The page event is answered too, and its answer was looked at: another went there and back since.
    answered = "performance.getEntriesByType('resource').filter(each => each.name.includes('/v1/')).length"
    page.wait_for_function(f"() => {answered} >= 2")
    assert _failure(page, ["track", "b"]) == "delivery_failure: Non-retryable error: 401"
    assert _kept_for_the_next_page(page) == 0
    assert stack.sql("select count(*) from events where anonymous_id = %s", visitor) == [(0,)]


def test_a_bad_key_ends_a_batch_at_once(shop: Shop) -> None:
    page = shop.open("segment-batching.js", keys={_KEY: "dk_live_wrong"})
    page.evaluate(_TRACKS, _FILLS_A_BATCH)
    first = _events(shop.edge.await_posts(1))
    page.evaluate(_TRACKS, 10)
    second = _events(shop.edge.await_posts(2)[1:])
    assert not {event["messageId"] for event in first} & {event["messageId"] for event in second}


@pytest.mark.parametrize(
    ("call", "status"),
    [(["screen", "Home"], 404), (["alias", "user_98765"], 404), (["identify", {"plan": "premium"}], 400)],
)
def test_what_the_dialect_has_not_is_dropped_at_once(shop: Shop, call: list[Any], status: int) -> None:
    page = shop.open("segment.js")
    shop.edge.await_posts(1)
    assert _failure(page, call) == f"delivery_failure: Non-retryable error: {status}"
    shop.edge.await_posts(2)
