"""The words a dialect is written in: frozen values, no behaviour.

A dialect is a `Dialect` in a module of its own: routes, credential places, fields, replies, error bodies,
CORS, cookies and quota. It knows nothing of HTTP servers and gRPC. `shapes.py` turns the field tables into
functions, `render.py` the reply tables, once, at start-up.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum, auto
from types import MappingProxyType
from typing import Any, TypeAlias

from polylect.v1 import error_reason_pb2 as reasons
from polylect.v1.error_reason_pb2 import ErrorReason
from polylect.v1.event_pb2 import Event, EventKind
from polylect.v1.ingest_pb2 import KeyKind, Quota

# The stubs' enum values are of types that exist for the type checker only.
Reason: TypeAlias = "ErrorReason.ValueType"
Kind: TypeAlias = "EventKind.ValueType"
KeyKindValue: TypeAlias = "KeyKind.ValueType"

Json = dict[str, Any]
"""A decoded JSON object: str, int, Decimal, bool, None, list and dict."""

Parser = Callable[[Any], Any]
"""Turns a JSON value into a canonical one; raises values.Invalid with the problem ('must be a string')."""


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
    # The canonical field, dotted (`page.url`). 'properties', 'traits' and 'context' take a JSON object whole;
    # 'type' is the shape's kind word; '' checks the value for `Shape.finish` and stores nothing.
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

    def __init__(self, reason: Reason, message: str, wire_field: str = "") -> None:
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
    kind: "Kind | None"
    fields: tuple[Field, ...]
    wording: Wording
    extras: Extras = Extras.PROPERTIES
    # Where kind is None: words that are not track events' names.
    kind_words: Mapping[str, Kind] = field(default_factory=dict)
    # (wire path, canonical path): strings that stay where they are and are copied too; the first found wins.
    copies: tuple[tuple[str, str], ...] = ()
    finish: Finish | None = None

    def relaxed(self, *wires: str) -> "Shape":
        """Give the same shape with those members optional."""
        fields = tuple(replace(row, required=False) if row.wire in wires else row for row in self.fields)
        return replace(self, fields=fields)

    def with_parser(self, wire: str, parse: Parser) -> "Shape":
        """Give the same shape with another parser for that member."""
        fields = tuple(replace(row, parse=parse) if row.wire == wire else row for row in self.fields)
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
    within_invalid: str = ""


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
    """One place of a credential; `name` is the header (lower case), parameter or member."""

    place: Place
    name: str = ""
    # Keep it out of the quarantine: it may open more than its holder's own events.
    secret: bool = False


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


_STATUS_OF_REASON = {
    reasons.ERROR_REASON_CREDENTIAL_MISSING: 401,
    reasons.ERROR_REASON_CREDENTIAL_INVALID: 401,
    reasons.ERROR_REASON_SCOPE_MISSING: 403,
    reasons.ERROR_REASON_REVENUE_NOT_PERMITTED: 403,
    reasons.ERROR_REASON_ORIGIN_NOT_ALLOWED: 403,
    reasons.ERROR_REASON_RATE_LIMITED: 429,
    reasons.ERROR_REASON_PAYLOAD_UNREADABLE: 400,
    reasons.ERROR_REASON_PAYLOAD_TOO_LARGE: 413,
    reasons.ERROR_REASON_ENCODING_UNSUPPORTED: 415,
    reasons.ERROR_REASON_PAYLOAD_TIMEOUT: 408,
    reasons.ERROR_REASON_PAYLOAD_TOO_DEEP: 400,
    reasons.ERROR_REASON_NUMBER_OUT_OF_RANGE: 400,
    reasons.ERROR_REASON_BATCH_TOO_LARGE: 400,
    reasons.ERROR_REASON_EVENT_TOO_LARGE: 400,
    reasons.ERROR_REASON_FIELD_MISSING: 400,
    reasons.ERROR_REASON_FIELD_INVALID: 400,
    reasons.ERROR_REASON_KIND_UNKNOWN: 400,
    reasons.ERROR_REASON_TIMESTAMP_TOO_OLD: 400,
    reasons.ERROR_REASON_TIMESTAMP_OUT_OF_RANGE: 400,
    reasons.ERROR_REASON_SITE_UNKNOWN: 400,
    reasons.ERROR_REASON_METRIC_UNKNOWN: 400,
    reasons.ERROR_REASON_NOT_FOUND: 404,
    reasons.ERROR_REASON_METHOD_NOT_ALLOWED: 405,
    reasons.ERROR_REASON_OVERLOADED: 503,
    reasons.ERROR_REASON_STORAGE_UNAVAILABLE: 503,
    reasons.ERROR_REASON_INTERNAL: 500,
}

_CODE_OF_STATUS = {
    404: "NOT_FOUND",
    405: "METHOD_NOT_ALLOWED",
    408: "REQUEST_TIMEOUT",
    413: "PAYLOAD_TOO_LARGE",
    415: "UNSUPPORTED_ENCODING",
    429: "RATE_LIMITED",
    500: "INTERNAL_ERROR",
    503: "SERVICE_UNAVAILABLE",
}


def refusals(
    overrides: Mapping[Reason, Refusal],
    codes: Mapping[int, str] = MappingProxyType({}),
    bodies: Mapping[int, Template] = MappingProxyType({}),
) -> Mapping[Reason, Refusal]:
    """Give every reason an HTTP dialect can meet an answer: overrides first, then the usual status.

    `codes` and `bodies` are by status, for refusals that name none.
    """
    every: dict[Reason, Refusal] = {}
    for reason, status in _STATUS_OF_REASON.items():
        refusal = overrides.get(reason, Refusal(status))
        code = refusal.code or codes.get(refusal.status) or _CODE_OF_STATUS.get(refusal.status, "")
        every[reason] = replace(refusal, code=code, body=refusal.body or bodies.get(refusal.status))
    return MappingProxyType(every)


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
    key_kinds: tuple[KeyKindValue, ...]
    endpoints: tuple[Endpoint, ...]
    errors: Mapping[Reason, Refusal]
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
    # Whether an event without the client's own id is given one.
    makes_message_ids: bool = False
    # Whether X-RateLimit-Limit, -Remaining and -Reset (Unix seconds) go with every answer.
    x_rate_limit: bool = False
    # Seconds of a 429's Retry-After at least, where the document fixes them.
    retry_after_seconds: int = 1
    # Browser scripts, served at the root: files of rest_facade/browser.
    scripts: tuple[str, ...] = ()
