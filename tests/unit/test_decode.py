"""What the decoder makes of a body: credentials, envelopes, extras, redaction."""

from collections.abc import Mapping
from typing import Any

import pytest
from google.protobuf.json_format import MessageToDict
from polylect.v1 import error_reason_pb2 as reasons
from polylect.v1.ingest_pb2 import KEY_KIND_PULSE, ClientRequest

from rest_facade.decode import Arrival, Decoder
from rest_facade.dialects import DIALECTS
from rest_facade.vocabulary import ShapeError

_DECODERS = {
    endpoint.path: Decoder(dialect, endpoint) for dialect in DIALECTS for endpoint in dialect.endpoints
}


def _decode(
    path: str,
    body: bytes,
    headers: Mapping[str, str] | None = None,
    query: Mapping[str, str] | None = None,
    cookie_id: str = "",
) -> tuple[ClientRequest, bool]:
    arrival = Arrival(headers or {}, query or {}, "192.0.2.7", "req-1", 1_714_412_000_123_456, cookie_id)
    request = ClientRequest()
    as_batch = _DECODERS[path].decode(body, arrival, request)
    return request, as_batch


def _event(request: ClientRequest, index: int = 0) -> dict[str, Any]:
    return MessageToDict(request.items[index].event, preserving_proto_field_name=True)


_PAGE = b'{"type":"page"}'


@pytest.mark.parametrize(
    ("path", "body", "headers", "query", "credential"),
    [
        ("/api/ingest", b'{"token":"in-body"}', {"x-api-token": "in-header"}, {}, "in-header"),
        ("/api/ingest", b'{"token":"in-body"}', {}, {}, "in-body"),
        ("/api/ingest", b'{"token":7}', {}, {}, "?"),
        ("/api/ingest", b"{}", {}, {}, ""),
        ("/collect", b"{}", {"authorization": "Bearer  k "}, {"api_key": "q"}, "k"),
        ("/collect", b"{}", {"authorization": "bearer k"}, {}, "k"),
        ("/collect", b"{}", {"authorization": "Digest k"}, {"api_key": "q"}, "q"),
        ("/v1/p", _PAGE, {"authorization": "Basic ZGtfMTo="}, {"wk": "q"}, "dk_1"),
        ("/v1/p", _PAGE, {"authorization": "Basic ***"}, {}, "?"),
        ("/v1/p", _PAGE, {"authorization": "Basic \xe9"}, {}, "?"),
        ("/v1/p", b'{"type":"page","writeKey":"b"}', {}, {"wk": "q"}, "q"),
        ("/v1/p", b'{"type":"page","writeKey":"b"}', {}, {}, "b"),
        ("/v1/batch", b'{"writeKey":"b","batch":[]}', {}, {}, "b"),
        ("/v1/pixel/p", b"", {}, {"wk": "q"}, "q"),
    ],
)
def test_finds_the_credential(
    path: str, body: bytes, headers: dict[str, str], query: dict[str, str], credential: str
) -> None:
    request, _ = _decode(path, body, headers, query)
    assert request.credential == credential


def test_every_request_carries_what_its_endpoint_says() -> None:
    request, _ = _decode("/collect", b"{}", {"authorization": "Bearer k"})
    sent = ClientRequest.FromString(_DECODERS["/collect"].serialize(request))
    assert (sent.dialect, sent.endpoint, sent.max_age_seconds) == ("pulse", "/collect", 30 * 86_400)
    assert list(sent.accepted_kinds) == [KEY_KIND_PULSE]
    assert (sent.quota.name, sent.quota.limit) == ("pulse", 10_000)
    assert (sent.credential, sent.request_id, sent.items) == ("k", "req-1", request.items)


