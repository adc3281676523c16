"""TailEvents: what happens, for those who watch.

Hides that watching is looking: one look at the store, a few times a second, serves all who follow the same
source, so that followers cost the ingest nothing and each other little. A follower has a bounded buffer; one
that lets it fill is sent away and may resume.
"""

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import asynccontextmanager
from datetime import datetime

import structlog
from polylect.v1 import error_reason_pb2 as reasons
from polylect.v1.event_pb2 import EventKind
from polylect.v1.query_pb2 import (
    TAIL_VERDICT_ACCEPTED,
    TAIL_VERDICT_REFUSED,
    TAIL_VERDICT_UNSPECIFIED,
    TailEventsRequest,
    TailEventsResponse,
    TailVerdict,
)

from core_service.errors import OVERLOAD_RETRY_SECONDS, CoreError, StorageUnavailable
from core_service.ports import TailStore

_LOOK_SECONDS = 0.25
_LOOK_ITEMS = 500
# Rows of several workers' claims become visible out of order by about as much.
_OVERLAP_MS = 3_000
_RESUMED_ITEMS = 10_000
_BUFFER_ITEMS = 2_000
_BUFFER_BYTES = 8 * 1024 * 1024
_FOLLOWERS_OF_A_SOURCE = 16
_UUID_VERSION = 7
_UUID_RANDOM_BITS = 80

log = structlog.get_logger()


class Tails:
    """All followers, by the source they follow; None is all sources."""

    def __init__(self, store: TailStore, clock: Callable[[], datetime]) -> None:
        """Look into `store`."""
        self._store = store
        self._clock = clock
        self._feeds: dict[str | None, _Feed] = {}
        self._stopped = False

    @asynccontextmanager
    async def following(
        self, source_id: str | None, request: TailEventsRequest
    ) -> AsyncIterator[AsyncIterator[TailEventsResponse]]:
        """Give what happens in a source from now on, or from the resume token, without end.

        Raises CoreError: FIELD_INVALID, OVERLOADED; while read, STORAGE_UNAVAILABLE and OVERLOADED too.
        """
        wanted = _Wanted(request)
        since = _id_of_token(request.resume_token) if request.resume_token else ""
        feed = self._feeds.get(source_id)
        if feed is None:
            now_ms = int(self._clock().timestamp() * 1000)
            feed = self._feeds[source_id] = _Feed(self._store, source_id, _first_id_at(now_ms))
        follower = feed.join(wanted)
        if self._stopped:
            follower.end(_stopping())
        try:
            yield self._answers(source_id, since, wanted, follower)
        finally:
            if feed.leave(follower):
                del self._feeds[source_id]

    def stop(self) -> None:
        """Send all followers away."""
        self._stopped = True
        for feed in self._feeds.values():
            feed.end(_stopping())

    async def _answers(
        self, source_id: str | None, since: str, wanted: "_Wanted", follower: "_Follower"
    ) -> AsyncIterator[TailEventsResponse]:
        shown: set[str] = set()
        if since:
            async for answer in self._missed(source_id, since, wanted):
                shown.add(answer.resume_token)
                yield answer
        while True:
            answer = await follower.next()
            if answer.resume_token not in shown:
                yield answer

    async def _missed(
        self, source_id: str | None, since: str, wanted: "_Wanted"
    ) -> AsyncIterator[TailEventsResponse]:
        after_id = _first_id_at(_ms_of(since) - _OVERLAP_MS)
        for answer in await _look(self._store, source_id, after_id, (), _RESUMED_ITEMS):
            if wanted.takes(answer):
                yield answer


class _Feed:
    """The looks at one source, as long as it has followers."""

    def __init__(self, store: TailStore, source_id: str | None, after_id: str) -> None:
        self._store = store
        self._source_id = source_id
        self._after_id = after_id
        self._newest_id = after_id
        # What was shown of the last moments, by id.
        self._known: set[str] = set()
        self._followers: set[_Follower] = set()
        self._looking = asyncio.create_task(self._look_on())

    def join(self, wanted: "_Wanted") -> "_Follower":
        """Add a follower. Raises CoreError OVERLOADED."""
        if len(self._followers) >= _FOLLOWERS_OF_A_SOURCE:
            raise CoreError(
                reasons.ERROR_REASON_OVERLOADED,
                "Too many follow this source already",
                retry_after_seconds=OVERLOAD_RETRY_SECONDS,
            )
        follower = _Follower(wanted)
        self._followers.add(follower)
        return follower

    def leave(self, follower: "_Follower") -> bool:
        """Take a follower out; when it was the last, look no more and tell."""
        self._followers.discard(follower)
        if not self._followers:
            self._looking.cancel()
        return not self._followers

    def end(self, error: CoreError) -> None:
        """Send all followers away."""
        for follower in self._followers:
            follower.end(error)

    async def _look_on(self) -> None:
        try:
            while True:
                await self._look()
                await asyncio.sleep(_LOOK_SECONDS)
        except ConnectionError as error:
            log.warning("tail_ended", error=str(error))
            self.end(StorageUnavailable())
        except Exception:
            log.exception("tail_failed")
            self.end(CoreError(reasons.ERROR_REASON_INTERNAL, "Internal error"))

    async def _look(self) -> None:
        for answer in await _look(self._store, self._source_id, self._after_id, self._known, _LOOK_ITEMS):
            self._known.add(answer.resume_token)
            self._newest_id = max(self._newest_id, answer.resume_token)
            size_bytes = answer.ByteSize()
            for follower in self._followers:
                follower.offer(answer, size_bytes)
        horizon = _first_id_at(_ms_of(self._newest_id) - _OVERLAP_MS)
        if horizon > self._after_id:
            self._after_id = horizon
            self._known = {known for known in self._known if known > horizon}


