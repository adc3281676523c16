"""Events as gRPC callers give them; hides how they become what a dialect would have made of them.

Does for a direct caller what the facade does for HTTP: free-form JSON checked, Structs turned to JSON text,
U+0000 taken out, the core's own fields cleared. Events of the facade never come here.
"""

import re
from collections.abc import Mapping
from decimal import Decimal
from ipaddress import ip_address
from math import isfinite
from typing import Any, Literal, TypeAlias

import msgspec
from google.protobuf import struct_pb2
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from google.type.money_pb2 import Money
from polylect.v1 import error_reason_pb2 as reasons
from polylect.v1 import event_pb2
from polylect.v1.event_pb2 import Campaign, Device, Event, Geo, Page, Provenance, Revenue

from core_service.errors import Objection

# A client with gRPC's default limit, 4 MiB, can read any event back.
EVENT_BYTES = 2 * 1024 * 1024
_JSON_BYTES = 1024 * 1024
_JSON_DEPTH = 32
# Postgres' numeric goes to 131,072 digits before the point; nobody means so many.
_NUMBER_DIGITS = 1_000
_NUMBER_BITS = 3_322
# Beyond what a double has.
_NUMBER_EXPONENT = 400
# jsonb writes exponents out: what that may add to a text, beside so many times its length.
_WRITTEN_OUT_DIGITS = 8_192
_WRITTEN_OUT_TIMES = 8
# Beyond it a double is no exact integer, and its digits would be invented.
_EXACT_INTEGER = 2**53
_NANOS = 1_000_000_000
_CURRENCY = re.compile("[A-Z]{3}", re.ASCII)
_COUNTRY = re.compile("[A-Z]{2}", re.ASCII)
_CORE_OWNED: tuple[Literal["event_id", "source_id", "received_at", "sanitized"], ...] = (
    "event_id",
    "source_id",
    "received_at",
    "sanitized",
)
# Messages with text of their own.
_NESTED = (Page, Campaign, Device, Geo, Revenue, Provenance)
_FreeForm: TypeAlias = Literal["properties", "traits", "context"]
_JsonText: TypeAlias = Literal["properties_json", "traits_json", "context_json"]
_OneOf: TypeAlias = Literal["properties_format", "traits_format", "context_format"]
_FREE_FORM: tuple[tuple[_FreeForm, _JsonText, _OneOf], ...] = (
    ("properties", "properties_json", "properties_format"),
    ("traits", "traits_json", "traits_format"),
    ("context", "context_json", "context_format"),
)
_ESCAPED_NUL = "\\u0000"
# With an exponent, or long: a double has no more than 309 digits before the point.
_UNUSUAL_NUMBER = re.compile("[0-9](?:[eE]|[0-9]{299})")

_EVENT_TOO_LARGE = Objection(
    reasons.ERROR_REASON_EVENT_TOO_LARGE, f"The event is larger than {EVENT_BYTES} bytes"
)

_decoder = msgspec.json.Decoder(float_hook=Decimal)
_plain_decoder = msgspec.json.Decoder()
_encoder = msgspec.json.Encoder(decimal_format="number")


class _Unfit(Exception):
    def __init__(self, objection: Objection) -> None:
        super().__init__(objection.message)
        self.objection = objection


def normalize(event: Event, serialized: bytes) -> bytes | Objection:
    """Bring the event, of those bytes, into canonical form in place; give its bytes, or what is wrong.

    What is wrong with any dialect's event (`meaning`) is not looked for here.
    """
    if len(serialized) > EVENT_BYTES:
        return _EVENT_TOO_LARGE
    changed = _clear_core_owned(event)
    # Every U+0000 of a string is a zero among the bytes.
    if b"\0" in serialized and _strip_nul(event):
        event.sanitized = changed = True
    try:
        for names in _FREE_FORM:
            changed = _normalize_object(event, *names) or changed
        if event.client_ip:
            _check_address(event.client_ip)
        if event.HasField("geo"):
            country = event.geo.country
            is_country = not country or _COUNTRY.fullmatch(country)
            _require(is_country, "geo.country", "geo.country is not two upper-case letters")
        if event.kind == event_pb2.EVENT_KIND_REVENUE and event.HasField("revenue"):
            changed = _normalize_revenue(event.revenue) or changed
    except _Unfit as unfit:
        return unfit.objection
    if changed:
        serialized = event.SerializeToString()
    # A Struct may have become a longer text.
    return _EVENT_TOO_LARGE if len(serialized) > EVENT_BYTES else serialized


