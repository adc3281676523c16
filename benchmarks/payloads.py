"""What is sent: for each dialect and batch size the requests, byte by byte, that the loaders send in turn.

Hides what a realistic event looks like. The requests of one payload differ in page, campaign and browser, and
each time one is sent its visitor, session and message ids are others (slots.py): neither compression nor a
cache by text, nor what the service keeps of a visitor or a session, sees the same event over and over.
"""

import json
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from benchmarks import slots
from benchmarks.slots import (
    DEVICES,
    LOAD,
    MESSAGE,
    REPEATED_MESSAGE,
    SESSION,
    SHORT_LOAD,
    VISITOR,
    Template,
    slot,
)

SITE = "bench"
DIALECTS = ("pulsora", "pulse", "apex", "datafly")
BATCH_DIALECTS = ("pulse", "apex", "datafly")

Protocol = Literal["http", "grpc", "grpc-stream"]
"""HTTP/1.1, a gRPC call for each request, or a stream of them on each connection."""
Mix = Literal["plain", "repeats", "identify"]
"""plain: pages and named events. repeats: 30 % of the message ids again. identify: a fifth is one."""

_SEED = 20260301  # the same requests in every run
DISTINCT_REQUESTS = 256
"""Unless asked for fewer."""
_BROWSERS = (
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) "
    "Chrome/{v}.0.0.0 Safari/537.36",
    "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605.1.15 (KHTML, like Gecko) "
    "Version/{v}.1 Safari/605.1.15",
    "Mozilla/5.0 (iPhone; CPU iPhone OS 18_{v} like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) "
    "Version/18.1 Mobile/15E148 Safari/604.1",
    "Mozilla/5.0 (Linux; Android 15; Pixel 9) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/{v}.0.0.0 Mobile "
    "Safari/537.36",
    "Mozilla/5.0 (X11; Linux x86_64; rv:{v}.0) Gecko/20100101 Firefox/{v}.0",
)
_REFERRERS = (
    "",
    "https://www.google.com/",
    "https://news.ycombinator.com/item?id=1",
    "https://duckduckgo.com/",
)
_PAGES = (
    "pricing",
    "docs/quickstart",
    "blog/launch-week",
    "signup",
    "products/headphones",
    "cart",
    "account",
)
_PLANS = ("free", "starter", "pro", "enterprise")
_NAMES = ("signup_submit", "add_to_cart", "video_play")
_COUNTRIES = ("US", "DE", "JP", "BR")
_DEVICES = ("desktop", "mobile", "tablet")


@dataclass(frozen=True)
class Request:
    """One request's own: where to, and what. Ids are markers (slots.py)."""

    path: str
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True)
class Payload:
    """Requests to send in turn, each with `events_per_request` events; of one path where it is gRPC."""

    requests: Sequence[Request]
    events_per_request: int = 1
    protocol: Protocol = "http"
    # Bytes of the gRPC answer in which every event was accepted.
    answer_bytes: int | None = None
    # Whether message ids repeat, as slots.py says.
    repeats: bool = False

    def templates(self, host: str, port: int) -> list[Template]:
        """Give what the loaders fill in: over HTTP the whole request, over gRPC the message."""
        load_number = time.time_ns() // 1_000_000
        texts = (
            _raw(request, f"{host}:{port}") if self.protocol == "http" else request.body
            for request in self.requests
        )
        return [slots.cut(text, load_number) for text in texts]

    def distinct_events(self, requests: int) -> int:
        """Tell how many events so many requests leave in `events`: a repeated one is stored once."""
        repeated = slots.repeated_requests(requests) if self.repeats else 0
        return (requests - repeated) * self.events_per_request


@dataclass(frozen=True)
class Fact:
    """One event before it is put in a dialect's words; strings for ids are markers."""

    # page, track or identify.
    kind: str
    name: str
    page: str
    plan: str
    step: int
    referrer: str
    campaign: str
    country: str
    device: str
    agent: str
    visitor: str
    session: str
    message: str
    user: str
    moment_ms: int

    @property
    def iso(self) -> str:
        """When it happened, as text."""
        moment = datetime.fromtimestamp(self.moment_ms / 1000, UTC)
        return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")

    @property
    def title(self) -> str:
        """The page's title."""
        return self.page.replace("/", " ").title()


