"""What the quarantine keeps of an event makes the event again: over every request of every case."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest
from case_file import Case, case_paths, filled_text, name_of, read_case
from polylect.v1 import error_reason_pb2 as reasons
from polylect.v1.event_pb2 import Event
from polylect.v1.ingest_pb2 import ClientItem, ClientRequest
from polylect.v1.quarantine_pb2 import QuarantinedEvent

from core_service.circumstances import circumstances_of
from polylect_cli.case_request import Request, wire_body, wire_headers
from polylect_cli.translating import load_translator
from rest_facade.decode import Arrival, Decoder
from rest_facade.dialects import DIALECTS
from rest_facade.values import anything
from rest_facade.vocabulary import Choice, Dialect, Endpoint, Field, Shape, ShapeError

_BLANKS = {"now_ms": "1772366400000", "key": "a-secret"}
_KEPT = load_translator()
_ENTRY = "01a00000-0000-7000-8000-000000000001"
_NEVER_SENT = Field("never_sent", "", anything, required=True)

_CASES: list[Case] = [read_case(path) for path in case_paths()]
_IDS = [name_of(path) for path in case_paths()]


def _stricter(events: Any) -> Any:
    """The same events, refused for want of a member nobody sends."""
    if isinstance(events, Choice):
        return replace(events, shapes={word: _stricter(shape) for word, shape in events.shapes.items()})
    # Last, so that what an event lacks of its own is told first.
    return replace(events, fields=(*events.fields, _NEVER_SENT)) if isinstance(events, Shape) else None


def _refusing(dialect: Dialect, endpoint: Endpoint) -> Decoder:
    batch = endpoint.batch
    stricter = replace(
        endpoint,
        single=_stricter(endpoint.single),
        batch=replace(batch, events=_stricter(batch.events)) if batch else None,
    )
    return Decoder(dialect, stricter)


def _decoders(make: Any) -> dict[str, Decoder]:
    return {endpoint.path: make(dialect, endpoint) for dialect in DIALECTS for endpoint in dialect.endpoints}


_AS_IT_IS, _REFUSING = _decoders(Decoder), _decoders(_refusing)


def _decoded(decoders: Mapping[str, Decoder], request: Request) -> ClientRequest | None:
    """What the facade makes of it; None where that is nothing."""
    parts = urlsplit(filled_text(request.path, _BLANKS))
    if parts.path not in decoders or request.gzip:
        return None
    headers = {name.lower(): value for name, value in wire_headers(request, _BLANKS).items()}
    query = dict(parse_qsl(parts.query, keep_blank_values=True))
    arrival = Arrival(headers, query, "192.0.2.7", "r-1", 1_772_366_400_000_000, "cookie-1", _ENTRY)
    decoded = ClientRequest()
    try:
        decoders[parts.path].decode(wire_body(request, _BLANKS), arrival, decoded)
    except ShapeError:
        return None
    return ClientRequest.FromString(decoders[parts.path].serialize(decoded))


def _kept(request: ClientRequest, item: ClientItem) -> QuarantinedEvent:
    return QuarantinedEvent(
        quarantine_id=_ENTRY,
        raw=item.raw,
        dialect=request.dialect,
        endpoint=request.endpoint,
        request_id=request.request_id,
        client_ip=request.client_ip,
        circumstances=circumstances_of(request, item, {}, lambda _: "f"),
    )


def _requests(case: Case) -> Iterator[tuple[ClientRequest, Request]]:
    for step in case.steps:
        decoded = _decoded(_AS_IT_IS, step.request)
        if decoded is not None:
            yield decoded, step.request


@pytest.mark.parametrize("case", _CASES, ids=_IDS)
def test_what_the_core_refused_makes_the_same_event(case: Case) -> None:
    for request, _ in _requests(case):
        for item in request.items:
            (again,) = _KEPT(_kept(request, item)).items
            if item.HasField("event"):
                assert (again.event, again.fingerprint_visitor) == (item.event, item.fingerprint_visitor)
            elif item.rejection.reason != reasons.ERROR_REASON_BATCH_TOO_LARGE:
                assert again.rejection == item.rejection


@pytest.mark.parametrize("case", _CASES, ids=_IDS)
def test_what_an_older_dialect_refused_makes_the_event_of_the_newer(case: Case) -> None:
    for request, sent in _requests(case):
        before = _decoded(_REFUSING, sent)
        assert before is not None
        for refused, item in zip(before.items, request.items, strict=True):
            assert refused.HasField("rejection")
            if not item.HasField("event"):
                continue
            kept = _kept(before, refused)
            assert b"a-secret" not in kept.SerializeToString() or case.dialect != "pulsora"
            (again,) = _KEPT(kept).items
            assert again.event == item.event
            if item.fingerprint_visitor:
                assert refused.fingerprint_visitor


def test_there_are_cases_that_put_it_to_the_test() -> None:
    made: list[tuple[ClientRequest, ClientItem]] = [
        (request, item)
        for case in _CASES
        for request, _ in _requests(case)
        for item in request.items
        if item.HasField("event")
    ]
    assert {request.dialect for request, _ in made} == {dialect.name for dialect in DIALECTS}
    assert any(request.envelope for request, _ in made)
    assert any(item.fingerprint_visitor for _, item in made)
    assert any(item.event.sanitized for _, item in made)
    assert any("pixel" in request.endpoint for request, _ in made)
    assert any(item.event.message_id == _ENTRY for _, item in made)


def test_a_whole_batch_is_not_replayed() -> None:
    entry = QuarantinedEvent(
        raw=b'{"events":[{"event_type":"a","session_id":"s"}]}', dialect="pulse", endpoint="/collect/batch"
    )
    (item,) = _KEPT(entry).items
    assert item.rejection.reason == reasons.ERROR_REASON_BATCH_TOO_LARGE


@pytest.mark.parametrize("endpoint", ["/collect", "/v1/t", "/gone"])
def test_what_is_nothing_any_more_is_a_rejection(endpoint: str) -> None:
    (item,) = _KEPT(QuarantinedEvent(raw=b"\xff{", dialect="pulse", endpoint=endpoint)).items
    assert item.HasField("rejection")
    assert item.event == Event()