@pytest.mark.parametrize(
    "body",
    [
        b'{"type":"event","token":"sec_1","data":{"a":1.10}}',
        b'{"type":"event","token":"\\u0073ec_1","data":{"a":1.10}}',
        b'{"token":"sec_2","type":"event","token":"sec_1","data":{"a":1.10}}',
        b'{"type":"event","token":["sec_1"],"data":{"a":1.10}}',
    ],
)
def test_a_secret_in_the_body_stays_out_of_the_quarantine(body: bytes) -> None:
    request, _ = _decode("/api/ingest", body)
    assert request.items[0].raw == b'{"type":"event","data":{"a":1.10}}'


def test_members_beside_a_batch_travel_for_the_quarantine_without_the_credential() -> None:
    body = b'{"batch":[{"type":"page"}],"write\\u004bey":"dk_1","sentAt": 1.10,"userId":"u"}'
    request, as_batch = _decode("/v1/batch", body)
    assert as_batch
    assert (request.credential, request.envelope) == ("dk_1", b'{"sentAt":1.10,"userId":"u"}')
    request, _ = _decode("/v1/batch", b'{"batch":[{"type":"page"}],"writeKey":"dk_1"}')
    assert (request.HasField("envelope"), request.envelope) == (True, b"")
    request, _ = _decode("/v1/p", _PAGE)
    assert not request.HasField("envelope")


def test_what_makes_an_event_beside_its_json_travels_with_a_rejection_only() -> None:
    headers = {"user-agent": "agent"}
    request, _ = _decode("/v1/p", _PAGE, headers, cookie_id="c-1")
    assert (request.user_agent, request.cookie_id) == ("", "")
    request, _ = _decode("/v1/p", b'{"type":"page","name":7,"a":"\\u0000"}', headers, cookie_id="c-1")
    assert (request.user_agent, request.cookie_id, request.items[0].sanitized) == ("agent", "c-1", True)


def test_a_wrong_shape_travels_with_its_kind() -> None:
    request, as_batch = _decode("/api/ingest", b'{"type":"revenue","data":{}}')
    item = request.items[0]
    assert not as_batch
    assert MessageToDict(item, preserving_proto_field_name=True) == {
        "rejection": {
            "reason": "ERROR_REASON_FIELD_MISSING",
            "message": "visitor_fingerprint is required.",
            "field": "visitor_fingerprint",
        },
        "raw": "eyJ0eXBlIjoicmV2ZW51ZSIsImRhdGEiOnt9fQ==",
        "kind": "EVENT_KIND_REVENUE",
        "fingerprint_visitor": True,
    }


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"{}", reasons.ERROR_REASON_FIELD_MISSING),
        (b'{"batch":{}}', reasons.ERROR_REASON_FIELD_INVALID),
        (b'{"batch":[' + b",".join([b"{}"] * 501) + b"]}", reasons.ERROR_REASON_BATCH_TOO_LARGE),
    ],
)
def test_a_wrong_envelope_is_one_rejection(body: bytes, reason: int) -> None:
    request, as_batch = _decode("/v1/batch", body)
    assert [item.rejection.reason for item in request.items] == [reason]
    assert not as_batch


def test_an_unreadable_body_is_refused_at_once() -> None:
    for path in ("/api/ingest", "/v1/batch", "/api/events"):
        with pytest.raises(ShapeError) as refused:
            _decode(path, b"[1,2]")
        assert refused.value.reason == reasons.ERROR_REASON_PAYLOAD_UNREADABLE


def test_one_bad_event_leaves_its_neighbours() -> None:
    deep = b'{"type":"track","event":"x","properties":{"a":' + b"[" * 40 + b"]" * 40 + b"}}"
    surrogate = b'{"type":"track","event":"\\ud800"}'
    large = b'{"type":"track","event":"x","properties":{"a":"' + b"x" * 70_000 + b'"}}'
    bad_utf8 = b'{"type":"track","event":"\xff"}'
    good = b'{"type":"track","event":"good"}'
    events = [good, deep, surrogate, b"7", large, bad_utf8, b'{"type":"screen"}', good]
    request, as_batch = _decode("/v1/batch", b'{"batch":[' + b", ".join(events) + b"]}")
    assert as_batch
    assert [item.rejection.reason for item in request.items] == [
        0,
        reasons.ERROR_REASON_PAYLOAD_TOO_DEEP,
        reasons.ERROR_REASON_PAYLOAD_UNREADABLE,
        reasons.ERROR_REASON_FIELD_INVALID,
        reasons.ERROR_REASON_EVENT_TOO_LARGE,
        reasons.ERROR_REASON_PAYLOAD_UNREADABLE,
        reasons.ERROR_REASON_KIND_UNKNOWN,
        0,
    ]
    assert [item.raw for item in request.items] == events


