"""What the worker finds out about an event from what the client told: a pure function of the event.

Hides the sources (ua-parser's and crawler-user-agents' patterns, the registries' country table, our table of
referrers) and their caches. What the client said itself always stands. It must not know of the database.
"""

from collections.abc import Callable
from functools import lru_cache
from ipaddress import IPv6Address
from typing import NamedTuple
from urllib.parse import unquote_plus

import iptocc
import ua_parser
from crawleruseragents import CRAWLER_USER_AGENTS_DATA  # type: ignore[import-untyped]
from polylect.v1.event_pb2 import Campaign, Device, Event, Page
from ua_parser import UserAgent
from ua_parser.core import Matcher
from ua_parser.matchers import UserAgentMatcher

from storage.referrers import source_of_host

_CAMPAIGN_FIELDS = {
    "utm_source": "source",
    "utm_medium": "medium",
    "utm_campaign": "name",
    "utm_term": "term",
    "utm_content": "content",
}

# In this order: what the system's name (as ua-parser has it) begins with, or what stands somewhere in the
# User-Agent, all in lower case. Windows comes before the tablets: old Internet Explorers say "Tablet PC 2.0".
_DEVICE_RULES: tuple[tuple[str, tuple[str, ...], tuple[str, ...]], ...] = (
    ("console", (), ("playstation", "xbox", "nintendo")),
    (
        "tv",
        ("atv os x", "chromecast", "firehbbtv", "tvos", "roku", "web0s", "webos"),
        ("smart-tv", "smarttv", "smart tv", "appletv", "apple tv", "googletv", "android tv", "bravia",
         "hbbtv", "netcast", "crkey", "roku/", "; aft"),
    ),
    ("mobile", ("windows phone", "windows mobile"), ()),
    ("desktop", ("windows",), ()),
    ("tablet", ("blackberry tablet",), ("ipad", "tablet", "kindle", "playbook", "silk/")),
    (
        "mobile",
        ("ios", "blackberry os", "brew mp", "firefox os", "kaios", "nokia series", "symbian", "watchos"),
        ("iphone", "ipod", "blackberry", "bb10", "opera mini", "mobile"),
    ),
    (
        "desktop",
        ("chrome os", "debian", "fedora", "freebsd", "gentoo", "linux", "mac os", "netbsd", "openbsd",
         "red hat", "solaris", "suse", "ubuntu"),
        (),
    ),
)  # fmt: skip


class Client(NamedTuple):
    """What a User-Agent tells. `device_type` is "" where it tells nothing of a device."""

    device_type: str
    bot: bool


class UrlParts(NamedTuple):
    """A url cut up, nothing decoded.

    `host` is in lower case, without user, port and `www.`; `search` has its question mark.
    """

    host: str
    path: str
    search: str


