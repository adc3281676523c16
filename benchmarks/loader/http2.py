"""gRPC on HTTP/2: unary calls one after the other, or one stream of messages, on each connection.

Hides frames, header compression and flow control; no more of them than a gRPC server needs. A call costs
grpc.aio's own client 105 µs of CPU, this one 20, and the core the same by either.

Trailers are not decoded. A call that failed has no message; one in which an event was rejected has a message
of another length than the one in which all were accepted.
"""

import asyncio
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Mapping

from benchmarks.loader.campaign import Campaign

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DATA, _HEADERS, _RST_STREAM, _SETTINGS, _PING, _WINDOW_UPDATE = 0, 1, 3, 4, 6, 8
_END_STREAM, _ACK, _END_HEADERS = 0x1, 0x1, 0x4
_INITIAL_WINDOW, _MAX_FRAME = 4, 5
_LARGEST_WINDOW = 2**31 - 1
_DEFAULT_WINDOW = 65_535
_DEFAULT_FRAME = 16_384
# A message's length and whether it is compressed, before it.
_PREFIX = 5
# So many messages of a stream are under way: the next one is there when the core has answered.
_STREAM_DEPTH = 4

# In the words of HTTP, for the figures: all accepted; answered, but an event was rejected; failed.
_ACCEPTED, _REJECTED, _FAILED = 200, 400, 500


