"""What the parts are given fits what they take."""

import dataclasses
from pathlib import Path
from typing import Any

import msgspec
import pytest

from core_service.server import CoreOptions
from polylect_cli import settings
from polylect_cli.lifecycle import make_plan
from polylect_cli.prepare import PrepareOptions
from polylect_cli.settings import load_settings
from polylect_cli.supervisor import Plan
from rest_facade.server import FacadeOptions
from storage.demo_readers import DEMO_READERS
from storage.worker import WorkerOptions

EVERYTHING = {
    "POLYLECT_MODE": "demo",
    "POLYLECT_HOST": "0.0.0.0",
    "POLYLECT_GRPC_HOST": "192.0.2.7",
    "POLYLECT_HTTP_PORT": "8081",
    "POLYLECT_GRPC_PORT": "50052",
    "POLYLECT_CORE_METRICS_PORT": "9464",
    "DATABASE_URL": "postgresql://ann:hush@db.example/events",
    "PG_BIN": "/usr/lib/postgresql/18/bin",
    "POLYLECT_ADMIN_TOKEN": "admin",
    "POLYLECT_FACADE_TOKEN": "facade",
    "POLYLECT_FACADE_WORKERS": "2",
    "POLYLECT_WORKERS": "3",
    "POLYLECT_TRUSTED_PROXIES": "10.0.0.0/8,::1/128",
    "POLYLECT_DEDUP_WINDOW_DAYS": "2",
    "POLYLECT_RETENTION_DAYS": "90",
    "POLYLECT_QUARANTINE_DAYS": "3",
    "POLYLECT_QUARANTINE_MAX_EVENTS": "1000",
    "POLYLECT_QUARANTINE_MAX_MIB": "16",
    "POLYLECT_CORE_ADDRESS": "core.example:50051",
    "POLYLECT_GRPC_TLS_CERT": "/tls/cert.pem",
    "POLYLECT_GRPC_TLS_KEY": "/tls/key.pem",
    "POLYLECT_GRPC_TLS_CLIENT_CA": "/tls/clients.pem",
    "POLYLECT_CORE_TLS_CA": "/tls/ca.pem",
    "POLYLECT_CORE_TLS_CERT": "/tls/facade.pem",
    "POLYLECT_CORE_TLS_KEY": "/tls/facade-key.pem",
    "POLYLECT_LOG_LEVEL": "warning",
    "POLYLECT_LOG_FORMAT": "json",
}


@pytest.fixture
def plan(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Plan:
    monkeypatch.setenv("POLYLECT_DATA_DIR", str(tmp_path))
    for name, value in EVERYTHING.items():
        monkeypatch.setenv(name, value)
    assert {*EVERYTHING, "POLYLECT_DATA_DIR"} == set(settings.known_names())
    # By the way the supervisor gets it.
    return msgspec.json.decode(msgspec.json.encode(make_plan(load_settings())), type=Plan)


def taken(options: dict[str, Any], options_type: type[Any]) -> Any:
    assert set(options) <= {field.name for field in dataclasses.fields(options_type)}
    return msgspec.json.decode(msgspec.json.encode(options), type=options_type)


def test_core_gets_its_options(plan: Plan) -> None:
    options = taken({**plan.core, "database_url": plan.database_url}, CoreOptions)
    assert options == CoreOptions(
        database_url="postgresql://ann:hush@db.example/events",
        address="192.0.2.7:50052",
        mode="demo",
        admin_token="admin",
        facade_token="facade",
        tls_cert="/tls/cert.pem",
        tls_key="/tls/key.pem",
        tls_client_ca="/tls/clients.pem",
        metrics_at=("192.0.2.7", 9464),
    )


def test_facade_gets_its_options(plan: Plan, tmp_path: Path) -> None:
    assert taken(plan.facade, FacadeOptions) == FacadeOptions(
        core_address="core.example:50051",
        facade_token="facade",
        metrics_dir=str(tmp_path / "metrics"),
        core_tls_ca="/tls/ca.pem",
        core_tls_cert="/tls/facade.pem",
        core_tls_key="/tls/facade-key.pem",
        host="0.0.0.0",
        port=8081,
        workers=2,
        development=True,
        trusted_proxies=("10.0.0.0/8", "::1/128"),
        demo_keys=tuple(DEMO_READERS.values()),
    )


@pytest.mark.parametrize("mode", ["production", "development"])
def test_only_in_demo_mode_the_facade_is_given_keys(monkeypatch: pytest.MonkeyPatch, mode: str) -> None:
    monkeypatch.setenv("POLYLECT_MODE", mode)
    monkeypatch.setenv("POLYLECT_ADMIN_TOKEN", "admin")
    monkeypatch.setenv("POLYLECT_FACADE_TOKEN", "facade")
    assert taken(make_plan(load_settings()).facade, FacadeOptions).demo_keys == ()


def test_worker_gets_its_options(plan: Plan) -> None:
    options = taken({**plan.worker, "database_url": plan.database_url}, WorkerOptions)
    assert options == WorkerOptions(
        database_url="postgresql://ann:hush@db.example/events",
        dedup_window_seconds=172_800,
        retention_days=90,
        quarantine_days=3,
        quarantine_max_events=1000,
        quarantine_max_bytes=16 << 20,
    )


def test_prepare_gets_its_options(plan: Plan) -> None:
    options = taken({**plan.prepare, "database_url": plan.database_url}, PrepareOptions)
    assert options == PrepareOptions(database_url="postgresql://ann:hush@db.example/events", demo=True)


def test_the_supervisor_gets_the_rest(plan: Plan, tmp_path: Path) -> None:
    assert (plan.data_dir, plan.pg_bin, plan.workers) == (str(tmp_path), "/usr/lib/postgresql/18/bin", 3)
    assert (plan.http, plan.grpc, plan.http_target) == (
        ("0.0.0.0", 8081),
        ("192.0.2.7", 50052),
        ("127.0.0.1", 8081),
    )
    assert (plan.log.level, plan.log.format) == ("warning", "json")
