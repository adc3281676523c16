"""What browsers see: CORS headers, preflights, cookies."""

import json
import re
from collections.abc import Mapping

import pytest
from conftest import ADMIN
from facade_process import Facade, Reply, running_facade, until
from polylect.v1.source_pb2 import RevokeKeyRequest, StringList, UpdateSourceRequest
from polylect.v1.source_pb2_grpc import SourceServiceStub

KEY = {"Authorization": "Bearer dk_live_abc123"}
SHOP = {"Origin": "https://shop.example.com"}
EVIL = {"Origin": "https://evil.example"}
TRACK = b'{"type":"track","event":"Viewed"}'
VISITOR = "3b241101-e2bb-4255-8caf-4136c566a962"
UUID4 = r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}"
ATTRIBUTES = r"; Path=/; HttpOnly; SameSite=Lax; Max-Age=34560000"

SHOP_MAY = {
    "access-control-allow-origin": "https://shop.example.com",
    "access-control-allow-credentials": "true",
    "access-control-allow-methods": "POST, OPTIONS",
    "access-control-allow-headers": "Content-Type, Authorization",
    "access-control-expose-headers": "Retry-After",
    "vary": "Origin",
}
NOBODY_MAY = {"access-control-expose-headers": "Retry-After"}


def cors(reply: Reply) -> dict[str, str]:
    return {
        name: value
        for name, value in reply.headers.items()
        if name.startswith("access-control-") or name == "vary"
    }


async def track(
    facade: Facade, headers: Mapping[str, str], body: bytes = TRACK, path: str = "/v1/t"
) -> Reply:
    return await facade.ask("POST", path, {**KEY, **headers}, body)


@pytest.mark.parametrize(
    ("headers", "body", "status"),
    [
        ({}, TRACK, 200),
        ({}, b"{", 400),
        ({}, b'{"type":"track"}', 400),
        ({"Authorization": "Bearer dk_nobody"}, TRACK, 401),
        ({"Content-Encoding": "br"}, TRACK, 415),
        ({}, b" " * 600_000, 400),
    ],
)
async def test_every_answer_to_an_allowed_origin_may_be_read(
    facade: Facade, headers: Mapping[str, str], body: bytes, status: int
) -> None:
    reply = await track(facade, {**SHOP, **headers}, body)
    assert (reply.status, cors(reply)) == (status, SHOP_MAY)
    reply = await track(facade, {**EVIL, **headers}, body)
    assert cors(reply) == NOBODY_MAY


async def test_wrong_paths_and_methods_may_be_read_too(facade: Facade) -> None:
    assert cors(await facade.ask("GET", "/v1/t", SHOP)) == SHOP_MAY
    assert cors(await facade.ask("GET", "/v1/nothing", SHOP)) == SHOP_MAY
    assert cors(await facade.ask("GET", "/v1/nothing", EVIL)) == NOBODY_MAY


@pytest.mark.parametrize(
    "origin", ["https://evil.example", "null", "https://shop.example.com:8443", "x" * 5000]
)
async def test_other_origins_are_refused(facade: Facade, origin: str) -> None:
    reply = await track(facade, {"Origin": origin})
    assert (reply.status, cors(reply), reply.cookies) == (403, NOBODY_MAY, ())
    assert json.loads(reply.body)["code"] == "FORBIDDEN"


async def test_the_facades_own_pages_are_allowed(facade: Facade) -> None:
    own = f"http://127.0.0.1:{facade.port}"
    reply = await track(facade, {"Origin": own})
    assert (reply.status, reply.headers["access-control-allow-origin"]) == (200, own)
    reply = await track(facade, {"Origin": "http://data.example:81", "Host": "data.example"})
    assert reply.status == 403
    reply = await track(facade, {"Origin": "http://data.example", "Host": "Data.Example:80"})
    assert reply.status == 200


@pytest.mark.parametrize("origin", ["https://any.example", "null"])
async def test_dialects_for_everyone(facade: Facade, origin: str) -> None:
    asking = {"Origin": origin}
    everyone = {"access-control-allow-origin": "*", **NOBODY_MAY}
    assert cors(await facade.ask("POST", "/api/ingest", asking, b"{")) == everyone
    assert cors(await facade.ask("POST", "/collect", asking, b"{")) == everyone
    assert cors(await facade.ask("GET", "/api/v1/stats", asking)) == everyone
    assert cors(await facade.ask("POST", "/api/events", asking, b"{")) == {
        "access-control-allow-origin": origin,
        "access-control-allow-credentials": "true",
        "access-control-expose-headers": "Retry-After",
        "vary": "Origin",
    }


