"""Anonymous ids made by the server; hides what goes in and how the salt of the day is kept.

The salt is the same in every core; the store deletes it an hour after its day, and here it is forgotten then.
"""

import asyncio
from collections.abc import Callable
from datetime import UTC, date, datetime
from hashlib import sha256

from core_service.ports import SourceStore

_DAY_SECONDS = 86_400
# Around midnight requests of two days arrive.
_DAYS_KEPT = 2
# As long as the store keeps one.
_GRACE_SECONDS = 3_600
_PERIOD_SECONDS = 60.0
# While the store is away, every request in turn would wait for it in vain.
_RETRY_SECONDS = 1.0


def _day_of(seconds: int) -> date:
    return datetime.fromtimestamp(seconds - seconds % _DAY_SECONDS, UTC).date()


class Fingerprints:
    """Makes the anonymous id of a visitor, different every UTC day."""

    def __init__(self, store: SourceStore) -> None:
        """Start with no salt known."""
        self._store = store
        self._salts: dict[int, bytes] = {}
        self._loading = asyncio.Lock()
        self._retry_at = 0.0

    def ready(self, seconds: int) -> bool:
        """Tell whether the salt of that moment's day is at hand."""
        return seconds // _DAY_SECONDS in self._salts

    async def prepare(self, seconds: int) -> None:
        """Fetch the salt of that moment's day. Raises ConnectionError; ValueError for no such day."""
        async with self._loading:
            if self.ready(seconds):
                return
            try:
                day = _day_of(seconds)
            except (OverflowError, OSError) as error:
                raise ValueError("no such day") from error
            loop = asyncio.get_running_loop()
            if loop.time() < self._retry_at:
                raise ConnectionError("the salt could not be fetched a moment ago")
            try:
                salt = await self._store.salt(day)
            except ConnectionError:
                self._retry_at = loop.time() + _RETRY_SECONDS
                raise
            while len(self._salts) >= _DAYS_KEPT:
                del self._salts[min(self._salts)]
            self._salts[seconds // _DAY_SECONDS] = salt

    def forget(self, now: float) -> None:
        """Forget the salts of days that are over. `now` is in Unix seconds."""
        current = (now - _GRACE_SECONDS) // _DAY_SECONDS
        for day in [day for day in self._salts if day < current]:
            del self._salts[day]

    async def follow(self, clock: Callable[[], datetime]) -> None:
        """Forget in time, for ever, whether requests come or not."""
        while True:
            self.forget(clock().timestamp())
            await asyncio.sleep(_PERIOD_SECONDS)

    def make(self, client_ip: str, user_agent: str, source_id: str, seconds: int) -> str:
        """Give the 64 hexadecimal digits. Needs `ready`."""
        salt = self._salts[seconds // _DAY_SECONDS]
        parts = "\0".join((client_ip, user_agent, source_id)).encode()
        return sha256(parts + b"\0" + salt).hexdigest()
