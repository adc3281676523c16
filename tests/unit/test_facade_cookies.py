"""Vendor ids are one visitor's, however often an offer of them is made again."""

import pytest
from polylect.v1 import error_reason_pb2 as reasons
from polylect.v1.ingest_pb2 import ClientOutcome, ClientRequest

from rest_facade.cookies import CookieJar, Offer
from rest_facade.vocabulary import VisitorCookie

_NOW_MS = 1_714_412_000_123
_STORED = ClientOutcome(results=[{"event_id": "018f2f5e-0000-7000-8000-000000000000"}])
_TAKEN = ClientOutcome(results=_STORED.results, vendor_cookies=["_ga"])


@pytest.fixture
def jar() -> CookieJar:
    return CookieJar(VisitorCookie("_dfid", max_age_seconds=60, vendor_cookies=True))


def _offer(jar: CookieJar, cookies: str = "", url: str = "", now_ms: int = _NOW_MS) -> Offer:
    request = ClientRequest(items=[{"event": {"page": {"url": url}}}])
    visitor = jar.read({"cookie": cookies} if cookies else {})
    return jar.offer(visitor, request, request.SerializeToString(), now_ms)


def test_an_offer_holds_an_id_of_each_vendor(jar: CookieJar) -> None:
    offer = _offer(jar)
    assert set(offer.ids) == {"_ga", "_fbp", "_ttp", "_pin_unauth", "_scid"}
    assert ClientRequest.FromString(offer.serialized) == ClientRequest(vendor_ids=offer.ids)


def test_what_nobody_took_is_offered_again(jar: CookieJar) -> None:
    first = _offer(jar)
    jar.take_back(first, _STORED)
    assert _offer(jar) == first
    # Given away, it is no other's too.
    assert set(_offer(jar).ids.values()).isdisjoint(first.ids.values())


@pytest.mark.parametrize(
    "outcome",
    [
        _TAKEN,
        # Perhaps stored all the same.
        ClientOutcome(refusal={"reason": reasons.ERROR_REASON_STORAGE_UNAVAILABLE}),
    ],
)
def test_what_may_have_been_taken_is_no_others(jar: CookieJar, outcome: ClientOutcome) -> None:
    first = _offer(jar)
    jar.take_back(first, outcome)
    assert set(_offer(jar).ids.values()).isdisjoint(first.ids.values())


@pytest.mark.parametrize(
    ("cookies", "url", "own"),
    [
        ("_ga=GA1.1.7.7", "", {"_ga": "GA1.1.7.7"}),
        ("", "https://a.example/?fbclid=Abc", {"_fbc": f"fb.1.{_NOW_MS}.Abc"}),
        ("_fbc=fb.1.1.old", "https://a.example/?fbclid=Abc", {"_fbc": "fb.1.1.old"}),
    ],
)
def test_what_is_a_visitors_own_is_no_others(
    jar: CookieJar, cookies: str, url: str, own: dict[str, str]
) -> None:
    offer = _offer(jar, cookies, url)
    assert own.items() <= offer.ids.items()
    jar.take_back(offer, _STORED)
    assert set(_offer(jar).ids.values()).isdisjoint(offer.ids.values())


def test_an_old_offer_is_not_made_again(jar: CookieJar) -> None:
    jar.take_back(_offer(jar), _STORED)
    assert _offer(jar, now_ms=_NOW_MS + 60_000).ids["_ga"].endswith(str((_NOW_MS + 60_000) // 1000))