@pytest.mark.parametrize(
    ("path", "origin", "allowed"),
    [
        ("/api/ingest", "*", "Content-Type, X-API-Token"),
        ("/collect", "*", "Content-Type, Authorization"),
        ("/collect/batch", "*", "Content-Type, Authorization"),
        ("/v1/t", "https://shop.example.com", "Content-Type, Authorization, X-Retry-Count"),
        ("/v1/b", "https://shop.example.com", "Content-Type, Authorization, X-Retry-Count"),
    ],
)
async def test_preflights(facade: Facade, path: str, origin: str, allowed: str) -> None:
    asking = {
        **SHOP,
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "x-retry-count, x-other",
    }
    reply = await facade.ask("OPTIONS", path, asking)
    assert (reply.status, reply.body, reply.cookies) == (204, b"", ())
    assert reply.headers["access-control-allow-origin"] == origin
    assert reply.headers["access-control-allow-methods"] == "POST, OPTIONS"
    assert reply.headers["access-control-allow-headers"] == allowed
    assert int(reply.headers["access-control-max-age"]) > 0


async def test_a_preflight_of_nobodys_origin_is_refused(facade: Facade) -> None:
    reply = await facade.ask("OPTIONS", "/v1/t", {**EVIL, "Access-Control-Request-Method": "POST"})
    assert (reply.status, json.loads(reply.body)["code"], cors(reply)) == (403, "FORBIDDEN", NOBODY_MAY)


async def test_options_without_origin_tell_the_methods(facade: Facade) -> None:
    reply = await facade.ask("OPTIONS", "/v1/t")
    assert (reply.status, reply.headers["allow"], reply.body) == (204, "POST, OPTIONS", b"")


async def test_a_new_visitor_gets_cookies_and_a_known_one_keeps_them(facade: Facade) -> None:
    reply = await track(facade, SHOP)
    assert reply.status == 200
    cookies = {cookie.partition("=")[0]: cookie for cookie in reply.cookies}
    assert re.fullmatch(f"_dfid={UUID4}{ATTRIBUTES}", cookies.pop("_dfid"))
    vendors = {
        "_ga": r"GA1\.1\.\d+\.\d{10}; Path=/; SameSite=Lax; Max-Age=34560000",
        "_fbp": r"fb\.1\.\d{13}\.\d{10}; Path=/; SameSite=Lax; Max-Age=7776000",
        "_ttp": r"[\w-]+; Path=/; SameSite=Lax; Max-Age=33696000",
        "_pin_unauth": r"[\w-]+; Path=/; SameSite=Lax; Max-Age=31536000",
        "_scid": rf"{UUID4}; Path=/; SameSite=Lax; Max-Age=33696000",
    }
    assert cookies.keys() == vendors.keys()
    for name, pattern in vendors.items():
        assert re.fullmatch(f"{name}={pattern}", cookies[name]), cookies[name]
    held = "; ".join(cookie.partition(";")[0] for cookie in reply.cookies)
    assert (await track(facade, {**SHOP, "Cookie": held})).cookies == ()
    some = await track(facade, {**SHOP, "Cookie": f"_dfid={VISITOR}; _ga=GA1.1.1.1"})
    assert {cookie.partition("=")[0] for cookie in some.cookies} == {"_fbp", "_ttp", "_pin_unauth", "_scid"}


@pytest.mark.parametrize(
    "cookie", ["", "_dfid", "_dfid=", "_dfid=x", ";;=;_dfid=1;", f"_dfid={VISITOR}x", "=;=\t="]
)
async def test_a_cookie_that_is_none_is_replaced(facade: Facade, cookie: str) -> None:
    reply = await track(facade, {"Cookie": cookie})
    assert any(made.startswith("_dfid=") for made in reply.cookies)


@pytest.mark.parametrize(
    ("url", "cookie"),
    [
        ("https://e.example/?fbclid=AbC_1-2", r"fb\.1\.\d{13}\.AbC_1-2"),
        ("https://e.example/?fbclid=a%0d%0aSet-Cookie:x", None),
        ("https://e.example/#fbclid=a", None),
        ("https://[::1/?fbclid=a", None),
    ],
)
async def test_the_click_cookie_needs_a_click(facade: Facade, url: str, cookie: str | None) -> None:
    body = {"type": "track", "event": "e", "context": {"page": {"url": url}}}
    reply = await track(facade, {}, json.dumps(body).encode())
    made = [made for made in reply.cookies if made.startswith("_fbc=")]
    if cookie is None:
        assert made == []
    else:
        assert re.fullmatch(f"_fbc={cookie}; Path=/; SameSite=Lax; Max-Age=7776000", made[0])


