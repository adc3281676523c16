"""What stands between a client and the facade: it serves pages, and can have a bad moment.

With TLS, as browsers want it, it answers for *.example.com. Some hosts are sites with pages; the others are
the facade, reached through it.
"""

import base64
import hashlib
import http.client
import ssl
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import trustme
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509 import load_pem_x509_certificate

from .waiting import eventually

# A site of the edge's, for the pages that tests make.
SHOP = "https://shop.example.com"
_HOP = {"connection", "keep-alive", "transfer-encoding", "content-length"}


@dataclass(frozen=True)
class Seen:
    """A POST that came through."""

    path: str
    headers: Mapping[str, str]
    body: bytes
    # When, on the monotonic clock.
    at: float


@dataclass(frozen=True)
class Trouble:
    """What befalls one POST. Without a status the connection ends without an answer."""

    status: int = 0
    headers: Mapping[str, str] = field(default_factory=dict)
    # Whether the facade has got it all the same.
    forwarded: bool = False
    # The POST goes its usual way, when this is set.
    held_until: threading.Event | None = None


class Edge:
    """A running edge. `pages` maps 'host/path' to HTML, or to HTML and headers."""

    def __init__(self, facade_port: int, *, tls: bool = True) -> None:
        self.pages: dict[str, str | tuple[str, Mapping[str, str]]] = {}
        # For the next POSTs, one each.
        self.troubles: list[Trouble] = []
        self.seen: list[Seen] = []
        # The pages that were asked for.
        self.visits: list[str] = []
        self.facade_port = facade_port
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.edge = self
        self.key_hash = self._protect() if tls else ""
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    @property
    def port(self) -> int:
        return int(self._server.server_address[1])

    def paths(self) -> list[str]:
        """Where the POSTs went, in order."""
        return [one.path for one in self.seen]

    def await_posts(self, number: int, within_seconds: float = 20.0) -> list[Seen]:
        """Wait for so many POSTs; there must be no more."""
        eventually(lambda: len(self.seen) >= number, f"{number} POSTs", within_seconds=within_seconds)
        assert len(self.seen) == number, [(one.path, one.body) for one in self.seen]
        return list(self.seen)

    def forget(self) -> None:
        """Be as one nobody has used: no pages, no troubles, nothing seen."""
        self.pages.clear()
        self.troubles.clear()
        self.seen.clear()
        self.visits.clear()

    def _protect(self) -> str:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        issued = trustme.CA().issue_cert("*.example.com")
        issued.configure_cert(context)
        self._server.socket = context.wrap_socket(
            self._server.socket, server_side=True, do_handshake_on_connect=False
        )
        return _key_hash(issued.cert_chain_pems[0].bytes())

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def _key_hash(certificate: bytes) -> str:
    """Give the hash by which Chromium can be told to trust a key."""
    key = load_pem_x509_certificate(certificate).public_key()
    spki = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return base64.b64encode(hashlib.sha256(spki).digest()).decode()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    edge: Edge

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A browser that goes is no error."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 30
    server: _Server

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        edge = self.server.edge
        edge.visits.append(self.headers["Host"] + self.path)
        page = edge.pages.get(edge.visits[-1])
        if page is not None:
            text, headers = (page, {}) if isinstance(page, str) else page
            headers = {"Content-Type": "text/html; charset=utf-8", **headers}
            self._answer(200, [*headers.items()], text.encode())
        elif any(key.startswith(self.headers["Host"] + "/") for key in edge.pages):
            self._answer(404, [], b"")
        else:
            self._forward(b"")

    def do_OPTIONS(self) -> None:
        self._forward(b"")

    def do_POST(self) -> None:
        edge = self.server.edge
        body = self.rfile.read(int(self.headers["Content-Length"]))
        headers = {name.lower(): value for name, value in self.headers.items()}
        edge.seen.append(Seen(self.path, headers, body, time.monotonic()))
        trouble = edge.troubles.pop(0) if edge.troubles else None
        if trouble is None:
            self._forward(body)
        elif trouble.held_until is not None:
            assert trouble.held_until.wait(30)
            self._forward(body)
        elif trouble.status:
            allow = [("Access-Control-Allow-Origin", self.headers["Origin"])]
            allow += [("Access-Control-Allow-Credentials", "true")]
            allow += [("Access-Control-Expose-Headers", "Retry-After")]
            self._answer(trouble.status, [*allow, *trouble.headers.items()], b"")
        else:
            if trouble.forwarded:
                self._ask_facade(body)
            self.close_connection = True

    def _forward(self, body: bytes) -> None:
        self._answer(*self._ask_facade(body))

    def _ask_facade(self, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.server.edge.facade_port, timeout=15)
        try:
            connection.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                if name.lower() not in _HOP:
                    connection.putheader(name, value)
            connection.putheader("Content-Length", str(len(body)))
            connection.endheaders(body)
            answer = connection.getresponse()
            return answer.status, answer.getheaders(), answer.read()
        finally:
            connection.close()

    def _answer(self, status: int, headers: list[tuple[str, str]], body: bytes) -> None:
        self.send_response_only(status)
        for name, value in headers:
            if name.lower() not in _HOP:
                self.send_header(name, value)
        if status not in {204, 304}:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        # The browser may be gone: then nobody misses it.
        self.wfile.write(body)
