"""Reads a request's body within bounds of bytes, time and memory, and undoes its Content-Encoding.

The server below limits nothing of this. What a Content-Type says is not looked at: real clients send JSON
under any.
"""

import asyncio
import zlib
from collections.abc import Callable, Coroutine, Mapping
from typing import Any

from polylect.v1 import error_reason_pb2 as reasons

from rest_facade.resumed import Resumed
from rest_facade.vocabulary import ShapeError

Message = dict[str, Any]
Receive = Callable[[], Coroutine[Any, Any, Message]]

_GZIP = zlib.MAX_WBITS | 16
# Each member costs a copy of all that follows it; nobody sends more than one or two.
_MAX_GZIP_MEMBERS = 16
_CODINGS = {"": False, "identity": False, "gzip": True, "x-gzip": True}


class ClientGone(Exception):
    """The client closed the connection; nobody is there to be answered."""


class ReadingBudget:
    """The bytes all bodies being read may hold together."""

    def __init__(self, max_bytes: int) -> None:
        self._left = max_bytes

    def take(self, size: int) -> None:
        """Take `size` bytes; raises ShapeError when there are no more."""
        if size > self._left:
            raise ShapeError(reasons.ERROR_REASON_OVERLOADED, "Too many large requests at once")
        self._left -= size

    def give_back(self, size: int) -> None:
        """Return what was taken."""
        self._left += size


class BodyReader:
    """Reads the bodies of one endpoint."""

    def __init__(self, max_bytes: int, timeout_seconds: float, budget: ReadingBudget) -> None:
        self._max_bytes = max_bytes
        self._timeout_seconds = timeout_seconds
        self._budget = budget

    async def read(self, receive: Receive, headers: Mapping[str, str]) -> bytes:
        """Give the body, inflated. Raises ShapeError, or ClientGone."""
        coding = headers.get("content-encoding")
        inflate = coding is not None and self._is_gzip(coding)
        length = headers.get("content-length")
        if length is not None and (len(length) > 18 or int(length) > self._max_bytes):
            raise self._too_large()
        reading = receive()
        try:
            pending = reading.send(None)
        except StopIteration as arrived:
            # The usual case: the body came with the head. Nothing is awaited and no timer set (3 of 100 µs).
            message: Message = arrived.value
            if not message.get("more_body", False):
                return self._checked(_body_of(message), inflate)
            body = await self._read_slowly(receive, message)
        else:
            body = await self._read_slowly(receive, None, Resumed(reading, pending))
        return self._checked(body, inflate)

    async def _read_slowly(
        self, receive: Receive, message: Message | None, resumed: Resumed[Message] | None = None
    ) -> bytes:
        body = bytearray()
        try:
            async with asyncio.timeout(self._timeout_seconds):
                if resumed is not None:
                    message = await resumed
                while message is not None:
                    part = _body_of(message)
                    self._budget.take(len(part))
                    body += part
                    if len(body) > self._max_bytes:
                        raise self._too_large()
                    message = await receive() if message.get("more_body", False) else None
        except TimeoutError as error:
            raise ShapeError(
                reasons.ERROR_REASON_PAYLOAD_TIMEOUT, "The body did not arrive in time"
            ) from error
        finally:
            self._budget.give_back(len(body))
        return bytes(body)

    def _checked(self, body: bytes, inflate: bool) -> bytes:
        if len(body) > self._max_bytes:
            raise self._too_large()
        return self._inflated(body) if inflate else body

    def _inflated(self, body: bytes) -> bytes:
        """Undo gzip, of several members too, never holding more than the limit."""
        inflated = bytearray()
        rest = body
        try:
            for _ in range(_MAX_GZIP_MEMBERS):
                member = zlib.decompressobj(_GZIP)
                inflated += member.decompress(rest, self._max_bytes + 1 - len(inflated))
                if len(inflated) > self._max_bytes:
                    raise self._too_large()
                if not member.eof:
                    raise _not_gzip()
                # Zeros after a member are padding (gzip 1.x does the same).
                rest = member.unused_data.lstrip(b"\0")
                if not rest:
                    return bytes(inflated)
        except zlib.error as error:
            raise _not_gzip() from error
        raise ShapeError(
            reasons.ERROR_REASON_ENCODING_UNSUPPORTED, f"More than {_MAX_GZIP_MEMBERS} gzip members"
        )

    def _is_gzip(self, coding: str) -> bool:
        gzip = _CODINGS.get(coding.strip().lower())
        if gzip is None:
            raise ShapeError(
                reasons.ERROR_REASON_ENCODING_UNSUPPORTED, "Content-Encoding must be gzip or identity"
            )
        return gzip

    def _too_large(self) -> ShapeError:
        return ShapeError(
            reasons.ERROR_REASON_PAYLOAD_TOO_LARGE, f"The body may have at most {self._max_bytes} bytes"
        )


def _body_of(message: Message) -> bytes:
    if message["type"] == "http.disconnect":
        raise ClientGone
    body: bytes = message.get("body", b"")
    return body


def _not_gzip() -> ShapeError:
    return ShapeError(reasons.ERROR_REASON_ENCODING_UNSUPPORTED, "The body is not the gzip it claims to be")
