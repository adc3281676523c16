"""SourceService: sources and keys, and every argument it refuses."""

import asyncio
from datetime import timedelta
from hashlib import sha256
from typing import Any

import grpc
import psycopg
import pytest
from core_calls import ADMIN, FACADE, NOW, Caller, a_request, bearer, failure, until
from google.protobuf.duration_pb2 import Duration
from polylect.v1 import ingest_pb2
from polylect.v1.ingest_pb2 import KeyKind
from polylect.v1.source_pb2 import (
    CheckOriginRequest,
    CreateKeyRequest,
    CreateSourceRequest,
    GetSourceRequest,
    ListKeysRequest,
    ListSourcesRequest,
    RevokeKeyRequest,
    RotateKeyRequest,
    RotateKeyResponse,
    Source,
    SourceRateLimit,
    StringList,
    UpdateSourceRequest,
)

PULSE = ingest_pb2.KEY_KIND_PULSE
SECRET_SCOPES = ["events:write", "revenue:write", "events:read", "stats:read"]
NOBODY = "0192f3a4-aaaa-7aaa-8aaa-aaaaaaaaaaaa"


async def test_a_source_from_first_to_last(core: Caller) -> None:
    made = await core.make_source("my.shop_1-a")
    expected = Source(source_id=made.source_id, name="my.shop_1-a", enabled=True)
    expected.created_at.FromDatetime(NOW)
    assert made == expected
    assert made.source_id[14] == "7"
    change = UpdateSourceRequest(
        source=made.source_id,
        enabled=False,
        rate_limit=SourceRateLimit(limit=5, window_seconds=60),
        origins=StringList(values=["HTTPS://Shop.example.com", "*.example.org", "example.net"]),
        vendor_cookies=StringList(values=["_ga", "_scid"]),
        cookie_domain="Example.com",
    )
    changed = (await core.sources.UpdateSource(change, metadata=ADMIN)).source
    expected.enabled = False
    expected.rate_limit.limit, expected.rate_limit.window_seconds = 5, 60
    expected.origins.extend(["https://shop.example.com", "*.example.org", "example.net"])
    expected.vendor_cookies.extend(["_ga", "_scid"])
    expected.cookie_domain = "example.com"
    assert changed == expected
    for name_or_id in (made.source_id, "my.shop_1-a"):
        got = await core.sources.GetSource(GetSourceRequest(source=name_or_id), metadata=ADMIN)
        assert got.source == expected
    back = UpdateSourceRequest(
        source="my.shop_1-a", clear_rate_limit=True, origins=StringList(), cookie_domain=""
    )
    await core.sources.UpdateSource(back, metadata=ADMIN)
    expected.ClearField("rate_limit")
    expected.ClearField("origins")
    expected.cookie_domain = ""
    await core.make_source("a-shop")
    listed = (await core.sources.ListSources(ListSourcesRequest(), metadata=ADMIN)).sources
    assert [source.name for source in listed] == ["a-shop", "my.shop_1-a"]
    assert listed[1] == expected


@pytest.mark.parametrize("name", ["", "x" * 65, "a b", "ä", "a\0", "a/b", NOBODY])
async def test_a_bad_name(core: Caller, name: str) -> None:
    failed = await failure(core.sources.CreateSource(CreateSourceRequest(name=name), metadata=ADMIN))
    assert (failed.code.name, failed.reason) == ("INVALID_ARGUMENT", "ARGUMENT_INVALID")
    assert failed.field == "name"


