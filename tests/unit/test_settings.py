"""The settings: what is read, refused, masked and kept."""

import ast
import stat
from pathlib import Path
from typing import Literal, get_origin

import pytest

from polylect_cli import settings
from polylect_cli.lifecycle import make_plan
from polylect_cli.settings import SettingsError, describe, load_settings, token


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in settings.known_names():
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("POLYLECT_DATA_DIR", str(tmp_path / "data"))


def test_defaults_are_for_production_on_loopback() -> None:
    loaded = load_settings()
    assert (loaded.mode, loaded.host, loaded.http_port, loaded.grpc_port) == (
        "production",
        "127.0.0.1",
        8080,
        50051,
    )
    assert loaded.core_target == "127.0.0.1:50051"


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        (
            "POLYLECT_HTTP_PROT",
            "1",
            "there is no such setting; did you mean POLYLECT_HTTP_PORT",
        ),
        ("POLYLECT_QQQQQQ", "1", "`polylect config` lists all"),
        ("POLYLECT_HTTP_PORT", "0", "POLYLECT_HTTP_PORT: "),
        ("POLYLECT_HTTP_PORT", "http", "POLYLECT_HTTP_PORT: "),
        ("POLYLECT_HTTP_PORT", "50051", "must differ"),
        ("POLYLECT_MODE", "test", "POLYLECT_MODE: "),
        ("POLYLECT_CORE_ADDRESS", "core.example", "POLYLECT_CORE_ADDRESS: must be host:port"),
        ("POLYLECT_CORE_ADDRESS", "core.example:99999", "POLYLECT_CORE_ADDRESS: must be host:port"),
        ("POLYLECT_CORE_ADDRESS", "50051", "POLYLECT_CORE_ADDRESS: must be host:port"),
        ("DATABASE_URL", "postgresql://[::1", "DATABASE_URL must be a postgresql:// URL"),
        ("POLYLECT_GRPC_TLS_CERT", "/c", "belong together"),
        ("POLYLECT_CORE_TLS_KEY", "/k", "belong together"),
        ("POLYLECT_GRPC_TLS_CLIENT_CA", "/c", "needs POLYLECT_GRPC_TLS_CERT"),
        ("POLYLECT_FACADE_WORKERS", "0", "POLYLECT_FACADE_WORKERS: "),
        ("DATABASE_URL", "mysql://h/d", "must be a postgresql:// URL"),
    ],
)
def test_says_what_is_wrong(monkeypatch: pytest.MonkeyPatch, name: str, value: str, said: str) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError) as caught:
        load_settings()
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("POLYLECT_HTTP_PORT", "abc", "must be a whole number from 1 to 65535, not 'abc'"),
        ("POLYLECT_GRPC_PORT", "99999", "must be a whole number from 1 to 65535, not '99999'"),
        ("POLYLECT_WORKERS", "1.5", "must be a whole number from 1 to 64, not '1.5'"),
        ("POLYLECT_RETENTION_DAYS", "-1", "must be a whole number from 0 to 36500, not '-1'"),
        ("POLYLECT_MODE", "test", "must be one of production, development, demo, not 'test'"),
        ("POLYLECT_LOG_FORMAT", "x" * 99, f"must be one of auto, json, console, not '{'x' * 59}…"),
        ("POLYLECT_LOG_LEVEL", "a\nb", r"must be one of debug, info, warning, error, not 'a\nb'"),
        (
            "POLYLECT_TRUSTED_PROXIES",
            "10.0.0.0/8,home",
            "must be networks as in 10.0.0.0/8 or ::1/128, by comma; not 'home'",
        ),
    ],
)
def test_a_bad_value_is_one_line_of_name_value_and_what_is_allowed(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, told: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError) as caught:
        load_settings()
    assert str(caught.value) == f"{name}: {told}"


def test_every_typed_setting_says_what_is_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    typed = [
        str(field.validation_alias)
        for field in settings.Settings.model_fields.values()
        if isinstance(field.default, int) or get_origin(field.annotation) is Literal
    ]
    for name in typed:
        monkeypatch.setenv(name, "?")
    with pytest.raises(SettingsError) as caught:
        load_settings()
    lines = str(caught.value).splitlines()
    assert [line.partition(": must be ")[0] for line in lines] == typed
    assert all(line.endswith(", not '?'") for line in lines)


@pytest.mark.parametrize("address", ["core.example:50051", "[::1]:50051", "unix:/run/core", "dns:///core:1"])
def test_a_core_is_found_in_many_places(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    monkeypatch.setenv("POLYLECT_CORE_ADDRESS", address)
    assert load_settings().core_target == address


def test_says_all_that_is_wrong_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POLYLECT_MOD", "demo")
    monkeypatch.setenv("POLYLECT_HTTP_PORT", "x")
    monkeypatch.setenv("POLYLECT_GRPC_PORT", "y")
    with pytest.raises(SettingsError) as caught:
        load_settings()
    assert [line.partition(":")[0] for line in str(caught.value).splitlines()] == [
        "POLYLECT_MOD",
        "POLYLECT_HTTP_PORT",
        "POLYLECT_GRPC_PORT",
    ]


def test_an_empty_variable_is_as_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "")
    assert load_settings().database_url is None


