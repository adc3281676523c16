"""The words a dialect is written in: frozen values, no behaviour.

A dialect is a `Dialect` in a module of its own: routes, credential places, fields, replies, error bodies, CORS,
cookies and quota. It knows nothing of HTTP servers and gRPC. `decode.py` turns the field tables into functions,
`render.py` the reply tables, once, at start-up.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum, auto
from typing import Any

from polylect.v1.error_reason_pb2 import ErrorReason
from polylect.v1.event_pb2 import Event, EventKind
from polylect.v1.ingest_pb2 import KeyKind, Quota

Json = dict[str, Any]
"""A decoded JSON object: str, int, Decimal, bool, None, list and dict."""

Parser = Callable[[Any], Any]
"""Turns a JSON value into a canonical one; raises values.Invalid with the problem, as in 'must be a string'."""


class Extras(Enum):
    """Where the members no field row names are kept."""

    PROPERTIES = auto()
    CONTEXT = auto()


class OnNull(Enum):
    """What an explicit null says."""

    ABSENT = auto()
    # Make the visitor's fingerprint in the core.
    FINGERPRINT = auto()


@dataclass(frozen=True)
class Field:
    """One member of a wire event."""

    # Its name in the object that holds the event.
    wire: str
    # The canonical field, dotted (`page.url`). 'properties', 'traits' and 'context' take a JSON object whole; 'type'
    # is the shape's kind word; '' checks the value for `Shape.finish` and stores nothing.
    to: str
    parse: Parser
    required: bool = False
    # Texts instead of the dialect's wording.
    missing: str | None = None
    invalid: str | None = None
    null: OnNull = OnNull.ABSENT


@dataclass(frozen=True)
class Wording:
    """How a dialect says what is wrong with a member; {field} and {problem} are filled in."""

    missing: str
    invalid: str


class ShapeError(Exception):
    """A wire event has not the shape its dialect documents."""

    def __init__(self, reason: ErrorReason, message: str, wire_field: str = "") -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.field = wire_field


Finish = Callable[[Event, Json], None]
"""The odd bit of a shape: sees the Event and the parsed values of `to=''` fields; may raise ShapeError."""


@dataclass(frozen=True)
class Shape:
    """One form of wire event."""

    # None: told by the field with to='type'.
    kind: EventKind | None
    fields: tuple[Field, ...]
    wording: Wording
    extras: Extras = Extras.PROPERTIES
    # Where kind is None: words that are not track events' names.
    kind_words: Mapping[str, EventKind] = field(default_factory=dict)
    # (wire path, canonical path): strings that stay where they are and are copied too; the first found wins.
    copies: tuple[tuple[str, str], ...] = ()
    finish: Finish | None = None

    def relaxed(self, *wires: str) -> "Shape":
        """Give the same shape with those members optional."""
        fields = tuple(replace(row, required=False) if row.wire in wires else row for row in self.fields)
        return replace(self, fields=fields)


@dataclass(frozen=True)
class Choice:
    """Which shape a wire event has, by one of its members."""

    wire: str
    shapes: Mapping[str, Shape]
    missing: str
    unknown: str
    # Member that holds the event's fields; '' when they stand beside the choosing one.
    within: str = ""
    within_missing: str = ""


@dataclass(frozen=True)
class Batch:
    """A body with many events.

    Members of the body beside the list apply to every event that has not its own.
    """

    # Member that holds the list.
    wire: str
    events: Shape | Choice
    max_events: int
    # 0: no limit but the body's.
    max_event_bytes: int = 0


class Place(Enum):
    """Where a credential may stand."""

    HEADER = auto()
    BEARER = auto()
    # Authorization: Basic, the user name.
    BASIC = auto()
    QUERY = auto()
    BODY = auto()


@dataclass(frozen=True)
class Credential:
    """One place of a credential; `name` is the header, parameter or member."""

    place: Place
    name: str = ""


class Blank(Enum):
    """What a reply template leaves to be filled in."""

    NOW_MS = auto()
    # The rejection's text, code and status.
    MESSAGE = auto()
    CODE = auto()
    STATUS = auto()
    # Of a batch.
    INDEX = auto()
    ACCEPTED = auto()
    REJECTED = auto()
    ERRORS = auto()
    # Left out, with its member, where no event was rejected.
    REJECTED_IF_ANY = auto()
    ERRORS_IF_ANY = auto()


Template = Mapping[str, Any]
"""A JSON object in the order it is sent, with Blanks."""


@dataclass(frozen=True)
class Reply:
    """A documented success."""

    status: int
    body: Template


@dataclass(frozen=True)
class Refusal:
    """How a reason is answered."""

    status: int
    # None: the rejection's own text.
    message: str | None = None
    # None: the dialect's `error_body`.
    body: Template | None = None
    # For Blank.CODE.
    code: str = ""


class Origins(Enum):
    """Who may read answers from a browser."""

    # `*`, without credentials.
    ANY = auto()
    # Every origin, echoed, with credentials.
    ECHO = auto()
    # Those of the source, echoed, with credentials; others are refused.
    SOURCE = auto()


@dataclass(frozen=True)
class Cors:
    """What CORS headers say."""

    origins: Origins
    methods: tuple[str, ...]
    headers: tuple[str, ...]
    # Allowed when a preflight asks for them.
    headers_on_request: tuple[str, ...] = ()
    # Whether Methods and Headers stand on every answer, not on preflights only.
    always: bool = False


@dataclass(frozen=True)
class VisitorCookie:
    """The first-party cookie that names a visitor, and vendors' cookies beside it."""

    name: str
    max_age_seconds: int
    vendor_cookies: bool = False


@dataclass(frozen=True)
class Pixel:
    """An image in place of a body: query parameters become a wire event."""

    # Parameter to member, dotted.
    parameters: Mapping[str, str]
    # Prefix of parameters to the member that holds them.
    prefixes: Mapping[str, str]
    # Members that are there anyway.
    constants: Mapping[str, Any]


@dataclass(frozen=True)
class Endpoint:
    """One route that takes events."""

    path: str
    accepted: Reply
    max_bytes: int
    # A body with one event; None where it must be a batch.
    single: Shape | Choice | None = None
    batch: Batch | None = None
    batch_accepted: Reply | None = None
    pixel: Pixel | None = None
    # Where the dialect's own is not meant.
    quota: Quota | None = None


@dataclass(frozen=True)
class Dialect:
    """Everything one document says of the wire."""

    name: str
    credentials: tuple[Credential, ...]
    key_kinds: tuple[KeyKind, ...]
    endpoints: tuple[Endpoint, ...]
    errors: Mapping[ErrorReason, Refusal]
    error_body: Template
    cors: Cors
    quota: Quota
    # One entry of Blank.ERRORS.
    batch_error: Template = field(default_factory=dict)
    # The answer when no event of a batch was accepted.
    batch_refused: Reply | None = None
    visitor_cookie: VisitorCookie | None = None
    # Events older than this are refused; 0: none.
    max_age_seconds: int = 0
    # Whether X-RateLimit-Limit, -Remaining and -Reset go with every answer.
    legacy_rate_headers: bool = False
    # Seconds of a 429's Retry-After at least, where the document fixes them.
    retry_after_seconds: int = 1