class Facts:
    """Makes events: the same ones in the same order each time."""

    def __init__(self, mix: Mix) -> None:
        """Prepare a mix."""
        self._mix = mix
        self._chance = random.Random(_SEED)
        self._agents = [
            self._chance.choice(_BROWSERS).format(v=self._chance.randrange(120, 140)) for _ in range(DEVICES)
        ]
        self._now_ms = time.time_ns() // 1_000_000
        self._made = 0

    def take(self, count: int) -> list[Fact]:
        """Make the events of one request."""
        return [self._make(index) for index in range(count)]

    def _make(self, index: int) -> Fact:
        chance, number = self._chance, self._made
        self._made += 1
        identifies = self._mix == "identify" and number % 5 == 0
        visitor = slot(VISITOR, index)
        message = slot(REPEATED_MESSAGE if self._mix == "repeats" else MESSAGE, index)
        return Fact(
            kind="identify" if identifies else "track" if number % 2 else "page",
            name=chance.choice(_NAMES),
            page=chance.choice(_PAGES),
            plan=chance.choice(_PLANS),
            step=chance.randrange(9),
            referrer=chance.choice(_REFERRERS),
            campaign=f"launch-{chance.randrange(20)}",
            country=_COUNTRIES[number % DEVICES % len(_COUNTRIES)],
            device=_DEVICES[number % DEVICES % len(_DEVICES)],
            agent=self._agents[number % DEVICES],
            visitor=f"fp_{LOAD}{visitor}",
            session=f"sess_{LOAD}{slot(SESSION, index)}",
            message=_uuid(message),
            user=f"user_{LOAD}{visitor}",
            moment_ms=self._now_ms - chance.randrange(60_000),
        )


def payload(
    dialect: str,
    key: str,
    size: int | None = None,
    mix: Mix = "plain",
    distinct: int = DISTINCT_REQUESTS,
) -> Payload:
    """Give requests in a dialect: of one event each, or as batches of a size."""
    facts = Facts(mix)
    if size is None:
        requests = [_SINGLE[dialect](facts.take(1)[0], key) for _ in range(distinct)]
    else:
        requests = [_BATCH[dialect](facts.take(size), key) for _ in range(distinct)]
    return Payload(requests, size or 1, repeats=mix == "repeats")


def _pulsora(fact: Fact, key: str) -> Request:
    data = {
        "visitor_fingerprint": fact.visitor,
        "session_id": fact.session,
        "url": f"https://example.com/{fact.page}",
        "path": f"/{fact.page}",
        "timestamp": fact.moment_ms,
    }
    if fact.kind == "track":
        data["event_name"] = fact.name
        data["event_data"] = {"plan": fact.plan, "form_variant": "modal", "step": fact.step}
    elif fact.kind == "identify":
        data["customer_id"] = fact.user
    else:
        data |= {"referrer": fact.referrer, "title": fact.title, "locale": "en-US"}
        data |= {"utm_source": "newsletter", "utm_medium": "email", "utm_campaign": fact.campaign}
    kind = {"page": "pageview", "track": "event"}.get(fact.kind, fact.kind)
    return _json("/api/ingest", {"X-API-Token": key}, fact.agent, {"type": kind, "data": data})


def _pulse(fact: Fact, key: str) -> Request:
    return _json("/collect", {"Authorization": f"Bearer {key}"}, fact.agent, _pulse_event(fact))


def _pulse_batch(facts: Sequence[Fact], key: str) -> Request:
    events = [_pulse_event(fact) for fact in facts]
    return _json("/collect/batch", {"Authorization": f"Bearer {key}"}, facts[0].agent, {"events": events})


