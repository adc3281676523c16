"""Sends the requests that arrive together to the core in one call, and gives each its own outcome.

One HTTP request per gRPC call costs more than all the rest of a request (measured: 4.5k req/s instead of
18.9k). So what arrives within one turn of the event loop, or while earlier calls are under way, shares a
message of a stream; but that leaves as soon as there is enough for one, in itself or beside what is under
way, so that the core begins while the facade still reads. Callers know nothing of each other: one that goes
away, or is too large, costs the others nothing.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable

import structlog
from polylect.v1 import error_reason_pb2 as reasons
from polylect.v1.ingest_pb2 import BatchIngestStreamResponse, ClientOutcome

from rest_facade.core_refusal import CoreRefusal
from rest_facade.metrics import reason_word

_log = structlog.get_logger()

# Field 1 of BatchIngestStreamRequest, length-delimited.
_TAG = b"\x0a"
# The share of all requests not answered yet that has to wait for another call beside those under way.
_OF_UNANSWERED = 3

BatchIngest = Callable[[bytes], Awaitable[BatchIngestStreamResponse]]
"""Sends a serialized BatchIngestStreamRequest; what is awaited raises CoreRefusal, or TimeoutError."""

_Waiting = tuple[bytes, "asyncio.Future[ClientOutcome]"]


class Coalescer:
    """The way of all client requests of one worker to the core. Belongs to the event loop it is made in."""

    def __init__(
        self,
        batch_ingest: BatchIngest,
        *,
        max_waiting_bytes: int,
        max_waiting_requests: int,
        ready_requests: int = 64,
        max_calls: int = 8,
        max_call_requests: int = 512,
        max_call_bytes: int = 2 * 1024 * 1024,
        note_message: Callable[[int], None] = lambda requests: None,
    ) -> None:
        """Send by `batch_ingest`; `note_message` hears how many requests a message has."""
        self._batch_ingest = batch_ingest
        self._max_waiting_bytes = max_waiting_bytes
        self._max_waiting_requests = max_waiting_requests
        # Without it facade and core work in turns: 17.4k requests/s of 128 connections instead of 18.6k.
        # Calls of 32 cost what they gain.
        self._ready_requests = ready_requests
        self._max_calls = max_calls
        self._max_call_requests = max_call_requests
        self._max_call_bytes = max_call_bytes
        self._note_message = note_message
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[_Waiting] = deque()
        # Of all requests not answered yet, those under way included.
        self._unanswered_bytes = 0
        self._unanswered = 0
        self._flush_is_due = False
        self._calls: set[asyncio.Task[None]] = set()
        self._core_answers = True

    def submit(self, serialized: bytes) -> "asyncio.Future[ClientOutcome]":
        """Take a serialized ClientRequest; give its outcome to come, in a future that may raise CoreRefusal.

        Raises CoreRefusal at once when too much is waiting already.
        """
        if (
            self._unanswered >= self._max_waiting_requests
            or self._unanswered_bytes + len(serialized) > self._max_waiting_bytes
        ):
            raise CoreRefusal(reasons.ERROR_REASON_OVERLOADED, "Too many requests are waiting", 1)
        answer: asyncio.Future[ClientOutcome] = self._loop.create_future()
        self._waiting.append((serialized, answer))
        self._unanswered += 1
        self._unanswered_bytes += len(serialized)
        if len(self._waiting) >= self._ready_requests:
            self._flush()
        elif not self._flush_is_due:
            self._flush_is_due = True
            self._loop.call_soon(self._flush_turn)
        return answer

    async def drain(self) -> None:
        """Wait until everything submitted has its answer."""
        while self._waiting or self._calls:
            if self._calls:
                await asyncio.wait(self._calls)
            else:
                await asyncio.sleep(0)

    def _flush_turn(self) -> None:
        self._flush_is_due = False
        self._flush()

    def _flush(self) -> None:
        # Beside earlier calls only in company: a message costs the two ends what several requests do. At 32
        # connections each then has 16 requests instead of 10, and all parts together take a tenth less CPU.
        while (
            self._waiting
            and len(self._calls) < self._max_calls
            and len(self._waiting) * _OF_UNANSWERED >= self._unanswered
        ):
            batch = self._take()
            self._note_message(len(batch))
            call = self._loop.create_task(self._call(batch, self._batch_ingest(_framed(batch))))
            self._calls.add(call)
            call.add_done_callback(self._call_is_over)

    def _take(self) -> list[_Waiting]:
        taken = [self._waiting.popleft()]
        size = len(taken[0][0])
        while self._waiting and len(taken) < self._max_call_requests:
            size += len(self._waiting[0][0])
            if size > self._max_call_bytes:
                break
            taken.append(self._waiting.popleft())
        return taken

    def _call_is_over(self, call: "asyncio.Task[None]") -> None:
        self._calls.discard(call)
        if self._waiting:
            self._flush()

    async def _call(self, batch: list[_Waiting], answer: Awaitable[BatchIngestStreamResponse]) -> None:
        try:
            response = await answer
            outcomes = response.outcomes
            if len(outcomes) != len(batch):
                raise CoreRefusal(
                    reasons.ERROR_REASON_INTERNAL, "The core answered another number of requests"
                )
            self._note_state(None)
            for (_, waiting), outcome in zip(batch, outcomes, strict=True):
                if not waiting.done():
                    waiting.set_result(outcome)
        except TimeoutError:
            refusal = CoreRefusal(reasons.ERROR_REASON_STORAGE_UNAVAILABLE, "The core does not answer")
            self._note_state(refusal)
            _refuse_all(batch, _to_client(refusal))
            self._refuse_waiting(_to_client(refusal))
        except CoreRefusal as refusal:
            self._note_state(refusal)
            _refuse_all(batch, _to_client(refusal))
        except BaseException as error:
            _refuse_all(batch, CoreRefusal(reasons.ERROR_REASON_STORAGE_UNAVAILABLE, "Not stored", 1))
            if not isinstance(error, Exception):
                raise
            _log.exception("batch_ingest_failed")
        finally:
            self._unanswered -= len(batch)
            self._unanswered_bytes -= sum(len(serialized) for serialized, _ in batch)

    def _refuse_waiting(self, refusal: CoreRefusal) -> None:
        """Refuse those who would wait for a silent core next, each call as long as the one before."""
        waiting = list(self._waiting)
        self._waiting.clear()
        self._unanswered -= len(waiting)
        self._unanswered_bytes -= sum(len(serialized) for serialized, _ in waiting)
        _refuse_all(waiting, refusal)

    def _note_state(self, refusal: CoreRefusal | None) -> None:
        """Log when the core stops answering and when it does again, not each call."""
        if self._core_answers != (refusal is None):
            self._core_answers = refusal is None
            if refusal is None:
                _log.info("core_answers_again")
            else:
                _log.warning(
                    "core_does_not_answer", reason=reason_word(refusal.reason), error=refusal.message
                )


def _refuse_all(batch: list[_Waiting], refusal: CoreRefusal) -> None:
    for _, answer in batch:
        if not answer.done():
            answer.set_exception(CoreRefusal(refusal.reason, refusal.message, refusal.retry_after_seconds))


def _to_client(refusal: CoreRefusal) -> CoreRefusal:
    """Give the refusal for the client: whatever ails the call, its request may be sent again."""
    retry_after_seconds = max(1, refusal.retry_after_seconds)
    if refusal.reason == reasons.ERROR_REASON_OVERLOADED:
        return CoreRefusal(refusal.reason, "Too busy", retry_after_seconds)
    return CoreRefusal(
        reasons.ERROR_REASON_STORAGE_UNAVAILABLE, "Temporarily unavailable", retry_after_seconds
    )


def _framed(batch: list[_Waiting]) -> bytes:
    """Give a BatchIngestStreamRequest's bytes of messages already serialized, without building them again."""
    parts: list[bytes] = []
    for serialized, _ in batch:
        parts += (_TAG, _varint(len(serialized)), serialized)
    return b"".join(parts)


def _varint(number: int) -> bytes:
    if number < 0x80:
        return bytes((number,))
    if number < 0x4000:
        return bytes((number & 0x7F | 0x80, number >> 7))
    octets = bytearray()
    while number >= 0x80:
        octets.append(number & 0x7F | 0x80)
        number >>= 7
    octets.append(number)
    return bytes(octets)
