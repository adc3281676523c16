"""The canonical event as a JSON document, for programs and the demo page.

Hides what protobuf's own JSON mapping would do otherwise: properties as a string in a string, money in units
and nanos.
"""

from decimal import Decimal
from typing import Any

import msgspec
from google.protobuf.json_format import MessageToDict
from google.type.money_pb2 import Money
from polylect.v1.event_pb2 import Event, EventKind

_PREFIX = "EVENT_KIND_"


def as_document(event: Event) -> dict[str, Any]:
    """Give the event for msgspec to write: canonical names, a kind's word, money as decimal text.

    JSON members are objects, digit by digit as they were sent.
    """
    document: dict[str, Any] = MessageToDict(event, preserving_proto_field_name=True)
    document["kind"] = kind_word(event.kind)
    for name in ("properties", "traits", "context"):
        text = document.pop(f"{name}_json", None)
        if text:
            document[name] = msgspec.Raw(text.encode())
    if event.HasField("revenue"):
        revenue = event.revenue
        document["revenue"] |= {"amount": _decimal(revenue.amount), "currency": revenue.amount.currency_code}
        if revenue.HasField("mrr_impact"):
            document["revenue"]["mrr_impact"] = _decimal(revenue.mrr_impact)
    return document


def kind_word(kind: EventKind.ValueType) -> str:
    """Give a kind as it is called wherever people read it."""
    return EventKind.Name(kind).removeprefix(_PREFIX).lower()


def _decimal(money: Money) -> str:
    exact = (Decimal(money.units) + Decimal(money.nanos).scaleb(-9)).normalize()
    return f"{exact:f}"
