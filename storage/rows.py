"""The one place that knows how an `Event` lies in a row of `events`, in both directions.

A row is text, as COPY takes it cheapest: "" is NULL, and JSON the text it was. Every event has a dialect. It
must not know who writes or asks.
"""

from collections.abc import Mapping, Sequence
from datetime import timedelta
from decimal import Decimal
from functools import lru_cache
from typing import Any

from google.type.money_pb2 import Money
from polylect.v1.event_pb2 import Campaign, Device, Event, EventKind, Geo, Page, Provenance, Revenue
from psycopg import Copy, sql

from storage.schema import events
from storage.values import EPOCH, selected, timestamp_of

Row = tuple[str, ...]

COLUMNS: tuple[str, ...] = tuple(column.name for column in events.columns)

COPY = sql.SQL("COPY events ({}) FROM STDIN (NULL '')").format(
    sql.SQL(", ").join(map(sql.Identifier, COLUMNS))
)
"""Takes what `write_rows` writes."""

_NANOS_PER_UNIT = 10**9
_KIND_TEXTS: dict[int, str] = {
    number: name.removeprefix("EVENT_KIND_").lower() for name, number in EventKind.items() if number
}
_KINDS = {text: EventKind.ValueType(number) for number, text in _KIND_TEXTS.items()}

_PAGE_FIELDS = ("url", "path", "search", "title", "referrer", "referrer_source")
_CAMPAIGN_FIELDS = ("source", "medium", "name", "term", "content")
_DEVICE_FIELDS = ("type", "user_agent", "locale", "timezone")
_NO_CAMPAIGN = ("",) * 5
_NO_REVENUE = ("",) * 8

# Some 50 KB: allocated larger, memory would go back to the system each time.
_ROWS_TOGETHER = 100

# Called so, it takes half of what `event.HasField` does, which is looked for among the fields first.
_has = Event.HasField


def kind_text(kind: int) -> str:
    """Give an EventKind as the table has it: page. Raises KeyError for an unspecified one."""
    return _KIND_TEXTS[kind]


def kind_of(text: str) -> EventKind.ValueType:
    """Give the EventKind the table has as `text`: page. Raises KeyError for none."""
    return _KINDS[text]


def row_of(event: Event) -> Row:
    """Give the event's values in the order of COLUMNS.

    Raises ValueError for an event no row can hold: without kind, with a time outside the years 1 to 9999, or
    with a Struct where the core should have left JSON.
    """
    try:
        received_at = event.received_at
        occurred_at = event.occurred_at if _has(event, "occurred_at") else received_at
        # A part reads as empty where there is none; those that mostly are there are not asked for first.
        return (
            event.source_id,
            event.event_id,
            _time_text(received_at.seconds, received_at.nanos),
            _time_text(occurred_at.seconds, occurred_at.nanos),
            _time_text(event.sent_at.seconds, event.sent_at.nanos) if _has(event, "sent_at") else "",
            _KIND_TEXTS[event.kind],
            event.name,
            event.message_id,
            event.anonymous_id,
            event.user_id,
            event.group_id,
            event.session_id,
            event.cookie_id,
            *_page_values(event.page),
            *(_campaign_values(event.campaign) if _has(event, "campaign") else _NO_CAMPAIGN),
            *_device_values(event.device),
            event.geo.country if _has(event, "geo") else "",
            event.client_ip,
            *(_revenue_values(event.revenue) if _has(event, "revenue") else _NO_REVENUE),
            event.properties_json or _no_json(_has(event, "properties")),
            event.traits_json or _no_json(_has(event, "traits")),
            event.context_json or _no_json(_has(event, "context")),
            *_provenance_values(event.provenance),
            _flag_text(event.sanitized),
        )
    except (KeyError, OverflowError) as error:
        raise ValueError(f"no row can hold this event: {error!r}") from error


def write_rows(copy: Copy, rows: Sequence[Row]) -> None:
    """Write `rows` into a running COPY. Raises the driver's errors.

    They are joined and searched together, for a third of what the driver's formatter takes. That one, which
    looks at each value, gets those among which one brought a tab, an end of line or a NUL of its own.
    """
    for start in range(0, len(rows), _ROWS_TOGETHER):
        part = rows[start : start + _ROWS_TOGETHER]
        lines = ["\t".join(row) for row in part]
        joined = "".join(lines)
        tabs = len(part) * (len(COLUMNS) - 1)
        if joined.count("\t") == tabs and not ("\n" in joined or "\r" in joined or "\0" in joined):
            if "\\" in joined:
                lines = [line.replace("\\", r"\\") for line in lines]
            copy.write("\n".join([*lines, ""]))
        else:
            for row in part:
                copy.write_row(row)


def _page_values(page: Page) -> Row:
    return (page.url, page.path, page.search, page.title, page.referrer, page.referrer_source)


def _campaign_values(campaign: Campaign) -> Row:
    return (campaign.source, campaign.medium, campaign.name, campaign.term, campaign.content)


def _device_values(device: Device) -> Row:
    return (device.type, device.user_agent, device.locale, device.timezone, _flag_text(device.bot))


