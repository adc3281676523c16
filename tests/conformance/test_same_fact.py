"""One fact, told in each dialect and over gRPC, becomes one and the same canonical event.

What may differ: provenance, the ids the core makes, and the visitor cookie, which only Datafly has. A dialect
tells only what it has words for; it is compared with the same told over gRPC, and, without the ways to name a
visitor, with all the others.
"""

import json
from typing import Any, NamedTuple

import pytest
from comparison import actual_event, decoded
from conformance_stack import Stack
from google.protobuf.json_format import ParseDict
from polylect.v1.event_pb2 import Event
from polylect.v1.ingest_pb2 import IngestRequest

_WHEN = "2026-03-01T11:59:58.250Z"
_WHO = {"anonymous_id": "visitor_1", "user_id": "user_1", "session_id": "session_1"}
_PAGE = {
    "url": "https://example.com/pricing?utm_source=news&b=2",
    "referrer": "https://www.google.com/search",
}
_PROPERTIES = (
    '{"price":79.90,"big":12345678901234567890123,"count":1,"nested":{"a":[1.0,null,true,"ü"]},"empty":{}}'
)
_FACTS: dict[str, dict[str, Any]] = {
    "page": {"kind": "EVENT_KIND_PAGE", "page": _PAGE},
    "track": {
        "kind": "EVENT_KIND_TRACK",
        "name": "plan_chosen",
        "page": _PAGE,
        "properties_json": _PROPERTIES,
    },
    "identify": {"kind": "EVENT_KIND_IDENTIFY"},
}
_ABBREVIATIONS = {
    "PROPERTIES": _PROPERTIES,
    "PAGE": json.dumps(_PAGE).strip("{}"),
    "PULSORA": '"visitor_fingerprint":"visitor_1","session_id":"session_1","timestamp":1772366398250',
    "PULSE": '"site_id":"site_abc123","session_id":"session_1","user_id":"user_1","timestamp":1772366398250',
    "APEX": f'"projectKey":"pk_live_xyz","visitorId":"visitor_1","userId":"user_1","timestamp":"{_WHEN}"',
    "DATAFLY": f'"anonymousId":"visitor_1","userId":"user_1","timestamp":"{_WHEN}"',
}


class _Telling(NamedTuple):
    """A fact as one dialect tells it."""

    fact: str
    dialect: str
    path: str
    # The ways to name a visitor it has.
    who: str
    written: str

    @property
    def body(self) -> str:
        text = self.written
        for short, long in _ABBREVIATIONS.items():
            text = text.replace(short, long)
        return text


_VISIT, _KNOWN_VISIT = "anonymous_id session_id", "anonymous_id session_id user_id"
_SESSION, _VISITOR = "session_id user_id", "anonymous_id user_id"
_TELLINGS = [
    _Telling("page", "pulsora", "/api/ingest", _VISIT, '{"type":"pageview","data":{PULSORA,PAGE}}'),
    _Telling("page", "pulse", "/collect", _SESSION, '{PULSE,"event_type":"page_view",PAGE}'),
    _Telling("page", "apex", "/api/events", _VISITOR, '{APEX,"type":"pageview",PAGE}'),
    _Telling("page", "datafly", "/v1/p", _VISITOR, '{DATAFLY,"type":"page","context":{"page":{PAGE}}}'),
    _Telling(
        "track",
        "pulsora",
        "/api/ingest",
        _VISIT,
        '{"type":"event","data":{PULSORA,"event_name":"plan_chosen","event_data":PROPERTIES,PAGE}}',
    ),
    _Telling(
        "track",
        "pulse",
        "/collect",
        _SESSION,
        '{PULSE,"event_type":"plan_chosen","properties":PROPERTIES,PAGE}',
    ),
    _Telling("track", "apex", "/api/events", _VISITOR, '{APEX,"type":"plan_chosen","data":PROPERTIES,PAGE}'),
    _Telling(
        "track",
        "datafly",
        "/v1/t",
        _VISITOR,
        '{DATAFLY,"type":"track","event":"plan_chosen","properties":PROPERTIES,"context":{"page":{PAGE}}}',
    ),
    _Telling(
        "identify",
        "pulsora",
        "/api/ingest",
        _KNOWN_VISIT,
        '{"type":"identify","data":{PULSORA,"customer_id":"user_1"}}',
    ),
    _Telling("identify", "datafly", "/v1/i", _VISITOR, '{DATAFLY,"type":"identify"}'),
]
_HEADERS = {
    "pulsora": {"X-API-Token": "pub_123"},
    "pulse": {"Authorization": "Bearer YOUR_API_KEY"},
    "apex": {},
    "datafly": {"Authorization": "Bearer dk_live_abc123", "Sec-GPC": "1"},
}


async def _tell(stack: Stack, telling: _Telling) -> dict[str, Any]:
    reply = await stack.ask("POST", telling.path, _HEADERS[telling.dialect], telling.body.encode())
    assert reply.status < 300, reply.body
    return await _stored(stack, telling.dialect)


async def _tell_over_grpc(stack: Stack, canonical: dict[str, Any]) -> dict[str, Any]:
    event = ParseDict({**canonical, "occurred_at": _WHEN, "client_ip": "127.0.0.1"}, Event())
    answer = await stack.ingest.Ingest(
        IngestRequest(events=[event]), metadata=(("authorization", "Bearer sec_123"),)
    )
    assert not answer.results[0].HasField("rejection"), answer
    return await _stored(stack, "grpc")


async def _stored(stack: Stack, dialect: str) -> dict[str, Any]:
    await stack.settle()
    told = actual_event((await stack.events())[-1])
    assert told.pop("provenance")["dialect"] == dialect
    # Ids of the telling, not of the fact; Datafly's are made where the client gave none.
    told.pop("cookie_id", None)
    told.pop("message_id", None)
    return told


@pytest.mark.parametrize("telling", _TELLINGS, ids=[f"{one.fact}-{one.dialect}" for one in _TELLINGS])
async def test_same_as_over_grpc(stack: Stack, telling: _Telling) -> None:
    canonical = {**_FACTS[telling.fact], **{name: _WHO[name] for name in telling.who.split()}}
    # Kept whole beside what is copied from it.
    if context := json.loads(telling.body).get("context"):
        canonical["context_json"] = json.dumps(context)
    assert await _tell(stack, telling) == await _tell_over_grpc(stack, canonical)


@pytest.mark.parametrize("fact", _FACTS)
async def test_same_in_all_dialects(stack: Stack, fact: str) -> None:
    heard = {}
    for telling in _TELLINGS:
        if telling.fact == fact:
            event = await _tell(stack, telling)
            heard[telling.dialect] = {
                name: value for name, value in event.items() if name not in {*_WHO, "context"}
            }
    first = heard["pulsora"]
    assert heard == dict.fromkeys(heard, first)
    assert first["occurred_at"] == _WHEN
    if fact != "identify":
        assert first["page"] == {
            **_PAGE,
            "path": "/pricing",
            "search": "?utm_source=news&b=2",
            "referrer_source": "google",
        }
        assert first["campaign"] == {"source": "news"}
    assert first.get("properties", {}) == (decoded(_PROPERTIES) if fact == "track" else {})
