"""The same events over gRPC, as calls of `Ingest`, messages of `IngestStream`, and JSON for a transcoder.

Uses nothing of the product but its contract.
"""

from collections.abc import Sequence

from google.protobuf.json_format import MessageToJson
from polylect.v1.event_pb2 import (
    EVENT_KIND_IDENTIFY,
    EVENT_KIND_PAGE,
    EVENT_KIND_TRACK,
    Campaign,
    Device,
    Event,
    Page,
)
from polylect.v1.ingest_pb2 import EventResult, IngestRequest, IngestResponse

from benchmarks.payloads import DISTINCT_REQUESTS, Fact, Facts, Payload, Request

INGEST = "/polylect.v1.IngestService/Ingest"
INGEST_STREAM = "/polylect.v1.IngestService/IngestStream"

_KINDS = {"page": EVENT_KIND_PAGE, "track": EVENT_KIND_TRACK, "identify": EVENT_KIND_IDENTIFY}


def calls(key: str, distinct: int = DISTINCT_REQUESTS) -> Payload:
    """Give calls of `Ingest` with one event each."""
    return _payload(INGEST, key, 1, distinct)


def stream(key: str, size: int, distinct: int = DISTINCT_REQUESTS) -> Payload:
    """Give messages of `IngestStream` with so many events each."""
    return _payload(INGEST_STREAM, key, size, distinct)


def transcoded(key: str, distinct: int = DISTINCT_REQUESTS) -> Payload:
    """Give `Ingest` of one event as JSON over HTTP, as a gRPC-JSON transcoder takes it.

    With `properties_json`: a Struct would cost the core more.
    """
    facts = Facts("plain")
    requests = []
    for _ in range(distinct):
        (fact,) = facts.take(1)
        # The browser's own, as it comes with any request.
        headers = {"User-Agent": fact.agent, "Content-Type": "application/json"}
        text = MessageToJson(_request([fact]), indent=None, ensure_ascii=False)
        requests.append(Request(INGEST, {**headers, "Authorization": f"Bearer {key}"}, text.encode()))
    return Payload(requests)


def _payload(path: str, key: str, size: int, distinct: int) -> Payload:
    facts = Facts("plain")
    headers = {"authorization": f"Bearer {key}"}
    requests = [
        Request(path, headers, _request(facts.take(size)).SerializeToString()) for _ in range(distinct)
    ]
    return Payload(
        requests,
        size,
        protocol="grpc" if path == INGEST else "grpc-stream",
        answer_bytes=IngestResponse(results=[EventResult(event_id="0" * 36)] * size).ByteSize(),
    )


def _request(facts: Sequence[Fact]) -> IngestRequest:
    return IngestRequest(events=[_event(fact) for fact in facts])


def _event(fact: Fact) -> Event:
    event = Event(
        message_id=fact.message,
        kind=_KINDS[fact.kind],
        name=fact.name if fact.kind == "track" else "",
        anonymous_id=fact.visitor,
        user_id=fact.user if fact.kind == "identify" else "",
        session_id=fact.session,
        page=Page(
            url=f"https://example.com/{fact.page}",
            path=f"/{fact.page}",
            title=fact.title,
            referrer=fact.referrer,
        ),
        campaign=Campaign(source="newsletter", medium="email", name=fact.campaign),
        device=Device(user_agent=fact.agent, locale="en-US"),
        properties_json=f'{{"plan":"{fact.plan}","form_variant":"modal","step":{fact.step}}}',
    )
    event.occurred_at.FromMilliseconds(fact.moment_ms)
    return event
