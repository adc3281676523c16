"""What the core logs of a call, or a request, that came to nothing: by the id its caller knows it by."""

from typing import Any

import psycopg
from core_calls import ADMIN, Caller, a_request, an_event, bearer, failure
from polylect.v1 import ingest_pb2
from polylect.v1.ingest_pb2 import IngestRequest
from polylect.v1.query_pb2 import GetEventRequest
from structlog.testing import capture_logs

Line = dict[str, Any]


def of(lines: list[Any], event: str) -> list[Line]:
    return [{**line} for line in lines if line["event"] == event]


async def test_a_refused_call_by_its_request_id(core: Caller) -> None:
    request = GetEventRequest(event_id="none")
    method = "/polylect.v1.QueryService/GetEvent"
    with capture_logs() as lines:
        await failure(core.query.GetEvent(request, metadata=(*ADMIN, ("x-request-id", "asked-1"))))
        await failure(
            core.query.GetEvent(request, metadata=(*bearer("a-secret"), ("x-request-id", "asked-2")))
        )
        refused = await failure(core.ingest.Ingest(IngestRequest(), metadata=bearer("a-secret")))
    told = [(line["method"], line["request_id"], line["reason"]) for line in of(lines, "call_refused")]
    assert told == [
        (method, "asked-1", "not_found"),
        (method, "asked-2", "credential_invalid"),
        # The one it was told.
        ("/polylect.v1.IngestService/Ingest", refused.trailing["x-request-id"], "credential_invalid"),
    ]
    assert "a-secret" not in str(lines)


async def test_a_request_that_could_not_be_stored(core: Caller, database_url: str) -> None:
    source = await core.make_source()
    key = (await core.make_key()).secret
    service = (await core.make_key(kind=ingest_pb2.KEY_KIND_SERVICE)).secret
    with psycopg.connect(database_url) as connection:
        connection.execute("ALTER TABLE queue ADD CONSTRAINT none CHECK (false)")
    one, other = a_request(key, request_id="one"), a_request(key, request_id="other")
    metadata = (*bearer(service), ("x-request-id", "direct"))
    with capture_logs() as lines:
        await failure(core.send(one, other))
        await failure(core.ingest.Ingest(IngestRequest(events=[an_event()]), metadata=metadata))
    told = {line["request_id"]: line for line in of(lines, "request_refused")}
    assert told.keys() == {"one", "other"}
    assert {line["source_id"] for line in told.values()} == {source.source_id}
    assert {line["reason"] for line in told.values()} == {"storage_unavailable"}
    assert [line["request_id"] for line in of(lines, "call_refused")] == ["", "direct"]
    # Once, not for each.
    assert len(of(lines, "queue_unavailable")) == 1


async def test_a_fault_by_its_request_id(core: Caller, database_url: str) -> None:
    with psycopg.connect(database_url) as connection:
        connection.execute("ALTER TABLE events RENAME TO elsewhere")
    with capture_logs() as lines:
        metadata = (*ADMIN, ("x-request-id", "asked"))
        await failure(
            core.query.GetEvent(
                GetEventRequest(event_id="0" * 8 + "-0000-7000-8000-" + "0" * 12), metadata=metadata
            )
        )
    (line,) = of(lines, "storage_unavailable")
    assert line["request_id"] == "asked"
