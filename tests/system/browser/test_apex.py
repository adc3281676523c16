"""/apex.js: pageviews, outbound clicks and forms by itself; window.apex."""

import re

from playwright.sync_api import BrowserContext

from ..edge import SHOP, Edge
from ..stack import Stack
from .site import APEX_HTML, await_events, await_name, names, open_page, posts

_FORM = """<form id="signup" onsubmit="return false">
<input name="plan" value="business"><input name="id" value="9"><input name="elements" value="8">
<input type="password" name="secret" value="hunter2">
<input name="cc" autocomplete="cc-number" value="4111111111111111">
<input type="hidden" name="csrf" value="t0ken"><select name="seats"><option>1729</option></select>
<textarea name="note">confidential</textarea><input type="radio" name="size" value="l">
<input type="radio" name="size" value="xl"><input value="nameless"><button>Go</button>
</form><input form="signup" name="outside" value="elsewhere"><input name="other" value="of another">"""


def test_what_an_apex_event_says(visitor: BrowserContext, edge: Edge, stack: Stack) -> None:
    page = open_page(visitor, edge, APEX_HTML, "/pricing?plan=pro")
    page.evaluate("apex.track('plan_chosen', {plan: 'pro', seats: 3})")
    first, second = posts(edge, 2)
    visitor_id = first["visitorId"]
    assert re.fullmatch(r"v_[\w-]{36}", visitor_id)
    assert {**first, "timestamp": ""} == {
        "projectKey": "pk_live_xyz",
        "type": "pageview",
        "visitorId": visitor_id,
        "url": f"{SHOP}/pricing?plan=pro",
        "timestamp": "",
    }
    assert (second["type"], second["data"]) == ("plan_chosen", {"plan": "pro", "seats": 3})
    stack.await_rows("select 1 from events where anonymous_id = %s and name = 'plan_chosen'", visitor_id)
    rows = stack.sql(
        "select kind, name, page_url, properties, provenance_dialect from events where anonymous_id = %s"
        " order by event_id",
        visitor_id,
    )
    url = f"{SHOP}/pricing?plan=pro"
    assert rows == [
        ("page", None, url, {}, "apex"),
        ("track", "plan_chosen", url, {"plan": "pro", "seats": 3}, "apex"),
    ]


def test_several_at_once_share_a_request(visitor: BrowserContext, edge: Edge) -> None:
    page = open_page(visitor, edge, APEX_HTML)
    page.evaluate("for (let i = 0; i < 120; i++) apex.track('many', {i})")
    events = await_events(edge, 121)
    assert [event["data"]["i"] for event in events[1:]] == list(range(120))
    assert len(edge.seen) <= 5


def test_a_visitor_is_known_for_a_year(visitor: BrowserContext, edge: Edge) -> None:
    page = open_page(visitor, edge, APEX_HTML)
    first = await_events(edge, 1)[0]["visitorId"]
    page.reload()
    visitor.new_page().goto(f"{SHOP}/")
    assert {event["visitorId"] for event in await_events(edge, 3)} == {first}
    (cookie,) = visitor.cookies()
    assert (cookie["name"], cookie["value"], cookie["domain"]) == ("_apex_vid", first, "shop.example.com")
    assert 364 < (cookie["expires"] - page.evaluate("Date.now() / 1000")) / 86_400 < 366


def test_a_form_is_told_by_the_names_of_its_fields(visitor: BrowserContext, edge: Edge, stack: Stack) -> None:
    page = open_page(visitor, edge, APEX_HTML + _FORM)
    page.click("button")
    event = await_name(edge, "form_submit")
    fields = ["plan", "id", "elements", "secret", "cc", "csrf", "seats", "note", "size", "outside"]
    assert event["data"] == {"elementId": "signup", "fields": fields}
    bodies = b"".join(one.body for one in edge.seen)
    for value in (b"hunter2", b"4111", b"t0ken", b"1729", b"confidential", b"elsewhere", b"business"):
        assert value not in bodies
    stored = stack.await_rows(
        "select properties from events where anonymous_id = %s and name = 'form_submit'", event["visitorId"]
    )
    assert stored == [({"elementId": "signup", "fields": fields},)]


def test_a_click_that_leads_away_is_told(visitor: BrowserContext, edge: Edge) -> None:
    away = "https://elsewhere.example.com/there?a=1"
    edge.pages["elsewhere.example.com/there?a=1"] = "<title>There</title>"
    html = f"""{APEX_HTML}<a id="out" href="{away}"><b>Out</b></a> <a href="/cart">Cart</a>
    <a href="mailto:a@example.com">Mail</a> <a href="#here">Here</a> <a>Nowhere</a> <p>Text</p>
    <script>for (const link of document.links) if (link.id != "out") link.onclick = () => false</script>"""
    page = open_page(visitor, edge, html)
    for text in ("Cart", "Mail", "Here", "Nowhere", "Text"):
        page.get_by_text(text, exact=True).click()
    page.get_by_text("Out", exact=True).click(modifiers=["ControlOrMeta"])
    page.get_by_text("Out", exact=True).click(button="middle")
    page.get_by_text("Out", exact=True).click(button="right")
    page.get_by_text("Out", exact=True).click()
    page.wait_for_url(away)
    events = await_events(edge, 4)
    told = {"href": away, "elementId": "out", "outbound": True}
    assert [(event["type"], event.get("data")) for event in events] == [
        ("pageview", None),
        *[("click", told)] * 3,
    ]


def test_a_click_around_and_inside_of_custom_elements_is_told(visitor: BrowserContext, edge: Edge) -> None:
    away = "https://elsewhere.example.com/there"
    html = f"""{APEX_HTML}<a id="around" href="{away}"><x-label></x-label></a> <x-link></x-link><script>
    const fill = (name, html) => {{
        document.querySelector(name).attachShadow({{mode: "open"}}).innerHTML = html
    }}
    fill("x-label", "<span>Label</span>")
    fill("x-link", '<a id="inside" href="{away}"><b>Link</b></a>')
    addEventListener("click", (event) => event.preventDefault())</script>"""
    page = open_page(visitor, edge, html)
    page.get_by_text("Label").click()
    page.get_by_text("Link", exact=True).click()
    assert [event["data"]["elementId"] for event in await_events(edge, 3)[1:]] == ["around", "inside"]


def test_a_new_route_is_a_pageview_of_its_own(visitor: BrowserContext, edge: Edge) -> None:
    page = open_page(visitor, edge, APEX_HTML)
    page.evaluate("history.pushState({}, '', '/a'); history.replaceState({}, '', '/a'); apex.track('on_a')")
    events = await_events(edge, 3)
    assert [(event["type"], event["url"], event.get("referrer")) for event in events] == [
        ("pageview", f"{SHOP}/", None),
        ("pageview", f"{SHOP}/a", f"{SHOP}/"),
        ("on_a", f"{SHOP}/a", None),
    ]


def test_apex_commands_before_the_script(visitor: BrowserContext, edge: Edge) -> None:
    page = open_page(
        visitor, edge, f"<script>apex = [['track', 'early', {{a: 1}}], ['x'], 7]</script>{APEX_HTML}"
    )
    page.evaluate("apex.push(['track', 'later'])")
    await_events(edge, 3)
    assert names(edge) == ["pageview", "early", "later"]
