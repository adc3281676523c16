"""`polylect up`, its parts one by one, and what each is given of the settings.

The one place that knows both settings and options. Of options it knows the names, not the classes: importing
those would import the parts.
"""

import shlex
import socket
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

import msgspec
import typer

from polylect_cli.handover import RUN_PART, LogOptions, hand_over, pack
from polylect_cli.output import CommandError, print_error, print_json, print_line, print_table
from polylect_cli.settings import (
    Settings,
    SettingsError,
    check_files,
    describe,
    join_host_port,
    load_settings,
    local_host,
)
from polylect_cli.supervisor import Plan
from polylect_cli.tokens import token
from storage.demo_readers import DEMO_READERS
from storage.embedded import EmbeddedPostgres, saved_url


def up() -> None:
    """Run everything on this machine: database, core, worker and facade, until Ctrl-C."""
    settings = load_settings()
    check_files(settings)
    hand_over("polylect_cli.run_up", [sys.argv[0]], msgspec.json.encode(make_plan(settings)))


def core() -> None:
    """Run the core alone: gRPC, for a fleet."""
    settings = load_settings()
    check_files(settings)
    database_url = _running_database_url(settings, "core")
    _run("core", settings, {**_core_options(settings), "database_url": database_url})


def facade() -> None:
    """Run the facade alone: HTTP, for a fleet."""
    settings = load_settings()
    check_files(settings)
    if settings.core_address and token(settings, "facade") is None:
        # One made here would be unknown there.
        raise SettingsError(
            f"the facade must know the token by which the core at {settings.core_address} knows it: set "
            "POLYLECT_FACADE_TOKEN as it is set there, or to what its data directory has in facade_token"
        )
    _run("facade", settings, _facade_options(settings))


def worker() -> None:
    """Run one worker alone, for a fleet."""
    settings = load_settings()
    database_url = _running_database_url(settings, "worker")
    _run("worker", settings, {**_worker_options(settings), "database_url": database_url})


def migrate() -> None:
    """Bring the database's schema up to date, in demo mode make the examples; repeating changes nothing."""
    settings = load_settings()
    url = _running_url(settings)
    if url is None:
        # `up` does it too, so that one is needed only to look at a fresh schema.
        _migrate_embedded(settings)
    else:
        _run("prepare", settings, {**_prepare_options(settings), "database_url": url, "tell": True})


def config(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")] = False,
) -> None:
    """List all settings with value, default and meaning, and mark (*) what is set; secrets are masked."""
    rows = describe(load_settings())
    if as_json:
        print_json([row._asdict() for row in rows])
    else:
        columns = ("", "name", "value", "default", "meaning")
        marks = ("*" if row.differs else "" for row in rows)
        print_table(columns, [(mark, *row[:4]) for mark, row in zip(marks, rows, strict=True)])
        print_line("\n* differs from the default")


def show_database_url() -> None:
    """Print the URL of the database in use, the embedded one's included; with its password."""
    settings = load_settings()
    print_line(_database_url(settings))
    if _running_url(settings) is None:
        print_error(
            f"polylect: nothing listens there now: `polylect up` (make run) starts the embedded database of "
            f"{settings.data_dir}"
        )


def make_plan(settings: Settings) -> Plan:
    """Give what `polylect up` runs. Makes the tokens that are missing."""
    if settings.grpc_tls_cert and not settings.core_tls_ca:
        raise SettingsError(
            "POLYLECT_GRPC_TLS_CERT is set: set POLYLECT_CORE_TLS_CA too, so that facade and command line "
            "can recognise the core"
        )
    return Plan(
        mode=settings.mode,
        data_dir=str(settings.data_dir.absolute()),
        database_url=settings.database_url.get_secret_value() if settings.database_url else None,
        pg_bin=_path(settings.pg_bin),
        http=(settings.host, settings.http_port),
        grpc=(settings.grpc_host, settings.grpc_port),
        http_target=(local_host(settings.host), settings.http_port),
        http_url=settings.http_url,
        grpc_target=settings.grpc_target,
        workers=settings.workers,
        log=_log_options(settings),
        core=_core_options(settings),
        facade=_facade_options(settings),
        worker=_worker_options(settings),
        prepare=_prepare_options(settings),
        elsewhere=_elsewhere(settings),
    )


def _elsewhere(settings: Settings) -> str:
    """Give what the command line must be told in another terminal to find this system."""
    differing = {
        "POLYLECT_DATA_DIR": (settings.data_dir, Path(".polylect")),
        "POLYLECT_GRPC_PORT": (settings.grpc_port, 50051),
    }
    given = ((name, value) for name, (value, default) in differing.items() if value != default)
    return "".join(f"{name}={shlex.quote(str(value))} " for name, value in given)


