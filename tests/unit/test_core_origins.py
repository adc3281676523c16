"""Origins: compared exactly, entries of three forms."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core_service.origins import OriginRules, normalize_entry


@pytest.mark.parametrize(
    ("entry", "origin", "allowed"),
    [
        ("https://shop.example.com", "https://shop.example.com", True),
        ("https://shop.example.com", "HTTPS://SHOP.example.com", True),
        ("https://shop.example.com", "https://shop.example.com:443", True),
        ("https://shop.example.com:443", "https://shop.example.com", True),
        ("https://shop.example.com", "http://shop.example.com", False),
        ("https://shop.example.com", "https://shop.example.com:8443", False),
        ("https://shop.example.com", "https://shop.example.com.evil.example", False),
        ("https://shop.example.com", "https://evil.example/https://shop.example.com", False),
        ("https://shop.example.com", "https://shop.example.com/", False),
        ("https://shop.example.com", "https://user@shop.example.com", False),
        ("https://shop.example.com", "https://shop.example.com\n", False),
        ("http://[::1]:8080", "http://[::1]:8080", True),
        ("shop.example.com", "https://shop.example.com", True),
        ("shop.example.com", "http://shop.example.com:8080", True),
        ("shop.example.com", "https://www.shop.example.com", False),
        ("localhost", "http://localhost:3000", True),
        ("*.example.com", "https://shop.example.com", True),
        ("*.example.com", "https://a.b.example.com:8443", True),
        ("*.example.com", "https://example.com", False),
        ("*.example.com", "https://badexample.com", False),
        ("null", "null", False),
        ("null", "https://null", False),
        ("", "https://", False),
        ("https://shop.example.com", "", False),
        ("https://shop.example.com", "shop.example.com", False),
        ("chrome-extension://abcdef", "chrome-extension://abcdef", True),
    ],
)
def test_an_origin_against_an_entry(entry: str, origin: str, allowed: bool) -> None:
    assert OriginRules([entry]).allow(origin) is allowed


@pytest.mark.parametrize(
    ("origin", "local"),
    [
        ("http://localhost", True),
        ("https://localhost:8443", True),
        ("http://127.0.0.1:5173", True),
        ("http://[::1]:5173", True),
        ("http://app.localhost", True),
        ("http://localhost.evil.example", False),
        ("http://127.0.0.2", False),
        ("null", False),
    ],
)
def test_local_origins(origin: str, local: bool) -> None:
    assert OriginRules([], localhost=True).allow(origin) is local
    assert not OriginRules([]).allow(origin)


@pytest.mark.parametrize(
    ("entry", "stored"),
    [
        (" HTTPS://Shop.Example.com ", "https://shop.example.com"),
        ("Shop.example.com", "shop.example.com"),
        ("*.Example.com", "*.example.com"),
        ("http://localhost:3000", "http://localhost:3000"),
        ("null", None),
        ("", None),
        ("*", None),
        ("https://*.example.com", None),
        ("https://a.example/", None),
        ("a.example:8080", None),
        ("a b", None),
        ("https://a.example:999999", None),
        ("x" * 400, None),
    ],
)
def test_an_entry_in_its_stored_form(entry: str, stored: str | None) -> None:
    assert normalize_entry(entry) == stored


@given(st.text(max_size=60))
def test_any_text_is_judged(text: str) -> None:
    rules = OriginRules([text, "*.example.com", "https://a.example"])
    assert rules.allow("https://a.example")
    assert isinstance(rules.allow(text), bool)
    stored = normalize_entry(text)
    assert stored is None or normalize_entry(stored) == stored
