"""The core's gRPC server: its limits, where it listens, and how it stops.

Hides TLS, and that a stop waits for every answer, yet not for those who only watch.
"""

import asyncio
import contextlib
import errno
import socket
from pathlib import Path
from typing import Protocol

import grpc

from core_service.entry import Entry

# Room for everything the facade may put into one call: a body of 5 MiB travels as it came and as events.
_RECEIVED_BYTES = 32 * 1024 * 1024
_SENT_BYTES = 64 * 1024 * 1024
# Within which an accepted call has entered its handler.
_ENTERING_SECONDS = 0.1


class ListeningOptions(Protocol):
    """Where to listen, and the paths of PEM files."""

    @property
    def address(self) -> str: ...

    @property
    def tls_cert(self) -> str | None: ...

    @property
    def tls_key(self) -> str | None: ...

    @property
    def tls_client_ca(self) -> str | None: ...


def make_server(entry: Entry) -> grpc.aio.Server:
    """Make a server whose calls all come in through `entry`."""
    return grpc.aio.server(
        handlers=(entry,),
        options=(
            ("grpc.max_receive_message_length", _RECEIVED_BYTES),
            ("grpc.max_send_message_length", _SENT_BYTES),
            # Two cores on one port is a mistake, and must look like one.
            ("grpc.so_reuseport", 0),
            # The facade pings every 30 s; by default gRPC cuts who does more often than every 5 minutes.
            ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
            ("grpc.keepalive_permit_without_calls", 1),
            # Who is gone without a word has no calls under way any more.
            ("grpc.keepalive_time_ms", 60_000),
            ("grpc.keepalive_timeout_ms", 20_000),
            ("grpc.http2.max_pings_without_data", 0),
        ),
    )


def listen(server: grpc.aio.Server, options: ListeningOptions) -> int:
    """Open the port, and give it. Raises OSError, and ValueError for half of a certificate."""
    _refuse_taken(options.address)
    cert, key = options.tls_cert, options.tls_key
    try:
        if cert is None and key is None and options.tls_client_ca is None:
            return server.add_insecure_port(options.address)
        if cert is None or key is None:
            raise ValueError("TLS needs both tls_cert and tls_key")
        pair = (Path(key).read_bytes(), Path(cert).read_bytes())
        authorities = Path(options.tls_client_ca).read_bytes() if options.tls_client_ca else None
        credentials = grpc.ssl_server_credentials(
            [pair], root_certificates=authorities, require_client_auth=authorities is not None
        )
        return server.add_secure_port(options.address, credentials)
    except RuntimeError as error:
        raise OSError(f"can't listen on {options.address}: {error}") from error


def _refuse_taken(address: str) -> None:
    """Raise OSError when the port is taken: gRPC would print and raise words for its makers."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        return
    host = host.strip("[]")
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, int(port)))
        except OSError as error:
            # Anything else gRPC finds by itself.
            if error.errno == errno.EADDRINUSE:
                raise OSError(
                    f"port {port} of {host} is taken: stop what uses it, or set POLYLECT_GRPC_PORT"
                ) from error


async def stop(server: grpc.aio.Server, entry: Entry, drain_seconds: float) -> None:
    """Take no new call, let those under way finish, and wait for no one who only watches our health."""
    stopping = asyncio.create_task(server.stop(drain_seconds))
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(drain_seconds):
            await entry.wait_idle()
            # Calls that were accepted and have not entered a handler yet: no one would answer them.
            await asyncio.sleep(_ENTERING_SECONDS)
            await entry.wait_idle()
    await server.stop(0)
    await stopping
