"""The one list of settings: every environment variable Polylect reads, its default and its meaning.

Hides where a value comes from; everything else gets plain values. Knows nothing of what the parts do
with them.
"""

import difflib
import ipaddress
import os
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, Self, get_args
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, ValidationError, model_validator
from pydantic_settings import BaseSettings, NoDecode, PydanticBaseSettingsSource, SettingsConfigDict

_PREFIX = "POLYLECT_"
_MASK = "********"
_LAST_PORT = 65_535
_QUOTED_CHARACTERS = 60


class SettingsError(Exception):
    """Tells which settings are wrong and what would be right."""


def _networks(given: object) -> object:
    if not isinstance(given, str):
        return given
    networks = []
    for entry in filter(None, map(str.strip, given.split(","))):
        try:
            networks.append(str(ipaddress.ip_network(entry, strict=False)))
        except ValueError as error:
            raise ValueError(
                f"must be networks as in 10.0.0.0/8 or ::1/128, by comma; not {_quoted(entry)}"
            ) from error
    return tuple(networks)


def _target(given: str) -> str:
    host, _, port = given.rpartition(":")
    is_port = port.isascii() and port.isdigit() and 1 <= int(port) <= _LAST_PORT
    if not given or given.startswith("unix:") or (host and is_port):
        return given
    raise ValueError(f"must be host:port, as in core.example:50051; not {_quoted(given)}")


def _quoted(value: object) -> str:
    text = ascii(value)
    return text if len(text) <= _QUOTED_CHARACTERS else f"{text[:_QUOTED_CHARACTERS]}…"


Port = Annotated[int, Field(ge=1, le=_LAST_PORT)]
Networks = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_networks)]
Target = Annotated[str, AfterValidator(_target)]


def _setting(default: Any, name: str, meaning: str, **limits: Any) -> Any:
    return Field(default, validation_alias=name, description=meaning, **limits)


