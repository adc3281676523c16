"""The demo page, by mouse and by keyboard: what a button sends shows up, with what became of it."""

import http.client
import itertools
import json
import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import pytest
from playwright.sync_api import Browser, BrowserContext, Locator, Page, Response, ViewportSize, expect

from ..chromium import PageLog
from ..stack import Stack
from ..waiting import eventually
from .site import PATHS

_BUILD = Path(__file__).parents[3] / "build" / "demo-page"
_SIZES: dict[str, ViewportSize] = {
    "desktop": {"width": 1280, "height": 900},
    "phone": {"width": 390, "height": 844},
}
# One that is nobody's robot.
_AGENT = (
    "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0.0.0 Safari/537.36"
)
_PATIENCE_MS = 10_000
# By button: whose line it makes, and what it says.
_STORED = {
    "pulsora-page": ("pulsora", "page"),
    "pulsora-event": ("pulsora", "track signup_submit"),
    "pulsora-identify": ("pulsora", "identify"),
    "pulsora-revenue": ("pulsora", "revenue"),
    "pulse-page": ("pulse", "page"),
    "pulse-signup": ("pulse", "track user_signup"),
    "pulse-purchase": ("pulse", "track purchase"),
    "pulse-batch": ("pulse", "track click"),
    "apex-page": ("apex", "page"),
    "apex-custom": ("apex", "track plan_selected"),
    "apex-click": ("apex", "track click"),
    "apex-form": ("apex", "track form_submit"),
    "datafly-page": ("datafly", "page Checkout"),
    "datafly-track": ("datafly", "track Product Added"),
    "datafly-identify": ("datafly", "identify"),
    "datafly-group": ("datafly", "group"),
}
_REFUSED = {
    "pulsora-refused": ("pulsora", "Revenue events require secret token", "revenue_not_permitted"),
    "pulse-refused": ("pulse", "country must be", "field_invalid"),
    "apex-refused": ("apex", "Missing required field: type", "field_missing"),
    "datafly-refused": ("datafly", "userId is required", "field_missing"),
}
_MOVING = "document.getAnimations().filter(({ playState }) => playState === 'running').length"

# Text on grounds: the worst contrast for each text that is seen, of those below what WCAG 2.2 AA asks for.
_POOR_CONTRASTS = """() => {
  const rgba = (text) => {
    const found = text.match(/[\\d.]+/g).map(Number);
    return { red: found[0], green: found[1], blue: found[2], alpha: found[3] ?? 1 };
  };
  const over = (top, below) => {
    const mixed = (name) => top[name] * top.alpha + below[name] * (1 - top.alpha);
    return { red: mixed("red"), green: mixed("green"), blue: mixed("blue"), alpha: 1 };
  };
  const ground = (element) => {
    if (!element) return { red: 255, green: 255, blue: 255, alpha: 1 };
    const own = rgba(getComputedStyle(element).backgroundColor);
    return own.alpha === 1 ? own : over(own, ground(element.parentElement));
  };
  const luminance = ({ red, green, blue }) => {
    const linear = (part) => (part /= 255) <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4;
    return 0.2126 * linear(red) + 0.7152 * linear(green) + 0.0722 * linear(blue);
  };
  const contrast = (one, other) => {
    const [dark, light] = [luminance(one), luminance(other)].sort((a, b) => a - b);
    return (light + 0.05) / (dark + 0.05);
  };
  const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  const poor = [];
  let looked = 0;
  while (texts.nextNode()) {
    const element = texts.currentNode.parentElement;
    if (!texts.currentNode.data.trim() || !element.getClientRects().length) continue;
    const style = getComputedStyle(element);
    const size = parseFloat(style.fontSize);
    const wanted = size >= 24 || (size >= 18.66 && style.fontWeight >= 700) ? 3 : 4.5;
    const below = ground(element);
    const has = contrast(over(rgba(style.color), below), below);
    looked++;
    if (has < wanted) poor.push([texts.currentNode.data.trim(), has]);
  }
  // What is no text: the dialects' colours and the focus on what they stand on, and the edges of buttons.
  const root = getComputedStyle(document.documentElement);
  const probe = document.body.appendChild(document.createElement("i"));
  const colour = (name) => {
    probe.style.color = root.getPropertyValue(name);
    return rgba(getComputedStyle(probe).color);
  };
  const coloured = ["pulsora", "pulse", "apex", "datafly", "grpc", "focus", "edge", "stored"];
  for (const name of coloured.map((each) => `--${each}`))
    for (const on of ["--ground", "--surface"]) {
      const has = contrast(colour(name), colour(on));
      if (has < 3) poor.push([`${name} on ${on}`, has]);
    }
  probe.remove();
  return { looked, poor };
}"""


