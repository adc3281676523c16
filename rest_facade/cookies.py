"""Reads and makes the cookies of a dialect that names visitors: its own, and vendors' ids beside it.

After seed 003 ("Common Response Headers") and spec/dialects.md. Values come from anybody; what is not what
it should be counts as absent, and nothing a client sent is set again but an fbclid of harmless characters.
"""

import re
import secrets
from collections.abc import Callable, Mapping
from typing import NamedTuple
from urllib.parse import parse_qs, urlsplit

import msgspec
from polylect.v1.ingest_pb2 import ClientOutcome, ClientRequest
from uuid_utils import uuid4

from rest_facade.vocabulary import VisitorCookie

_DAY_SECONDS = 86_400
# Both cases spelled out: to ignore them costs as much again.
_UUID4 = re.compile(
    r"[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-4[0-9a-fA-F]{3}-[89abAB][0-9a-fA-F]{3}-[0-9a-fA-F]{12}", re.ASCII
)
# RFC 6265 cookie-octets.
_VALUE = re.compile(r"[\x21\x23-\x2b\x2d-\x3a\x3c-\x5b\x5d-\x7e]{1,512}")
_CLICK_ID = re.compile(r"[A-Za-z0-9_.-]{1,500}")
_DOMAIN = re.compile(r"\.?[A-Za-z0-9.-]{1,253}")


class _Vendor(NamedTuple):
    # From milliseconds since the epoch.
    make: Callable[[int], str]
    max_age_seconds: int


_VENDORS: Mapping[str, _Vendor] = {
    "_ga": _Vendor(lambda ms: f"GA1.1.{secrets.randbits(32)}.{ms // 1000}", 400 * _DAY_SECONDS),
    "_fbp": _Vendor(
        lambda ms: f"fb.1.{ms}.{secrets.randbelow(9_000_000_000) + 1_000_000_000}", 90 * _DAY_SECONDS
    ),
    # 13 months as these vendors count them.
    "_ttp": _Vendor(lambda _: secrets.token_urlsafe(20), 390 * _DAY_SECONDS),
    "_pin_unauth": _Vendor(lambda _: secrets.token_urlsafe(32), 365 * _DAY_SECONDS),
    "_scid": _Vendor(lambda _: str(uuid4()), 390 * _DAY_SECONDS),
}
_CLICK_COOKIE = "_fbc"
_CLICK_MAX_AGE_SECONDS = 90 * _DAY_SECONDS
_CLICK_PARAMETER = b"fbclid="
_OFFERED = frozenset((*_VENDORS, _CLICK_COOKIE))
# Ids tell when they were made.
_MAX_OFFER_AGE_MS = 1000


class Visitor(msgspec.Struct, frozen=True):
    """What a request's cookies say."""

    visitor_id: str
    # Whether the client has `visitor_id` already.
    known: bool
    # Vendors' cookies the client has.
    held: Mapping[str, str]
    # Sec-GPC: 1, no vendor ids.
    opted_out: bool


class Offer(msgspec.Struct, frozen=True):
    """The vendor ids a visitor has, or would be given: of which a source may list some."""

    ids: Mapping[str, str]
    # Of a ClientRequest that has these ids and nothing else.
    serialized: bytes
    # None: one of them was the visitor's already.
    made_ms: int | None


NO_OFFER = Offer({}, b"", None)


class CookieJar:
    """Reads and sets one dialect's cookies.

    Most sources list no vendor, and what is offered to them nobody keeps: it is offered again. To make ids
    for each request took a tenth of it.
    """

    def __init__(self, cookie: VisitorCookie) -> None:
        self._cookie = cookie
        # Not taken. No more than there were requests under way at a time.
        self._offers: list[Offer] = []

    def read(self, headers: Mapping[str, str]) -> Visitor:
        """Find the visitor, or make a new one."""
        sent = _cookies(headers.get("cookie", ""))
        visitor_id = sent.get(self._cookie.name, "")
        known = _UUID4.fullmatch(visitor_id) is not None
        return Visitor(
            visitor_id if known else str(uuid4()),
            known,
            {name: value for name, value in sent.items() if name in _OFFERED and _VALUE.fullmatch(value)},
            headers.get("sec-gpc", "").strip() == "1",
        )

    def offer(self, visitor: Visitor, request: ClientRequest, serialized: bytes, now_ms: int) -> Offer:
        """Give what goes with a request, of which these are the bytes."""
        if not self._cookie.vendor_cookies or visitor.opted_out:
            return NO_OFFER
        held = visitor.held
        # The bytes are searched in no time; to ask for the url takes as long as all the rest.
        click = _click_cookie(request, now_ms) if _CLICK_PARAMETER in serialized else ""
        if held or click:
            own = {_CLICK_COOKIE: click, **held} if click else held
            return _offer({**_made(now_ms), **own}, None)
        while self._offers:
            offer = self._offers.pop()
            if offer.made_ms is not None and 0 <= now_ms - offer.made_ms <= _MAX_OFFER_AGE_MS:
                return offer
        return _offer(_made(now_ms), now_ms)

    def take_back(self, offer: Offer, outcome: ClientOutcome) -> None:
        """Keep an offer for another visitor, if it is certain that nothing of it was stored or is set."""
        if offer.made_ms is not None and not outcome.vendor_cookies and not outcome.HasField("refusal"):
            self._offers.append(offer)

    def to_set(self, visitor: Visitor, offer: Offer, outcome: ClientOutcome, *, secure: bool) -> list[str]:
        """Give the Set-Cookie values: those of the visitor the client has not yet."""
        if visitor.known and not outcome.vendor_cookies:
            return []
        domain = outcome.cookie_domain
        ending = f"; Domain={domain}" if domain and _DOMAIN.fullmatch(domain) else ""
        same_site = "; Secure; SameSite=Lax" if secure else "; SameSite=Lax"
        cookies = []
        if not visitor.known:
            cookies.append(
                f"{self._cookie.name}={visitor.visitor_id}; Path=/; HttpOnly{same_site}"
                f"; Max-Age={self._cookie.max_age_seconds}{ending}"
            )
        for name in outcome.vendor_cookies:
            value = offer.ids.get(name)
            if value and name not in visitor.held:
                # Vendors' scripts read theirs: not HttpOnly.
                cookies.append(f"{name}={value}; Path=/{same_site}; Max-Age={_max_age(name)}{ending}")
        return cookies


def _made(now_ms: int) -> Mapping[str, str]:
    return {name: vendor.make(now_ms) for name, vendor in _VENDORS.items()}


def _offer(ids: Mapping[str, str], made_ms: int | None) -> Offer:
    return Offer(ids, ClientRequest(vendor_ids=ids).SerializeToString(), made_ms)


def _max_age(name: str) -> int:
    return _CLICK_MAX_AGE_SECONDS if name == _CLICK_COOKIE else _VENDORS[name].max_age_seconds


def _click_cookie(request: ClientRequest, now_ms: int) -> str:
    url = request.items[0].event.page.url if request.items else ""
    try:
        found = parse_qs(urlsplit(url).query).get("fbclid", [""])[0]
    except ValueError:
        return ""
    return f"fb.1.{now_ms}.{found}" if _CLICK_ID.fullmatch(found) else ""


def _cookies(header: str) -> dict[str, str]:
    """Split a Cookie header; of a repeated name the first, which is the more specific one, counts."""
    cookies: dict[str, str] = {}
    for pair in header.split(";") if header else ():
        name, equals, value = pair.partition("=")
        if equals:
            cookies.setdefault(name.strip(), value.strip().strip('"'))
    return cookies
