"""Who reads what, and in which pages.

Hides whose source a caller may see, and that one source's queries never take all there is to answer with.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

from polylect.v1 import error_reason_pb2 as reasons

from core_service.callers import Callers, Context, require_scope
from core_service.errors import OVERLOAD_RETRY_SECONDS, CoreError, no_source
from core_service.keys import KeyEntry
from core_service.ports import NO_SOURCE, SourceStore

_DEFAULT_PAGE_SIZE = 50
_MAX_PAGE_SIZE = 1_000
# Of one source, under way and waiting.
_LINE_LENGTH = 16


class _Line:
    def __init__(self) -> None:
        self.turn = asyncio.Lock()
        self.length = 0


class Readers:
    """Tells who reads, which source they may see, and when it is their turn."""

    def __init__(self, callers: Callers, sources: SourceStore) -> None:
        """Look names up in `sources`."""
        self._callers = callers
        self._sources = sources
        self._lines: dict[str, _Line] = {}

    async def reader(self, context: Context, source: str, scope: str) -> tuple[KeyEntry | None, str | None]:
        """Give the calling key (None: the admin) and the id of the source it asks for (None: all).

        Raises CoreError for a caller without `scope`, and as `source_id` does.
        """
        key = self._callers.require_admin_or_key(context)
        require_scope(key, scope)
        return key, await self.source_id(key, source)

    async def source_id(self, key: KeyEntry | None, wanted: str) -> str | None:
        """Give the id of the source to read; None when the admin (no key) wants all.

        The admin may name NO_SOURCE too, and gets what no source could be told of.

        Raises CoreError NOT_FOUND: no such source, or not the key's own.
        """
        if key is not None:
            if wanted not in ("", key.source.name, key.source.source_id):
                raise no_source(wanted)
            return key.source.source_id
        if not wanted:
            return None
        if wanted == NO_SOURCE:
            return NO_SOURCE
        source = await self._sources.find_source(wanted)
        if source is None:
            raise no_source(wanted)
        return source.source_id

    @asynccontextmanager
    async def turn(self, key: KeyEntry | None) -> AsyncIterator[None]:
        """Let the keys of a source query one at a time, the admin as it likes.

        Raises CoreError OVERLOADED when too many of the source's are waiting.
        """
        if key is None:
            yield
            return
        source_id = key.source.source_id
        line = self._lines.setdefault(source_id, _Line())
        if line.length >= _LINE_LENGTH:
            raise CoreError(
                reasons.ERROR_REASON_OVERLOADED,
                "Too many queries of this source are waiting",
                retry_after_seconds=OVERLOAD_RETRY_SECONDS,
            )
        line.length += 1
        try:
            async with line.turn:
                yield
        finally:
            line.length -= 1
            if not line.length:
                del self._lines[source_id]


def page_size_of(wanted: int) -> int:
    """Give how much a page has, where so much is wanted; 0 is the default."""
    return min(wanted or _DEFAULT_PAGE_SIZE, _MAX_PAGE_SIZE)


@contextmanager
def refusing_page_token(page_token: str) -> Iterator[None]:
    """Turn the ValueError of a store that is asked with that token into a CoreError.

    For the store's call alone: any other ValueError is a fault, and so is one where no token was given.
    """
    try:
        yield
    except ValueError as error:
        if not page_token:
            raise
        message = "The page token is not one of this list's"
        raise CoreError(reasons.ERROR_REASON_FIELD_INVALID, message, field="page_token") from error
