"""A facade in front of a real core over a real database, with the documents' example sources."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import grpc
import pytest
from facade_process import ADMIN_TOKEN, FACADE_TOKEN, Facade, running_facade
from polylect.v1.source_pb2_grpc import SourceServiceStub

from core_service.server import CoreOptions, open_stores, start_core
from storage.demo import create_demo

StartCore = Callable[..., AbstractAsyncContextManager[str]]

ADMIN = (("authorization", f"Bearer {ADMIN_TOKEN}"),)


@pytest.fixture
def start(database_url: str) -> StartCore:
    """Start a core; gives its address."""
    create_demo(database_url)

    @asynccontextmanager
    async def start(address: str = "127.0.0.1:0", **options: Any) -> AsyncIterator[str]:
        settings = CoreOptions(
            database_url=database_url,
            address=address,
            admin_token=ADMIN_TOKEN,
            facade_token=FACADE_TOKEN,
            **{"mode": "demo", **options},
        )
        async with open_stores(settings) as stores, start_core(stores, settings) as port:
            yield f"127.0.0.1:{port}"

    return start


@pytest.fixture
async def core_address(start: StartCore) -> AsyncIterator[str]:
    async with start() as address:
        yield address


@pytest.fixture
async def facade(core_address: str) -> AsyncIterator[Facade]:
    async with running_facade(core_address) as facade:
        yield facade


@pytest.fixture
async def sources(core_address: str) -> AsyncIterator[SourceServiceStub]:
    async with grpc.aio.insecure_channel(core_address) as channel:
        yield SourceServiceStub(channel)
