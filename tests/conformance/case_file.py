"""A conformance case as its file says it. Hides the file format (README.md); knows nothing of servers.

Requests are read by what `polylect send` reads them with.
"""

import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

from polylect_cli.case_request import BadCase, Request, filled, read_request, take_body

CASES = Path(__file__).parent / "cases"

_DEFAULT_NOW = "2026-03-01T12:00:00Z"


@dataclass(frozen=True)
class Setup:
    """What differs from the demo set-up."""

    source: str = ""
    rate_limit: str = ""
    origins: Sequence[str] | None = None
    vendor_cookies: Sequence[str] | None = None
    cookie_domain: str | None = None
    enabled: bool | None = None
    # kind, scopes, sites; its secret is {{key}}.
    key: Mapping[str, Any] | None = None
    revoke_key: str = ""
    mode: str = "demo"
    # Fields of FacadeOptions.
    facade: Mapping[str, Any] = field(default_factory=dict)
    # The core can't be reached.
    core_away: bool = False


@dataclass(frozen=True)
class Response:
    """What must come back. None: not looked at."""

    status: int
    body: bytes | None = None
    body_matches: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    absent_headers: Sequence[str] = ()
    cookies: Mapping[str, str] = field(default_factory=dict)
    absent_cookies: Sequence[str] = ()
    # Why, in the one vocabulary: of the whole request, or of one event at least.
    reason: str = ""


@dataclass(frozen=True)
class Step:
    """One exchange."""

    request: Request
    response: Response
    repeat: int = 1
    advance_seconds: float = 0


@dataclass(frozen=True)
class Case:
    """A file of `cases/`."""

    name: str
    about: str
    source: str
    now: datetime
    setup: Setup
    steps: Sequence[Step]
    # What stands in the tables afterwards. None: not looked at.
    events: Sequence[Mapping[str, Any]] | None
    quarantined: Sequence[Mapping[str, Any]] | None
    links: Sequence[Mapping[str, Any]] | None

    @property
    def dialect(self) -> str:
        """The folder it lies in."""
        return self.name.partition("/")[0]


def case_paths() -> list[Path]:
    """Give all case files, in order."""
    return sorted(CASES.glob("*/*.toml"))


def name_of(path: Path) -> str:
    """Give a case's name: pulsora/seed-event-payload."""
    return f"{path.parent.name}/{path.stem}"


def read_case(path: Path) -> Case:
    """Read one file. Raises BadCase."""
    try:
        return parse_case(name_of(path), path.read_text(encoding="utf-8"))
    except BadCase as error:
        raise BadCase(f"{path.name}: {error}") from error


def parse_case(name: str, text: str) -> Case:
    """Read the text of a case file; decimals keep their digits. Raises BadCase."""
    try:
        written = tomllib.loads(text, parse_float=Decimal)
    except tomllib.TOMLDecodeError as error:
        raise BadCase(str(error)) from error
    try:
        case = Case(
            name=name,
            about=written.pop("about"),
            source=written.pop("source"),
            now=datetime.fromisoformat(written.pop("now", _DEFAULT_NOW)),
            setup=_setup(written.pop("setup", {})),
            steps=tuple(_steps(written.pop("steps"))),
            events=written.pop("events", None),
            quarantined=written.pop("quarantined", None),
            links=written.pop("links", None),
        )
    except (KeyError, TypeError) as error:
        raise BadCase(f"missing or unknown: {error}") from error
    if written:
        raise BadCase(f"unknown: {', '.join(written)}")
    return case


def _setup(written: Mapping[str, Any]) -> Setup:
    facade = written.get("facade", {})
    plain = {name: float(value) if isinstance(value, Decimal) else value for name, value in facade.items()}
    return Setup(**{**written, "facade": plain})


def _steps(written: Sequence[Mapping[str, Any]]) -> Iterator[Step]:
    if not written:
        raise BadCase("no steps")
    for one in written:
        step = dict(one)
        response = dict(step.pop("response"))
        if (expected := take_body(response)) is not None:
            response["body"] = expected
        yield Step(
            read_request(step.pop("request")),
            Response(**response),
            int(step.pop("repeat", 1)),
            float(step.pop("advance_seconds", 0)),
            **step,
        )


def filled_text(text: str, blanks: Mapping[str, str]) -> str:
    """Fill in {{name}} for each blank."""
    return filled(text.encode(), blanks).decode()