def test_networks_are_normalised(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POLYLECT_TRUSTED_PROXIES", " 10.1.2.3/8, ::1 ,")
    assert load_settings().trusted_proxies == ("10.0.0.0/8", "::1/128")


@pytest.mark.parametrize(
    ("host", "target", "url"),
    [
        ("0.0.0.0", "127.0.0.1:50051", "http://127.0.0.1:8080"),
        ("::", "[::1]:50051", "http://[::1]:8080"),
        ("192.0.2.7", "192.0.2.7:50051", "http://192.0.2.7:8080"),
    ],
)
def test_reaches_itself_wherever_it_listens(
    monkeypatch: pytest.MonkeyPatch, host: str, target: str, url: str
) -> None:
    monkeypatch.setenv("POLYLECT_HOST", host)
    loaded = load_settings()
    assert (loaded.core_target, loaded.http_url) == (target, url)


def test_http_may_be_opened_without_grpc(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POLYLECT_HOST", "0.0.0.0")
    monkeypatch.setenv("POLYLECT_GRPC_HOST", "127.0.0.2")
    loaded = load_settings()
    plan = make_plan(loaded)
    assert (plan.http[0], plan.facade["host"]) == ("0.0.0.0", "0.0.0.0")
    assert (plan.grpc[0], plan.core["address"]) == ("127.0.0.2", "127.0.0.2:50051")
    assert (plan.grpc_target, loaded.core_target) == ("127.0.0.2:50051", "127.0.0.2:50051")
    assert loaded.http_url == "http://127.0.0.1:8080"


def test_the_list_is_complete_and_masks_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://ann:hush@db.example:5432/events?password=hush")
    monkeypatch.setenv("POLYLECT_ADMIN_TOKEN", "hush")
    monkeypatch.setenv("POLYLECT_FACADE_TOKEN", "hush")
    rows = {row.name: row for row in describe(load_settings())}
    assert list(rows) == settings.known_names()
    assert rows["DATABASE_URL"].value == "postgresql://ann:********@db.example:5432/events?********"
    assert rows["POLYLECT_ADMIN_TOKEN"].value == rows["POLYLECT_FACADE_TOKEN"].value == "********"
    assert not [row for row in rows.values() if "hush" in str(row)]
    assert all(row.meaning for row in rows.values())


def test_tokens_are_made_once_and_kept_private(tmp_path: Path) -> None:
    loaded = load_settings()
    assert token(loaded, "admin") is None
    made = token(loaded, "admin", make=True)
    assert made
    assert len(made) >= 32
    assert token(loaded, "admin", make=True) == token(loaded, "admin") == made
    assert token(loaded, "facade", make=True) != made
    directory = tmp_path / "data"
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert {(file.name, stat.S_IMODE(file.stat().st_mode)) for file in directory.iterdir()} == {
        ("admin_token", 0o600),
        ("facade_token", 0o600),
    }


def test_a_token_given_is_not_written_anywhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("POLYLECT_ADMIN_TOKEN", "given")
    assert token(load_settings(), "admin", make=True) == "given"
    assert not (tmp_path / "data").exists()


def test_a_plan_with_tls_needs_the_way_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POLYLECT_GRPC_TLS_CERT", "/c")
    monkeypatch.setenv("POLYLECT_GRPC_TLS_KEY", "/k")
    with pytest.raises(SettingsError, match="POLYLECT_CORE_TLS_CA"):
        make_plan(load_settings())


def test_a_file_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POLYLECT_CORE_TLS_CA", "/nowhere/ca.pem")
    with pytest.raises(SettingsError, match=r"POLYLECT_CORE_TLS_CA: /nowhere/ca\.pem: No such file"):
        settings.check_files(load_settings())


def test_no_part_reads_the_environment() -> None:
    root = Path(settings.__file__).parents[1]
    readers = set()
    for package in ("core_service", "rest_facade", "storage"):
        for module in (root / package).rglob("*.py"):
            for node in ast.walk(ast.parse(module.read_text())):
                if isinstance(node, ast.Attribute) and node.attr in ("getenv", "environ"):
                    readers.add(module.relative_to(root).as_posix())
    # Hands its own on to the server, without PG*.
    assert readers <= {"storage/embedded.py", "rest_facade/server.py"}


@pytest.mark.parametrize("directory", ["/proc/polylect", "/dev/null"])
def test_a_data_directory_that_can_not_be_is_named(monkeypatch: pytest.MonkeyPatch, directory: str) -> None:
    monkeypatch.setenv("POLYLECT_DATA_DIR", directory)
    with pytest.raises(SettingsError, match=f"POLYLECT_DATA_DIR: {directory} can't be written"):
        make_plan(load_settings())


def test_what_another_terminal_needs_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert make_plan(load_settings()).elsewhere == f"POLYLECT_DATA_DIR={tmp_path / 'data'} "
    monkeypatch.setenv("POLYLECT_DATA_DIR", ".polylect")
    monkeypatch.setenv("POLYLECT_GRPC_PORT", "50052")
    monkeypatch.setenv("POLYLECT_ADMIN_TOKEN", "given")
    monkeypatch.setenv("POLYLECT_FACADE_TOKEN", "given")
    assert make_plan(load_settings()).elsewhere == "POLYLECT_GRPC_PORT=50052 "
