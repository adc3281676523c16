"""The core as a server: puts the parts together, starts, reports health, drains.

The only module that knows which storage is used. Everything else of the core speaks to ports.
"""

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import grpc
import structlog
import uvloop
from grpc_health.v1 import health
from polylect.v1 import identity_pb2, ingest_pb2, quarantine_pb2, query_pb2, source_pb2
from polylect.v1.identity_pb2_grpc import add_IdentityServiceServicer_to_server
from polylect.v1.ingest_pb2_grpc import add_IngestServiceServicer_to_server
from polylect.v1.quarantine_pb2_grpc import add_QuarantineServiceServicer_to_server
from polylect.v1.query_pb2_grpc import add_QueryServiceServicer_to_server
from polylect.v1.source_pb2_grpc import add_SourceServiceServicer_to_server

from core_service.admission import Admission
from core_service.callers import Callers
from core_service.commit import FLUSHES_IN_FLIGHT, GroupCommit
from core_service.discovery import add_reflection
from core_service.fingerprint import Fingerprints
from core_service.health import Health
from core_service.identity import IdentityServicer
from core_service.ingest import IngestServicer
from core_service.interceptor import CallInterceptor
from core_service.keys import KeyRing
from core_service.limits import QuotaCounters
from core_service.ports import (
    EventStore,
    IdentityStore,
    LoadTranslator,
    QuarantineStore,
    Queue,
    RefusalStore,
    SourceStore,
    StatsStore,
    TailStore,
    TrailStore,
)
from core_service.quarantine import QuarantineServicer
from core_service.query import QueryServicer, Readers
from core_service.refusals import Refusals
from core_service.replay import Replayer, no_translator
from core_service.sources import SourceServicer
from core_service.tail import Tails
from core_service.trail import Trail
from storage.database import Database
from storage.events import PostgresEvents
from storage.explain import PostgresTrail
from storage.identity_records import PostgresIdentity
from storage.quarantine import PostgresQuarantine
from storage.queue import PostgresQueue
from storage.refusals import PostgresRefusals
from storage.sources import PostgresSources
from storage.stats import PostgresStats
from storage.tail import PostgresTail

SERVICES = tuple(
    file.DESCRIPTOR.services_by_name[name].full_name
    for file, name in (
        (ingest_pb2, "IngestService"),
        (query_pb2, "QueryService"),
        (source_pb2, "SourceService"),
        (quarantine_pb2, "QuarantineService"),
        (identity_pb2, "IdentityService"),
    )
)

# Room for everything the facade may put into one call: a body of 5 MiB travels as it came and as events.
_RECEIVED_BYTES = 32 * 1024 * 1024
_SENT_BYTES = 64 * 1024 * 1024
# Within which an accepted call has entered its handler.
_ENTERING_SECONDS = 0.1
# Keys must be heard of, and health told, however long somebody's statistics take.
_CONTROL_TIMEOUT_SECONDS = 3.0
_QUERY_TIMEOUT_SECONDS = 20.0
_RESTART_SECONDS = 1.0

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class CoreOptions:
    """What the core is started with."""

    database_url: str
    # host:port; port 0 takes a free one.
    address: str = "127.0.0.1:50051"
    # production: a source lets in the origins it lists; otherwise local ones too. demo: the documents'
    # example sources exist.
    mode: Literal["production", "development", "demo"] = "production"
    # Credentials of the two roles; empty: nobody has the role.
    admin_token: str = ""
    facade_token: str = ""
    # Paths of PEM files. No certificate: no TLS. A client CA: clients must show a certificate of it.
    tls_cert: str | None = None
    tls_key: str | None = None
    tls_client_ca: str | None = None
    # How long calls under way may take after a stop.
    drain_seconds: float = 10.0


class Stores(NamedTuple):
    """What the core keeps things in."""

    queue: Queue
    sources: SourceStore
    events: EventStore
    stats: StatsStore
    refusals: RefusalStore
    trail: TrailStore
    quarantine: QuarantineStore
    tail: TailStore
    identity: IdentityStore
    # Answers when the database does, whatever else it is asked; raises ConnectionError.
    ping: Callable[[], Awaitable[None]]


def utc_now() -> datetime:
    """Give the time."""
    return datetime.now(UTC)


def run(options: CoreOptions, load_translator: LoadTranslator = no_translator) -> None:
    """Serve on a fast event loop until SIGTERM or SIGINT. Raises OSError when it can't listen."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(options, load_translator))


async def serve(options: CoreOptions, load_translator: LoadTranslator = no_translator) -> None:
    """Serve until SIGTERM or SIGINT, then drain. Raises OSError when it can't listen."""
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for signal_number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signal_number, stopped.set)
    async with open_stores(options) as stores, start_core(stores, options, load_translator=load_translator):
        await stopped.wait()
        log.info("core_draining")
    log.info("core_stopped")


@contextlib.asynccontextmanager
async def open_stores(options: CoreOptions) -> AsyncIterator[Stores]:
    """Lend stores in Postgres; nothing is asked of it yet."""
    queue = Database(options.database_url, size=FLUSHES_IN_FLIGHT)
    control = Database(options.database_url, size=2, timeout_seconds=_CONTROL_TIMEOUT_SECONDS)
    queries = Database(options.database_url, timeout_seconds=_QUERY_TIMEOUT_SECONDS)
    # Nobody's long query makes those wait who watch.
    tails = Database(options.database_url, size=1)
    try:
        yield Stores(
            queue=PostgresQueue(queue),
            sources=PostgresSources(control, include_demo=options.mode == "demo"),
            events=PostgresEvents(queries),
            stats=PostgresStats(queries),
            refusals=PostgresRefusals(control),
            trail=PostgresTrail(queries),
            quarantine=PostgresQuarantine(queries),
            tail=PostgresTail(tails),
            identity=PostgresIdentity(queries),
            ping=PostgresEvents(control).ping,
        )
    finally:
        for database in (queue, control, queries, tails):
            await database.aclose()


