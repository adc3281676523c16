"""What an acceptable event is; hides the limits of the canonical fields and the time windows.

The same for every dialect and for gRPC, as the comments of proto/polylect/v1/event.proto say. Knows no keys.
"""

from google.protobuf.timestamp_pb2 import Timestamp
from polylect.v1 import error_reason_pb2 as reasons
from polylect.v1 import event_pb2
from polylect.v1.event_pb2 import Event, Revenue

from core_service.errors import Objection

_URL_CHARACTERS = 8_192
_NAME_CHARACTERS = 1_024
_MESSAGE_ID_CHARACTERS = 128
# What statistics tell apart by.
_WORD_CHARACTERS = 1_024
_ID_BYTES = 1_024
# Of all but the message id.
_SMALLEST_LIMIT_BYTES = 1_024
# No character takes more bytes in UTF-8.
_BYTES_PER_CHARACTER = 4
_YEAR_1971 = 31_536_000
_DAY_SECONDS = 86_400
_NANOS = 1_000_000_000

_REVENUE = event_pb2.EVENT_KIND_REVENUE
# The field each kind can't be without.
_REQUIRED_FIELDS = {
    event_pb2.EVENT_KIND_PAGE: "",
    event_pb2.EVENT_KIND_TRACK: "name",
    event_pb2.EVENT_KIND_IDENTIFY: "user_id",
    event_pb2.EVENT_KIND_GROUP: "group_id",
    event_pb2.EVENT_KIND_REVENUE: "",
}
_ID_FIELDS = ("anonymous_id", "user_id", "group_id", "session_id", "cookie_id")
# Of each type of revenue: the signs its amount may have, and these in words.
_AMOUNTS = {
    **dict.fromkeys(("purchase", "subscription", "renewal", "upgrade"), ((1,), "more than 0")),
    **dict.fromkeys(("downgrade", "churn"), ((0, 1), "0 or more")),
    "refund": ((-1,), "less than 0"),
}


def shape_objection(event: Event, size_bytes: int) -> Objection | None:
    """Give what is wrong with the event's kind, required fields and lengths; the whole has `size_bytes`."""
    kind = event.kind
    required_field = _REQUIRED_FIELDS.get(kind)
    if required_field is None:
        return Objection(reasons.ERROR_REASON_KIND_UNKNOWN, "The event's kind is unknown", "kind")
    if required_field and not getattr(event, required_field):
        return _missing(required_field)
    if event.HasField("revenue") != (kind == _REVENUE):
        if kind == _REVENUE:
            return _missing("revenue")
        return _invalid("revenue", "Only a revenue event has revenue")
    if kind == _REVENUE and (objection := _revenue_objection(event.revenue)):
        return objection
    return _length_objection(event, size_bytes)


def _revenue_objection(revenue: Revenue) -> Objection | None:
    if revenue.event_type not in _AMOUNTS:
        return _invalid("revenue.event_type", f"revenue.event_type must be one of: {', '.join(_AMOUNTS)}")
    signs, words = _AMOUNTS[revenue.event_type]
    # Units and nanos have one sign.
    amount = revenue.amount.units or revenue.amount.nanos
    if (amount > 0) - (amount < 0) in signs:
        return None
    return _invalid("revenue.amount", f"revenue.amount of a {revenue.event_type} must be {words}")


def _length_objection(event: Event, size_bytes: int) -> Objection | None:
    # Most events are smaller than what any other field may be: seven fields need not be looked at.
    may_be_too_long = size_bytes > _SMALLEST_LIMIT_BYTES
    if len(event.message_id) > _MESSAGE_ID_CHARACTERS:
        return _too_long("message_id", f"{_MESSAGE_ID_CHARACTERS} characters")
    if not may_be_too_long:
        return None
    for field in _ID_FIELDS:
        text = getattr(event, field)
        if len(text) * _BYTES_PER_CHARACTER > _ID_BYTES and len(text.encode()) > _ID_BYTES:
            return _too_long(field, f"{_ID_BYTES} bytes")
    words = (
        (event.name, "name", _NAME_CHARACTERS),
        (event.page.url, "page.url", _URL_CHARACTERS),
        (event.device.type, "device.type", _WORD_CHARACTERS),
        (event.provenance.site_id, "provenance.site_id", _WORD_CHARACTERS),
    )
    for text, field, characters in words:
        if len(text) > characters:
            return _too_long(field, f"{characters} characters")
    return None


def time_objection(event: Event, received_at: Timestamp, max_age_seconds: int) -> Objection | None:
    """Give what is wrong with the client's clock; `max_age_seconds` 0 means any age."""
    if event.HasField("occurred_at"):
        occurred_at = event.occurred_at
        if not _in_range(occurred_at, received_at):
            return _out_of_range("occurred_at")
        if max_age_seconds:
            age = received_at.seconds - occurred_at.seconds
            older = received_at.nanos > occurred_at.nanos
            if age > max_age_seconds or (age == max_age_seconds and older):
                message = f"Timestamp too old: events must be less than {_span(max_age_seconds)} old"
                return Objection(reasons.ERROR_REASON_TIMESTAMP_TOO_OLD, message, "occurred_at")
    if event.HasField("sent_at") and not _in_range(event.sent_at, received_at):
        return _out_of_range("sent_at")
    return None


def _in_range(time: Timestamp, received_at: Timestamp) -> bool:
    seconds = time.seconds
    ahead = seconds - received_at.seconds
    if seconds < _YEAR_1971 or ahead > _DAY_SECONDS or not 0 <= time.nanos < _NANOS:
        return False
    return ahead < _DAY_SECONDS or time.nanos <= received_at.nanos


def _missing(field: str) -> Objection:
    return Objection(reasons.ERROR_REASON_FIELD_MISSING, f"Missing required field: {field}", field)


def _too_long(field: str, limit: str) -> Objection:
    return _invalid(field, f"{field} is longer than {limit}")


def _invalid(field: str, message: str) -> Objection:
    return Objection(reasons.ERROR_REASON_FIELD_INVALID, message, field)


def _out_of_range(field: str) -> Objection:
    message = "Timestamp out of range: not before 1971 and at most 24 hours ahead"
    return Objection(reasons.ERROR_REASON_TIMESTAMP_OUT_OF_RANGE, message, field)


def _span(seconds: int) -> str:
    for unit_seconds, unit in ((_DAY_SECONDS, "day"), (3_600, "hour"), (60, "minute")):
        count, rest = divmod(seconds, unit_seconds)
        if count and not rest:
            return f"{count} {unit}" if count == 1 else f"{count} {unit}s"
    return f"{seconds} seconds"