class Answered(Protocol):
    """What Playwright gives for a response to come."""

    @property
    def value(self) -> Response: ...


@pytest.fixture
def logs() -> list[PageLog]:
    """What each page that is visited complains about, from its first moment."""
    return []


@pytest.fixture
def visit(chromium: Browser, stack: Stack, logs: list[PageLog]) -> Iterator[Callable[..., Page]]:
    """Opens the page in a browser nobody has used before, and waits until it shows its own events."""
    contexts: list[BrowserContext] = []

    def visit(**options: Any) -> Page:
        settings = {"viewport": _SIZES["desktop"], "locale": "en-US", "user_agent": _AGENT, **options}
        contexts.append(chromium.new_context(**settings))
        page = contexts[-1].new_page()
        logs.append(PageLog(page))
        with ExitStack() as waiting:
            answers = [waiting.enter_context(_answer_to(page, dialect)) for dialect in PATHS]
            page.goto(f"http://127.0.0.1:{stack.http_port}/demo")
        expect(page.locator("#state")).to_have_text("Live", timeout=_PATIENCE_MS)
        for answer in answers:
            expect(_line(page, answer, "stored", "page")).to_be_attached(timeout=_PATIENCE_MS)
        return page

    yield visit
    for context in contexts:
        context.close()


def _answer_to(page: Page, dialect: str) -> AbstractContextManager[Answered]:
    """Wait, in a block, for the answer to what the block has the page send."""
    return page.expect_response(
        lambda answer: answer.request.method == "POST" and PATHS[dialect] in answer.url
    )


def _request_id(answer: Answered) -> str:
    return answer.value.headers["x-request-id"]


def _line(page: Page, answer: Answered, verdict: str, what: str) -> Locator:
    """Give the line of what was answered so; of a batch the one that says `what`."""
    lines = page.locator(f'.lines > li.{verdict}[data-request="{_request_id(answer)}"]')
    return lines.filter(has=page.locator(".what", has_text=re.compile(rf"^{re.escape(what)}")))


def _press(page: Page, button: str) -> Answered:
    """Press a button; give the answer to what it sent."""
    with _answer_to(page, button.partition("-")[0]) as answer:
        page.locator(f'[data-send="{button}"]').click()
    return answer


def _number(page: Page, dialect: str, verdict: str) -> int:
    told = page.locator(f'.dialect[data-dialect="{dialect}"] .counts').inner_text()
    found = re.search(rf"(\d+) {verdict}", told)
    return int(found[1]) if found else 0


def test_each_button_makes_its_line_and_counts(visit: Callable[..., Page], logs: list[PageLog]) -> None:
    page = visit()
    for dialect in PATHS:
        stored = {button: what for button, (whose, what) in _STORED.items() if whose == dialect}
        refused = {button: about for button, (whose, *about) in _REFUSED.items() if whose == dialect}
        counted = {verdict: _number(page, dialect, verdict) for verdict in ("stored", "refused")}
        answers = {button: _press(page, button) for button in (*stored, *refused)}
        for button, what in stored.items():
            line = _line(page, answers[button], "stored", what)
            expect(line).to_have_count(1, timeout=_PATIENCE_MS)
            assert line.get_attribute("data-dialect") == dialect
        for button, (message, reason) in refused.items():
            line = _line(page, answers[button], "refused", "")
            expect(line.locator(".what")).to_contain_text(message, timeout=_PATIENCE_MS)
            expect(line.locator(".glance")).to_have_text(reason)
        assert _number(page, dialect, "stored") >= counted["stored"] + len(stored)
        assert _number(page, dialect, "refused") >= counted["refused"] + len(refused)
    assert page.url.endswith("/demo")
    (log,) = logs
    assert page.url in log.asked
    assert [url for url in log.asked if not url.startswith(page.url.removesuffix("demo"))] == []
    assert log.errors == []
    # A refusal is an answer with an error, which Chromium notes by itself.
    assert [said for said in log.console if "the server responded with a status of 4" not in said] == []