@contextlib.asynccontextmanager
async def start_core(
    stores: Stores,
    options: CoreOptions,
    clock: Callable[[], datetime] = utc_now,
    load_translator: LoadTranslator = no_translator,
) -> AsyncIterator[int]:
    """Run a core over `stores` and give its port; drain it when the block ends.

    With the database away it starts all the same, and is healthy as soon as the keys are loaded. Raises
    OSError when it can't listen, ValueError for half of a certificate.
    """
    keys = KeyRing(stores.sources, localhost_origins=options.mode != "production")
    fingerprints = Fingerprints(stores.sources)
    quotas, readers, draining = QuotaCounters(), Readers(stores.sources), asyncio.Event()
    group_commit, refusals = GroupCommit(stores.queue), Refusals(stores.refusals, clock)
    callers = Callers(keys, clock, admin_token=options.admin_token, facade_token=options.facade_token)
    admission = Admission(keys, quotas, fingerprints)
    ingest = IngestServicer(
        callers,
        admission,
        fingerprints,
        group_commit=group_commit,
        refusals=refusals,
        clock=clock,
        draining=draining,
    )
    tails, trail = Tails(stores.tail, clock), Trail(callers, readers, stores.trail)
    query = QueryServicer(
        callers, readers, stores.events, stores.stats, quotas=quotas, tails=tails, clock=clock, trail=trail
    )
    server = _make_server(interceptor := CallInterceptor(callers, refusals))
    add_IngestServiceServicer_to_server(ingest, server)
    add_QueryServiceServicer_to_server(query, server)
    replayer = Replayer(admission, keys, fingerprints, stores, clock=clock, load_translator=load_translator)
    quarantine = QuarantineServicer(callers, readers, stores.quarantine, replayer)
    add_QuarantineServiceServicer_to_server(quarantine, server)
    _add_administration(server, callers, readers, stores, keys=keys, clock=clock)
    add_reflection((*SERVICES, health.SERVICE_NAME), server)
    monitor = Health(server, SERVICES, keys, stores.ping)
    port = _listen(server, options)
    await _look_once(keys, monitor)
    salts = partial(fingerprints.follow, clock)
    background = _in_background(
        keys=keys.follow, health=monitor.follow, salts=salts, refusals=refusals.follow
    )
    await server.start()
    log.info("core_listening", address=options.address, port=port, tls=options.tls_cert is not None)
    try:
        yield port
    finally:
        draining.set()
        tails.stop()
        await monitor.stop()
        await _stop(server, interceptor, options.drain_seconds)
        await _write_the_last(group_commit, background, refusals)


def _add_administration(
    server: grpc.aio.Server,
    callers: Callers,
    readers: Readers,
    stores: Stores,
    *,
    keys: KeyRing,
    clock: Callable[[], datetime],
) -> None:
    add_SourceServiceServicer_to_server(SourceServicer(callers, stores.sources, keys, clock), server)
    add_IdentityServiceServicer_to_server(IdentityServicer(callers, readers, stores.identity, clock), server)


def _make_server(interceptor: CallInterceptor) -> grpc.aio.Server:
    return grpc.aio.server(
        interceptors=(interceptor,),
        options=(
            ("grpc.max_receive_message_length", _RECEIVED_BYTES),
            ("grpc.max_send_message_length", _SENT_BYTES),
            # Two cores on one port is a mistake, and must look like one.
            ("grpc.so_reuseport", 0),
            ("grpc.http2.min_recv_ping_interval_without_data_ms", 10_000),
            ("grpc.keepalive_permit_without_calls", 1),
        ),
    )


def _listen(server: grpc.aio.Server, options: CoreOptions) -> int:
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


async def _look_once(keys: KeyRing, monitor: Health) -> None:
    with contextlib.suppress(ConnectionError):
        await keys.reload()
    await monitor.check()


def _in_background(**tasks: Callable[[], Coroutine[Any, Any, None]]) -> list[asyncio.Task[None]]:
    return [asyncio.create_task(_keep_running(name, follow)) for name, follow in tasks.items()]


async def _write_the_last(
    group_commit: GroupCommit, background: Sequence[asyncio.Task[None]], refusals: Refusals
) -> None:
    await group_commit.drain()
    for task in background:
        task.cancel()
    await asyncio.gather(*background, return_exceptions=True)
    await refusals.flush()


async def _keep_running(name: str, follow: Callable[[], Coroutine[Any, Any, None]]) -> None:
    while True:
        try:
            await follow()
        except Exception:
            # Without it keys would grow stale unnoticed.
            log.exception("background_failed", task=name)
        await asyncio.sleep(_RESTART_SECONDS)


async def _stop(server: grpc.aio.Server, interceptor: CallInterceptor, drain_seconds: float) -> None:
    """Take no new call, let those under way finish, and wait for no one who only watches our health."""
    stopping = asyncio.create_task(server.stop(drain_seconds))
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(drain_seconds):
            await interceptor.wait_idle()
            # Calls that were accepted and have not entered a handler yet: no one would answer them.
            await asyncio.sleep(_ENTERING_SECONDS)
            await interceptor.wait_idle()
    await server.stop(0)
    await stopping