async def test_a_name_is_given_once(core: Caller) -> None:
    await core.make_source("shop")
    failed = await failure(core.sources.CreateSource(CreateSourceRequest(name="shop"), metadata=ADMIN))
    assert (failed.code.name, failed.reason) == ("ALREADY_EXISTS", "ALREADY_EXISTS")


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"rate_limit": {"limit": 0, "window_seconds": 0}}, "rate_limit.window_seconds"),
        ({"rate_limit": {"limit": 1, "window_seconds": 86_401}}, "rate_limit.window_seconds"),
        ({"rate_limit": {"limit": 2**31, "window_seconds": 1}}, "rate_limit.limit"),
        ({"rate_limit": {"limit": 1, "window_seconds": 1}, "clear_rate_limit": True}, "rate_limit"),
        ({"origins": {"values": ["https://a.example/path"]}}, "origins"),
        ({"origins": {"values": ["null"]}}, "origins"),
        ({"origins": {"values": ["*"]}}, "origins"),
        ({"origins": {"values": [""]}}, "origins"),
        ({"origins": {"values": [f"h{n}.example" for n in range(1_001)]}}, "origins"),
        ({"vendor_cookies": {"values": ["_dfid"]}}, "vendor_cookies"),
        ({"cookie_domain": "exa mple"}, "cookie_domain"),
        ({"cookie_domain": "a;b"}, "cookie_domain"),
        ({"cookie_domain": "x." * 127}, "cookie_domain"),
    ],
)
async def test_a_bad_setting_changes_nothing(core: Caller, change: Any, field: str) -> None:
    before = await core.make_source("shop")
    request = UpdateSourceRequest(source="shop", **{"enabled": False, **change})
    failed = await failure(core.sources.UpdateSource(request, metadata=ADMIN))
    assert (failed.code.name, failed.reason, failed.field) == ("INVALID_ARGUMENT", "ARGUMENT_INVALID", field)
    after = await core.sources.GetSource(GetSourceRequest(source="shop"), metadata=ADMIN)
    assert after.source == before


@pytest.mark.parametrize(
    ("kind", "prefix", "scopes", "sites"),
    [
        ("PULSORA_PUBLIC", "pub_", ["events:write"], []),
        ("PULSORA_SECRET", "sec_", SECRET_SCOPES, []),
        ("PULSE", "pulse_prod_", ["events:write", "stats:read"], ["shop"]),
        ("APEX", "pk_live_", ["events:write"], []),
        ("DATAFLY", "dk_live_", ["events:write"], []),
        ("SERVICE", "svc_", SECRET_SCOPES, []),
    ],
)
async def test_a_key_of_each_kind(
    core: Caller, database_url: str, kind: str, prefix: str, scopes: list[str], sites: list[str]
) -> None:
    source = await core.make_source("shop")
    made = await core.make_key(kind=KeyKind.Value(f"KEY_KIND_{kind}"))
    assert made.secret.startswith(prefix)
    assert len(made.secret) == len(prefix) + 32
    assert made.key.hint == made.secret[-4:]
    assert (list(made.key.scopes), list(made.key.sites)) == (scopes, sites)
    assert (made.key.source_id, made.key.created_at.ToDatetime()) == (
        source.source_id,
        NOW.replace(tzinfo=None),
    )
    listed = (await core.sources.ListKeys(ListKeysRequest(source="shop"), metadata=ADMIN)).keys
    assert list(listed) == [made.key]
    with psycopg.connect(database_url) as connection:
        (row,) = connection.execute("SELECT secret_hash, keys::text FROM keys").fetchall()
    assert row[0] == sha256(made.secret.encode()).digest()
    assert made.secret not in row[1]
    (outcome,) = await core.send(a_request(made.secret))
    assert outcome.results[0].event_id


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({}, "kind"),
        ({"kind": 99}, "kind"),
        ({"kind": PULSE, "scopes": ["events:delete"]}, "scopes"),
        ({"kind": ingest_pb2.KEY_KIND_APEX, "sites": ["a"]}, "sites"),
        ({"kind": PULSE, "sites": [""]}, "sites"),
        ({"kind": PULSE, "sites": ["a\0"]}, "sites"),
        ({"kind": PULSE, "sites": ["a" * 65]}, "sites"),
        ({"kind": PULSE, "sites": [f"s{n}" for n in range(1_001)]}, "sites"),
    ],
)
async def test_a_bad_key(core: Caller, fields: Any, field: str) -> None:
    await core.make_source("shop")
    request = CreateKeyRequest(source="shop", **fields)
    failed = await failure(core.sources.CreateKey(request, metadata=ADMIN))
    assert (failed.code.name, failed.reason, failed.field) == ("INVALID_ARGUMENT", "ARGUMENT_INVALID", field)


async def test_what_is_not_there(core: Caller) -> None:
    calls = [
        *(
            call
            for source in ("nowhere", "", "no\0where", NOBODY)
            for call in (
                (core.sources.GetSource, GetSourceRequest(source=source)),
                (core.sources.UpdateSource, UpdateSourceRequest(source=source)),
                (core.sources.CreateKey, CreateKeyRequest(source=source, kind=PULSE)),
                (core.sources.ListKeys, ListKeysRequest(source=source)),
            )
        ),
        *(
            call
            for key_id in ("nothing", "", NOBODY)
            for call in (
                (core.sources.RotateKey, RotateKeyRequest(key_id=key_id)),
                (core.sources.RevokeKey, RevokeKeyRequest(key_id=key_id)),
            )
        ),
    ]
    for call, request in calls:
        failed = await failure(call(request, metadata=ADMIN))
        assert (failed.code.name, failed.reason) == ("NOT_FOUND", "NOT_FOUND")