def test_a_click_shows_the_canonical_event_and_what_is_known(
    visit: Callable[..., Page], stack: Stack
) -> None:
    page = visit()
    _press(page, "datafly-identify")
    answer = _press(page, "datafly-track")
    line = _line(page, answer, "stored", "track Product Added")
    expect(line.locator(".glance")).to_have_text(
        re.compile("/demo.*user_98765.*desktop"), timeout=_PATIENCE_MS
    )
    line.locator("summary").click()
    event = json.loads(line.locator("pre").inner_text())
    [stored] = stack.sql(
        "select anonymous_id, provenance_request_id, properties from events where event_id = %s",
        event["event_id"],
    )
    assert (event["anonymous_id"], event["provenance"]["request_id"], event["properties"]) == stored
    assert event["user_id"] == "user_98765"
    # Every digit as it was sent.
    assert '"price": 79.99' in line.locator("pre").inner_text()
    expect(line.locator("dd", has_text=event["session_id"])).to_be_visible()
    expect(line.locator(".note")).to_have_text(f"Its story: polylect why {_request_id(answer)}")


def test_what_was_sent_elsewhere_is_there_too_and_again_after_a_reload(
    visit: Callable[..., Page], stack: Stack
) -> None:
    page = visit()
    event = {"visitor_fingerprint": "fp", "session_id": "s", "event_name": "from_a_terminal"}
    answer = stack.post("/api/ingest", {"type": "event", "data": event}, {"X-API-Token": "pub_123"})
    assert answer.status == 202
    sent = page.locator(f'.lines > li[data-request="{answer.headers["x-request-id"]}"]')
    expect(sent).to_have_count(1, timeout=_PATIENCE_MS)
    page.reload()
    expect(sent).to_have_count(1, timeout=_PATIENCE_MS)


def test_a_pause_holds_lines_back_and_loses_none(visit: Callable[..., Page]) -> None:
    page = visit()
    pause = page.locator("#pause")
    expect(pause).to_have_text("Pause")
    pause.click()
    expect(pause).to_have_text("Resume")
    expect(pause).to_have_attribute("aria-pressed", "true")
    counted = _number(page, "apex", "stored")
    sent = _line(page, _press(page, "apex-custom"), "stored", "track plan_selected")
    # What other tests' browsers send when they close may be among them.
    expect(page.locator("#held")).to_have_text(re.compile(r"^[1-9]\d* new$"), timeout=_PATIENCE_MS)
    eventually(lambda: _number(page, "apex", "stored") > counted, "it is counted")
    assert sent.count() == 0
    pause.click()
    expect(sent).to_have_count(1)
    expect(page.locator("#held")).to_be_empty()


def test_by_keyboard_alone_and_told_to_who_can_not_see(visit: Callable[..., Page]) -> None:
    page = visit(reduced_motion="reduce")
    focused = page.locator(":focus")
    page.keyboard.press("Tab")
    expect(focused).to_have_text("To what was received")
    expect(focused).to_be_in_viewport()
    page.keyboard.press("Tab")
    expect(focused).to_have_attribute("data-send", "pulsora-page")
    assert focused.evaluate("(element) => getComputedStyle(element).outlineStyle") == "solid"
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    # Only what follows one's own press is read out.
    expect(page.locator("#said")).to_have_text("Pulsora stored: track signup_submit", timeout=_PATIENCE_MS)
    for _ in range(30):
        if focused.evaluate("(element) => element.tagName") == "SUMMARY":
            break
        page.keyboard.press("Tab")
    opened = page.locator("details:has(summary:focus)").element_handle()
    page.keyboard.press("Enter")
    expect(page.locator("details[open] pre")).to_be_visible()
    page.keyboard.press("Tab")
    expect(focused).to_have_attribute("aria-label", re.compile("as it is stored|What was sent"))
    assert opened is not None
    assert opened.evaluate("(details) => details.open && details.contains(document.activeElement)")
    assert page.evaluate(_MOVING) == 0


