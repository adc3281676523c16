"""What a facade process is told when it starts. Plain values; where they come from is not its business."""

from dataclasses import dataclass


@dataclass(frozen=True)
class FacadeOptions:
    """Settings of the facade. Times are in seconds, sizes in bytes; limits hold for each worker process."""

    # host:port of the core, or unix:/path.
    core_address: str
    # What the core knows the facade by.
    facade_token: str
    # Each facade makes one of its own in it, for the counters its workers share; several may use it at once.
    metrics_dir: str
    # PEM files: authorities of the core (None: no TLS), and the facade's own certificate and key.
    core_tls_ca: str | None = None
    core_tls_cert: str | None = None
    core_tls_key: str | None = None
    host: str = "127.0.0.1"
    port: int = 8080
    workers: int = 1
    # Leaves `Secure` out of cookies on plain-http localhost.
    development: bool = False
    # Read the sources GET /demo shows, one each; without any there is no demo page.
    demo_keys: tuple[str, ...] = ()
    # Networks whose X-Forwarded-* headers are believed, as in 10.0.0.0/8.
    trusted_proxies: tuple[str, ...] = ()
    body_timeout_seconds: float = 10.0
    core_timeout_seconds: float = 10.0
    # After SIGTERM, until a worker is killed.
    graceful_timeout_seconds: int = 20
    keep_alive_seconds: int = 75
    backlog: int = 2048
    # Beyond it a connection gets a 503 and is closed.
    max_connections: int = 4096
    # Bodies being read, together.
    max_reading_bytes: int = 64 * 1024 * 1024
    # Requests waiting for the core, together.
    max_waiting_bytes: int = 64 * 1024 * 1024
    max_waiting_requests: int = 8192
