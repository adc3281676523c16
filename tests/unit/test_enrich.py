"""What the worker finds out by itself, and that the client's own word stands."""

from typing import Any

import crawleruseragents
import pytest
from hypothesis import given
from hypothesis import strategies as st
from polylect.v1.event_pb2 import Campaign, Device, Event, Geo, Page

from storage.enrich import Enricher, UrlParts, campaign_of, country_of, split_url
from storage.referrers import source_of_host

_ENRICHER = Enricher()
_CHROME = "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 Chrome/120.0.0.0 Safari/537.36"
_IPHONE = (
    "Mozilla/5.0 (iPhone; CPU iPhone OS 17_0 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko)"
    " Version/17.0 Mobile/15E148 Safari/604.1"
)


def _enriched(**fields: Any) -> Event:
    event = Event(**fields)
    _ENRICHER.enrich(event)
    return event


@pytest.mark.parametrize(
    ("user_agent", "device_type"),
    [
        (_CHROME, "desktop"),
        (_IPHONE, "mobile"),
        ("Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605.1.15 Safari/605.1.15", "desktop"),
        ("Mozilla/5.0 (X11; Linux x86_64; rv:120.0) Gecko/20100101 Firefox/120.0", "desktop"),
        ("Mozilla/5.0 (X11; CrOS x86_64 14541.0.0) AppleWebKit/537.36 Chrome/120.0.0.0", "desktop"),
        ("Mozilla/4.0 (compatible; MSIE 8.0; Windows NT 6.1; Tablet PC 2.0)", "desktop"),
        ("Mozilla/5.0 (iPad; CPU OS 17_0 like Mac OS X) AppleWebKit/605.1.15 Mobile/15E148", "tablet"),
        (
            "Mozilla/5.0 (Linux; Android 13; SM-X906C) AppleWebKit/537.36 Chrome/120.0.0.0 Safari/537.36",
            "tablet",
        ),
        (
            "Mozilla/5.0 (Linux; Android 10; K) AppleWebKit/537.36 Chrome/120.0.0.0 Mobile Safari/537.36",
            "mobile",
        ),
        ("Mozilla/5.0 (Android 13; Tablet; rv:109.0) Gecko/114.0 Firefox/114.0", "tablet"),
        ("Dalvik/2.1.0 (Linux; U; Android 11; Pixel 5)", "mobile"),
        ("MyApp/1.0 CFNetwork/1408 Darwin/22.5.0", "mobile"),
        ("Mozilla/5.0 (Windows Phone 10.0; Android 6.0.1; Microsoft; Lumia 950)", "mobile"),
        ("Mozilla/5.0 (Mobile; rv:48.0; KAIOS/2.5) Gecko/48.0 Firefox/48.0", "mobile"),
        ("Opera/9.80 (J2ME/MIDP; Opera Mini/7.1)", "mobile"),
        ("Mozilla/5.0 (SMART-TV; LINUX; Tizen 6.5) AppleWebKit/537.36 TV Safari/537.36", "tv"),
        ("Mozilla/5.0 (Web0S; Linux/SmartTV) AppleWebKit/537.36 Chrome/87.0.4280.88", "tv"),
        ("Mozilla/5.0 (Linux; Android 9; AFTKA) AppleWebKit/537.36 Silk/120 Safari/537.36", "tv"),
        ("AppleTV11,1/11.1", "tv"),
        ("Roku/DVP-12.0 (12.0.0.4182-88)", "tv"),
        ("Mozilla/5.0 (PlayStation 5/SmartTV) AppleWebKit/605.1.15 (KHTML, like Gecko)", "console"),
        ("Mozilla/5.0 (Windows NT 10.0; Win64; x64; Xbox; Xbox One) AppleWebKit/537.36 Edge/18", "console"),
        ("curl/8.4.0", ""),
        ("Mozilla/5.0 ...", ""),
    ],
)
def test_device_type_comes_from_the_user_agent(user_agent: str, device_type: str) -> None:
    assert _enriched(device=Device(user_agent=user_agent)).device.type == device_type


def test_bots_are_those_of_the_crawler_list_exactly() -> None:
    people = [_CHROME, _IPHONE, "Mozilla/5.0 ...", "x"]
    agents = [
        agent for entry in crawleruseragents.CRAWLER_USER_AGENTS_DATA for agent in entry.get("instances", [])
    ]
    assert len(agents) > 1000
    for agent in agents + people:
        flagged = _enriched(device=Device(user_agent=agent)).device.bot
        assert flagged == crawleruseragents.is_crawler(agent[:512]), agent
    assert not any(_enriched(device=Device(user_agent=agent)).device.bot for agent in people)


@pytest.mark.parametrize(
    ("url", "parts"),
    [
        ("https://shop.example.com/a/b?x=1&y=2#frag?no", ("shop.example.com", "/a/b", "?x=1&y=2")),
        ("https://www.Example.COM:8443", ("example.com", "/", "")),
        ("https://user:pw@example.com./a", ("example.com", "/a", "")),
        ("http://[2001:db8::1]:8080/a", ("2001:db8::1", "/a", "")),
        ("//cdn.example.com/x", ("cdn.example.com", "/x", "")),
        ("/pricing?plan=pro", ("", "/pricing", "?plan=pro")),
        ("/go/https://other.example/x", ("", "/go/https://other.example/x", "")),
        ("https://example.com?to=https://other.example/", ("example.com", "/", "?to=https://other.example/")),
        ("?a=b", ("", "", "?a=b")),
        ("https://example.com/a?", ("example.com", "/a", "")),
        ("android-app://com.google.android.gm/", ("com.google.android.gm", "/", "")),
        ("file:///home/page.html", ("", "/home/page.html", "")),
        ("mailto:someone@example.com", ("", "", "")),
        ("about:blank", ("", "", "")),
        ("", ("", "", "")),
    ],
)
def test_urls_are_cut_as_browsers_do(url: str, parts: tuple[str, str, str]) -> None:
    assert split_url(url) == UrlParts(*parts)