def _pulse_event(fact: Fact) -> dict[str, Any]:
    return {
        "site_id": SITE,
        "event_type": "page_view" if fact.kind == "page" else fact.name,
        "timestamp": fact.moment_ms,
        "session_id": fact.session,
        "user_id": fact.user,
        "url": f"https://example.com/{fact.page}?utm_campaign={fact.campaign}",
        "referrer": fact.referrer,
        "device_type": fact.device,
        "country": fact.country,
    }


def _apex(fact: Fact, key: str) -> Request:
    body = {**_apex_event(fact, "https://example.com"), "projectKey": key}
    return _json("/api/events", {}, fact.agent, body)


def _apex_batch(facts: Sequence[Fact], key: str) -> Request:
    body = {"projectKey": key, "events": [_apex_event(fact, "") for fact in facts]}
    return _json("/api/events", {}, facts[0].agent, body)


def _apex_event(fact: Fact, site: str) -> dict[str, Any]:
    event: dict[str, Any] = {
        "type": "pageview" if fact.kind == "page" else fact.name,
        "visitorId": fact.visitor,
        "url": f"{site}/{fact.page}?utm_campaign={fact.campaign}",
        "timestamp": fact.iso,
    }
    if fact.kind == "page":
        return {**event, "referrer": fact.referrer}
    return {**event, "data": {"plan": fact.plan, "elementId": "plan-pro", "step": fact.step}}


_DATAFLY_PATHS = {"track": "/v1/t", "page": "/v1/p", "identify": "/v1/i"}


def _datafly(fact: Fact, key: str) -> Request:
    # A browser that was here before sends the cookie it was given.
    cookie = f"_dfid={_uuid(slot(VISITOR))}"
    headers = {"Authorization": f"Bearer {key}", "Cookie": cookie}
    return _json(_DATAFLY_PATHS[fact.kind], headers, fact.agent, _datafly_event(fact))


def _datafly_batch(facts: Sequence[Fact], key: str) -> Request:
    # A server's: it has no cookie, and knows its visitors.
    events = [{**_datafly_event(fact), "anonymousId": fact.visitor} for fact in facts]
    return _json("/v1/batch", {"Authorization": f"Bearer {key}"}, facts[0].agent, {"batch": events})


def _datafly_event(fact: Fact) -> dict[str, Any]:
    page = {"url": f"https://example.com/{fact.page}", "title": fact.title, "referrer": fact.referrer}
    event: dict[str, Any] = {
        "type": fact.kind,
        "messageId": fact.message,
        "timestamp": fact.iso,
        "context": {"page": page, "userAgent": fact.agent, "locale": "en-US"},
    }
    if fact.kind == "identify":
        return {**event, "userId": fact.user, "traits": {"plan": fact.plan, "createdAt": fact.iso}}
    named = {"event": fact.name} if fact.kind == "track" else {"name": fact.title}
    return {**event, **named, "properties": {"plan": fact.plan, "step": fact.step}}


_SINGLE: Mapping[str, Callable[[Fact, str], Request]] = {
    "pulsora": _pulsora,
    "pulse": _pulse,
    "apex": _apex,
    "datafly": _datafly,
}
_BATCH: Mapping[str, Callable[[Sequence[Fact], str], Request]] = {
    "pulse": _pulse_batch,
    "apex": _apex_batch,
    "datafly": _datafly_batch,
}


def _uuid(marker: str) -> str:
    """Give what looks like a UUID of version 4, and has its last digits from a slot."""
    return f"{SHORT_LOAD}-0000-4000-8000-00{marker}"


def _json(path: str, headers: Mapping[str, str], agent: str, body: Any) -> Request:
    text = json.dumps(body, separators=(",", ":")).encode()
    return Request(path, {"User-Agent": agent, "Content-Type": "application/json", **headers}, text)


def _raw(request: Request, host: str) -> bytes:
    headers = {"Host": host, **request.headers, "Content-Length": str(len(request.body))}
    lines = [f"POST {request.path} HTTP/1.1", *(f"{name}: {text}" for name, text in headers.items())]
    return "\r\n".join([*lines, "", ""]).encode() + request.body
