"""What is sent: for each dialect and batch size the requests, byte by byte, that the loaders send in turn.

Hides what a realistic event looks like. The requests of one payload differ in visitor, session, page, browser
and campaign, so that neither compression nor a cache by text sees the same event over and over.
"""

import json
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

_SEED = 20260301  # the same requests in every run
_DISTINCT_REQUESTS = 256

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


@dataclass(frozen=True)
class Payload:
    """Requests to one endpoint, each with `events_per_request` events in its body."""

    path: str
    headers: Mapping[str, str]
    bodies: Sequence[bytes]
    user_agents: Sequence[str]
    events_per_request: int = 1

    def raw_requests(self, host: str, port: int) -> list[bytes]:
        """Give the whole HTTP/1.1 requests."""
        return [
            _raw(self.path, {"Host": f"{host}:{port}", "User-Agent": agent, **self.headers}, body)
            for body, agent in zip(self.bodies, self.user_agents, strict=True)
        ]


def pulsora_single(token: str) -> Payload:
    """POST /api/ingest, one event a request: pageviews and named events."""
    chance = random.Random(_SEED)
    bodies = [_compact(_pulsora(chance, number)) for number in range(_DISTINCT_REQUESTS)]
    headers = {"Content-Type": "application/json", "X-API-Token": token}
    return Payload("/api/ingest", headers, bodies, _agents(chance))


def pulse_batch(key: str, site_id: str, events_per_request: int) -> Payload:
    """POST /collect/batch."""
    chance = random.Random(_SEED)
    bodies = [
        _compact({"events": [_pulse(chance, site_id) for _ in range(events_per_request)]})
        for _ in range(_DISTINCT_REQUESTS)
    ]
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {key}"}
    return Payload("/collect/batch", headers, bodies, _agents(chance), events_per_request)


def _pulsora(chance: random.Random, number: int) -> dict[str, Any]:
    page = chance.choice(_PAGES)
    data = {
        "visitor_fingerprint": f"fp_{chance.getrandbits(64):016x}",
        "session_id": f"sess_{chance.getrandbits(64):016x}",
        "url": f"https://example.com/{page}",
        "path": f"/{page}",
        "timestamp": _now_ms(chance),
    }
    if number % 2:
        data |= {
            "event_name": chance.choice(("signup_submit", "add_to_cart", "video_play")),
            "event_data": {
                "plan": chance.choice(_PLANS),
                "form_variant": "modal",
                "step": chance.randrange(9),
            },
        }
        return {"type": "event", "data": data}
    data |= {
        "referrer": chance.choice(_REFERRERS),
        "title": page.replace("/", " ").title(),
        "locale": "en-US",
        "utm_source": "newsletter",
        "utm_medium": "email",
        "utm_campaign": f"launch-{chance.randrange(20)}",
    }
    return {"type": "pageview", "data": data}


def _pulse(chance: random.Random, site_id: str) -> dict[str, Any]:
    return {
        "site_id": site_id,
        "event_type": chance.choice(("page_view", "page_view", "click", "form_submit")),
        "timestamp": _now_ms(chance),
        "session_id": f"session_{chance.getrandbits(48):012x}",
        "user_id": f"user_{chance.randrange(100_000)}",
        "url": f"https://example.com/{chance.choice(_PAGES)}?ref={chance.randrange(1000)}",
        "referrer": chance.choice(_REFERRERS),
        "device_type": chance.choice(("desktop", "mobile", "tablet")),
        "country": chance.choice(("US", "DE", "JP", "BR")),
    }


def _now_ms(chance: random.Random) -> int:
    return int(time.time() * 1000) - chance.randrange(60_000)


def _agents(chance: random.Random) -> list[str]:
    return [chance.choice(_BROWSERS).format(v=chance.randrange(120, 140)) for _ in range(_DISTINCT_REQUESTS)]


def _compact(body: Any) -> bytes:
    return json.dumps(body, separators=(",", ":")).encode()


def _raw(path: str, headers: Mapping[str, str], body: bytes) -> bytes:
    lines = [f"POST {path} HTTP/1.1", *(f"{name}: {text}" for name, text in headers.items())]
    return "\r\n".join([*lines, f"Content-Length: {len(body)}", "", ""]).encode() + body