def test_utm_parameters_are_decoded_and_the_first_of_two_counts() -> None:
    search = (
        "?utm_source=news%20letter&utm_medium=e+mail&utm_campaign=%E2%82%ACuro&utm_term=&utm_content=a%00b"
        "&utm_source=second&utm_id=7&xutm_source=no"
    )
    assert campaign_of(search) == Campaign(source="news letter", medium="e mail", name="€uro", content="ab")
    assert campaign_of("?utm_id=7&q=utm_source") is None


@pytest.mark.parametrize(
    ("host", "source"),
    [
        ("google.com", "google"),
        ("www.google.co.uk", "google"),
        ("news.google.de", "google"),
        ("mail.google.com", "gmail"),
        ("gemini.google.com", "gemini"),
        ("google.evil.example", "google.evil.example"),
        ("notgoogle.com", "notgoogle.com"),
        ("search.yahoo.co.jp", "yahoo"),
        ("l.facebook.com", "facebook"),
        ("lm.facebook.com", "facebook"),
        ("t.co", "twitter"),
        ("x.com", "twitter"),
        ("netflix.com", "netflix.com"),
        ("en.wikipedia.org", "wikipedia"),
        ("chatgpt.com", "chatgpt"),
        ("com.google.android.gm", "gmail"),
        ("www.partner.example", "partner.example"),
    ],
)
def test_hosts_have_short_names(host: str, source: str) -> None:
    assert source_of_host(host) == source


@pytest.mark.parametrize(
    ("referrer", "source"),
    [
        ("https://google.com", "google"),
        ("https://www.shop.example.com:8443/category", "internal"),
        ("https://blog.example.net/post?utm_source=x", "blog.example.net"),
        ("", ""),
        ("about:blank", ""),
        ("/relative", ""),
    ],
)
def test_referrer_source_comes_from_the_referrer(referrer: str, source: str) -> None:
    page = Page(url="https://shop.example.com/p", referrer=referrer)
    assert _enriched(page=page).page.referrer_source == source


@pytest.mark.parametrize(
    ("client_ip", "country"),
    [
        ("8.8.8.8", "US"),
        ("::ffff:8.8.8.8", "US"),
        ("::FFFF:808:808", "US"),
        ("2001:4860:4860::8888", "US"),
        ("192.168.1.1", ""),
        ("::ffff:10.0.0.1", ""),
        ("127.0.0.1", ""),
        ("fe80::1%eth0", ""),
        ("::ffff:nonsense", ""),
        ("nonsense", ""),
        ("", ""),
    ],
)
def test_country_is_the_registry_of_the_address(client_ip: str, country: str) -> None:
    assert country_of(client_ip) == country


def test_everything_is_filled_in_at_once() -> None:
    url = "https://shop.example.com/p/1?utm_source=news&utm_medium=mail"
    assert _enriched(
        page=Page(url=url, referrer="https://www.google.com/"),
        device=Device(user_agent=_IPHONE),
        client_ip="8.8.8.8",
    ) == Event(
        page=Page(
            url=url,
            path="/p/1",
            search="?utm_source=news&utm_medium=mail",
            referrer="https://www.google.com/",
            referrer_source="google",
        ),
        campaign=Campaign(source="news", medium="mail"),
        device=Device(user_agent=_IPHONE, type="mobile"),
        geo=Geo(country="US"),
        client_ip="8.8.8.8",
    )


def test_the_clients_own_values_stand() -> None:
    given_event = Event(
        page=Page(
            url="https://shop.example.com/p/1?utm_source=url&utm_medium=url",
            path="/own",
            search="?own",
            referrer="https://www.google.com/",
            referrer_source="partner",
        ),
        campaign=Campaign(source="own"),
        device=Device(user_agent=_IPHONE, type="kiosk"),
        geo=Geo(country="DE"),
        client_ip="8.8.8.8",
    )
    expected = Event()
    expected.CopyFrom(given_event)
    expected.campaign.medium = "url"
    _ENRICHER.enrich(given_event)
    assert given_event == expected


def test_nothing_told_nothing_found() -> None:
    assert _enriched(name="x") == Event(name="x")


def test_enriching_twice_changes_nothing() -> None:
    event = _enriched(page=Page(url="/a?utm_source=x"), device=Device(user_agent=_CHROME))
    again = Event()
    again.CopyFrom(event)
    _ENRICHER.enrich(again)
    assert again == event


@given(url=st.text(), referrer=st.text(), user_agent=st.text(), client_ip=st.text())
def test_no_text_breaks_it(url: str, referrer: str, user_agent: str, client_ip: str) -> None:
    def storable(text: str) -> str:
        return text.encode("utf-8", "ignore").decode().replace("\0", "")

    event = _enriched(
        page=Page(url=storable(url), referrer=storable(referrer)),
        device=Device(user_agent=storable(user_agent)),
        client_ip=storable(client_ip),
    )
    assert "\0" not in str(event)


def test_a_very_long_user_agent_is_cheap_and_harmless() -> None:
    assert _enriched(device=Device(user_agent=_IPHONE + "(" * 100_000)).device.type == "mobile"
