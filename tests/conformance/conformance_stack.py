"""The whole way of an event in one process: facade on a real socket, core on a real port, worker, Postgres.

Everything but the database is made anew for each use, so that no quota, cookie or key is left from the last.
"""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any, NamedTuple

import grpc
import psycopg
from case_file import Setup
from google.protobuf.json_format import ParseDict
from polylect.v1 import source_pb2
from polylect.v1.event_pb2 import Event
from polylect.v1.ingest_pb2 import KeyKind
from polylect.v1.ingest_pb2_grpc import IngestServiceStub
from polylect.v1.quarantine_pb2 import QuarantinedEvent, QuarantineFilter
from polylect.v1.query_pb2 import ListEventsRequest
from polylect.v1.source_pb2_grpc import SourceServiceStub
from uvicorn import Config

from core_service.server import CoreOptions, Stores, open_stores, start_core
from polylect_cli.translating import load_translator
from rest_facade.app import create_app
from rest_facade.connections import FacadeProtocol
from rest_facade.dialects import DIALECTS
from rest_facade.gunicorn_worker import FacadeServer
from rest_facade.options import FacadeOptions
from rest_facade.vocabulary import Dialect
from storage.demo import DEMO_SOURCES, create_demo
from storage.worker import Worker

FACADE_TOKEN = "facade-token-of-the-tests"
ADMIN_TOKEN = "admin-token-of-the-tests"
_ADMIN = (("authorization", f"Bearer {ADMIN_TOKEN}"),)
_SECONDS = {"second": 1, "minute": 60, "hour": 3600}
_TABLES = (
    "queue",
    "events",
    "dedup_keys",
    "identity_links",
    "session_spans",
    "rollup_queue",
    "event_hours",
    "session_days",
    "session_hours",
    "session_hour_names",
    "visitor_days",
    "user_day_totals",
    "quarantine",
    "daily_salts",
    "keys",
    "sources",
)
_ANSWER_SECONDS = 30
# Nothing listens there.
_NOBODY = "127.0.0.1:9"


class Clock:
    """A clock that stands until it is moved."""

    def __init__(self, now: datetime) -> None:
        self.now = now

    def __call__(self) -> datetime:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)

    @property
    def milliseconds(self) -> int:
        return round(self.now.timestamp() * 1000)


class Reply(NamedTuple):
    """An HTTP answer as it came."""

    status: int
    # In order, names in lower case.
    headers: list[tuple[str, str]]
    body: bytes

    def header(self, name: str) -> str | None:
        """Give a header's value, several joined as RFC 9110 says."""
        found = [value for one, value in self.headers if one == name.lower()]
        return ", ".join(found) if found else None

    @property
    def cookies(self) -> dict[str, str]:
        """Set-Cookie by cookie name: value and attributes."""
        pairs = [value.partition("=") for name, value in self.headers if name == "set-cookie"]
        return {name: rest for name, _, rest in pairs}


@dataclass
class Stack:
    """A running stack."""

    port: int
    core_address: str
    stores: Stores
    worker: Worker
    database_url: str
    clock: Clock
    sources: Any
    ingest: Any
    # The secret of the key the set-up made.
    key: str = ""
    _connections: list[asyncio.StreamWriter] = field(default_factory=list)

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Open a connection to the facade, closed with the stack."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        self._connections.append(writer)
        return reader, writer

    async def ask(
        self,
        method: str,
        path: str,
        headers: Mapping[str, str] | None = None,
        body: bytes = b"",
        withheld_bytes: int = 0,
    ) -> Reply:
        """Send one request with the headers given, Host and Content-Length, and give the answer."""
        reader, writer = await self.connect()
        writer.write(self.head(method, path, headers or {}, len(body)))
        writer.write(body[: len(body) - withheld_bytes])
        async with asyncio.timeout(_ANSWER_SECONDS):
            reply = await read_reply(reader)
        writer.close()
        return reply

    def head(self, method: str, path: str, headers: Mapping[str, str], length: int) -> bytes:
        """Give a request's head; Host and Content-Length are added where they are not given."""
        lines = [f"{method} {path} HTTP/1.1"]
        given = {name.lower() for name in headers}
        if "host" not in given:
            lines.append(f"Host: 127.0.0.1:{self.port}")
        lines += [f"{name}: {value}" for name, value in headers.items()]
        if (length or method in ("POST", "PUT")) and "content-length" not in given:
            lines.append(f"Content-Length: {length}")
        return ("\r\n".join(lines) + "\r\n\r\n").encode()

    async def settle(self) -> None:
        """Have the worker write what lies in the queue, and count it."""
        await asyncio.to_thread(self.worker.settle_all)
        await asyncio.to_thread(self.worker.rollup.fold_all)

    async def events(self) -> list[Event]:
        """Give all stored events in the order of receipt."""
        found, rest = await self.stores.events.list_events(None, ListEventsRequest(), 2_000)
        assert not rest
        return found[::-1]

    async def quarantined(self, reason: int = 0) -> list[QuarantinedEvent]:
        """Give all quarantined events in the order of receipt, or those of one reason."""
        wanted = QuarantineFilter(reason=reason)  # type: ignore[arg-type]
        found, rest = await self.stores.quarantine.list_entries(None, wanted, 2_000, "")
        assert not rest
        return found[::-1]

    def links(self) -> list[dict[str, str]]:
        """Give all identity links."""
        with psycopg.connect(self.database_url) as connection:
            rows = connection.execute("SELECT anonymous_id, user_id FROM identity_links ORDER BY 1, 2")
            return [{"anonymous_id": anonymous, "user_id": user} for anonymous, user in rows]

    async def refusals(self) -> set[str]:
        """Give the reasons the facade has counted so far, of requests and of events."""
        text = (await self.ask("GET", "/metrics")).body.decode()
        lines = [
            line for line in text.splitlines() if line.startswith("polylect_facade_") and "_total{" in line
        ]
        return {line.partition('reason="')[2].partition('"')[0] for line in lines} - {""}


