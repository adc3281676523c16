"""What each part is given, made of the settings: the one place that knows both.

Knows the names of the options, not the classes: importing those would import the parts.
"""

import subprocess
import sys
from typing import Any

from polylect_cli.handover import LogOptions, pack
from polylect_cli.output import CommandError
from polylect_cli.settings import Settings, SettingsError, join_host_port, token
from polylect_cli.supervisor import Plan
from storage.embedded import EmbeddedPostgres, saved_url


def log_options(settings: Settings) -> LogOptions:
    """Give how parts log."""
    return LogOptions(settings.log_level, settings.log_format)


def database_url(settings: Settings) -> str:
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


def migrate_embedded(settings: Settings) -> None:
    """Start the embedded database, prepare it, stop it. Raises EmbeddedPostgresError when it is in use."""
    with EmbeddedPostgres(settings.data_dir / "postgres", bin_dir=settings.pg_bin) as postgres:
        options = {**prepare_options(settings), "database_url": postgres.url}
        done = subprocess.run(
            [sys.executable, "-P", "-m", "polylect_cli.run_prepare"],
            input=pack(log_options(settings), options),
            check=False,
        )
    if done.returncode:
        raise CommandError("the database can't be prepared; the lines above say why")


def prepare_options(settings: Settings) -> dict[str, Any]:
    """Give what a database needs before the parts use it, without database_url."""
    return {"demo": settings.mode == "demo"}


def core_options(settings: Settings) -> dict[str, Any]:
    """Give the core's options, without database_url."""
    return {
        "address": join_host_port(settings.host, settings.grpc_port),
        "mode": settings.mode,
        "admin_token": token(settings, "admin", make=True),
        "facade_token": token(settings, "facade", make=True),
        "tls_cert": _path(settings.grpc_tls_cert),
        "tls_key": _path(settings.grpc_tls_key),
        "tls_client_ca": _path(settings.grpc_tls_client_ca),
    }


def facade_options(settings: Settings) -> dict[str, Any]:
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
        "trusted_proxies": settings.trusted_proxies,
        "metrics_dir": str((settings.data_dir / "metrics").absolute()),
    }


def worker_options(settings: Settings) -> dict[str, Any]:
    """Give the worker's options, without database_url."""
    return {
        "dedup_window_seconds": settings.dedup_window_days * 86_400,
        "retention_days": settings.retention_days,
    }


def plan(settings: Settings) -> Plan:
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
        grpc=(settings.host, settings.grpc_port),
        http_target=(settings.local_host, settings.http_port),
        http_url=settings.http_url,
        grpc_target=join_host_port(settings.local_host, settings.grpc_port),
        workers=settings.workers,
        log=log_options(settings),
        core=core_options(settings),
        facade=facade_options(settings),
        worker=worker_options(settings),
        prepare=prepare_options(settings),
    )


def _path(path: Any) -> str | None:
    return str(path.absolute()) if path else None