async def test_no_vendor_cookies_for_those_who_opted_out(facade: Facade) -> None:
    reply = await track(facade, {"Sec-GPC": "1"})
    assert [cookie.partition("=")[0] for cookie in reply.cookies] == ["_dfid"]


async def test_cookies_of_the_sources_domain(facade: Facade, sources: SourceServiceStub) -> None:
    change = UpdateSourceRequest(
        source="demo-datafly", cookie_domain="example.com", vendor_cookies=StringList(values=["_ga"])
    )
    await sources.UpdateSource(change, metadata=ADMIN)
    reply = await until(
        lambda reply: len(reply.cookies) == 2, lambda: track(facade, {"Host": "data.example.com"}), seconds=5
    )
    assert re.fullmatch(
        f"_dfid={UUID4}; Path=/; HttpOnly; Secure; SameSite=Lax; Max-Age=34560000; Domain=example.com",
        reply.cookies[0],
    )
    assert re.fullmatch(
        r"_ga=GA1[.\d]+; Path=/; Secure; SameSite=Lax; Max-Age=34560000; Domain=example.com", reply.cookies[1]
    )


@pytest.mark.parametrize(
    ("headers", "body"), [({"Authorization": "Bearer dk_nobody"}, TRACK), (EVIL, TRACK), ({}, b"{")]
)
async def test_no_cookies_without_a_verdict_for_them(
    facade: Facade, headers: Mapping[str, str], body: bytes
) -> None:
    assert (await track(facade, headers, body)).cookies == ()


async def test_other_dialects_set_none(facade: Facade) -> None:
    reply = await facade.ask("POST", "/api/ingest", {"X-API-Token": "pub_123"}, b"{}")
    assert reply.cookies == ()


@pytest.mark.parametrize(
    ("development", "host", "secure"),
    [
        (True, "localhost:8080", False),
        (True, "127.0.0.1", False),
        (True, "[::1]:8080", False),
        (True, "app.localhost", False),
        (True, "localhost.example.com", True),
        (True, "data.example.com", True),
        (False, "localhost:8080", True),
    ],
)
async def test_secure_but_for_localhost_in_development(
    core_address: str, development: bool, host: str, secure: bool
) -> None:
    async with running_facade(core_address, development=development) as facade:
        reply = await track(facade, {"Host": host})
    assert ["; Secure;" in cookie for cookie in reply.cookies] == [secure] * 6


async def test_behind_a_proxy_that_speaks_tls(core_address: str) -> None:
    forwarded = {
        "Host": "localhost:8080",
        "Origin": "https://data.example.com",
        "X-Forwarded-Proto": "https",
        "X-Forwarded-Host": "data.example.com",
    }
    async with running_facade(core_address, trusted_proxies=("127.0.0.0/8",)) as facade:
        reply = await track(facade, forwarded)
        assert reply.status == 200
        assert all("; Secure;" in cookie for cookie in reply.cookies)
    async with running_facade(core_address) as facade:
        assert (await track(facade, forwarded)).status == 403


@pytest.mark.parametrize(
    ("query", "status"),
    [("wk=dk_live_abc123&e=Opened&p.n=1", 200), ("wk=dk_nobody&e=x", 401), ("wk=dk_live_abc123", 400)],
)
async def test_a_pixel_is_always_an_image(facade: Facade, query: str, status: int) -> None:
    reply = await facade.ask("GET", f"/v1/pixel/t?{query}", SHOP)
    assert (reply.status, reply.headers["content-type"], reply.body[:6]) == (status, "image/gif", b"GIF89a")
    assert "no-store" in reply.headers["cache-control"]
    assert (len(reply.cookies) > 0) == (status != 401)


async def test_a_revoked_key_is_refused_within_a_second(facade: Facade, sources: SourceServiceStub) -> None:
    assert (await track(facade, {})).status == 200
    await sources.RevokeKey(RevokeKeyRequest(key_id="01900000-0000-7000-8000-000000000401"), metadata=ADMIN)
    await until(lambda reply: reply.status == 401, lambda: track(facade, {}), seconds=1)
