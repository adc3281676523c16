"""One database and one worker for all cases; facade and core are made anew for each."""

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime
from functools import partial

import psycopg
import pytest
from conformance_stack import Clock, Stack, running_stack

from storage.embedded import EmbeddedPostgres
from storage.migrate import migrate
from storage.worker import Worker, WorkerOptions

StartStack = Callable[..., AbstractAsyncContextManager[Stack]]

_DATABASE = "conformance"


@pytest.fixture(scope="session")
def conformance_url(postgres: EmbeddedPostgres) -> str:
    with psycopg.connect(postgres.url, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {_DATABASE}")
    url = f"{postgres.url.rpartition('/')[0]}/{_DATABASE}"
    migrate(url)
    return url


@pytest.fixture(scope="session")
def worker(conformance_url: str) -> Iterator[Worker]:
    worker = Worker(WorkerOptions(conformance_url), lambda: datetime.now(UTC))
    yield worker
    worker.close()


@pytest.fixture
def start_stack(conformance_url: str, worker: Worker) -> StartStack:
    """Start a stack, given a clock and a case's set-up."""
    return partial(running_stack, conformance_url, worker)


@pytest.fixture
async def stack(start_stack: StartStack) -> AsyncIterator[Stack]:
    """A stack of the demo set-up whose clock stands."""
    async with start_stack(Clock(datetime(2026, 3, 1, 12, tzinfo=UTC))) as running:
        yield running