class _Http2(asyncio.Protocol, ABC):
    """What both kinds of connection share. At most one stream is open at a time."""

    def __init__(self, campaign: Campaign, headers: Mapping[str, str], answer_bytes: int | None) -> None:
        self._campaign = campaign
        self._answer_bytes = answer_bytes
        self.ended = asyncio.get_running_loop().create_future()
        self.asking = 0
        self._transport: asyncio.WriteTransport
        self._received = b""
        self._headers = _first_headers(headers)
        self._later_headers = _later_headers(headers)
        self._stream = -1
        self._window = self._initial_window = self._stream_window = _DEFAULT_WINDOW
        self._max_frame = _DEFAULT_FRAME
        # What the windows have no room for yet, and whether the stream ends after it.
        self._unsent: deque[tuple[memoryview, bool]] = deque()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Say hello, and ask for the first time."""
        self._transport = transport  # type: ignore[assignment]
        settings = _INITIAL_WINDOW.to_bytes(2) + _LARGEST_WINDOW.to_bytes(4)
        room = (_LARGEST_WINDOW - _DEFAULT_WINDOW).to_bytes(4)
        self._transport.write(
            _PREFACE + _frame(_SETTINGS, 0, 0, settings) + _frame(_WINDOW_UPDATE, 0, 0, room)
        )
        self._begin()

    @abstractmethod
    def _begin(self) -> None:
        """Ask for the first time."""

    def _open(self) -> bytes:
        """Give the frame that opens the next stream."""
        self._stream += 2
        self._stream_window = self._initial_window
        headers, self._headers = self._headers, self._later_headers
        return _frame(_HEADERS, _END_HEADERS, self._stream, headers)

    def _send(self, message: bytes, *, before: bytes = b"", end: bool) -> None:
        length = len(message)
        data = b"\0" + length.to_bytes(4) + message
        room = min(self._window, self._stream_window, self._max_frame)
        if length + _PREFIX <= room and not self._unsent:
            self._window -= length + _PREFIX
            self._stream_window -= length + _PREFIX
            self._transport.write(before + _frame(_DATA, _END_STREAM if end else 0, self._stream, data))
            return
        if before:
            self._transport.write(before)
        self._unsent.append((memoryview(data), end))
        self._pump()

    def _half_close(self) -> None:
        self._unsent.append((memoryview(b""), True))
        self._pump()

    def _pump(self) -> None:
        while self._unsent:
            data, end = self._unsent[0]
            room = min(self._window, self._stream_window, self._max_frame)
            if room <= 0 and data:
                return
            piece, rest = data[:room], data[room:]
            self._window -= len(piece)
            self._stream_window -= len(piece)
            flags = _END_STREAM if end and not rest else 0
            self._transport.write(_frame(_DATA, flags, self._stream, bytes(piece)))
            if rest:
                self._unsent[0] = rest, end
            else:
                self._unsent.popleft()

    def data_received(self, received: bytes) -> None:
        """Take the frames apart."""
        if self._received:
            received = self._received + received
        at, end = 0, len(received)
        while end - at >= 9:
            after = at + 9 + (received[at] << 16 | received[at + 1] << 8 | received[at + 2])
            if after > end:
                break
            kind, flags = received[at + 3], received[at + 4]
            if kind == _DATA:
                self._on_data(received[at + 9 : after])
            if kind in (_DATA, _HEADERS):
                if flags & _END_STREAM:
                    self._on_end()
            else:
                self._on_control(kind, flags, received[at + 5 : after])
            at = after
        self._received = received[at:]

    @abstractmethod
    def _on_data(self, data: bytes) -> None:
        """Take a part of an answer."""

    @abstractmethod
    def _on_end(self) -> None:
        """Take the end of a stream."""

    def _on_control(self, kind: int, flags: int, frame: bytes) -> None:
        """Take a frame, from its stream id on, that carries no part of an answer."""
        stream, content = int.from_bytes(frame[:4]), frame[4:]
        if kind == _WINDOW_UPDATE:
            room = int.from_bytes(content)
            if stream == 0:
                self._window += room
            elif stream == self._stream:
                self._stream_window += room
            self._pump()
        elif kind == _PING and not flags & _ACK:
            self._transport.write(_frame(_PING, _ACK, 0, content))
        elif kind == _SETTINGS and not flags & _ACK:
            self._take_settings(content)
            self._transport.write(_frame(_SETTINGS, _ACK, 0, b""))
            self._pump()
        elif kind == _RST_STREAM and stream == self._stream:
            self._on_end()

    def _take_settings(self, content: bytes) -> None:
        for at in range(0, len(content), 6):
            name, value = int.from_bytes(content[at : at + 2]), int.from_bytes(content[at + 2 : at + 6])
            if name == _INITIAL_WINDOW:
                self._stream_window += value - self._initial_window
                self._initial_window = value
            elif name == _MAX_FRAME:
                self._max_frame = value

    def _status(self, message_bytes: int) -> int:
        if self._answer_bytes is None or message_bytes == self._answer_bytes:
            return _ACCEPTED
        return _REJECTED

    def connection_lost(self, error: Exception | None) -> None:
        """Tell whoever opened it."""
        if self.asking:
            self._campaign.take_back(self.asking)
        if not self.ended.done():
            self.ended.set_result(None)

    def abort(self) -> None:
        """Give up waiting."""
        self.asking = 0
        self._transport.abort()


class Calls(_Http2):
    """Unary calls, one in flight."""

    def _begin(self) -> None:
        self._answer_length = 0
        self._asked_at = 0.0
        self._ask()

    def _ask(self) -> None:
        request = self._campaign.next_request()
        if request is None:
            self.asking = 0
            self._transport.close()
            return
        self.asking = 1
        self._answer_length = 0
        self._asked_at = time.perf_counter()
        self._send(request, before=self._open(), end=True)

    def _on_data(self, data: bytes) -> None:
        self._answer_length += len(data)

    def _on_end(self) -> None:
        # What was not sent of a refused request is not wanted any more.
        self._unsent.clear()
        length = self._answer_length
        self._campaign.take_answer(self._status(length - _PREFIX) if length else _FAILED, self._asked_at)
        self._ask()


class Stream(_Http2):
    """One stream for as long as the connection lives, some messages in flight, answered in their order."""

    def _begin(self) -> None:
        self._answers = b""
        self._asked_at: deque[float] = deque()
        self._enough = False
        self._transport.write(self._open())
        for _ in range(_STREAM_DEPTH):
            self._ask()

    def _ask(self) -> None:
        message = None if self._enough else self._campaign.next_request()
        if message is not None:
            self.asking += 1
            self._asked_at.append(time.perf_counter())
            self._send(message, end=False)
        elif not self._enough:
            self._enough = True
            self._half_close()

    def _on_data(self, data: bytes) -> None:
        answers = self._answers + data
        while len(answers) >= _PREFIX:
            length = int.from_bytes(answers[1:_PREFIX])
            if len(answers) < _PREFIX + length:
                break
            answers = answers[_PREFIX + length :]
            self.asking -= 1
            self._campaign.take_answer(self._status(length), self._asked_at.popleft())
            self._ask()
        self._answers = answers

    def _on_end(self) -> None:
        # Too early, and what is under way got no answer: a refusal ends the stream.
        self._transport.close()


def _frame(kind: int, flags: int, stream: int, content: bytes) -> bytes:
    return len(content).to_bytes(3) + bytes((kind, flags)) + stream.to_bytes(4) + content


def _fields(headers: Mapping[str, str]) -> list[tuple[str, str]]:
    # What HTTP/2 calls pseudo headers comes first.
    named = {**headers, "content-type": "application/grpc", "te": "trailers", "user-agent": "polylect-bench"}
    return sorted(named.items(), key=lambda field: not field[0].startswith(":"))


def _first_headers(headers: Mapping[str, str]) -> bytes:
    """Give the header block of the first call: each field in full, and to be remembered."""
    fields = (b"\x40" + _text(name) + _text(value) for name, value in _fields(headers))
    return b"\x83\x86" + b"".join(fields)


def _later_headers(headers: Mapping[str, str]) -> bytes:
    """Give the header block of every later call: where the fields stand among those remembered."""
    count = len(_fields(headers))
    return b"\x83\x86" + bytes(0x80 | (62 + count - 1 - number) for number in range(count))


def _text(text: str) -> bytes:
    """Give a string as HPACK has it: a length with a 7-bit prefix, and its bytes."""
    encoded, length = text.encode(), bytearray()
    if len(encoded) < 127:
        return bytes([len(encoded)]) + encoded
    length.append(127)
    rest = len(encoded) - 127
    while rest >= 128:
        length.append(rest % 128 + 128)
        rest //= 128
    length.append(rest)
    return bytes(length) + encoded