async def test_two_cores_change_two_settings_at_once(start: Any, database_url: str) -> None:
    one, other = await start(), await start()
    await one.make_source("shop")
    changes = (
        (one, UpdateSourceRequest(source="shop", origins=StringList(values=["a.example"]))),
        (other, UpdateSourceRequest(source="shop", cookie_domain="a.example")),
    )
    with psycopg.connect(database_url) as lock, psycopg.connect(database_url, autocommit=True) as watcher:
        lock.execute("SELECT FROM sources FOR UPDATE")
        calls = [core.sources.UpdateSource(change, metadata=ADMIN) for core, change in changes]

        async def both_wait() -> bool:
            waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
            return watcher.execute(waiting).fetchone() == (2,)

        await until(both_wait)
        lock.commit()
        await asyncio.gather(*calls)
    source = (await one.sources.GetSource(GetSourceRequest(source="shop"), metadata=ADMIN)).source
    assert (list(source.origins), source.cookie_domain) == (["a.example"], "a.example")


_NO_UPDATE = """
CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'no'; END $$;
CREATE TRIGGER refuse BEFORE UPDATE ON keys FOR EACH ROW EXECUTE FUNCTION refuse();
"""


async def test_a_rotation_happens_whole_or_not_at_all(core: Caller, database_url: str) -> None:
    await core.make_source("shop")
    old = await core.make_key()
    with psycopg.connect(database_url, autocommit=True) as operator:
        operator.execute(_NO_UPDATE)
    failed = await failure(core.sources.RotateKey(RotateKeyRequest(key_id=old.key.key_id), metadata=ADMIN))
    assert failed.reason == "STORAGE_UNAVAILABLE"
    listed = (await core.sources.ListKeys(ListKeysRequest(source="shop"), metadata=ADMIN)).keys
    assert list(listed) == [old.key]


async def test_rotation_keeps_what_the_key_is(core: Caller) -> None:
    await core.make_source("shop")
    old = await core.make_key(kind=PULSE, sites=["a", "b"], scopes=["stats:read"])
    rotated = await core.sources.RotateKey(RotateKeyRequest(key_id=old.key.key_id), metadata=ADMIN)
    for field in ("kind", "scopes", "sites", "source_id"):
        assert getattr(rotated.key, field) == getattr(old.key, field)
    assert rotated.key.key_id != old.key.key_id
    assert rotated.secret != old.secret
    assert not rotated.key.HasField("expires_at")
    end = (NOW + timedelta(hours=24)).replace(tzinfo=None)
    assert (rotated.old_key.key_id, rotated.old_key.expires_at.ToDatetime()) == (old.key.key_id, end)


async def test_a_key_is_rotated_once(core: Caller) -> None:
    await core.make_source("shop")
    old = await core.make_key()
    rotate = RotateKeyRequest(key_id=old.key.key_id)
    rotations = await asyncio.gather(
        *(core.sources.RotateKey(rotate, metadata=ADMIN) for _ in range(4)), return_exceptions=True
    )
    (rotated,) = (one for one in rotations if isinstance(one, RotateKeyResponse))
    failed = await failure(core.sources.RotateKey(rotate, metadata=ADMIN))
    assert (failed.reason, failed.field) == ("ARGUMENT_INVALID", "key_id")
    assert failed.message == (
        f"The key was rotated already and ends at {rotated.old_key.expires_at.ToJsonString()}; "
        "rotate the key that replaced it, or revoke this one to end it sooner"
    )
    listed = (await core.sources.ListKeys(ListKeysRequest(source="shop"), metadata=ADMIN)).keys
    assert list(listed) == [rotated.key, rotated.old_key]