class Settings(BaseSettings):
    """All settings, read from the environment when made."""

    model_config = SettingsConfigDict(case_sensitive=True, frozen=True, env_ignore_empty=True)

    mode: Literal["production", "development", "demo"] = _setting(
        "production",
        "POLYLECT_MODE",
        "production; development: localhost origins are allowed; demo: development with the "
        "documents' example keys (make run)",
    )
    host: str = _setting("127.0.0.1", "POLYLECT_HOST", "Address HTTP and gRPC listen on")
    own_grpc_host: str = _setting(
        "", "POLYLECT_GRPC_HOST", "Address gRPC listens on instead; unset: POLYLECT_HOST"
    )
    http_port: Port = _setting(8080, "POLYLECT_HTTP_PORT", "Port of the HTTP dialects")
    grpc_port: Port = _setting(50051, "POLYLECT_GRPC_PORT", "Port of gRPC")
    core_metrics_port: int = _setting(
        0, "POLYLECT_CORE_METRICS_PORT", "Port of the core's /metrics, beside gRPC; 0: none", ge=0, le=65_535
    )
    data_dir: Path = _setting(
        Path(".polylect"), "POLYLECT_DATA_DIR", "Directory of the embedded database and the tokens"
    )
    database_url: SecretStr | None = _setting(
        None, "DATABASE_URL", "postgresql:// URL of the database; unset: the embedded one"
    )
    pg_bin: Path | None = _setting(
        None, "PG_BIN", "bin directory of the PostgreSQL to embed; unset: the installed wheel's"
    )
    admin_token: SecretStr | None = _setting(
        None,
        "POLYLECT_ADMIN_TOKEN",
        "Credential of administration; unset: made once, kept in the data dir",
    )
    facade_token: SecretStr | None = _setting(
        None, "POLYLECT_FACADE_TOKEN", "Credential of the facade at the core; unset: made once, kept likewise"
    )
    facade_workers: int = _setting(1, "POLYLECT_FACADE_WORKERS", "Processes that answer HTTP", ge=1, le=256)
    workers: int = _setting(1, "POLYLECT_WORKERS", "Processes that write events to their tables", ge=1, le=64)
    trusted_proxies: Networks = _setting(
        (), "POLYLECT_TRUSTED_PROXIES", "Networks (CIDR, by comma) whose X-Forwarded-For is believed"
    )
    dedup_window_days: int = _setting(
        7, "POLYLECT_DEDUP_WINDOW_DAYS", "Days within which a repeated client id is a duplicate", ge=1, le=400
    )
    retention_days: int = _setting(
        0, "POLYLECT_RETENTION_DAYS", "Days after which events are dropped; 0: never", ge=0, le=36_500
    )
    quarantine_days: int = _setting(
        30,
        "POLYLECT_QUARANTINE_DAYS",
        "Days after which quarantined events are dropped, no later than events are; 0: not for their age",
        ge=0,
        le=36_500,
    )
    quarantine_max_events: int = _setting(
        100_000,
        "POLYLECT_QUARANTINE_MAX_EVENTS",
        "Quarantined events kept of a source; the oldest beyond are dropped",
        ge=1,
        le=10_000_000,
    )
    quarantine_max_mib: int = _setting(
        256,
        "POLYLECT_QUARANTINE_MAX_MIB",
        "MiB of quarantined events kept of a source; likewise",
        ge=16,
        le=1_000_000,
    )
    core_address: Target = _setting(
        "", "POLYLECT_CORE_ADDRESS", "host:port where facade and command line find the core; unset: here"
    )
    grpc_tls_cert: Path | None = _setting(
        None, "POLYLECT_GRPC_TLS_CERT", "PEM certificate chain of the core; unset: no TLS"
    )
    grpc_tls_key: Path | None = _setting(None, "POLYLECT_GRPC_TLS_KEY", "PEM key of that certificate")
    grpc_tls_client_ca: Path | None = _setting(
        None,
        "POLYLECT_GRPC_TLS_CLIENT_CA",
        "PEM authorities that gRPC clients' certificates must come from (mTLS)",
    )
    core_tls_ca: Path | None = _setting(
        None,
        "POLYLECT_CORE_TLS_CA",
        "PEM authorities the core's certificate must come from; unset: no TLS",
    )
    core_tls_cert: Path | None = _setting(
        None, "POLYLECT_CORE_TLS_CERT", "PEM certificate shown to the core (mTLS)"
    )
    core_tls_key: Path | None = _setting(None, "POLYLECT_CORE_TLS_KEY", "PEM key of that certificate")
    log_level: Literal["debug", "info", "warning", "error"] = _setting(
        "info", "POLYLECT_LOG_LEVEL", "debug, info, warning or error"
    )
    log_format: Literal["auto", "json", "console"] = _setting(
        "auto", "POLYLECT_LOG_FORMAT", "json, console, or auto: console on a terminal"
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Read the environment only."""
        return (env_settings,)

    @model_validator(mode="after")
    def _check_together(self) -> Self:
        pairs = (
            ("POLYLECT_GRPC_TLS_CERT", self.grpc_tls_cert, "POLYLECT_GRPC_TLS_KEY", self.grpc_tls_key),
            ("POLYLECT_CORE_TLS_CERT", self.core_tls_cert, "POLYLECT_CORE_TLS_KEY", self.core_tls_key),
        )
        for one, given, other, also_given in pairs:
            if (given is None) != (also_given is None):
                raise ValueError(f"{one} and {other} belong together: set both or none")
        if self.grpc_tls_client_ca and not self.grpc_tls_cert:
            raise ValueError("POLYLECT_GRPC_TLS_CLIENT_CA needs POLYLECT_GRPC_TLS_CERT and _KEY too")
        if self.core_tls_cert and not self.core_tls_ca:
            raise ValueError("POLYLECT_CORE_TLS_CERT needs POLYLECT_CORE_TLS_CA too")
        if self.http_port == self.grpc_port:
            raise ValueError("POLYLECT_HTTP_PORT and POLYLECT_GRPC_PORT must differ")
        if self.database_url and not _is_postgres(self.database_url.get_secret_value()):
            raise ValueError(
                "DATABASE_URL must be a postgresql:// URL, as in postgresql://user@host:5432/name"
            )
        return self

    @property
    def grpc_host(self) -> str:
        """The address gRPC listens on."""
        return self.own_grpc_host or self.host

    @property
    def grpc_target(self) -> str:
        """host:port at which this machine reaches a core of its own."""
        return join_host_port(local_host(self.grpc_host), self.grpc_port)

    @property
    def core_target(self) -> str:
        """host:port of the core, an IPv6 address in brackets."""
        return self.core_address or self.grpc_target

    @property
    def http_url(self) -> str:
        """Where this machine reaches the facade."""
        return f"http://{join_host_port(local_host(self.host), self.http_port)}"


class SettingRow(NamedTuple):
    """One setting as `polylect config` shows it."""

    name: str
    value: str
    default: str
    meaning: str
    # The value from the default.
    differs: bool


def join_host_port(host: str, port: int) -> str:
    """Give host:port, an IPv6 address in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def local_host(host: str) -> str:
    """Give the address under which this machine reaches what listens on `host`."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}.get(host, host)  # noqa: S104


def known_names() -> list[str]:
    """Give the names of all environment variables, in the order of the list."""
    return [str(field.validation_alias) for field in Settings.model_fields.values()]


def load_settings() -> Settings:
    """Read the settings. Raises SettingsError for bad values, and for POLYLECT_* names there are not."""
    problems = []
    known = known_names()
    for name in sorted(os.environ):
        if name.startswith(_PREFIX) and name not in known:
            # The prefix would make all of them alike.
            bare = [one.removeprefix(_PREFIX) for one in known if one.startswith(_PREFIX)]
            near = difflib.get_close_matches(name.removeprefix(_PREFIX), bare, n=1, cutoff=0.5)
            hint = f"did you mean {_PREFIX}{near[0]}?" if near else "`polylect config` lists all there are"
            problems.append(f"{name}: there is no such setting; {hint}")
    try:
        settings = Settings()
    except ValidationError as error:
        for fault in error.errors(include_url=False):
            said = fault["msg"].removeprefix("Value error, ")
            if fault["loc"]:
                name = str(fault["loc"][0])
                if fault["type"] != "value_error":  # the library's words, not ours
                    said = f"must be {_allowed(name)}, not {_quoted(fault['input'])}"
                said = f"{name}: {said}"
            problems.append(said)
    if problems:
        raise SettingsError("\n".join(problems))
    return settings


def _allowed(name: str) -> str:
    """Say what a setting may be."""
    field = next(one for one in Settings.model_fields.values() if one.validation_alias == name)
    if field.annotation is not int:
        return f"one of {', '.join(get_args(field.annotation))}"
    ends = {
        end: getattr(limit, end) for limit in field.metadata for end in ("ge", "le") if hasattr(limit, end)
    }
    return f"a whole number from {ends['ge']} to {ends['le']}"


def _is_postgres(url: str) -> bool:
    try:
        return urlsplit(url).scheme in ("postgresql", "postgres")
    except ValueError:
        return False


def check_files(settings: Settings) -> None:
    """See that the files named can be read. Raises SettingsError."""
    for attribute, field in Settings.model_fields.items():
        if "_tls_" not in attribute or getattr(settings, attribute) is None:
            continue
        try:
            getattr(settings, attribute).read_bytes()
        except OSError as error:
            raise SettingsError(f"{field.validation_alias}: {error.filename}: {error.strerror}") from error


def describe(settings: Settings) -> list[SettingRow]:
    """List all settings, secrets masked."""
    rows = []
    for attribute, field in Settings.model_fields.items():
        value, default = getattr(settings, attribute), field.default
        rows.append(
            SettingRow(
                str(field.validation_alias),
                _shown(value),
                _shown(default),
                field.description or "",
                differs=value != default,
            )
        )
    return rows


def _shown(value: object) -> str:
    if isinstance(value, SecretStr):
        url = urlsplit(value.get_secret_value())
        if not url.scheme or not url.netloc:
            return _MASK
        # The whole query is hidden: libpq takes a password there too.
        user = f"{url.username}:{_MASK}@" if url.username else ""
        query = f"?{_MASK}" if url.query else ""
        return f"{url.scheme}://{user}{url.netloc.rpartition('@')[2]}{url.path}{query}"
    if isinstance(value, tuple):
        return ",".join(value)
    return "" if value is None else str(value)