async def read_reply(reader: asyncio.StreamReader, *, has_body: bool = True) -> Reply:
    """Read one answer; that to HEAD has no body. Raises IncompleteReadError when it is cut."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    fields = [line.partition(":") for line in head[1:] if line]
    headers = [(name.strip().lower(), value.strip()) for name, _, value in fields]
    status = int(head[0].split(" ")[1])
    length = next((int(value) for name, value in headers if name == "content-length"), 0)
    return Reply(status, headers, await reader.readexactly(length if has_body else 0))


@contextlib.asynccontextmanager
async def running_stack(
    database_url: str,
    worker: Worker,
    clock: Clock,
    setup: Setup | None = None,
    dialects: Sequence[Dialect] = DIALECTS,
) -> AsyncIterator[Stack]:
    """Empty the database, make the demo sources, and run facade and core over it until the block ends."""
    setup = setup or Setup()
    _empty(database_url)
    options = CoreOptions(
        database_url=database_url,
        address="127.0.0.1:0",
        mode=setup.mode,  # type: ignore[arg-type]
        admin_token=ADMIN_TOKEN,
        facade_token=FACADE_TOKEN,
        drain_seconds=5,
    )
    async with contextlib.AsyncExitStack() as context:
        stores = await context.enter_async_context(open_stores(options))
        core_port = await context.enter_async_context(start_core(stores, options, clock, load_translator))
        address = f"127.0.0.1:{core_port}"
        channel = await context.enter_async_context(grpc.aio.insecure_channel(address))
        facade = FacadeOptions(
            core_address=_NOBODY if setup.core_away else address,
            facade_token=FACADE_TOKEN,
            metrics_dir="",
            development=setup.mode != "production",
        )
        facade = replace(facade, **setup.facade)
        port = await context.enter_async_context(_running_facade(facade, clock, dialects))
        sources, ingest = SourceServiceStub(channel), IngestServiceStub(channel)
        stack = Stack(port, address, stores, worker, database_url, clock, sources, ingest)
        stack.key = await _apply(setup, sources)
        try:
            yield stack
        finally:
            for writer in stack._connections:
                writer.close()


def _empty(database_url: str) -> None:
    with psycopg.connect(database_url) as connection:
        for table in _TABLES:
            connection.execute(f"DELETE FROM {table}")  # type: ignore[arg-type]
    create_demo(database_url)


@contextlib.asynccontextmanager
async def _running_facade(
    options: FacadeOptions, clock: Clock, dialects: Sequence[Dialect]
) -> AsyncIterator[int]:
    config = Config(
        create_app(options, clock, dialects),
        http=FacadeProtocol,
        lifespan="on",
        ws="none",
        interface="asgi3",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        log_config=None,
    )
    listener = socket.create_server(("127.0.0.1", 0))
    server = FacadeServer(config)
    # Not serve(): signals are pytest's here.
    serving = asyncio.create_task(server._serve([listener]))
    try:
        async with asyncio.timeout(10):
            while not server.started and not serving.done():  # noqa: ASYNC110 - uvicorn has no event
                await asyncio.sleep(0)
        yield listener.getsockname()[1]
    finally:
        # Stopping in order, with its two pauses of 0.1 s, is tested elsewhere and would be most of the time.
        serving.cancel()
        await asyncio.wait([serving])
        for one in server.servers:
            one.close()
        await server.lifespan.shutdown()


async def _apply(setup: Setup, sources: Any) -> str:
    """Change the demo set-up as the case wants; give the secret of the key made, if one was."""
    if setup.revoke_key:
        key_id = next(
            key.key_id for source in DEMO_SOURCES for key in source.keys if key.secret == setup.revoke_key
        )
        await sources.RevokeKey(source_pb2.RevokeKeyRequest(key_id=key_id), metadata=_ADMIN)
    if not setup.source:
        return ""
    if not any(setup.source == source.name for source in DEMO_SOURCES):
        await sources.CreateSource(source_pb2.CreateSourceRequest(name=setup.source), metadata=_ADMIN)
    await sources.UpdateSource(_changes(setup), metadata=_ADMIN)
    if setup.key is None:
        return ""
    wanted = dict(setup.key)
    kind = KeyKind.Value(f"KEY_KIND_{wanted.pop('kind').upper().replace('-', '_')}")
    request = ParseDict({"source": setup.source, **wanted}, source_pb2.CreateKeyRequest(kind=kind))
    made = await sources.CreateKey(request, metadata=_ADMIN)
    return str(made.secret)


def _changes(setup: Setup) -> source_pb2.UpdateSourceRequest:
    request = source_pb2.UpdateSourceRequest(
        source=setup.source, cookie_domain=setup.cookie_domain, enabled=setup.enabled
    )
    if setup.rate_limit == "off":
        request.rate_limit.limit = 0
        request.rate_limit.window_seconds = 1
    elif setup.rate_limit:
        limit, _, period = setup.rate_limit.partition("/")
        request.rate_limit.limit = int(limit)
        request.rate_limit.window_seconds = _SECONDS[period]
    if setup.origins is not None:
        request.origins.values.extend(setup.origins)
        request.origins.SetInParent()
    if setup.vendor_cookies is not None:
        request.vendor_cookies.values.extend(setup.vendor_cookies)
        request.vendor_cookies.SetInParent()
    return request