def _run(part: str, settings: Settings, options: dict[str, Any]) -> None:
    hand_over(RUN_PART, [part], pack(_log_options(settings), options))


def _log_options(settings: Settings) -> LogOptions:
    """Give how parts log."""
    return LogOptions(settings.log_level, settings.log_format)


def _database_url(settings: Settings) -> str:
    """Give the URL of the database in use, set or embedded. Raises SettingsError when there is none yet."""
    if settings.database_url:
        return settings.database_url.get_secret_value()
    url = saved_url(settings.data_dir / "postgres")
    if url is None:
        raise SettingsError(
            f"there is no database yet in {settings.data_dir}: run `polylect up` (make run) once, "
            "set POLYLECT_DATA_DIR to where it ran, or set DATABASE_URL"
        )
    return url


def _running_database_url(settings: Settings, part: str) -> str:
    """Give the URL of the database a part alone works on. Raises SettingsError when nobody would start it."""
    url = _running_url(settings)
    if url is None:
        raise SettingsError(
            f"a {part} alone starts no database: set DATABASE_URL to the postgresql:// URL of the fleet's, "
            f"or start `polylect up` (all parts and a database), which does not run in {settings.data_dir}"
        )
    return url


def _running_url(settings: Settings) -> str | None:
    """Give the URL of the database that is set, which may be away, or of the embedded one while it runs."""
    if settings.database_url:
        return settings.database_url.get_secret_value()
    url = saved_url(settings.data_dir / "postgres")
    if url is None:
        return None
    place = urlsplit(url)
    try:
        socket.create_connection((place.hostname, place.port), timeout=5).close()
    except OSError:
        return None
    return url


def _migrate_embedded(settings: Settings) -> None:
    """Start the embedded database, prepare it, stop it. Raises EmbeddedPostgresError when it is in use."""
    with EmbeddedPostgres(settings.data_dir / "postgres", bin_dir=settings.pg_bin) as postgres:
        options = {**_prepare_options(settings), "database_url": postgres.url, "tell": True}
        done = subprocess.run(
            [sys.executable, "-P", "-m", RUN_PART, "prepare"],
            input=pack(_log_options(settings), options),
            check=False,
        )
    if done.returncode:
        raise CommandError("the database can't be prepared; the lines above say why")


def _prepare_options(settings: Settings) -> dict[str, Any]:
    """Give what a database needs before the parts use it, without database_url."""
    return {"demo": settings.mode == "demo"}


def _core_options(settings: Settings) -> dict[str, Any]:
    """Give the core's options, without database_url."""
    return {
        "address": join_host_port(settings.grpc_host, settings.grpc_port),
        "mode": settings.mode,
        "metrics_at": (settings.grpc_host, settings.core_metrics_port)
        if settings.core_metrics_port
        else None,
        "admin_token": token(settings, "admin", make=True),
        "facade_token": token(settings, "facade", make=True),
        "tls_cert": _path(settings.grpc_tls_cert),
        "tls_key": _path(settings.grpc_tls_key),
        "tls_client_ca": _path(settings.grpc_tls_client_ca),
    }


def _facade_options(settings: Settings) -> dict[str, Any]:
    """Give the facade's options."""
    return {
        "core_address": settings.core_target,
        "facade_token": token(settings, "facade", make=True),
        "core_tls_ca": _path(settings.core_tls_ca),
        "core_tls_cert": _path(settings.core_tls_cert),
        "core_tls_key": _path(settings.core_tls_key),
        "host": settings.host,
        "port": settings.http_port,
        "workers": settings.facade_workers,
        "development": settings.mode != "production",
        "demo_keys": tuple(DEMO_READERS.values()) if settings.mode == "demo" else (),
        "trusted_proxies": settings.trusted_proxies,
        "metrics_dir": str((settings.data_dir / "metrics").absolute()),
    }


def _worker_options(settings: Settings) -> dict[str, Any]:
    """Give the worker's options, without database_url."""
    return {
        "dedup_window_seconds": settings.dedup_window_days * 86_400,
        "retention_days": settings.retention_days,
        "quarantine_days": settings.quarantine_days,
        "quarantine_max_events": settings.quarantine_max_events,
        "quarantine_max_bytes": settings.quarantine_max_mib << 20,
    }


def _path(path: Any) -> str | None:
    return str(path.absolute()) if path else None
