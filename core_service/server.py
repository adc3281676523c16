"""The core as a server: puts the parts together, starts, reports health, drains.

The only module that knows which storage is used. Everything else of the core speaks to ports.
"""

import asyncio
import contextlib
import gc
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal, NamedTuple

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
from core_service.counts import Counts
from core_service.discovery import add_reflection
from core_service.entry import Entry
from core_service.fingerprint import Fingerprints
from core_service.health import HealthMonitor
from core_service.identity import IdentityServicer
from core_service.ingest import IngestServicer
from core_service.keys import KeyRing
from core_service.limits import QuotaCounters
from core_service.listening import listen, make_server, stop
from core_service.metrics import CoreMetrics
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
from core_service.query import QueryServicer
from core_service.readers import Readers
from core_service.refusals import Refusals
from core_service.replay import Replayer, no_translator
from core_service.sources import SourceServicer
from core_service.tail import Tails
from core_service.trail import Trail
from storage.database import Database
from storage.events import PostgresEvents
from storage.identity_records import PostgresIdentity
from storage.quarantine import PostgresQuarantine
from storage.queue import PostgresQueue
from storage.refusals import PostgresRefusals
from storage.sources import PostgresSources
from storage.stats import PostgresStats
from storage.tail import PostgresTail
from storage.trail import PostgresTrail

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

# Keys must be heard of, and health told, however long somebody's statistics take.
_CONTROL_TIMEOUT_SECONDS = 3.0
_QUERY_TIMEOUT_SECONDS = 20.0
_RESTART_SECONDS = 1.0
_COLLECTED_OBJECTS = 50_000

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
    # Host and port of GET /metrics; None: there is none.
    metrics_at: tuple[str, int] | None = None
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
    # What was imported is never garbage, and no call leaves a circle, not even one that is refused.
    gc.freeze()
    gc.set_threshold(_COLLECTED_OBJECTS, 20, 20)
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
            ping=control.ping,
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
    core = _Core(stores, options, clock, load_translator)
    port = listen(core.server, options)
    await core.monitor.start()
    background = _in_background(
        keys=core.keys.follow,
        health=core.monitor.follow,
        salts=lambda: core.fingerprints.follow(clock),
        refusals=core.refusals.follow,
    )
    await core.server.start()
    log.info("core_listening", address=options.address, port=port, tls=options.tls_cert is not None)
    try:
        with core.metrics.served(*options.metrics_at) if options.metrics_at else contextlib.nullcontext():
            yield port
    finally:
        core.draining.set()
        core.tails.stop()
        await core.monitor.stop()
        await stop(core.server, core.entry, options.drain_seconds)
        await _write_the_last(core.group_commit, background, core.refusals)


class _Core:
    """The parts of a core, put together, none of them running."""

    def __init__(
        self,
        stores: Stores,
        options: CoreOptions,
        clock: Callable[[], datetime],
        load_translator: LoadTranslator,
    ) -> None:
        self.draining = asyncio.Event()
        self.keys = KeyRing(stores.sources, localhost_origins=options.mode != "production")
        self.fingerprints = Fingerprints(stores.sources)
        counts = Counts()
        self.metrics = CoreMetrics(counts, stores.trail, stores.quarantine)
        self.group_commit = GroupCommit(stores.queue, counts.commit)
        self.refusals = Refusals(stores.refusals, clock, counts)
        self.tails = Tails(stores.tail, clock)
        callers = Callers(
            self.keys, clock, admin_token=options.admin_token, facade_token=options.facade_token
        )
        self.entry = Entry(callers, self.refusals, counts)
        self.server = make_server(self.entry)
        quotas, readers = QuotaCounters(), Readers(callers, stores.sources)
        admission = Admission(self.keys, quotas, self.fingerprints)
        ingest = IngestServicer(
            callers,
            admission,
            self.fingerprints,
            group_commit=self.group_commit,
            refusals=self.refusals,
            counts=counts,
            clock=clock,
            draining=self.draining,
        )
        self.entry.add(add_IngestServiceServicer_to_server, ingest)
        self._add_readers(stores, callers, readers, quotas, clock)
        replayer = Replayer(
            admission,
            self.keys,
            self.fingerprints,
            entries=stores.quarantine,
            queue=stores.queue,
            clock=clock,
            load_translator=load_translator,
        )
        quarantine = QuarantineServicer(callers, readers, stores.quarantine, replayer)
        self.entry.add(add_QuarantineServiceServicer_to_server, quarantine)
        offered = (*SERVICES, health.SERVICE_NAME)
        reflection = add_reflection(offered, self.entry)
        self.monitor = HealthMonitor(self.entry, SERVICES, self.keys, stores.ping)
        self.entry.require((*offered, *reflection))

    def _add_readers(
        self,
        stores: Stores,
        callers: Callers,
        readers: Readers,
        quotas: QuotaCounters,
        clock: Callable[[], datetime],
    ) -> None:
        query = QueryServicer(
            callers,
            readers,
            stores.events,
            stores.stats,
            quotas=quotas,
            tails=self.tails,
            clock=clock,
            trail=Trail(readers, stores.trail),
        )
        self.entry.add(add_QueryServiceServicer_to_server, query)
        sources = SourceServicer(callers, stores.sources, self.keys, clock)
        self.entry.add(add_SourceServiceServicer_to_server, sources)
        identity = IdentityServicer(callers, readers, stores.identity, clock)
        self.entry.add(add_IdentityServiceServicer_to_server, identity)


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
