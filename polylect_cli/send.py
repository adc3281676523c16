"""`polylect send`: one request to a dialect, as its own clients would send it.

Knows each dialect's usual endpoint and place of the credential.
"""

import http.client
import json
import shlex
import sys
import time
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, NamedTuple
from urllib.parse import urlsplit

import typer

from polylect_cli.case_request import Request, read_request, wire_body, wire_headers
from polylect_cli.output import (
    EXIT_UNREACHABLE,
    EXIT_USAGE,
    CommandError,
    own_command,
    print_json,
    print_line,
    printable,
)
from polylect_cli.settings import load_settings

_TIMEOUT_SECONDS = 30.0
_HEADERS_OF_INTEREST = ("content-type", "x-request-id", "retry-after", "set-cookie", "allow", "location")
_PREFIXES_OF_INTEREST = ("ratelimit", "x-ratelimit", "access-control")
_DATAFLY_PATHS = {"track": "/v1/t", "page": "/v1/p", "identify": "/v1/i", "group": "/v1/g"}


class _Request(NamedTuple):
    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes


class _Answer(NamedTuple):
    status: int
    headers: list[tuple[str, str]]
    body: bytes


def send(
    what: Annotated[
        str,
        typer.Argument(metavar="DIALECT|CASE.toml", help="pulsora, pulse, apex, datafly; a case file."),
    ],
    body: Annotated[
        str | None, typer.Argument(help="The JSON text, @FILE, or - for standard input.", show_default=False)
    ] = None,
    key: Annotated[str, typer.Option(help="Credential, put where the dialect wants it.")] = "",
    path: Annotated[str, typer.Option(help="Another endpoint than the dialect's usual one.")] = "",
    url: Annotated[str, typer.Option(help="Where the facade is. Default: here.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print the answer as JSON, for programs.")] = False,
) -> None:
    """Send a body through a dialect, or a case file's requests, and print the answers.

    Exit code 0 when all answers are 2xx (of a case file: when the statuses are as it says).
    """
    base = url or load_settings().http_url
    good = True
    if what.endswith(".toml"):
        for request, expected in _read_case(Path(what)):
            answer = _exchange(base, request)
            _show(answer, as_json)
            if answer.status != expected:
                print_line(f"(the case file says {expected})")
                good = False
    else:
        answer = _exchange(base, _compose(what, _read_body(body), key, path))
        _show(answer, as_json)
        if not as_json:
            _show_next(answer)
        good = 200 <= answer.status < 300
    if not good:
        raise typer.Exit(1)


def _read_body(given: str | None) -> bytes:
    if given is None:
        raise CommandError("give a body: the JSON text, @FILE, or - for standard input", EXIT_USAGE)
    if given == "-":
        return sys.stdin.buffer.read()
    if given.startswith("@"):
        return _read(Path(given[1:]))
    return given.encode()


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise CommandError(f"{path} can't be read: {error.strerror}", EXIT_USAGE) from error


def _compose(dialect: str, body: bytes, key: str, path: str) -> _Request:
    headers = {"Content-Type": "application/json"}
    try:
        document = json.loads(body)
    except ValueError:
        document = None  # sent as it is: the answer is what one wants to see
    if not isinstance(document, dict):
        document = {}
    bearer = {"Authorization": f"Bearer {key}"} if key else {}
    match dialect:
        case "pulsora":
            usual = "/api/ingest"
            headers |= {"X-API-Token": key} if key else {}
        case "pulse":
            usual = "/collect/batch" if "events" in document else "/collect"
            headers |= bearer
        case "apex":
            usual = "/api/events"
            if key and document and "projectKey" not in document:
                body = json.dumps({"projectKey": key, **document}).encode()
        case "datafly":
            usual = (
                "/v1/batch" if "batch" in document else _DATAFLY_PATHS.get(str(document.get("type")), "/v1/t")
            )
            headers |= bearer
        case _:
            raise CommandError(
                f"{dialect}: give pulsora, pulse, apex or datafly, or a case file ending in .toml", EXIT_USAGE
            )
    return _Request("POST", path or usual, headers, body)


def _read_case(path: Path) -> list[tuple[_Request, int]]:
    try:
        steps = tomllib.loads(_read(path).decode())["steps"]
        return [
            (_as_written(read_request(step["request"])), int(step["response"]["status"]))
            for step in steps
            for _ in range(step.get("repeat", 1))
        ]
    except (tomllib.TOMLDecodeError, KeyError, TypeError, ValueError) as error:
        raise CommandError(f"{path} is no case file: {error!r}", EXIT_USAGE) from error


def _as_written(request: Request) -> _Request:
    # A case stands still in time; the service it is sent to does not.
    blanks = {"now_ms": str(time.time_ns() // 1_000_000)}
    return _Request(request.method, request.path, wire_headers(request, blanks), wire_body(request, blanks))


def _exchange(base: str, request: _Request) -> _Answer:
    place = urlsplit(base)
    if place.scheme not in ("http", "https") or not place.hostname:
        raise CommandError(f"--url {base}: give http://HOST:PORT", EXIT_USAGE)
    kind = http.client.HTTPSConnection if place.scheme == "https" else http.client.HTTPConnection
    connection = kind(place.hostname, place.port, timeout=_TIMEOUT_SECONDS)
    try:
        # Nothing is added that the sender did not write, but what HTTP itself needs.
        connection.putrequest(request.method, request.path, skip_accept_encoding=True)
        for name, text in request.headers.items():
            connection.putheader(name, text)
        if request.body or request.method == "POST":
            connection.putheader("Content-Length", str(len(request.body)))
        connection.endheaders(request.body)
        response = connection.getresponse()
        return _Answer(response.status, response.getheaders(), response.read())
    except (OSError, http.client.HTTPException) as error:
        raise CommandError(
            f"no facade answers at {base} ({error}): is it running (make run, polylect up)? "
            "POLYLECT_HTTP_PORT or --url say where to look",
            EXIT_UNREACHABLE,
        ) from error
    finally:
        connection.close()


def _show_next(answer: _Answer) -> None:
    """Tell how to find what was sent."""
    request_id = next((value for name, value in answer.headers if name.lower() == "x-request-id"), "")
    if request_id:
        print_line(f"next: {own_command()} why {shlex.quote(printable(request_id))}")


def _show(answer: _Answer, as_json: bool) -> None:
    text = answer.body.decode(errors="backslashreplace")
    if as_json:
        print_json({"status": answer.status, "headers": answer.headers, "body": text})
        return
    print_line(f"{answer.status} {http.client.responses.get(answer.status, '')}".rstrip())
    for name, value in answer.headers:
        low = name.lower()
        if low in _HEADERS_OF_INTEREST or low.startswith(_PREFIXES_OF_INTEREST):
            print_line(f"{name}: {value}")
    print_line(text)
