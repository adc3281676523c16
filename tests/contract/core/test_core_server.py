"""The core as a server: start, health, reflection, TLS, changes heard of, outages, and a clean end."""

import asyncio
import contextlib
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from datetime import date
from pathlib import Path
from typing import Any

import grpc
import psycopg
import pytest
import trustme
from core_calls import (
    ADMIN,
    FACADE,
    Caller,
    a_request,
    an_event,
    bearer,
    calling,
    failure,
    failure_of,
    queue_rows,
    until,
)
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from polylect.v1 import error_reason_pb2 as reasons
from polylect.v1 import ingest_pb2, source_pb2
from polylect.v1.ingest_pb2 import (
    BatchIngestRequest,
    BatchIngestStreamRequest,
    ClientItem,
    IngestRequest,
    IngestStreamRequest,
)
from polylect.v1.query_pb2 import ListEventsRequest

from core_service.commit import FLUSHES_IN_FLIGHT
from core_service.server import SERVICES, CoreOptions, open_stores, start_core
from storage.database import Database
from storage.embedded import EmbeddedPostgres
from storage.migrate import migrate
from storage.sources import PostgresSources

# Made once for these tests, good for a hundred years and for nothing else.
SERVICE = ingest_pb2.KEY_KIND_SERVICE


async def test_health(core: Caller) -> None:
    assert [await core.is_serving(service) for service in ("", *SERVICES)] == [True] * (1 + len(SERVICES))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await core.is_serving("polylect.v1.NoService")
    assert caught.value.code() == grpc.StatusCode.NOT_FOUND


async def test_reflection(core: Caller) -> None:
    def ask() -> tuple[list[str], list[str]]:
        with grpc.insecure_channel(core.address) as channel:
            database = ProtoReflectionDescriptorDatabase(channel)
            file = database.FindFileContainingSymbol("polylect.v1.IngestService")
            return list(database.get_services()), [method.name for method in file.service[0].method]

    services, methods = await asyncio.to_thread(ask)
    assert {*SERVICES, "grpc.health.v1.Health"} <= set(services)
    assert methods == ["Ingest", "BatchIngest", "BatchIngestStream", "IngestStream", "ReportRefusals"]


@pytest.mark.parametrize("protocol", ["grpc-v1", "grpc-v1alpha"])
async def test_a_client_without_files_lists_the_methods(core: Caller, protocol: str) -> None:
    buf = Path(sys.executable).with_name("buf")
    options = ["--protocol", "grpc", "--http2-prior-knowledge", "--reflect-protocol", protocol]
    command = [buf, "curl", *options, "--list-methods", f"http://{core.address}"]
    process = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE)
    listed, _ = await process.communicate()
    assert process.returncode == 0
    assert {"polylect.v1.IngestService/Ingest", "polylect.v1.SourceService/CreateKey"} <= set(
        listed.decode().split()
    )


async def test_a_taken_port_is_told(core: Caller, start: Any) -> None:
    port = core.address.rpartition(":")[2]
    with pytest.raises(OSError, match=f"port {port} of 127.0.0.1 is taken: .* set POLYLECT_GRPC_PORT$"):
        await start(address=core.address)


async def test_an_address_of_another_machine_is_told(start: Any) -> None:
    with pytest.raises(OSError, match=r"can't listen on 192\.0\.2\.7:1"):
        await start(address="192.0.2.7:1")


async def test_tls_and_client_certificates(start: Any, core: Caller, tmp_path: Path) -> None:
    await core.make_source()
    secret = (await core.make_key(kind=SERVICE)).secret
    certifier = trustme.CA()
    server, caller = certifier.issue_cert("127.0.0.1"), certifier.issue_cert("caller.example")
    authority = certifier.cert_pem.bytes()
    client = (caller.private_key_pem.bytes(), caller.cert_chain_pems[0].bytes())
    names = {"tls_cert": "server.pem", "tls_key": "server.key", "tls_client_ca": "ca.pem"}
    paths = {option: tmp_path / name for option, name in names.items()}
    server.cert_chain_pems[0].write_to_path(paths["tls_cert"])
    server.private_key_pem.write_to_path(paths["tls_key"])
    certifier.cert_pem.write_to_path(paths["tls_client_ca"])
    files = {option: str(path) for option, path in paths.items() if option != "tls_client_ca"}
    with_tls = await start(**files)
    with_mtls = await start(**files, tls_client_ca=str(paths["tls_client_ca"]))

    async def is_taken(server: Caller, *certificate: bytes) -> bool:
        credentials = grpc.ssl_channel_credentials(authority, *certificate)
        async with grpc.aio.secure_channel(server.address, credentials) as channel:
            request = IngestRequest(events=[an_event()])
            call = Caller(server.address, channel).ingest.Ingest(request, metadata=bearer(secret))
            code = await call.code()
            assert code in (grpc.StatusCode.OK, grpc.StatusCode.UNAVAILABLE)
            return code == grpc.StatusCode.OK

    assert await is_taken(with_tls)
    assert not await is_taken(with_mtls)
    assert await is_taken(with_mtls, *client)
    with pytest.raises(grpc.aio.AioRpcError):
        await with_tls.is_serving()


