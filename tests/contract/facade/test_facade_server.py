"""The facade as processes: a gunicorn master and its workers, started, stopped and killed."""

import asyncio
import contextlib
import os
import signal
import socket
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import httpx
import psutil
import pytest
from facade_process import FACADE_TOKEN

PAGEVIEW = (
    b'{"type":"pageview","data":{"visitor_fingerprint":"fp","session_id":"s","url":"https://e.example/"}}'
)
HEADERS = {"X-API-Token": "pub_123"}
PROGRAM = """
import sys
from rest_facade.server import FacadeOptions, run
core, token, metrics, port, workers = sys.argv[1:]
run(FacadeOptions(core, token, metrics, port=int(port), workers=int(workers)))
"""


class Server:
    def __init__(self, process: asyncio.subprocess.Process, port: int) -> None:
        self.process = process
        self.url = f"http://127.0.0.1:{port}"

    def workers(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children()

    async def exit_code(self) -> int:
        return await asyncio.wait_for(self.process.wait(), 20)


@contextlib.asynccontextmanager
async def serving(core: str, directory: Path, workers: int = 1) -> AsyncIterator[Server]:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    arguments = (core, FACADE_TOKEN, str(directory / "metrics"), str(port), str(workers))
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", PROGRAM, *arguments)
    server = Server(process, port)
    try:
        await until_ready(server)
        yield server
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def until(is_so: Callable[[], bool], *, seconds: float) -> None:
    async with asyncio.timeout(seconds):
        while not is_so():  # noqa: ASYNC110 - of other processes
            await asyncio.sleep(0.02)


async def until_ready(server: Server) -> None:
    async with asyncio.timeout(20), httpx.AsyncClient(base_url=server.url) as client:
        while True:
            with contextlib.suppress(httpx.TransportError):
                if (await client.get("/readyz")).status_code == 200:
                    return
            await asyncio.sleep(0.05)


async def load(server: Server, statuses: Counter[str], stop: asyncio.Event) -> None:
    """Send on one connection after another until nobody listens any more."""
    while not stop.is_set():
        async with httpx.AsyncClient(base_url=server.url) as client:
            try:
                response = await client.post("/api/ingest", content=PAGEVIEW, headers=HEADERS)
                statuses[str(response.status_code)] += 1
            except httpx.ConnectError:
                statuses["refused"] += 1
                stop.set()
            except httpx.TransportError as error:
                statuses[type(error).__name__] += 1


async def keep_alive_load(server: Server, statuses: Counter[str], stop: asyncio.Event) -> None:
    """Send on one connection for as long as it lives."""
    async with httpx.AsyncClient(base_url=server.url) as client:
        while not stop.is_set():
            try:
                response = await client.post("/api/ingest", content=PAGEVIEW, headers=HEADERS)
                statuses[str(response.status_code)] += 1
            except httpx.ConnectError:
                stop.set()
            except httpx.TransportError as error:
                statuses[type(error).__name__] += 1


@pytest.mark.parametrize("stop_signal", [signal.SIGTERM, signal.SIGINT])
async def test_a_stop_under_load_answers_every_accepted_connection(
    core_address: str, tmp_path: Path, stop_signal: signal.Signals
) -> None:
    statuses: Counter[str] = Counter()
    async with serving(core_address, tmp_path, workers=2) as server:
        stop = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            for _ in range(6):
                group.create_task(load(server, statuses, stop))
                group.create_task(keep_alive_load(server, statuses, stop))
            await until(lambda: statuses["202"] >= 300, seconds=20)
            server.process.send_signal(stop_signal)
        assert await server.exit_code() == 0
    assert statuses.keys() <= {"202", "refused"}


async def test_workers_do_not_outlive_a_killed_master(core_address: str, tmp_path: Path) -> None:
    async with serving(core_address, tmp_path, workers=2) as server:
        workers = server.workers()
        assert len(workers) == 2
        server.process.kill()
        await server.exit_code()
        gone, alive = await asyncio.to_thread(psutil.wait_procs, workers, timeout=10)
        assert (len(gone), alive) == (2, [])


async def test_a_killed_worker_is_replaced(core_address: str, tmp_path: Path) -> None:
    async with serving(core_address, tmp_path) as server:
        (worker,) = server.workers()
        os.kill(worker.pid, signal.SIGKILL)
        await until(lambda: server.workers() not in ([], [worker]), seconds=10)
        await until_ready(server)
        server.process.terminate()
        assert await server.exit_code() == 0


async def send(server: Server, times: int) -> None:
    for _ in range(times):
        async with httpx.AsyncClient(base_url=server.url) as client:
            await client.post("/api/ingest", content=PAGEVIEW, headers=HEADERS)


async def until_counted(server: Server, number: int) -> None:
    labels = 'dialect="pulsora",endpoint="/api/ingest",reason="",status="202"'
    endpoint = 'dialect="pulsora",endpoint="/api/ingest"'
    lines = (
        f"polylect_facade_requests_total{{{labels}}} {number}.0\n",
        f"polylect_facade_request_seconds_count{{{endpoint}}} {number}.0\n",
    )
    shown = ""
    try:
        async with asyncio.timeout(5), httpx.AsyncClient(base_url=server.url) as client:
            while not all(line in shown for line in lines):
                shown = (await client.get("/metrics")).text
                await asyncio.sleep(0.05)
    except TimeoutError as error:
        raise AssertionError(shown) from error


async def test_workers_count_together(core_address: str, tmp_path: Path) -> None:
    async with serving(core_address, tmp_path, workers=2) as server:
        await send(server, 20)
        await until_counted(server, 20)


async def test_facades_over_one_directory_count_apart(core_address: str, tmp_path: Path) -> None:
    async with serving(core_address, tmp_path, workers=2) as one:
        await send(one, 7)
        async with serving(core_address, tmp_path) as other:
            await send(other, 2)
            # From a worker that comes when the other was there already, too.
            os.kill(one.workers()[0].pid, signal.SIGKILL)
            await until(lambda: len(one.workers()) == 2, seconds=10)
            await send(one, 3)
            await until_counted(one, 10)
            await until_counted(other, 2)


async def test_counters_of_the_dead_are_removed_at_the_next_start(core_address: str, tmp_path: Path) -> None:
    metrics = tmp_path / "metrics"
    async with serving(core_address, tmp_path) as server:
        (left,) = metrics.iterdir()
        await send(server, 1)
        await until_counted(server, 1)
        workers = server.workers()
        server.process.kill()
        await server.exit_code()
        await asyncio.to_thread(psutil.wait_procs, workers, timeout=10)
    assert list(left.iterdir()) != []
    async with serving(core_address, tmp_path):
        (fresh,) = metrics.iterdir()
    assert fresh != left


async def test_says_nothing_of_its_make(core_address: str, tmp_path: Path) -> None:
    async with serving(core_address, tmp_path) as server, httpx.AsyncClient(base_url=server.url) as client:
        assert "server" not in (await client.get("/healthz")).headers