def _clear_core_owned(event: Event) -> bool:
    """Clear what is not the caller's to say; tell whether he said it."""
    if event.event_id or event.source_id or event.sanitized or event.HasField("received_at"):
        for owned in _CORE_OWNED:
            event.ClearField(owned)
        return True
    return False


def _strip_nul(message: Message) -> bool:
    found = False
    for field, value in message.ListFields():
        if field.type == FieldDescriptor.TYPE_STRING:
            # Inside JSON text a raw U+0000 is a syntax error, not a character.
            if "\0" in value and not field.name.endswith("_json"):
                setattr(message, field.name, value.replace("\0", ""))
                found = True
        elif isinstance(value, _NESTED):
            found = _strip_nul(value) or found
    return found


def _normalize_object(event: Event, name: _FreeForm, json_name: _JsonText, oneof: _OneOf) -> bool:
    """Normalize what is free-form; tell whether that changed it."""
    text = getattr(event, json_name)
    if text:
        tree = _read_object(text, json_name)
        if _ESCAPED_NUL not in text:
            return False
        tree, stripped = _without_nul(tree)
        if not stripped:
            return False
        text = _encoder.encode(tree).decode()
    else:
        given = event.WhichOneof(oneof)
        if given is None:
            return False
        if given != name:
            event.ClearField(json_name)
            return True
        tree, stripped = _without_nul(_from_struct(getattr(event, name), name, 1))
        text = _encoder.encode(tree).decode()
        if len(text.encode()) > _JSON_BYTES:
            raise _Unfit(_too_large(name))
        _check_numbers(_decoder.decode(text), text, name)
    setattr(event, json_name, text)
    if stripped:
        event.sanitized = True
    return True


def _read_object(text: str, field: str) -> dict[str, Any]:
    encoded = text.encode()
    if len(encoded) > _JSON_BYTES:
        raise _Unfit(_too_large(field))
    is_plain = _is_plain(text)
    try:
        tree = (_plain_decoder if is_plain else _decoder).decode(encoded)
    except RecursionError:
        raise _Unfit(_too_deep(field)) from None
    except (msgspec.ValidationError, ArithmeticError):
        # Untyped, the decoder only ever finds fault with numbers.
        raise _Unfit(_out_of_range(field)) from None
    except (msgspec.MsgspecError, ValueError):
        raise _Unfit(_unreadable(field)) from None
    if not isinstance(tree, dict):
        raise _Unfit(_unreadable(field))
    if not is_plain:
        _check_numbers(tree, text, field)
    return tree


def _is_plain(text: str) -> bool:
    """Tell whether it is seen at once that nothing is too deep, no number too long, and no U+0000 in it.

    So are most texts, and their values need not be looked at, nor their numbers keep their digits.
    """
    is_flat = text.count("{") + text.count("[") <= _JSON_DEPTH
    return is_flat and _ESCAPED_NUL not in text and not _UNUSUAL_NUMBER.search(text)


def _check_numbers(tree: object, text: str, field: str) -> None:
    if _check(tree, field, 1) > _WRITTEN_OUT_DIGITS + _WRITTEN_OUT_TIMES * len(text):
        raise _Unfit(_out_of_range(field))


def _check(node: object, field: str, depth: int) -> int:
    """Give the digits that writing exponents out adds."""
    if isinstance(node, dict | list):
        if depth > _JSON_DEPTH:
            raise _Unfit(_too_deep(field))
        children = node.values() if isinstance(node, dict) else node
        return sum(_check(child, field, depth + 1) for child in children)
    if isinstance(node, Decimal):
        return _written_out(node, field)
    if isinstance(node, int) and node.bit_length() > _NUMBER_BITS:
        raise _Unfit(_out_of_range(field))
    return 0


def _written_out(number: Decimal, field: str) -> int:
    _, digits, exponent = number.as_tuple()
    # JSON has no NaN, so the exponent is a number.
    exponent = int(exponent)
    if abs(number.adjusted()) > _NUMBER_EXPONENT or max(len(digits), -exponent) > _NUMBER_DIGITS:
        raise _Unfit(_out_of_range(field))
    return exponent if exponent >= 0 else max(0, 1 - exponent - len(digits))


