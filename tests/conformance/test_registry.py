"""No dialect without cases: endpoints, reasons and field rows of the registry against the case files."""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, urlsplit

import pytest
from case_file import Case, Step, case_paths, read_case
from conformance_stack import Clock
from polylect.v1.error_reason_pb2 import ErrorReason
from polylect.v1.event_pb2 import EVENT_KIND_REVENUE, Event

from polylect_cli.case_request import filled
from rest_facade.dialects import DIALECTS
from rest_facade.stats import PATH as STATS_PATH
from rest_facade.vocabulary import Choice, Dialect, Endpoint, Json, Origins, Shape

_CASES = [read_case(path) for path in case_paths()]
_BY_NAME = {dialect.name: dialect for dialect in DIALECTS}
# The dialect that answers queries.
_ASKED = "pulse"

# Any endpoint that takes events can meet these.
_EVERYWHERE = {
    "credential_missing",
    "credential_invalid",
    "scope_missing",
    "rate_limited",
    "payload_unreadable",
    "payload_too_large",
    "encoding_unsupported",
    "payload_timeout",
    "payload_too_deep",
    "number_out_of_range",
    "field_missing",
    "field_invalid",
    "timestamp_out_of_range",
    "not_found",
    "method_not_allowed",
    "overloaded",
    "storage_unavailable",
}
# Can't be asked for: it is tested below, with a dialect that has a fault.
_FAULT = "internal"


class _Exchange(NamedTuple):
    case: Case
    step: Step
    path: str


def _exchanges(dialect: str) -> Iterator[_Exchange]:
    for case in _CASES:
        if case.dialect == dialect:
            for step in case.steps:
                yield _Exchange(case, step, urlsplit(step.request.path).path)


def _endpoints() -> Iterator[tuple[str, str]]:
    for dialect in DIALECTS:
        for endpoint in dialect.endpoints:
            yield dialect.name, endpoint.path
    yield _ASKED, STATS_PATH


# Set before a shape is filled: a row or copy that goes there would let a client deny what it is.
_TOLD_BY_HTTP = {
    "client_ip",
    "cookie_id",
    "provenance.dialect",
    "provenance.endpoint",
    "provenance.request_id",
}


@pytest.mark.parametrize("dialect", DIALECTS, ids=lambda dialect: dialect.name)
def test_what_http_tells_of_an_event_no_client_says(dialect: Dialect) -> None:
    for endpoint in dialect.endpoints:
        for _, shape in _shapes(endpoint):
            targets = [row.to for row in shape.fields] + [to for _, to in shape.copies]
            assert not _TOLD_BY_HTTP & set(targets)
            # A client may say this better than its header. A second place would find the header's there, and
            # let that be.
            assert targets.count("device.user_agent") <= 1


@pytest.mark.parametrize(("dialect", "path"), list(_endpoints()))
def test_every_endpoint_has_an_accepted_and_a_refused_case(dialect: str, path: str) -> None:
    statuses = {
        exchange.step.response.status
        for exchange in _exchanges(dialect)
        if exchange.path == path and exchange.step.request.method != "OPTIONS"
    }
    assert any(status < 300 for status in statuses), "no accepted case"
    assert any(status >= 400 for status in statuses), "no refused case"


@pytest.mark.parametrize("dialect", DIALECTS, ids=lambda dialect: dialect.name)
def test_every_dialect_has_its_documents_examples(dialect: Dialect) -> None:
    assert any(case.dialect == dialect.name and "/seed-" in case.name for case in _CASES)


def _forms(endpoint: Endpoint) -> list[Shape | Choice]:
    forms = [endpoint.single, endpoint.batch.events if endpoint.batch else None]
    return [form for form in forms if form is not None]


def _shapes(endpoint: Endpoint) -> Iterator[tuple[str, Shape]]:
    for form in _forms(endpoint):
        if isinstance(form, Shape):
            yield "", form
        else:
            yield from form.shapes.items()


def _reachable(dialect: Dialect) -> set[str]:
    """Give the reasons a client of the dialect can be told."""
    found = set(_EVERYWHERE)
    shapes = [shape for endpoint in dialect.endpoints for _, shape in _shapes(endpoint)]
    kinds = [form for endpoint in dialect.endpoints for form in _forms(endpoint)]
    batches = [endpoint.batch for endpoint in dialect.endpoints if endpoint.batch]
    conditions = {
        "origin_not_allowed": dialect.cors.origins is Origins.SOURCE,
        "revenue_not_permitted": any(shape.kind == EVENT_KIND_REVENUE for shape in shapes),
        "kind_unknown": any(isinstance(form, Choice) for form in kinds),
        "batch_too_large": bool(batches),
        "event_too_large": any(batch.max_event_bytes for batch in batches),
        "timestamp_too_old": dialect.max_age_seconds > 0,
        "site_unknown": any(row.to == "provenance.site_id" for shape in shapes for row in shape.fields),
        "metric_unknown": dialect.name == _ASKED,
    }
    return found | {reason for reason, holds in conditions.items() if holds}


