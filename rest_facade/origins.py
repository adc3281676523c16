"""Remembers for a moment which origins the core allows, for answers to requests that never reach it.

Preflights and unreadable bodies name no source. Bounded in origins and in calls, so that made-up origins cost
nobody anything.
"""

import asyncio
from collections.abc import Awaitable, Callable

from rest_facade.core_refusal import CoreRefusal

_MAX_ORIGIN_CHARACTERS = 512


class OriginBook:
    """Asks about an origin at most once in `ttl_seconds`, whoever wants to know."""

    def __init__(
        self,
        check_origin: Callable[[str], Awaitable[bool]],
        *,
        ttl_seconds: float = 0.5,
        max_origins: int = 4096,
        max_calls: int = 32,
    ) -> None:
        self._check_origin = check_origin
        self._ttl_seconds = ttl_seconds
        self._max_origins = max_origins
        self._loop = asyncio.get_running_loop()
        self._turnstile = asyncio.Semaphore(max_calls)
        self._known: dict[str, tuple[float, bool]] = {}
        self._asking: dict[str, asyncio.Task[bool]] = {}

    async def allows(self, origin: str) -> bool:
        """Tell whether any enabled source lists the origin; an old answer stands while the core gives none.

        Raises CoreRefusal when there is neither.
        """
        if len(origin) > _MAX_ORIGIN_CHARACTERS:
            return False
        known = self._known.get(origin)
        if known is not None and self._loop.time() < known[0]:
            return known[1]
        asking = self._asking.get(origin)
        if asking is None:
            asking = self._asking[origin] = self._loop.create_task(self._ask(origin))
            asking.add_done_callback(lambda _: self._asking.pop(origin, None))
        try:
            # One that stops waiting must not end the call for the others.
            return await asyncio.shield(asking)
        except CoreRefusal:
            if known is not None:
                return known[1]
            raise

    async def _ask(self, origin: str) -> bool:
        async with self._turnstile:
            allowed = await self._check_origin(origin)
        self._known.pop(origin, None)
        while len(self._known) >= self._max_origins:
            del self._known[next(iter(self._known))]
        self._known[origin] = (self._loop.time() + self._ttl_seconds, allowed)
        return allowed