async def test_a_revocation_is_effective_in_another_core_within_a_second(start: Any) -> None:
    one, other = await start(), await start()
    await one.make_source()
    key = await one.make_key()

    async def is_valid_at_other() -> bool:
        (outcome,) = await other.send(a_request(key.secret))
        return not outcome.HasField("refusal")

    async def is_invalid_at_other() -> bool:
        return not await is_valid_at_other()

    assert await until(is_valid_at_other) < 1
    revocation = source_pb2.RevokeKeyRequest(key_id=key.key.key_id)
    await one.sources.RevokeKey(revocation, metadata=ADMIN)
    assert (await one.send(a_request(key.secret)))[
        0
    ].refusal.reason == reasons.ERROR_REASON_CREDENTIAL_INVALID
    assert await until(is_invalid_at_other) < 1


async def test_a_setting_is_effective_in_another_core_within_a_second(start: Any) -> None:
    one, other = await start(), await start()
    await one.make_source(origins=source_pb2.StringList(values=["https://a.example"]))
    question = source_pb2.CheckOriginRequest(origin="https://a.example")

    async def is_allowed() -> bool:
        return (await other.sources.CheckOrigin(question, metadata=FACADE)).allowed

    async def is_not_allowed() -> bool:
        return not await is_allowed()

    assert await until(is_allowed) < 1
    change = source_pb2.UpdateSourceRequest(source="shop", enabled=False)
    await one.sources.UpdateSource(change, metadata=ADMIN)
    assert await until(is_not_allowed) < 1


async def test_what_changed_while_the_listener_was_away_is_heard(start: Any, database_url: str) -> None:
    core = await start()
    await core.make_source()
    key = await core.make_key()
    name = database_url.rpartition("/")[2]
    terminate = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s AND pid <> %s"
    with psycopg.connect(database_url, autocommit=True) as connection:
        for round_number in range(2):
            connection.execute(terminate, (name, connection.info.backend_pid))
            # Behind the core's back, with nobody listening.
            connection.execute("UPDATE sources SET enabled = %s", (bool(round_number),))

            async def is_effective(refused: bool = not round_number) -> bool:
                with contextlib.suppress(grpc.aio.AioRpcError):
                    return (await core.send(a_request(key.secret)))[0].HasField("refusal") is refused
                return False

            assert await until(is_effective) < 3


@pytest.fixture
def server(tmp_path: Path) -> Iterator[EmbeddedPostgres]:
    """A server of this test's own, to be stopped and started."""
    with EmbeddedPostgres(tmp_path / "postgres", settings={"fsync": "off"}) as postgres:
        migrate(postgres.url)
        yield postgres


async def test_the_database_goes_and_comes_back(start: Any, server: EmbeddedPostgres) -> None:
    core = await start(database_url=server.url)
    await core.make_source()
    key = await core.make_key()
    await core.send(a_request(key.secret))
    server.stop()

    async def is_not_serving() -> bool:
        return not await core.is_serving()

    await until(is_not_serving)
    # Keys stay as known: a bad one is told, a good one asked to come back.
    good, bad = await core.send(a_request(key.secret), a_request("nobody"))
    assert good.refusal.reason == reasons.ERROR_REASON_STORAGE_UNAVAILABLE
    assert bad.refusal.reason == reasons.ERROR_REASON_CREDENTIAL_INVALID
    call = BatchIngestRequest(requests=[a_request(key.secret)])
    for failing in (
        core.ingest.BatchIngest(call, metadata=FACADE),
        core.query.ListEvents(ListEventsRequest(), metadata=ADMIN),
        core.sources.CreateSource(source_pb2.CreateSourceRequest(name="x"), metadata=ADMIN),
    ):
        failed = await failure(failing)
        assert (failed.code, failed.reason) == (grpc.StatusCode.UNAVAILABLE, "STORAGE_UNAVAILABLE")
        assert failed.retry_seconds == 2
        assert failed.message == "Storage is not available"
    server.start()
    await until(core.is_serving)
    (outcome,) = await core.send(a_request(key.secret))
    assert outcome.results[0].event_id
    assert len(queue_rows(server.url)) == 2
    await core.make_source("made-afterwards")


