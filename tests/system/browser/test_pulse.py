"""/tracker.js: the page of the PULSE document, and what else window.PULSE does."""

from playwright.sync_api import BrowserContext

from ..edge import SHOP, Edge
from ..stack import Stack
from ..waiting import eventually
from .site import PULSE_HTML, await_events, open_page, open_watched, posts

# As seed 001 prints it.
_DOCUMENT_HTML = """<!DOCTYPE html><title>Products</title>
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


def test_the_page_of_the_pulse_document(visitor: BrowserContext, edge: Edge, stack: Stack) -> None:
    page, log = open_watched(visitor, edge, _DOCUMENT_HTML, "/products")
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
    url = f"{SHOP}/products"
    at = ("pulse", "/collect", True)
    assert rows == [
        ("page", None, session, None, url, None, "desktop", {}, *at),
        ("track", "user_signup", session, "user_123", url, None, "desktop", {"plan": "premium"}, *at),
    ]
    assert log.errors == []
    assert page.evaluate("Object.keys(PULSE)") == ["init", "trackPageView", "trackEvent"]


def test_a_session_is_a_tabs(visitor: BrowserContext, edge: Edge) -> None:
    page = open_page(visitor, edge, _DOCUMENT_HTML)
    await_events(edge, 2)
    page.reload()
    await_events(edge, 4)
    visitor.new_page().goto(f"{SHOP}/")
    sessions = [event["session_id"] for event in await_events(edge, 6)]
    assert sessions[0] == sessions[1] == sessions[2] == sessions[3] != sessions[4] == sessions[5]


def test_props_of_a_pulse_event_take_no_fields_place(
    visitor: BrowserContext, edge: Edge, stack: Stack
) -> None:
    page = open_page(visitor, edge, _DOCUMENT_HTML)
    session = page.evaluate("sessionStorage.pulse_session_id")
    page.evaluate(
        "PULSE.trackEvent('click', {country: 'Germany', url: {a: 1}, timestamp: 'soon', userId: 7})"
    )
    found = stack.await_rows(
        "select user_id, geo_country, page_url, properties from events"
        " where session_id = %s and name = 'click'",
        session,
    )
    assert found == [("7", None, f"{SHOP}/", {"country": "Germany", "url": {"a": 1}, "timestamp": "soon"})]


def test_pulse_events_before_init_wait_for_it(visitor: BrowserContext, edge: Edge) -> None:
    page = open_page(visitor, edge, '<script src="https://your-api.example.com/tracker.js"></script>')
    page.evaluate("PULSE.trackEvent('early', {})")
    page.evaluate(
        "PULSE.init({siteId: 'site_abc123', apiKey: 'YOUR_API_KEY', endpoint: 'https://your-api.example.com/'})"
    )
    (event,) = posts(edge, 1)
    assert (edge.seen[0].path, event["event_type"], event["site_id"]) == ("/collect", "early", "site_abc123")


def test_a_user_given_at_init_is_every_events(visitor: BrowserContext, edge: Edge, stack: Stack) -> None:
    page = open_page(visitor, edge, PULSE_HTML.replace("siteId", "userId: 'user_7', siteId"))
    page.evaluate("PULSE.trackEvent('a'); PULSE.trackEvent('b', {userId: 'user_8'})")
    session = page.evaluate("sessionStorage.pulse_session_id")
    found = stack.await_rows("select 1 from events where session_id = %s and name = 'b'", session)
    assert found
    stack.wait_until_drained()
    assert stack.sql("select name, user_id from events where session_id = %s order by name", session) == [
        ("a", "user_7"),
        ("b", "user_8"),
    ]