class Enricher:
    """Fills in device type, bot flag, page path and search, referrer source, campaign and country.

    Holds compiled patterns (some 15 MB, 40 ms to build) and bounded caches: one for a process.
    """

    # Strings are cut before they become cache keys: no client can grow a cache, or buy seconds of matching.
    _USER_AGENT_LIMIT = 512
    _HOST_LIMIT = 255
    # Longer ones are cut up anew each time; they are mostly of one visitor only, with a click's id in them.
    _CACHED_URL_LIMIT = 255

    def __init__(
        self, *, cached_user_agents: int = 4096, cached_hosts: int = 4096, cached_urls: int = 4096
    ) -> None:
        # Crawlers' patterns stand where ua-parser has browsers': its Rust matcher tries them all in 2.5 µs,
        # crawleruseragents.is_crawler takes 110 µs for the same answer.
        crawlers: list[Matcher[UserAgent]] = [
            UserAgentMatcher(entry["pattern"], "crawler") for entry in CRAWLER_USER_AGENTS_DATA
        ]
        _, systems, _ = ua_parser.load_lazy_builtins()
        assert ua_parser.RegexResolver is not None, "ua-parser is installed without its extra `regex`"
        resolver = ua_parser.RegexResolver((crawlers, systems, []))

        def client_of(user_agent: str) -> Client:
            match = resolver(user_agent, ua_parser.Domain.USER_AGENT | ua_parser.Domain.OS)
            system = match.os.family.lower() if match.os else ""
            return Client(_device_type(system, user_agent.lower()), bot=match.user_agent is not None)

        self._client_of: Callable[[str], Client] = lru_cache(cached_user_agents)(client_of)
        self._source_of_host: Callable[[str], str] = lru_cache(cached_hosts)(source_of_host)
        self._parts_of_url: Callable[[str], UrlParts] = lru_cache(cached_urls)(split_url)

    def enrich(self, event: Event) -> None:
        """Fill in what `event` lacks, in place. Never raises for anything a client can put in a field."""
        # An absent part reads as empty; to ask first whether it is there costs as much as reading two fields.
        self._enrich_page(event, event.page)
        self._enrich_device(event.device)
        if (client_ip := event.client_ip) and (country := country_of(client_ip)) and not event.geo.country:
            event.geo.country = country

    def _enrich_device(self, device: Device) -> None:
        user_agent = device.user_agent
        if not user_agent:
            return
        client = self._client_of(user_agent[: self._USER_AGENT_LIMIT])
        if client.device_type and not device.type:
            device.type = client.device_type
        if client.bot:
            device.bot = True

    def _enrich_page(self, event: Event, page: Page) -> None:
        host, path, search = self._split(page.url)
        if path and not page.path:
            page.path = path
        if search:
            if not page.search:
                page.search = search
            if "utm_" in search and (campaign := campaign_of(search)):
                # The client's own fields, merged over, win.
                campaign.MergeFrom(event.campaign)
                event.campaign.CopyFrom(campaign)
        referrer = page.referrer
        if referrer and not page.referrer_source:
            referring_host = self._split(referrer).host
            if referring_host:
                same = referring_host == host
                page.referrer_source = (
                    "internal" if same else self._source_of_host(referring_host[: self._HOST_LIMIT])
                )

    def _split(self, url: str) -> UrlParts:
        return self._parts_of_url(url) if len(url) <= self._CACHED_URL_LIMIT else split_url(url)


def split_url(url: str) -> UrlParts:
    """Cut up an absolute or relative url as browsers do, without validating it.

    An opaque one (mailto:, data:) has no parts.
    """
    rest, _, _ = url.partition("#")
    rest, _, query = rest.partition("?")
    search = f"?{query}" if query else ""
    scheme, colons, after = rest.partition("://")
    if colons and "/" not in scheme:
        authority, _, path = after.partition("/")
    elif rest.startswith("//"):
        authority, _, path = rest[2:].partition("/")
    elif ":" in rest.partition("/")[0]:
        return UrlParts("", "", "")
    else:
        return UrlParts("", rest, search)
    return UrlParts(_host_of(authority), f"/{path}", search)


def _host_of(authority: str) -> str:
    if "@" in authority:
        authority = authority.rpartition("@")[2]
    if authority.startswith("["):
        return authority.partition("]")[0].removeprefix("[").lower()
    return authority.partition(":")[0].lower().rstrip(".").removeprefix("www.")


def campaign_of(search: str) -> Campaign | None:
    """Take the utm_ parameters of a query string, decoded; of one given twice the first. None without any."""
    found: dict[str, str] = {}
    for parameter in search[1:].split("&"):
        if parameter.startswith("utm_"):
            name, _, value = parameter.partition("=")
            field = _CAMPAIGN_FIELDS.get(name)
            # %00 decodes to what Postgres cannot hold.
            if field and field not in found and (text := unquote_plus(value).replace("\0", "").strip()):
                found[field] = text
    return Campaign(**found) if found else None


def country_of(client_ip: str) -> str:
    """Give the country whose registry holds the address; "" for private, unknown and malformed ones."""
    if client_ip[:7].lower() == "::ffff:":
        # Written 8.8.8.8 or 808:808 behind the prefix; the table knows neither.
        try:
            client_ip = str(IPv6Address(client_ip).ipv4_mapped)
        except ValueError:
            return ""
    return iptocc.country_code(client_ip) or ""


def _device_type(system: str, user_agent: str) -> str:
    """Choose among desktop, mobile, tablet, tv and console, or ""; both arguments in lower case."""
    for device_type, systems, tokens in _DEVICE_RULES:
        if system.startswith(systems) or any(token in user_agent for token in tokens):
            return device_type
    if system == "android":
        # Makers of tablets leave out "Mobile"; apps' own agents (Dalvik, okhttp) never have it.
        return "tablet" if user_agent.startswith("mozilla/") else "mobile"
    return ""
