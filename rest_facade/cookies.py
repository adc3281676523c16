"""Reads and makes the cookies of a dialect that names visitors: its own, and vendors' ids beside it.

After seed 003 ("Common Response Headers") and spec/dialects.md. Values come from anybody; what is not what
it should be counts as absent, and nothing a client sent is set again but an fbclid of harmless characters.
"""

import re
import secrets
from collections.abc import Callable, Mapping
from typing import NamedTuple
from urllib.parse import parse_qs, urlsplit

from polylect.v1.ingest_pb2 import ClientOutcome, ClientRequest
from uuid_utils import uuid4

from rest_facade.vocabulary import VisitorCookie

_DAY_SECONDS = 86_400
_UUID4 = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}", re.IGNORECASE)
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


class Visitor(NamedTuple):
    """What a request's cookies say."""

    visitor_id: str
    # Whether the client has `visitor_id` already.
    known: bool
    # Vendors' cookies the client has.
    held: Mapping[str, str]
    # Sec-GPC: 1, no vendor ids.
    opted_out: bool


class CookieJar:
    """Reads and sets one dialect's cookies."""

    def __init__(self, cookie: VisitorCookie) -> None:
        self._cookie = cookie

    def read(self, headers: Mapping[str, str]) -> Visitor:
        """Find the visitor, or make a new one."""
        sent = _cookies(headers.get("cookie", ""))
        visitor_id = sent.get(self._cookie.name, "")
        known = _UUID4.fullmatch(visitor_id) is not None
        names = (*_VENDORS, _CLICK_COOKIE) if sent and self._cookie.vendor_cookies else ()
        return Visitor(
            visitor_id=visitor_id if known else str(uuid4()),
            known=known,
            held={name: sent[name] for name in names if name in sent and _VALUE.fullmatch(sent[name])},
            opted_out=headers.get("sec-gpc", "").strip() == "1",
        )

    def offer(self, visitor: Visitor, request: ClientRequest, now_ms: int) -> None:
        """Put the vendor ids the client has, or would be given, on the request."""
        if not self._cookie.vendor_cookies or visitor.opted_out:
            return
        offered = request.vendor_ids
        for name, vendor in _VENDORS.items():
            offered[name] = visitor.held.get(name) or vendor.make(now_ms)
        click = visitor.held.get(_CLICK_COOKIE) or _click_cookie(request, now_ms)
        if click:
            offered[_CLICK_COOKIE] = click

    def to_set(
        self, visitor: Visitor, request: ClientRequest, outcome: ClientOutcome, *, secure: bool
    ) -> list[str]:
        """Give the Set-Cookie values: those of the visitor the client has not yet."""
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
            value = request.vendor_ids.get(name)
            if value and name not in visitor.held:
                # Vendors' scripts read theirs: not HttpOnly.
                cookies.append(f"{name}={value}; Path=/{same_site}; Max-Age={_max_age(name)}{ending}")
        return cookies


def _max_age(name: str) -> int:
    return _CLICK_MAX_AGE_SECONDS if name == _CLICK_COOKIE else _VENDORS[name].max_age_seconds


def _click_cookie(request: ClientRequest, now_ms: int) -> str:
    url = request.items[0].event.page.url if request.items else ""
    if "fbclid=" not in url:
        return ""
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