class _Wanted:
    """What a follower asked for. Raises CoreError FIELD_INVALID for what does not exist."""

    def __init__(self, request: TailEventsRequest) -> None:
        if request.kind not in EventKind.values():
            raise CoreError(reasons.ERROR_REASON_FIELD_INVALID, "There is no such kind", field="kind")
        if request.verdict not in TailVerdict.values():
            raise CoreError(reasons.ERROR_REASON_FIELD_INVALID, "There is no such verdict", field="verdict")
        self._kind, self._name, self._user_id = request.kind, request.name, request.user_id
        self._dialect = request.dialect
        is_of_events = bool(self._kind or self._name or self._user_id)
        self._events = request.verdict in (TAIL_VERDICT_UNSPECIFIED, TAIL_VERDICT_ACCEPTED)
        self._refused = not is_of_events and request.verdict in (
            TAIL_VERDICT_UNSPECIFIED,
            TAIL_VERDICT_REFUSED,
        )

    def takes(self, answer: TailEventsResponse) -> bool:
        item = answer.WhichOneof("item")
        if item != "event":
            refused = answer.quarantined if item == "quarantined" else answer.refusal
            return self._refused and self._dialect in ("", refused.dialect)
        event = answer.event
        return (
            self._events
            and self._kind in (0, event.kind)
            and self._name in ("", event.name)
            and self._user_id in ("", event.user_id)
            and self._dialect in ("", event.provenance.dialect)
        )


class _Follower:
    """One reader's buffer."""

    def __init__(self, wanted: _Wanted) -> None:
        self._wanted = wanted
        # With its size, or why there is no more.
        self._answers: asyncio.Queue[tuple[TailEventsResponse, int] | CoreError] = asyncio.Queue()
        self._held_bytes = 0
        self._ended = False

    def offer(self, answer: TailEventsResponse, size_bytes: int) -> None:
        """Keep an answer for the reader, if it is wanted; send a reader away that is too slow for it."""
        if self._ended or not self._wanted.takes(answer):
            return
        full = self._held_bytes and self._held_bytes + size_bytes > _BUFFER_BYTES
        if full or self._answers.qsize() >= _BUFFER_ITEMS:
            message = "You read more slowly than events come: go on with the last resume_token"
            self.end(CoreError(reasons.ERROR_REASON_OVERLOADED, message, retry_after_seconds=1))
            return
        self._held_bytes += size_bytes
        self._answers.put_nowait((answer, size_bytes))

    def end(self, error: CoreError) -> None:
        """Let the reader have what is kept, then this."""
        if not self._ended:
            self._ended = True
            self._answers.put_nowait(error)

    async def next(self) -> TailEventsResponse:
        """Wait for the next answer. Raises the CoreError that ends it."""
        kept = await self._answers.get()
        if isinstance(kept, CoreError):
            raise kept
        answer, size_bytes = kept
        self._held_bytes -= size_bytes
        return answer


async def _look(
    store: TailStore, source_id: str | None, after_id: str, known: Collection[str], limit: int
) -> list[TailEventsResponse]:
    """Give what is new of everything, in the order of its ids."""
    asked = (source_id, after_id, known, limit)
    events = await store.events_after(*asked)
    quarantined = await store.quarantined_after(*asked)
    refusals = await store.refusals_after(*asked)
    answers = [TailEventsResponse(event=one, resume_token=one.event_id) for one in events]
    answers += [TailEventsResponse(quarantined=one, resume_token=one.quarantine_id) for one in quarantined]
    answers += [TailEventsResponse(refusal=one, resume_token=one.refusal_id) for one in refusals]
    answers.sort(key=_token_of)
    if answers and limit in (len(events), len(quarantined), len(refusals)):
        answers[0].gap = True
    return answers


def _token_of(answer: TailEventsResponse) -> str:
    return answer.resume_token


def _id_of_token(token: str) -> str:
    try:
        identity = uuid.UUID(token)
    except ValueError:
        identity = None
    if identity is None or str(identity) != token or identity.version != _UUID_VERSION:
        message = "The resume token is not one of TailEvents"
        raise CoreError(reasons.ERROR_REASON_FIELD_INVALID, message, field="resume_token")
    return token


def _ms_of(time_ordered_id: str) -> int:
    return uuid.UUID(time_ordered_id).int >> _UUID_RANDOM_BITS


def _first_id_at(ms: int) -> str:
    return str(uuid.UUID(int=max(ms, 0) << _UUID_RANDOM_BITS))


def _stopping() -> CoreError:
    return StorageUnavailable("The core is stopping")
