"""What `polylect send` makes of a dialect and a case file, seen by a real server."""

import gzip
import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from typer.testing import CliRunner

from polylect_cli.main import app
from polylect_cli.output import CommandError


class Server(ThreadingHTTPServer):
    """Notes what it is sent and answers as it is told."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.seen: list[dict[str, Any]] = []
        self.status = 202
        self.request_id = ""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    server: Server

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.seen.append(
            {"method": self.command, "path": self.path, "headers": dict(self.headers), "body": body}
        )
        self.send_response(self.server.status)
        self.send_header("Retry-After", "7")
        self.send_header("X-Dull", "1")
        if self.server.request_id:
            self.send_header("X-Request-Id", self.server.request_id)
        self.end_headers()
        self.wfile.write(b'{"success":true}')

    def __getattr__(self, name: str) -> Any:
        if name.startswith("do_"):
            return self._answer
        raise AttributeError(name)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as running:
        thread = Thread(target=running.serve_forever)
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def send(server: Server, *arguments: str, given: str | None = None) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["send", *arguments, "--url", server.url], input=given)
    if isinstance(result.exception, CommandError):
        raise result.exception
    return result.exit_code, result.output


@pytest.mark.parametrize(
    ("dialect", "body", "path", "header"),
    [
        ("pulsora", "{}", "/api/ingest", ("X-API-Token", "k")),
        ("pulse", "{}", "/collect", ("Authorization", "Bearer k")),
        ("pulse", '{"events":[]}', "/collect/batch", ("Authorization", "Bearer k")),
        ("apex", '{"projectKey":"mine"}', "/api/events", None),
        ("datafly", '{"type":"track"}', "/v1/t", ("Authorization", "Bearer k")),
        ("datafly", '{"type":"page"}', "/v1/p", ("Authorization", "Bearer k")),
        ("datafly", '{"type":"identify"}', "/v1/i", ("Authorization", "Bearer k")),
        ("datafly", '{"type":"group"}', "/v1/g", ("Authorization", "Bearer k")),
        ("datafly", '{"batch":[]}', "/v1/batch", ("Authorization", "Bearer k")),
        ("pulse", "{", "/collect", ("Authorization", "Bearer k")),
    ],
)
def test_each_dialect_has_its_endpoint_and_credential(
    server: Server, dialect: str, body: str, path: str, header: tuple[str, str] | None
) -> None:
    assert send(server, dialect, body, "--key", "k")[0] == 0
    (seen,) = server.seen
    assert (seen["method"], seen["path"], seen["body"]) == ("POST", path, body.encode())
    carried = {
        name: text for name, text in seen["headers"].items() if name in ("X-API-Token", "Authorization")
    }
    assert carried == (dict([header]) if header else {})


def test_apex_gets_its_key_in_the_body(server: Server) -> None:
    send(server, "apex", '{"type":"click"}', "--key", "pk_live_xyz")
    assert json.loads(server.seen[0]["body"]) == {"projectKey": "pk_live_xyz", "type": "click"}


def test_the_body_comes_from_a_file_or_standard_input_byte_for_byte(server: Server, tmp_path: Path) -> None:
    (tmp_path / "body.json").write_bytes(b'{"a": "\xc3\xa9\r\n"}')
    send(server, "pulse", f"@{tmp_path / 'body.json'}")
    send(server, "pulse", "-", given='{"b": 1}')
    assert [seen["body"] for seen in server.seen] == [b'{"a": "\xc3\xa9\r\n"}', b'{"b": 1}']


def test_shows_status_headers_of_interest_and_body(server: Server) -> None:
    server.status = 429
    code, output = send(server, "pulsora", "{}")
    assert code == 1
    assert output.splitlines() == ["429 Too Many Requests", "Retry-After: 7", '{"success":true}']


def test_shows_how_to_find_what_was_sent(server: Server) -> None:
    server.request_id = "a-1"
    output = send(server, "pulsora", "{}")[1]
    assert output.splitlines()[1:] == [
        "Retry-After: 7",
        "X-Request-Id: a-1",
        '{"success":true}',
        "next: polylect why a-1",
    ]
    assert "next:" not in send(server, "pulsora", "{}", "--json")[1]


def test_shows_json_to_programs(server: Server) -> None:
    shown = json.loads(send(server, "pulsora", "{}", "--json")[1])
    assert (shown["status"], shown["body"]) == (202, '{"success":true}')
    assert ["Retry-After", "7"] in shown["headers"]


CASE = """
about = "Two requests"
[[steps]]
repeat = 2
[steps.request]
path = "/api/ingest?x=1"
headers = { "X-API-Token" = "pub_123" }
body_python = "b'{' + b' ' * 3 + b'}'"
[steps.response]
status = 202
[[steps]]
[steps.request]
method = "GET"
path = "/v1/pixel/t"
[steps.response]
status = 200
[[steps]]
[steps.request]
path = "/collect"
body = '{"a":1}'
gzip = true
[steps.response]
status = 202
"""


def test_a_case_file_is_sent_as_it_says(server: Server, tmp_path: Path) -> None:
    (tmp_path / "case.toml").write_text(CASE)
    code, output = send(server, str(tmp_path / "case.toml"))
    assert code == 1
    assert output.count("(the case file says 200)") == 1
    first, again, pixel, zipped = server.seen
    assert first == again
    assert (first["method"], first["path"], first["body"]) == ("POST", "/api/ingest?x=1", b"{   }")
    assert set(first["headers"]) == {"Host", "X-API-Token", "Content-Length"}
    assert (pixel["method"], pixel["path"], set(pixel["headers"])) == ("GET", "/v1/pixel/t", {"Host"})
    assert gzip.decompress(zipped["body"]) == b'{"a":1}'
    assert zipped["headers"]["Content-Encoding"] == "gzip"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("telegraph", "{}"), "pulsora, pulse, apex or datafly"),
        (("pulse",), "give a body"),
        (("pulse", "@/nowhere"), "can't be read"),
        (("/nowhere.toml",), "can't be read"),
    ],
)
def test_says_what_is_missing(server: Server, arguments: tuple[str, ...], said: str) -> None:
    with pytest.raises(CommandError, match=said):
        send(server, *arguments)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "steps = 1",
        "[[steps]]",
        "[[steps]]\n[steps.request]\npath='/'\nbody_python='open(1)'\n",
        "[[steps]]\n[steps.request]\npath='/'\nbody_python='b'\n[steps.response]\nstatus=200",
        "[[steps]]\n[steps.request]\npath='/'\nbody_python='('\n[steps.response]\nstatus=200",
        "[[steps]]\n[steps.request]\npath='/'\nbodi='b'\n[steps.response]\nstatus=200",
    ],
)
def test_refuses_what_is_no_case_file(server: Server, tmp_path: Path, text: str) -> None:
    (tmp_path / "case.toml").write_text(text)
    with pytest.raises(CommandError, match="is no case file"):
        send(server, str(tmp_path / "case.toml"))
    assert server.seen == []


def test_says_when_nobody_answers() -> None:
    result = CliRunner().invoke(app, ["send", "pulse", "{}", "--url", "http://127.0.0.1:1"])
    assert isinstance(result.exception, CommandError)
    assert result.exception.exit_code == 3
    assert "is it running" in str(result.exception)