async def test_a_start_before_the_database(start: Any, server: EmbeddedPostgres) -> None:
    first = await start(database_url=server.url)
    await first.make_source()
    key = await first.make_key()
    server.stop()
    core = await start(database_url=server.url)
    assert not await core.is_serving()
    (outcome,) = await core.send(a_request(key.secret))
    # Not "invalid": nobody can know yet.
    assert outcome.refusal.reason == reasons.ERROR_REASON_STORAGE_UNAVAILABLE
    failed = await failure(core.ingest.Ingest(IngestRequest(), metadata=bearer(key.secret)))
    assert failed.reason == "STORAGE_UNAVAILABLE"
    server.start()
    await until(core.is_serving)
    assert (await core.send(a_request(key.secret)))[0].results[0].event_id


async def test_a_full_buffer_is_told_and_recovers(core: Caller, database_url: str) -> None:
    await core.make_source()
    key = await core.make_key()
    wide = a_request(key.secret, *[an_event(properties_json='{"x":"' + "y" * 1_000_000 + '"}')] * 25)
    with psycopg.connect(database_url) as lock:
        lock.execute("LOCK TABLE queue IN ACCESS EXCLUSIVE MODE")
        calls = [
            asyncio.create_task(
                failure(core.ingest.BatchIngest(BatchIngestRequest(requests=[wide]), metadata=FACADE))
            )
            for _ in range(3)
        ]
        # Which of the three came last is open; the others wait for the disk.
        done, waiting = await asyncio.wait(calls, return_when=asyncio.FIRST_COMPLETED)
        failed = done.pop().result()
        assert (failed.code, failed.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "OVERLOADED")
        assert failed.retry_seconds == 1
        for call in waiting:
            call.cancel()
        lock.commit()

    async def is_taken() -> bool:
        with contextlib.suppress(grpc.aio.AioRpcError):
            return bool((await core.send(wide))[0].results[0].event_id)
        return False

    await until(is_taken)


class BrokenSalts(PostgresSources):
    """Sources whose salts fail in a way nobody thought of."""

    async def salt(self, day: date) -> bytes:
        raise RuntimeError(f"secret words about {day}")


@pytest.mark.parametrize(
    "given", [{"tls_cert"}, {"tls_key"}, {"tls_client_ca"}, {"tls_cert", "tls_client_ca"}]
)
async def test_half_of_a_certificate_is_no_reason_to_go_without(
    start: Any, tmp_path: Path, given: set[str]
) -> None:
    paths = {name: str(tmp_path / f"{name}.pem") for name in given}
    with pytest.raises(ValueError, match="tls_key"):
        await start(**paths)


async def test_a_fault_of_ours_is_neutral_and_spoils_no_neighbour(start: Any, options: CoreOptions) -> None:
    database = Database(options.database_url)
    async with open_stores(options) as stores, contextlib.aclosing(database):
        broken = BrokenSalts(database, include_demo=False)
        core = await start(stores=stores._replace(sources=broken, events=None))
        await core.make_source()
        key = await core.make_key(kind=SERVICE)
        faulty = ClientItem(event=an_event(), fingerprint_visitor=True)
        first, second, third = await core.send(
            a_request(key.secret), a_request(key.secret, faulty), a_request(key.secret)
        )
        assert first.results[0].event_id
        assert third.results[0].event_id
        assert second.refusal.reason == reasons.ERROR_REASON_INTERNAL
        assert second.refusal.message == "Internal error"
        failed = await failure(core.query.ListEvents(ListEventsRequest(), metadata=bearer(key.secret)))
        assert (failed.code, failed.reason) == (grpc.StatusCode.INTERNAL, "INTERNAL")
        assert failed.message == "Internal error"


