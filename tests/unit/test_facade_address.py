import pytest

from rest_facade.address import AddressBook, is_plain_localhost

NOBODY = AddressBook(())
PROXIES = AddressBook(("10.0.0.0/8", "192.168.1.1", "fd00::/8"))


@pytest.mark.parametrize(
    ("peer", "forwarded", "client"),
    [
        ("203.0.113.9", "198.51.100.1", "203.0.113.9"),
        ("10.0.0.1", "", "10.0.0.1"),
        ("10.0.0.1", "198.51.100.1", "198.51.100.1"),
        ("10.0.0.1", "1.1.1.1, 198.51.100.1", "198.51.100.1"),
        ("10.0.0.1", "1.1.1.1,198.51.100.1 , 10.2.3.4,192.168.1.1", "198.51.100.1"),
        ("10.0.0.1", "10.9.9.9, 10.2.3.4", "10.9.9.9"),
        ("10.0.0.1", "198.51.100.1:4711", "198.51.100.1"),
        ("10.0.0.1", '"[2001:db8::1]:4711"', "2001:db8::1"),
        ("10.0.0.1", "2001:DB8:0::1", "2001:db8::1"),
        ("10.0.0.1", "fe80::1%eth0", "fe80::1"),
        ("10.0.0.1", "::ffff:198.51.100.1", "198.51.100.1"),
        ("fd00::1", "198.51.100.1", "198.51.100.1"),
        ("::ffff:10.0.0.1", "198.51.100.1", "198.51.100.1"),
        # What can't be read ends the search: the last address known is the answer.
        ("10.0.0.1", "198.51.100.1, unknown", "10.0.0.1"),
        ("10.0.0.1", "unknown, 10.0.0.2", "10.0.0.2"),
        ("10.0.0.1", ",,,", "10.0.0.1"),
        ("10.0.0.1", "999.1.1.1", "10.0.0.1"),
        ("", "198.51.100.1", ""),
    ],
)
def test_the_client_is_the_last_hop_no_trusted_proxy_has(peer: str, forwarded: str, client: str) -> None:
    assert PROXIES.client_ip(peer, {"x-forwarded-for": forwarded}) == client


def test_without_proxies_only_the_peer_counts() -> None:
    assert NOBODY.client_ip("10.0.0.1", {"x-forwarded-for": "198.51.100.1"}) == "10.0.0.1"
    assert NOBODY.client_ip("::ffff:10.0.0.1", {}) == "10.0.0.1"


FORWARDED = {
    "host": "inner:8080",
    "x-forwarded-proto": "http, https",
    "x-forwarded-host": "a.example, B.example",
}


@pytest.mark.parametrize(
    ("book", "peer", "headers", "origin"),
    [
        (NOBODY, "10.0.0.1", {"host": "A.example"}, "http://a.example"),
        (NOBODY, "10.0.0.1", {"host": "a.example:80"}, "http://a.example"),
        (NOBODY, "10.0.0.1", {"host": "a.example:443"}, "http://a.example:443"),
        (NOBODY, "10.0.0.1", FORWARDED, "http://inner:8080"),
        (PROXIES, "203.0.113.9", FORWARDED, "http://inner:8080"),
        (PROXIES, "10.0.0.1", FORWARDED, "https://b.example"),
        (PROXIES, "10.0.0.1", {"host": "a.example:443", "x-forwarded-proto": "https"}, "https://a.example"),
    ],
)
def test_the_own_origin_is_what_the_client_used(
    book: AddressBook, peer: str, headers: dict[str, str], origin: str
) -> None:
    assert book.own_origin(peer, "http", headers) == origin


@pytest.mark.parametrize(
    ("origin", "is_local"),
    [
        ("http://localhost", True),
        ("http://localhost:8080", True),
        ("http://app.localhost:1", True),
        ("http://127.0.0.1:8080", True),
        ("http://[::1]:8080", True),
        ("https://localhost", False),
        ("http://localhost.example.com", False),
        ("http://127.0.0.1.example.com", False),
        ("http://[::2]", False),
        ("", False),
    ],
)
def test_plain_localhost(origin: str, is_local: bool) -> None:
    assert is_plain_localhost(origin) is is_local