def _revenue_values(revenue: Revenue) -> Row:
    amount = revenue.amount if revenue.HasField("amount") else None
    mrr_impact = revenue.mrr_impact if revenue.HasField("mrr_impact") else None
    return (
        str(decimal_of(amount)) if amount else "",
        (amount.currency_code if amount else "") or (mrr_impact.currency_code if mrr_impact else ""),
        revenue.transaction_id,
        revenue.processor,
        revenue.event_type,
        revenue.subscription_id,
        str(decimal_of(mrr_impact)) if mrr_impact else "",
        _flag_text(revenue.recurring),
    )


def _provenance_values(provenance: Provenance) -> Row:
    return (
        provenance.dialect,
        provenance.endpoint,
        provenance.library,
        provenance.request_id,
        provenance.site_id,
    )


def _flag_text(flag: bool) -> str:
    return "t" if flag else "f"


def _no_json(is_struct: bool) -> str:
    if is_struct:
        raise ValueError("a Struct came where the core leaves JSON text")
    return "{}"


# Of the events that arrive together most share their second: a hit is 0.1 µs, a datetime 1 µs.
@lru_cache(maxsize=4096)
def _second_text(seconds: int) -> str:
    return (EPOCH + timedelta(seconds=seconds)).replace(tzinfo=None).isoformat(" ")


def _time_text(seconds: int, nanos: int) -> str:
    # Not by a format: 06d takes three times as long.
    return f"{_second_text(seconds)}.{str(nanos // 1000).zfill(6)}+00"


def decimal_of(money: Money) -> Decimal:
    """Give the exact amount, without trailing zeros."""
    total = money.units * _NANOS_PER_UNIT + money.nanos
    units, nanos = divmod(abs(total), _NANOS_PER_UNIT)
    fraction = f".{nanos:09d}".rstrip("0") if nanos else ""
    return Decimal(f"{'-' if total < 0 else ''}{units}{fraction}")


def money_of(amount: Decimal, currency: str) -> Money:
    """Give the exact amount as Money; digits past the ninth decimal place, which none has, are cut off."""
    total = int(amount.scaleb(9))
    units, nanos = divmod(abs(total), _NANOS_PER_UNIT)
    sign = -1 if total < 0 else 1
    return Money(currency_code=currency, units=sign * units, nanos=sign * nanos)


SELECTED = tuple(selected(column) for column in events.columns)
"""What to select for `event_of`."""


def event_of(row: Mapping[str, Any]) -> Event:
    """Give the event of a row selected by SELECTED. A part of which nothing is known is absent."""
    event = Event(
        source_id=row["source_id"],
        event_id=row["event_id"],
        received_at=timestamp_of(row["received_at"]),
        occurred_at=timestamp_of(row["occurred_at"]),
        kind=_KINDS[row["kind"]],
        name=row["name"] or "",
        message_id=row["message_id"] or "",
        anonymous_id=row["anonymous_id"] or "",
        user_id=row["user_id"] or "",
        group_id=row["group_id"] or "",
        session_id=row["session_id"] or "",
        cookie_id=row["cookie_id"] or "",
        client_ip=row["client_ip"] or "",
        properties_json=row["properties"],
        traits_json=row["traits"],
        context_json=row["context"],
        sanitized=row["sanitized"],
        provenance=Provenance(
            dialect=row["provenance_dialect"],
            endpoint=row["provenance_endpoint"] or "",
            library=row["provenance_library"] or "",
            request_id=row["provenance_request_id"] or "",
            site_id=row["provenance_site_id"] or "",
        ),
    )
    if row["sent_at"] is not None:
        event.sent_at.CopyFrom(timestamp_of(row["sent_at"]))
    if page := _known(row, "page", _PAGE_FIELDS):
        event.page.CopyFrom(Page(**page))
    if campaign := _known(row, "campaign", _CAMPAIGN_FIELDS):
        event.campaign.CopyFrom(Campaign(**campaign))
    device = _known(row, "device", _DEVICE_FIELDS)
    if device or row["device_bot"]:
        event.device.CopyFrom(Device(bot=row["device_bot"], **device))
    if row["geo_country"]:
        event.geo.CopyFrom(Geo(country=row["geo_country"]))
    if row["revenue_recurring"] is not None:
        event.revenue.CopyFrom(_revenue_of(row))
    return event


def _known(row: Mapping[str, Any], parent: str, fields: tuple[str, ...]) -> dict[str, str]:
    return {field: value for field in fields if (value := row[f"{parent}_{field}"])}


def _revenue_of(row: Mapping[str, Any]) -> Revenue:
    revenue = Revenue(
        transaction_id=row["revenue_transaction_id"] or "",
        processor=row["revenue_processor"] or "",
        event_type=row["revenue_event_type"] or "",
        subscription_id=row["revenue_subscription_id"] or "",
        recurring=row["revenue_recurring"],
    )
    currency = row["revenue_currency"] or ""
    if row["revenue_amount"] is not None:
        revenue.amount.CopyFrom(money_of(row["revenue_amount"], currency))
    if row["revenue_mrr_impact"] is not None:
        revenue.mrr_impact.CopyFrom(money_of(row["revenue_mrr_impact"], currency))
    return revenue