def _from_struct(struct: struct_pb2.Struct, field: str, depth: int) -> dict[str, Any]:
    if depth > _JSON_DEPTH:
        raise _Unfit(_too_deep(field))
    fields: Mapping[str, struct_pb2.Value] = struct.fields
    return {key: _from_value(value, field, depth) for key, value in fields.items()}


def _from_value(value: struct_pb2.Value, field: str, depth: int) -> object:
    match value.WhichOneof("kind"):
        case "string_value":
            return value.string_value
        case "bool_value":
            return value.bool_value
        case "number_value":
            return _from_double(value.number_value, field)
        case "struct_value":
            return _from_struct(value.struct_value, field, depth + 1)
        case "list_value":
            if depth >= _JSON_DEPTH:
                raise _Unfit(_too_deep(field))
            return [_from_value(one, field, depth + 1) for one in value.list_value.values]
        case _:
            return None


def _from_double(number: float, field: str) -> int | float:
    if not isfinite(number):
        raise _Unfit(_unreadable(field))
    return int(number) if number.is_integer() and abs(number) <= _EXACT_INTEGER else number


def _without_nul(node: Any) -> tuple[Any, bool]:
    if isinstance(node, str):
        return (node.replace("\0", ""), True) if "\0" in node else (node, False)
    if isinstance(node, list):
        pairs = [_without_nul(child) for child in node]
        return [child for child, _ in pairs], any(changed for _, changed in pairs)
    if isinstance(node, dict):
        found = False
        clean = {}
        for key, child in node.items():
            clean_key, key_changed = _without_nul(key)
            clean[clean_key], child_changed = _without_nul(child)
            found = found or key_changed or child_changed
        return clean, found
    return node, False


def _check_address(text: str) -> None:
    try:
        # An interface name after % is nothing an inet column takes.
        is_address = "%" not in text and bool(ip_address(text))
    except ValueError:
        is_address = False
    _require(is_address, "client_ip", "client_ip is not an IPv4 or IPv6 address")


def _normalize_revenue(revenue: Revenue) -> bool:
    """Check it, and tell whether a default was filled in."""
    changed = not revenue.event_type
    if changed:
        revenue.event_type = "purchase"
    for field, given in (
        ("amount", revenue.HasField("amount")),
        ("transaction_id", bool(revenue.transaction_id)),
    ):
        if not given:
            message = f"Missing required field: revenue.{field}"
            raise _Unfit(Objection(reasons.ERROR_REASON_FIELD_MISSING, message, f"revenue.{field}"))
    _check_money(revenue.amount, "revenue.amount")
    if revenue.HasField("mrr_impact"):
        _check_money(revenue.mrr_impact, "revenue.mrr_impact")
        _require(
            revenue.mrr_impact.currency_code == revenue.amount.currency_code,
            "revenue.mrr_impact",
            "revenue.mrr_impact is in another currency than the amount",
        )
    return changed


def _check_money(money: Money, field: str) -> None:
    _require(_CURRENCY.fullmatch(money.currency_code), field, f"{field} needs an ISO 4217 currency code")
    one_sign = money.units * money.nanos >= 0
    _require(
        abs(money.nanos) < _NANOS and one_sign, field, f"{field} has units and nanos that are no one amount"
    )


def _require(condition: object, field: str, message: str) -> None:
    if not condition:
        raise _Unfit(Objection(reasons.ERROR_REASON_FIELD_INVALID, message, field))


def _too_large(field: str) -> Objection:
    message = f"{field} is larger than {_JSON_BYTES} bytes"
    return Objection(reasons.ERROR_REASON_EVENT_TOO_LARGE, message, field)


def _too_deep(field: str) -> Objection:
    message = f"{field} nests deeper than {_JSON_DEPTH} levels"
    return Objection(reasons.ERROR_REASON_PAYLOAD_TOO_DEEP, message, field)


def _out_of_range(field: str) -> Objection:
    return Objection(reasons.ERROR_REASON_NUMBER_OUT_OF_RANGE, f"{field} has a number out of range", field)


def _unreadable(field: str) -> Objection:
    return Objection(reasons.ERROR_REASON_PAYLOAD_UNREADABLE, f"{field} is not a JSON object", field)
