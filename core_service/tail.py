"""TailEvents: what happens, for those who watch.

Hides that watching is looking: one look at the store, a few times a second, serves all who follow the same
source, so that followers cost the ingest nothing and each other little. A follower has a bounded buffer; one
that lets it fill is sent away and may resume.
"""

import asyncio
import base64
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from typing import Any

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
from core_service.moments import EPOCH, moment_of
from core_service.ports import TailStore

_LOOK_SECONDS = 0.25
_LOOK_ITEMS = 500
# Rows of several workers' claims become visible out of order by about as much.
_OVERLAP_MS = 3_000
_RESUMED_ITEMS = 10_000
_BUFFER_ITEMS = 2_000
_BUFFER_BYTES = 8 * 1024 * 1024
_FOLLOWERS_OF_A_SOURCE = 16
_UUID_RANDOM_BITS = 80
_ID_BYTES = 16
# In 9990, near what a date can hold.
_END_OF_TIME_MS = 253_087_718_400_000
_END_OF_TIME_ID = (_END_OF_TIME_MS << _UUID_RANDOM_BITS).to_bytes(_ID_BYTES)
# What is looked for, each in its own table, as TailEventsResponse calls it.
_ITEMS = ("event", "quarantined", "refusal")

_Question = Callable[[str | None, str, Collection[str], int], Awaitable[tuple[Sequence[Any], bool]]]

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
        """Give what happens in a source from now on, or from where the request says, without end.

        Raises CoreError: FIELD_INVALID, OVERLOADED; while read, STORAGE_UNAVAILABLE and OVERLOADED too.
        """
        now_id = _first_id_at(int(self._clock().timestamp() * 1000))
        missed, first_id = _beginning(request, now_id)
        wanted = _Wanted(request, first_id)
        feed = self._feeds.get(source_id)
        if feed is None or feed.ended:
            # What was received a moment ago may be still on its way to its table, where the look at what was
            # missed doesn't find it.
            cursors = [_Cursor(_overlapping(now_id)) for _ in _ITEMS]
            feed = self._feeds[source_id] = _Feed(self._store, source_id, cursors)
        follower = feed.join(wanted)
        if self._stopped:
            follower.end(_stopping())
        try:
            yield self._answers(source_id, missed, wanted, follower)
        finally:
            if feed.leave(follower) and self._feeds.get(source_id) is feed:
                del self._feeds[source_id]

    def stop(self) -> None:
        """Send all followers away."""
        self._stopped = True
        for feed in self._feeds.values():
            feed.end(_stopping())

    async def _answers(
        self,
        source_id: str | None,
        missed: "list[_Cursor] | None",
        wanted: "_Wanted",
        follower: "_Follower",
    ) -> AsyncIterator[TailEventsResponse]:
        shown: set[str] = set()
        if missed is not None:
            for answer in await _look(self._store, source_id, missed, _RESUMED_ITEMS):
                shown.add(_id_of(answer))
                if wanted.takes(answer):
                    yield answer
        while True:
            answer = await follower.next()
            if _id_of(answer) not in shown:
                yield answer


class _Cursor:
    """How far one table was looked at. Each has its own: what is refused is there before what is queued."""

    def __init__(self, newest_id: str) -> None:
        self.newest_id = self.after_id = newest_id
        # What was seen of the last moments.
        self.known: set[str] = set()

    def see(self, seen_id: str) -> None:
        """Note a row."""
        self.known.add(seen_id)
        self.newest_id = max(self.newest_id, seen_id)

    def go_on(self) -> None:
        """Look no further back than rows may still become visible."""
        horizon = _overlapping(self.newest_id)
        if horizon > self.after_id:
            self.after_id = horizon
            self.known = {known for known in self.known if known > horizon}


class _Feed:
    """The looks at one source, as long as it has followers."""

    def __init__(self, store: TailStore, source_id: str | None, cursors: list[_Cursor]) -> None:
        self._store = store
        self._source_id = source_id
        self._cursors = cursors
        self._followers: set[_Follower] = set()
        # Then nobody may join any more.
        self.ended = False
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
        self.ended = True
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
        for answer in await _look(self._store, self._source_id, self._cursors, _LOOK_ITEMS):
            size_bytes = answer.ByteSize()
            for follower in self._followers:
                follower.offer(answer, size_bytes)
        for cursor in self._cursors:
            cursor.go_on()


class _Wanted:
    """What a follower asked for, from an id on. Raises CoreError FIELD_INVALID for what does not exist."""

    def __init__(self, request: TailEventsRequest, first_id: str) -> None:
        self._first_id = first_id
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
        if _id_of(answer) < self._first_id:
            return False
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
    store: TailStore, source_id: str | None, cursors: list[_Cursor], limit: int
) -> list[TailEventsResponse]:
    """Give what is new in each table, in the order of ids, and move its cursor."""
    questions: tuple[_Question, ...] = (store.events_after, store.quarantined_after, store.refusals_after)
    answers: list[TailEventsResponse] = []
    gap = False
    for name, ask, cursor in zip(_ITEMS, questions, cursors, strict=True):
        found, is_cut = await ask(source_id, cursor.after_id, cursor.known, limit)
        answers += (TailEventsResponse(**{name: item}) for item in found)
        gap = gap or is_cut
    answers.sort(key=_id_of)
    for answer in answers:
        cursors[_ITEMS.index(answer.WhichOneof("item") or "")].see(_id_of(answer))
        answer.resume_token = _token_of(cursors)
    if answers:
        answers[0].gap = gap
    return answers


def _id_of(answer: TailEventsResponse) -> str:
    item = answer.WhichOneof("item")
    if item == "event":
        return answer.event.event_id
    return answer.quarantined.quarantine_id if item == "quarantined" else answer.refusal.refusal_id


def _token_of(cursors: list[_Cursor]) -> str:
    ids = b"".join(bytes.fromhex(cursor.newest_id.replace("-", "")) for cursor in cursors)
    return base64.urlsafe_b64encode(ids).decode()


def _beginning(request: TailEventsRequest, now_id: str) -> tuple[list[_Cursor] | None, str]:
    """Give where to look for what the caller missed (None: nowhere), and the first id it wants to see."""
    if request.resume_token:
        return _cursors_of(request.resume_token), ""
    if request.HasField("received_from"):
        received_from = moment_of(request.received_from)
        ms = min((received_from - EPOCH) // timedelta(milliseconds=1), _END_OF_TIME_MS)
        first_id = min(_first_id_at(ms), now_id)
        return [_Cursor(first_id) for _ in _ITEMS], first_id
    return None, now_id


def _cursors_of(token: str) -> list[_Cursor]:
    try:
        content = base64.b64decode(token, altchars=b"-_", validate=True)
    except ValueError:
        content = b""
    ids = [content[start : start + _ID_BYTES] for start in range(0, len(content), _ID_BYTES)]
    if len(content) != _ID_BYTES * len(_ITEMS) or max(ids) >= _END_OF_TIME_ID:
        message = "The resume token is not one of TailEvents"
        raise CoreError(reasons.ERROR_REASON_FIELD_INVALID, message, field="resume_token")
    return [_Cursor(_overlapping(str(uuid.UUID(bytes=one)))) for one in ids]


def _overlapping(newest_id: str) -> str:
    return _first_id_at((uuid.UUID(newest_id).int >> _UUID_RANDOM_BITS) - _OVERLAP_MS)


def _first_id_at(ms: int) -> str:
    return str(uuid.UUID(int=max(ms, 0) << _UUID_RANDOM_BITS))


def _stopping() -> CoreError:
    return StorageUnavailable("The core is stopping")
