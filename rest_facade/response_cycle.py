"""Writes a response in one go: what uvicorn does in two writes, with two regular expressions for each header.

A tenth of the facade's work on a small request (measured: 48 → 44 µs with nine headers). Responses of other
forms than the usual one, head and whole body, are left to uvicorn.
"""

from typing import Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, RequestResponseCycle

_NO_BODY = frozenset((204, 304))


class WholeResponseCycle(RequestResponseCycle):
    """One request and its response."""

    # Pieces of a head that waits for its body, and how many lines they make.
    _held_head: list[bytes] | None = None
    _held_lines = 0

    async def send(self, message: Any) -> None:
        """Take one ASGI message."""
        if self._held_head is not None:
            self._write(self._held_head, message)
        elif self.response_started or self.disconnected or self.flow.write_paused or not self._hold(message):
            await super().send(message)

    def _hold(self, start: Any) -> bool:
        """Keep the head until the body is there; False when that may not be."""
        headers = start.get("headers", ())
        if self.scope["method"] == "HEAD" or start["status"] in _NO_BODY:
            return False
        pieces = [STATUS_LINE[start["status"]]]
        whole = False
        for name, value in self.default_headers:
            pieces += (name, b": ", value, b"\r\n")
        for name, value in headers:
            if name == b"content-length":
                whole = True
            elif name == b"connection":
                return False
            pieces += (name, b": ", value, b"\r\n")
        if whole:
            self._held_head = pieces
            self._held_lines = 1 + len(self.default_headers) + len(headers)
        return whole

    def _write(self, pieces: list[bytes], message: Any) -> None:
        self._held_head = None
        head = b"".join(pieces)
        if head.count(b"\n") != self._held_lines:
            raise RuntimeError("a line break in a header")
        if message.get("more_body", False):
            raise RuntimeError("a response with a Content-Length comes whole")
        self.response_started = True
        self.waiting_for_100_continue = False
        self.response_complete = True
        closing = b"" if self.keep_alive else b"connection: close\r\n"
        if not self.disconnected:
            self.transport.write(b"%s%s\r\n%s" % (head, closing, message.get("body", b"")))
        self.message_event.set()
        if not self.keep_alive:
            self.transport.close()
        self.on_response()
