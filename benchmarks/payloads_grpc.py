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
from benchmarks.spawning import HOST

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

    The very events of Pulsora's payload, so without message ids. With `properties_json`: a Struct would cost
    the core more.
    """
    facts = Facts("plain")
    requests = []
    for _ in range(distinct):
        (fact,) = facts.take(1)
        # The browser's own, as it comes with any request.
        headers = {"User-Agent": fact.agent, "Content-Type": "application/json"}
        request = IngestRequest(events=[_event(fact)])
        text = MessageToJson(request, indent=None, ensure_ascii=False)
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
    request = IngestRequest(events=[_event(fact) for fact in facts])
    for event, fact in zip(request.events, facts, strict=True):
        event.message_id = fact.message
    return request


def _event(fact: Fact) -> Event:
    """Give what the facade makes of Pulsora's event of that fact."""
    event = Event(
        kind=_KINDS[fact.kind],
        anonymous_id=fact.visitor,
        session_id=fact.session,
        page=Page(url=f"https://example.com/{fact.page}", path=f"/{fact.page}"),
        device=Device(user_agent=fact.agent),
        client_ip=HOST,
    )
    if fact.kind == "track":
        event.name = fact.name
        event.properties_json = f'{{"plan":"{fact.plan}","form_variant":"modal","step":{fact.step}}}'
    elif fact.kind == "identify":
        event.user_id = fact.user
    else:
        event.page.MergeFrom(Page(title=fact.title, referrer=fact.referrer))
        event.campaign.MergeFrom(Campaign(source="newsletter", medium="email", name=fact.campaign))
        event.device.locale = "en-US"
    event.occurred_at.FromMilliseconds(fact.moment_ms)
    return event