def test_it_can_be_read_in_every_light_and_size(visit: Callable[..., Page]) -> None:
    page = visit()
    signup = _line(page, _press(page, "pulse-signup"), "stored", "track user_signup")
    for button in ("apex-form", "datafly-group"):
        _press(page, button)
    refused = _line(page, _press(page, "pulsora-refused"), "refused", "Revenue")
    for line in (signup, refused):
        expect(line).to_be_attached(timeout=_PATIENCE_MS)
    # A line that fades in has a ground of its own for a moment.
    eventually(lambda: page.evaluate(_MOVING) == 0, "nothing moves")
    _BUILD.mkdir(parents=True, exist_ok=True)
    for is_open in (False, True):
        if is_open:
            refused.locator("summary").click()
            signup.locator("summary").click()
        for size, scheme in itertools.product(("desktop", "phone"), ("light", "dark")):
            page.set_viewport_size(_SIZES[size])
            page.emulate_media(color_scheme=scheme)
            if size == "phone" and not is_open:
                # The list is below the buttons; its newest line is in sight all the same.
                expect(page.locator("#latest")).to_be_in_viewport()
            expect(page.locator("#plot canvas")).to_have_css("width", _width_of(page.locator("#plot")))
            name = f"{size}-{scheme}{'-open' if is_open else ''}.png"
            page.screenshot(path=_BUILD / name, full_page=is_open)
            # Nothing is wider than the window.
            assert page.evaluate("document.documentElement.scrollWidth") == _SIZES[size]["width"]
            seen = page.evaluate(_POOR_CONTRASTS)
            assert seen["looked"] > 50
            assert seen["poor"] == [], name


def _width_of(element: Locator) -> str:
    return f"{element.evaluate('(element) => element.clientWidth')}px"


def test_more_than_can_be_read_is_counted(visit: Callable[..., Page], stack: Stack) -> None:
    page = visit()
    counted = _number(page, "pulse", "stored")
    events = [{"event_type": "burst", "session_id": "s"} for _ in range(300)]
    stack.post("/collect/batch", {"events": events}, {"Authorization": "Bearer YOUR_API_KEY"})
    eventually(lambda: _number(page, "pulse", "stored") >= counted + 300, "all of them are counted")
    assert page.locator(".lines > li").count() <= 200


def test_counts_begin_with_the_page_and_count_once_across_a_break(
    visit: Callable[..., Page], stack: Stack
) -> None:
    page = visit()
    events = [{"event_type": "burst", "session_id": "s"} for _ in range(300)]
    post = partial(stack.post, "/collect/batch", {"events": events})
    key = {"Authorization": "Bearer YOUR_API_KEY"}
    counted = _number(page, "pulse", "stored")
    post(key)
    eventually(lambda: _number(page, "pulse", "stored") == counted + 300, "all of them are counted")
    stack.part("facade-worker").terminate()
    expect(page.locator("#state")).to_have_text("Away, trying again", timeout=_PATIENCE_MS)
    expect(page.locator("#state")).to_have_text("Live", timeout=30_000)
    post(key)
    # What the stream repeats comes before it.
    eventually(lambda: _number(page, "pulse", "stored") >= counted + 600, "these as well")
    assert _number(page, "pulse", "stored") == counted + 600
    page.reload()
    expect(page.locator("#state")).to_have_text("Live", timeout=_PATIENCE_MS)
    eventually(lambda: _number(page, "pulse", "stored") > 0, "its own page view is counted")
    # Those of the second it was opened in may be among them.
    assert _number(page, "pulse", "stored") < counted + 600


def test_one_page_too_many_is_told_so(chromium: Browser, stack: Stack) -> None:
    with ExitStack() as open_streams:
        context = open_streams.enter_context(chromium.new_context())
        for _ in range(8):
            connection = http.client.HTTPConnection("127.0.0.1", stack.http_port, timeout=10)
            open_streams.callback(connection.close)
            connection.request("GET", "/demo/events")
            connection.getresponse()
        page = context.new_page()
        page.goto(f"http://127.0.0.1:{stack.http_port}/demo")
        state = page.locator("#state")
        expect(state).to_have_text("Too many pages follow already: close one", timeout=_PATIENCE_MS)


def test_it_comes_back_when_the_facade_does(visit: Callable[..., Page], stack: Stack) -> None:
    page = visit()
    stack.part("facade-worker").terminate()
    expect(page.locator("#state")).to_have_text("Away, trying again", timeout=_PATIENCE_MS)
    expect(page.locator("#state")).to_have_text("Live", timeout=30_000)
    purchase = _line(page, _press(page, "pulse-purchase"), "stored", "track purchase")
    expect(purchase).to_have_count(1, timeout=_PATIENCE_MS)
