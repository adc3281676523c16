"""What a POST may not be answered with here, though Falcon would send it."""

from typing import Any

import pytest

from rest_facade.lean_falcon import App, Response


class _Resource:
    def __init__(self, name: str, value: object) -> None:
        self._name = name
        self._value = value

    async def on_post(self, req: object, resp: Response) -> None:
        setattr(resp, self._name, self._value)


class _Middleware:
    async def process_startup(self, scope: object, event: object) -> None: ...


async def _post(resource: _Resource) -> list[dict[str, Any]]:
    sent: list[dict[str, Any]] = []

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    async def receive() -> dict[str, Any]:
        raise AssertionError("nobody asked for the body")

    app = App(_Middleware())
    app.add_route("/", resource)
    scope = {"type": "http", "method": "POST", "path": "/", "query_string": b"", "headers": []}
    await app(scope, receive, send)
    return sent


async def test_bytes_are_sent_whole() -> None:
    head, body = await _post(_Resource("data", b"{}"))
    assert (head["status"], body["body"]) == (200, b"{}")
    assert (b"content-length", b"2") in head["headers"]


@pytest.mark.parametrize(("name", "value"), [("text", "{}"), ("media", {}), ("stream", object())])
async def test_what_would_not_be_sent_is_no_silent_success(name: str, value: object) -> None:
    with pytest.raises(AssertionError):
        await _post(_Resource(name, value))