def test_the_envelope_applies_to_events_without_their_own() -> None:
    body = (
        b'{"site_id":"s1","session_id":"one","plan":"pro",'
        b'"events":[{"event_type":"a"},{"event_type":"b","session_id":"two"}]}'
    )
    request, _ = _decode("/collect/batch", body)
    first, second = _event(request, 0), _event(request, 1)
    assert (first["session_id"], second["session_id"]) == ("one", "two")
    assert first["properties_json"] == second["properties_json"] == '{"plan":"pro"}'
    assert first["provenance"]["site_id"] == "s1"


def test_the_envelope_can_not_be_blown_up() -> None:
    large = b'"' + b"x" * 20_000 + b'"'
    body = b'{"x":' + large + b',"batch":[' + b",".join([b'{"type":"page"}'] * 500) + b"]}"
    request, as_batch = _decode("/v1/batch", body)
    assert [item.rejection.reason for item in request.items] == [reasons.ERROR_REASON_PAYLOAD_TOO_LARGE]
    assert not as_batch


def test_unknown_members_are_kept_without_overwriting() -> None:
    body = (
        b'{"type":"event","n":1,"a":"top","data":{"visitor_fingerprint":"f","session_id":"s","event_name":"e",'
        b'"event_data":{"a":1.10},"a":2,"b":3}}'
    )
    event = _event(_decode("/api/ingest", body)[0])
    assert event["properties_json"] == '{"a":1.10,"b":3,"n":1}'
    assert event["context_json"] == '{"extra":{"a":"top"}}'


def test_pulse_properties_that_are_no_object_stay_a_property() -> None:
    body = b'{"site_id":"s","event_type":"a","timestamp":1703001234567,"session_id":"x","properties":[1]}'
    assert _event(_decode("/collect", body)[0])["properties_json"] == '{"properties":[1]}'


def test_the_cookie_is_the_visitor_unless_the_body_names_one() -> None:
    assert _event(_decode("/v1/p", _PAGE, cookie_id="c")[0])["anonymous_id"] == "c"
    named = _event(_decode("/v1/p", b'{"type":"page","anonymousId":"a"}', cookie_id="c")[0])
    assert (named["anonymous_id"], named["cookie_id"]) == ("a", "c")


def test_null_asks_for_a_fingerprint_and_absence_is_an_error() -> None:
    null = b'{"type":"identify","data":{"visitor_fingerprint":null,"session_id":"s","customer_id":"c"}}'
    request, _ = _decode("/api/ingest", null)
    assert request.items[0].fingerprint_visitor
    absent = b'{"type":"identify","data":{"session_id":"s","customer_id":"c"}}'
    request, _ = _decode("/api/ingest", absent)
    assert request.items[0].rejection.message == "The data.visitor_fingerprint field is required."


def test_the_pixel_reads_parameters() -> None:
    query = {
        "wk": "k",
        "e": "Seen",
        "uid": "u",
        "p.a": "1",
        "t.plan": "pro",
        "ts": "1714412000123",
        "mid": "m",
        "z": "?",
    }
    event = _event(_decode("/v1/pixel/t", b"", query=query)[0])
    assert event["name"] == "Seen"
    assert event["occurred_at"] == "2024-04-29T17:33:20.123Z"
    assert (event["properties_json"], event["traits_json"]) == ('{"a":"1"}', '{"plan":"pro"}')
