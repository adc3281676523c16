"""A real core on a free port over a real database."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Any

import pytest
from core_calls import Caller, Clock, calling, queue_rows
from polylect.v1.queue_pb2 import EventBatch

from core_service.server import CoreOptions, Stores, open_stores, start_core
from polylect_cli.translating import load_translator
from storage.worker import Worker, WorkerOptions

StartCore = Callable[..., Awaitable[Caller]]


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def options(database_url: str) -> CoreOptions:
    return CoreOptions(
        database_url=database_url,
        address="127.0.0.1:0",
        admin_token="admin-token",
        facade_token="facade-token",
    )


@pytest.fixture
async def start(options: CoreOptions, clock: Clock) -> AsyncIterator[StartCore]:
    """Starts cores over the test's database, as many as wanted."""
    async with AsyncExitStack() as stack:

        async def start_one(stores: Stores | None = None, **changes: Any) -> Caller:
            changed = replace(options, **changes)
            if stores is None:
                stores = await stack.enter_async_context(open_stores(changed))
            port = await stack.enter_async_context(start_core(stores, changed, clock, load_translator))
            return await stack.enter_async_context(calling(f"127.0.0.1:{port}"))

        yield start_one


@pytest.fixture
async def core(start: StartCore) -> Caller:
    return await start()


@pytest.fixture
def queued(database_url: str) -> Callable[[], EventBatch]:
    """Gives all that lies in the queue, as one batch."""

    def read() -> EventBatch:
        batch = EventBatch()
        for row in queue_rows(database_url):
            batch.MergeFrom(row)
        return batch

    return read


@pytest.fixture
def settle(database_url: str, clock: Clock) -> Callable[[], Awaitable[None]]:
    """Has the worker write what lies in the queue."""

    async def run() -> None:
        worker = Worker(WorkerOptions(database_url), clock)
        try:
            await asyncio.to_thread(worker.maintain)
            await asyncio.to_thread(worker.settle_all)
            await asyncio.to_thread(worker.rollup.fold_all)
        finally:
            worker.close()

    return run
