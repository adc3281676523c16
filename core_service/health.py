"""grpc.health.v1: whether the core can do its work.

Hides what that takes: a database that answers, and keys that were loaded.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, cast

import structlog
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from core_service.entry import Services
from core_service.keys import KeyRing

_PERIOD_SECONDS = 1.0

log = structlog.get_logger()


class HealthMonitor:
    """Looks once a second."""

    def __init__(
        self,
        services: Services,
        watched: Iterable[str],
        keys: KeyRing,
        ping: Callable[[], Awaitable[None]],
    ) -> None:
        """Answer for those `watched`, and for all as the one of no name; `ping` raises ConnectionError."""
        self._healthiness = cast("Any", health).aio.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(self._healthiness, services)
        self._services = ("", *watched)
        self._keys = keys
        self._ping = ping
        self._was_serving: bool | None = None

    async def check(self) -> None:
        """Look once."""
        try:
            await self._ping()
            serving = self._keys.loaded
        except ConnectionError as error:
            serving = False
            if self._was_serving is not False:
                log.error("database_unavailable", error=str(error))
        if serving == self._was_serving:
            return
        if serving and self._was_serving is not None:
            log.info("database_available")
        self._was_serving = serving
        states = health_pb2.HealthCheckResponse
        for service in self._services:
            await self._healthiness.set(service, states.SERVING if serving else states.NOT_SERVING)

    async def start(self) -> None:
        """Load the keys, if the database lets them be loaded, and look for the first time."""
        with contextlib.suppress(ConnectionError):
            await self._keys.reload()
        await self.check()

    async def follow(self) -> None:
        """Look for ever."""
        while True:
            await asyncio.sleep(_PERIOD_SECONDS)
            await self.check()

    async def stop(self) -> None:
        """Tell for good that nothing is served."""
        await self._healthiness.enter_graceful_shutdown()