@pytest.mark.parametrize(
    ("dialect", "reason"),
    [(dialect.name, reason) for dialect in DIALECTS for reason in sorted(_reachable(dialect))],
)
def test_every_reason_has_a_case(dialect: str, reason: str) -> None:
    assert any(exchange.step.response.reason == reason for exchange in _exchanges(dialect))


@pytest.mark.parametrize("dialect", DIALECTS, ids=lambda dialect: dialect.name)
def test_every_reason_can_be_rendered(dialect: Dialect) -> None:
    rendered = {ErrorReason.Name(reason).removeprefix("ERROR_REASON_").lower() for reason in dialect.errors}
    assert _reachable(dialect) | {_FAULT} <= rendered


@pytest.mark.parametrize("dialect", DIALECTS, ids=lambda dialect: dialect.name)
def test_every_field_row_is_sent_by_an_accepted_case(dialect: Dialect) -> None:
    sent = _sent_fields(dialect)
    unsent = [
        f"{endpoint.path} {word} {row.wire}".replace("  ", " ")
        for endpoint in dialect.endpoints
        if not endpoint.pixel
        for word, shape in _shapes(endpoint)
        for row in shape.fields
        if (id(shape), row.wire) not in sent
    ]
    assert unsent == []


def _sent_fields(dialect: Dialect) -> set[tuple[int, str]]:
    """Give the members each shape was sent with, in requests that were accepted and looked at afterwards."""
    by_path = {endpoint.path: endpoint for endpoint in dialect.endpoints}
    found: set[tuple[int, str]] = set()
    for exchange in _exchanges(dialect.name):
        endpoint = by_path.get(exchange.path)
        if endpoint is None or exchange.step.response.status >= 300 or not exchange.case.events:
            continue
        for shape, members in _wire_events(endpoint, exchange.step):
            found |= {(id(shape), name) for name, value in members.items() if value is not None}
    return found


def _wire_events(endpoint: Endpoint, step: Step) -> Iterator[tuple[Shape, Mapping[str, Any]]]:
    if endpoint.pixel:
        return
    body = json.loads(filled(step.request.body, {"now_ms": "1", "key": ""}))
    batch = endpoint.batch
    if batch and batch.wire in body:
        beside = {name: value for name, value in body.items() if name != batch.wire}
        for event in body[batch.wire]:
            if isinstance(event, dict) and (told := _told(batch.events, {**beside, **event})):
                yield told
    elif endpoint.single and (told := _told(endpoint.single, body)):
        yield told


def _told(form: Shape | Choice, event: Json) -> tuple[Shape, Mapping[str, Any]] | None:
    if isinstance(form, Shape):
        return form, event
    shape = form.shapes.get(event.get(form.wire, ""))
    return (shape, event[form.within] if form.within else event) if shape else None


_PIXELS = [
    (dialect.name, endpoint) for dialect in DIALECTS for endpoint in dialect.endpoints if endpoint.pixel
]


@pytest.mark.parametrize("dialect", sorted({name for name, _ in _PIXELS}))
def test_every_pixel_parameter_is_sent_by_an_accepted_case(dialect: str) -> None:
    wanted: set[str] = set()
    sent: set[str] = set()
    for name, endpoint in _PIXELS:
        if name == dialect and endpoint.pixel:
            wanted |= {*endpoint.pixel.parameters, *(f"{prefix}." for prefix in endpoint.pixel.prefixes)}
            for exchange in _exchanges(dialect):
                if exchange.path == endpoint.path and exchange.step.response.status < 300:
                    sent |= {key for key, _ in parse_qsl(urlsplit(exchange.step.request.path).query)}
    sent |= {f"{name.partition('.')[0]}." for name in sent if "." in name}
    assert wanted - sent == set()


def _break(event: Event, values: Json) -> None:
    raise RuntimeError("a fault in the table")


def _broken(form: Shape | Choice | None) -> Shape | Choice | None:
    if isinstance(form, Shape):
        return replace(form, finish=_break)
    assert isinstance(form, Choice)
    return replace(form, shapes={word: replace(one, finish=_break) for word, one in form.shapes.items()})


@pytest.mark.parametrize("name", _BY_NAME)
async def test_a_fault_of_ours_is_answered_in_the_dialects_shape(
    name: str, start_stack: Callable[..., Any]
) -> None:
    dialect = _BY_NAME[name]
    endpoints = tuple(replace(one, single=_broken(one.single), batch=None) for one in dialect.endpoints[:1])
    accepted = next(
        exchange.step
        for exchange in _exchanges(name)
        if exchange.path == endpoints[0].path
        and exchange.step.response.status < 300
        and exchange.case.events
        and b'"events":' not in exchange.step.request.body
    )
    clock = Clock(datetime(2026, 3, 1, 12, tzinfo=UTC))
    async with start_stack(clock, dialects=[replace(dialect, endpoints=endpoints)]) as stack:
        body = filled(accepted.request.body, {"now_ms": str(clock.milliseconds)})
        reply = await stack.ask("POST", endpoints[0].path, accepted.request.headers, body)
        counted = await stack.refusals()
    assert reply.status == 500
    assert set(json.loads(reply.body)) == set(dialect.error_body)
    assert b"fault in the table" not in reply.body
    assert counted == {_FAULT}