async def test_a_stop_lets_calls_finish_and_takes_no_more(options: CoreOptions, database_url: str) -> None:
    async with AsyncExitStack() as clients:
        running = AsyncExitStack()
        stores = await running.enter_async_context(open_stores(options))
        port = await running.enter_async_context(start_core(stores, options))
        caller = await clients.enter_async_context(calling(f"127.0.0.1:{port}"))
        await caller.make_source()
        key = await caller.make_key(kind=SERVICE)
        request = a_request(key.secret)
        request.ClearField("received_at")
        watching = caller.health.Watch(health_pb2.HealthCheckRequest())
        assert (await watching.read()).status == health_pb2.HealthCheckResponse.SERVING
        stream = caller.ingest.IngestStream(metadata=bearer(key.secret))
        await stream.write(IngestStreamRequest(events=[an_event()]))
        taken = [(await stream.read()).results[0].event_id]
        waiting_query = (
            "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE 'INSERT%'"
        )
        idle, busy = [caller.ingest.BatchIngestStream(metadata=FACADE) for _ in range(2)]
        batch = BatchIngestStreamRequest(requests=[request])
        for batches in (idle, busy):
            await batches.write(batch)
            taken.append((await batches.read()).outcomes[0].results[0].event_id)
        with (
            psycopg.connect(database_url) as lock,
            psycopg.connect(database_url, autocommit=True) as watcher,
        ):
            lock.execute("LOCK TABLE queue IN ACCESS EXCLUSIVE MODE")
            await busy.write(batch)
            calls = [asyncio.create_task(caller.send(request)) for _ in range(10)]

            async def all_flushes_wait() -> bool:
                return watcher.execute(waiting_query).fetchone() == (FLUSHES_IN_FLIGHT,)

            await until(all_flushes_wait)
            stopping = asyncio.create_task(running.aclose())
            assert (await watching.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING

            async def is_refused() -> bool:
                async with calling(caller.address) as late:
                    with contextlib.suppress(grpc.aio.AioRpcError):
                        await late.send(request)
                        return False
                return True

            assert await is_refused()
            assert not stopping.done()
            lock.commit()
        for answer in await asyncio.gather(*calls, return_exceptions=True):
            # One that had not been taken up when the stop came is refused, and not stored.
            if isinstance(answer, list):
                taken.append(answer[0].results[0].event_id)
            else:
                assert isinstance(answer, grpc.aio.AioRpcError)
        assert len(taken) >= 5
        # The answer comes first, then the end.
        taken.append((await busy.read()).outcomes[0].results[0].event_id)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await busy.read()
        assert failure_of(caught.value).reason == "STORAGE_UNAVAILABLE"
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stream.read()
        assert failure_of(caught.value).reason == "STORAGE_UNAVAILABLE"

        async def is_done() -> bool:
            return bool(idle.done())

        started = asyncio.get_running_loop().time()
        await stopping
        # The one who only watches our health is not waited for, nor is a stream nobody sends on.
        await until(is_done)
        assert asyncio.get_running_loop().time() - started < 5
        stored = [event.event_id for row in queue_rows(database_url) for event in row.events]
        assert sorted(stored) == sorted(taken)


PROGRAM = """
import sys
from core_service.server import CoreOptions, run
url, address = sys.argv[1:]
run(CoreOptions(url, address, facade_token="facade-token", admin_token="admin-token"))
"""


@pytest.fixture
async def process(database_url: str, tmp_path: Path) -> AsyncIterator[tuple[asyncio.subprocess.Process, str]]:
    address = f"unix:{tmp_path}/core.sock"
    command = [sys.executable, "-c", PROGRAM, database_url, address]
    process = await asyncio.create_subprocess_exec(*command)
    yield process, address
    if process.returncode is None:
        process.kill()
        await process.wait()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_ends_the_process_with_0(
    process: tuple[asyncio.subprocess.Process, str], database_url: str, number: signal.Signals
) -> None:
    running, address = process
    async with calling(address) as caller:

        async def is_up() -> bool:
            with contextlib.suppress(grpc.aio.AioRpcError):
                return await caller.is_serving()
            return False

        await until(is_up)
        await caller.make_source()
        key = await caller.make_key()
        request = a_request(key.secret)
        request.ClearField("received_at")
        answered: list[str] = []

        async def send_until_refused() -> None:
            with contextlib.suppress(grpc.aio.AioRpcError):
                while True:
                    answered.append((await caller.send(request))[0].results[0].event_id)

        senders = [asyncio.create_task(send_until_refused()) for _ in range(4)]

        async def under_load() -> bool:
            return len(answered) > 50

        await until(under_load)
        running.send_signal(number)
        assert await asyncio.wait_for(running.wait(), 10) == 0
        await asyncio.gather(*senders)
    stored = {event.event_id for row in queue_rows(database_url) for event in row.events}
    assert set(answered) <= stored
