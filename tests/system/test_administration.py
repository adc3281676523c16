"""Sources and keys by the command line, and what it does to those who send."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from .stack import Stack
from .waiting import eventually

# A change is effective everywhere within this time after the command came back.
_EFFECTIVE_SECONDS = 1.0


@pytest.fixture
def source(stack: Stack, request: pytest.FixtureRequest) -> str:
    """A new source, named after the test."""
    name = re.sub(r"[^a-z0-9]+", "-", request.node.name.lower())[:60].strip("-")
    made = stack.polylect_json("source", "create", name)
    assert made["name"] == name
    assert re.fullmatch(r"[0-9a-f-]{36}", made["source_id"])
    return name


def _key(stack: Stack, source: str, kind: str) -> dict[str, Any]:
    made: dict[str, Any] = stack.polylect_json("key", "create", source, "--kind", kind)
    assert {"key_id", "secret"} <= made.keys()
    return made


def _track(stack: Stack, secret: str, **headers: str) -> int:
    body = {"type": "track", "event": "Administered"}
    return stack.post("/v1/t", body, {"Authorization": f"Bearer {secret}", **headers}).status


@pytest.mark.parametrize(
    ("kind", "prefix"),
    [
        ("pulsora-public", "pub_"),
        ("pulsora-secret", "sec_"),
        ("pulse", "pulse_prod_"),
        ("apex", "pk_live_"),
        ("datafly", "dk_live_"),
    ],
)
def test_a_new_key_works_at_once_in_its_dialect(stack: Stack, source: str, kind: str, prefix: str) -> None:
    secret = _key(stack, source, kind)["secret"]
    assert secret.startswith(prefix)
    data = {"visitor_fingerprint": "f", "session_id": "s", "event_name": "made"}
    pulse = {"events": [{"event_type": "made", "session_id": "s", "site_id": source}]}
    path, body, headers, status = {
        "pulsora-public": ("/api/ingest", {"type": "event", "data": data}, {"X-API-Token": secret}, 202),
        "pulsora-secret": ("/api/ingest", {"type": "event", "data": data}, {"X-API-Token": secret}, 202),
        "pulse": ("/collect/batch", pulse, {"Authorization": f"Bearer {secret}"}, 200),
        "apex": (
            "/api/events",
            {"type": "made", "visitorId": "v", "projectKey": secret, "url": "https://example.com/"},
            {},
            200,
        ),
        "datafly": ("/v1/t", {"type": "track", "event": "made"}, {"Authorization": f"Bearer {secret}"}, 200),
    }[kind]

    eventually(
        lambda: stack.post(path, body, headers).status == status,
        "the new key is good",
        within_seconds=_EFFECTIVE_SECONDS,
    )

    found = stack.await_rows(
        "select e.name from events e join sources s using (source_id) where s.name = %s", source
    )
    assert set(found) == {("made",)}
    stored = stack.sql("select secret_hash from keys join sources using (source_id) where name = %s", source)
    assert secret.encode() not in stored[0][0]


def test_a_revoked_key_ends_within_a_second(stack: Stack, source: str) -> None:
    key = _key(stack, source, "datafly")
    eventually(
        lambda: _track(stack, key["secret"]) == 200, "the key is good", within_seconds=_EFFECTIVE_SECONDS
    )

    revoked = stack.polylect_json("key", "revoke", key["key_id"])

    assert revoked["key_id"] == key["key_id"]
    assert revoked["revoked_at"]
    eventually(lambda: _track(stack, key["secret"]) == 401, "refused", within_seconds=_EFFECTIVE_SECONDS)
    assert {_track(stack, key["secret"]) for _ in range(20)} == {401}


def test_a_rotated_key_ends_after_the_overlap(stack: Stack, source: str) -> None:
    old = _key(stack, source, "datafly")

    new = stack.polylect_json("key", "rotate", old["key_id"], "--overlap", "4s")

    assert new["key_id"] != old["key_id"]
    assert new["secret"] != old["secret"]
    assert _track(stack, old["secret"]) == 200
    eventually(lambda: _track(stack, new["secret"]) == 200, "the new one", within_seconds=_EFFECTIVE_SECONDS)
    eventually(lambda: _track(stack, old["secret"]) == 401, "the old one ends", within_seconds=6)
    assert _track(stack, new["secret"]) == 200


def test_keys_are_listed_without_their_secrets(stack: Stack, source: str) -> None:
    key = _key(stack, source, "apex")

    listed = stack.polylect("key", "list", source, "--json")

    assert [each["key_id"] for each in json.loads(listed)] == [key["key_id"]]
    assert key["secret"] not in listed
    assert key["key_id"] in stack.polylect("key", "list", source)


def test_a_disabled_source_takes_nothing(stack: Stack, source: str) -> None:
    secret = _key(stack, source, "datafly")["secret"]
    eventually(lambda: _track(stack, secret) == 200, "the key is good", within_seconds=_EFFECTIVE_SECONDS)

    stack.polylect("source", "disable", source)

    eventually(lambda: _track(stack, secret) == 401, "refused", within_seconds=_EFFECTIVE_SECONDS)


def test_a_rate_limit_holds_until_it_is_off(stack: Stack, source: str) -> None:
    secret = _key(stack, source, "datafly")["secret"]
    shown = stack.polylect_json("source", "set", source, "--rate-limit", "3/hour")
    assert shown["rate_limit"] == {"limit": 3, "window_seconds": 3600}

    eventually(lambda: _track(stack, secret) == 429, "limited", within_seconds=5, every_seconds=0.01)
    refused = stack.post("/v1/t", {"type": "track", "event": "x"}, {"Authorization": f"Bearer {secret}"})
    assert 1 <= int(refused.headers["retry-after"]) <= 3600

    stack.polylect("source", "set", source, "--rate-limit", "off")
    eventually(lambda: _track(stack, secret) == 200, "unlimited", within_seconds=_EFFECTIVE_SECONDS)
    assert {_track(stack, secret) for _ in range(20)} == {200}


def test_origins_and_cookies_are_as_set(stack: Stack, source: str) -> None:
    secret = _key(stack, source, "datafly")["secret"]
    shop = "https://new.example.org"
    settings = ("--origin", shop, "--vendor-cookie", "_ga", "--cookie-domain", "example.org")
    shown = stack.polylect_json("source", "set", source, *settings)
    assert (shown["origins"], shown["vendor_cookies"], shown["cookie_domain"]) == (
        [shop],
        ["_ga"],
        "example.org",
    )

    eventually(
        lambda: _track(stack, secret, Origin=shop) == 200, "origin allowed", within_seconds=_EFFECTIVE_SECONDS
    )
    assert _track(stack, secret, Origin="https://old.example.org") == 403
    answer = stack.post(
        "/v1/p",
        {"type": "page"},
        {"Authorization": f"Bearer {secret}", "Origin": shop, "Host": "t.example.org"},
    )
    cookies = {cookie.partition("=")[0]: cookie for cookie in answer.cookies}
    assert cookies.keys() == {"_dfid", "_ga"}
    assert all(re.search(r"Domain=\.?example\.org", cookie) for cookie in cookies.values())
    assert stack.polylect_json("source", "show", source) == shown
    assert shown in stack.polylect_json("source", "list")


def test_a_body_goes_out_by_command(stack: Stack, source: str, tmp_path: Path) -> None:
    secret = _key(stack, source, "datafly")["secret"]
    body = json.dumps({"type": "track", "event": "Sent By Command"})

    done = stack.command("send", "datafly", body, "--key", secret)

    assert done.returncode == 0, done.stdout + done.stderr
    stack.await_rows(
        "select 1 from events join sources using (source_id) where sources.name = %s and events.name = %s",
        source,
        "Sent By Command",
    )
    refused = stack.command("send", "datafly", body, "--key", "dk_live_nobody")
    assert refused.returncode != 0
    assert "401" in refused.stdout + refused.stderr


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (("source", "create", "not a name"), "underscore"),
        (("source", "show", "nowhere"), "nowhere"),
        (("source", "set", "nowhere", "--rate-limit", "fast"), "100/minute"),
        (("key", "create", "nowhere", "--kind", "wrong"), "pulsora-public"),
        (("key", "revoke", "00000000-0000-0000-0000-000000000000"), "00000000"),
    ],
)
def test_a_mistake_is_told_with_a_way_out(stack: Stack, arguments: tuple[str, ...], hint: str) -> None:
    done = stack.command(*arguments)

    assert done.returncode != 0
    assert hint in done.stderr
    assert "Traceback" not in done.stderr


def test_every_command_explains_itself(stack: Stack) -> None:
    commands = "up core facade worker migrate config database-url source key send events"
    shown = stack.polylect("--help")
    assert [command for command in commands.split() if command not in shown] == []
    for command in commands.split():
        assert "Usage" in stack.polylect(command, "--help")


def test_config_lists_settings_and_hides_secrets(stack: Stack) -> None:
    secret = "s3cr3t-of-the-test"
    done = stack.command("config", environment={"POLYLECT_ADMIN_TOKEN": secret})

    assert done.returncode == 0
    for name in (
        "POLYLECT_DATA_DIR",
        "POLYLECT_HTTP_PORT",
        "POLYLECT_GRPC_PORT",
        "POLYLECT_MODE",
        "DATABASE_URL",
    ):
        assert name in done.stdout
    assert str(stack.http_port) in done.stdout
    assert secret not in done.stdout