async def test_rotation_without_overlap_and_of_an_ended_key(core: Caller) -> None:
    await core.make_source("shop")
    old = await core.make_key()
    now = RotateKeyRequest(key_id=old.key.key_id, overlap=Duration())
    rotated = await core.sources.RotateKey(now, metadata=ADMIN)
    ended, valid = await core.send(a_request(old.secret), a_request(rotated.secret))
    assert ended.HasField("refusal")
    assert not valid.HasField("refusal")
    await core.sources.RevokeKey(RevokeKeyRequest(key_id=rotated.key.key_id), metadata=ADMIN)
    for key_id in (old.key.key_id, rotated.key.key_id):
        failed = await failure(core.sources.RotateKey(RotateKeyRequest(key_id=key_id), metadata=ADMIN))
        assert (failed.reason, failed.field) == ("ARGUMENT_INVALID", "key_id")


@pytest.mark.parametrize(
    "overlap",
    [Duration(seconds=-1), Duration(nanos=-1), Duration(seconds=30 * 86_400 + 1), Duration(seconds=2**60)],
)
async def test_a_bad_overlap(core: Caller, overlap: Duration) -> None:
    await core.make_source("shop")
    key = await core.make_key()
    request = RotateKeyRequest(key_id=key.key.key_id, overlap=overlap)
    failed = await failure(core.sources.RotateKey(request, metadata=ADMIN))
    assert (failed.reason, failed.field) == ("ARGUMENT_INVALID", "overlap")


async def test_revocation_may_be_repeated(core: Caller) -> None:
    await core.make_source("shop")
    key = await core.make_key()
    request = RevokeKeyRequest(key_id=key.key.key_id)
    first = await core.sources.RevokeKey(request, metadata=ADMIN)
    assert first.key.revoked_at.ToDatetime() == NOW.replace(tzinfo=None)
    assert await core.sources.RevokeKey(request, metadata=ADMIN) == first
    assert (await core.send(a_request(key.secret)))[0].HasField("refusal")


async def test_check_origin(core: Caller) -> None:
    await core.make_source("shop", origins=StringList(values=["https://shop.example.com"]))
    await core.make_source("off", origins=StringList(values=["https://off.example.com"]), enabled=False)
    await core.make_source("none")
    for origin, allowed in (
        ("https://shop.example.com", True),
        ("https://off.example.com", False),
        ("http://localhost", False),
        ("null", False),
        ("", False),
    ):
        for metadata in (FACADE, ADMIN):
            answer = await core.sources.CheckOrigin(CheckOriginRequest(origin=origin), metadata=metadata)
            assert answer.allowed is allowed, origin


async def test_roles(core: Caller) -> None:
    await core.make_source("shop")
    manager = await core.make_key(scopes=["admin"])
    admin_only = (
        (core.sources.CreateSource, CreateSourceRequest(name="x")),
        (core.sources.GetSource, GetSourceRequest(source="shop")),
        (core.sources.ListSources, ListSourcesRequest()),
        (core.sources.UpdateSource, UpdateSourceRequest(source="shop")),
        (core.sources.CreateKey, CreateKeyRequest(source="shop", kind=PULSE)),
        (core.sources.ListKeys, ListKeysRequest(source="shop")),
        (core.sources.RotateKey, RotateKeyRequest(key_id=manager.key.key_id)),
        (core.sources.RevokeKey, RevokeKeyRequest(key_id=manager.key.key_id)),
    )
    strangers = (
        ((), grpc.StatusCode.UNAUTHENTICATED, "CREDENTIAL_MISSING"),
        (bearer("nobody"), grpc.StatusCode.UNAUTHENTICATED, "CREDENTIAL_INVALID"),
        (bearer(manager.secret), grpc.StatusCode.PERMISSION_DENIED, "SCOPE_MISSING"),
    )
    facade = (FACADE, grpc.StatusCode.PERMISSION_DENIED, "SCOPE_MISSING")
    check_origin = (core.sources.CheckOrigin, CheckOriginRequest(origin="https://a.example"))
    for call, request in (*admin_only, check_origin):
        for metadata, code, reason in strangers if call is check_origin[0] else (*strangers, facade):
            failed = await failure(call(request, metadata=metadata))
            assert (failed.code, failed.reason) == (code, reason)


async def test_without_tokens_nobody_has_a_role(start: Any) -> None:
    core = await start(admin_token="", facade_token="")
    for metadata in (bearer(""), bearer("admin-token"), (("authorization", "Bearer"),)):
        failed = await failure(core.sources.ListSources(ListSourcesRequest(), metadata=metadata))
        assert failed.code == grpc.StatusCode.UNAUTHENTICATED
