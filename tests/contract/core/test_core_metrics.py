"""What Prometheus reads of the core."""

import asyncio
import re
import urllib.request
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
import psycopg
from core_calls import ADMIN, FACADE, a_request, an_event, bearer, failure, until
from polylect.v1 import error_reason_pb2 as reasons
from polylect.v1 import ingest_pb2
from polylect.v1.ingest_pb2 import BatchIngestStreamRequest, IngestRequest, IngestStreamRequest
from polylect.v1.query_pb2 import GetEventRequest
from polylect.v1.queue_pb2 import EventBatch


async def read(port: int) -> dict[str, float]:
    """Give the figures, by name and labels."""
    url = f"http://127.0.0.1:{port}/metrics"
    text = await asyncio.to_thread(lambda: urllib.request.urlopen(url, timeout=10).read().decode())
    return {name: float(value) for name, value in re.findall(r"^([^# ]\S*) (\S+)$", text, re.MULTILINE)}


def labelled(seen: dict[str, float], name: str, *labels: str) -> dict[tuple[str, ...], float]:
    """Give the samples of a family, by the values of these labels."""
    found = {}
    for each, value in seen.items():
        family, _, rest = each.partition("{")
        if family == name:
            given = dict(re.findall(r'(\w+)="([^"]*)"', rest))
            found[tuple(given[label] for label in labels)] = value
    return found


async def test_commits_queue_and_ledger(
    start: Any, database_url: str, settle: Callable[[], Awaitable[None]], unused_tcp_port: int
) -> None:
    port = unused_tcp_port
    core = await start(metrics_at=("127.0.0.1", port))
    await core.make_source()
    key = await core.make_key()
    assert (await read(port))["polylect_queue_items"] == 0
    await core.send(
        a_request(key.secret, an_event(message_id="m"), an_event(message_id="m"), an_event(name=""))
    )
    waiting = await read(port)
    assert waiting["polylect_queue_items"] == 3
    assert 0 < waiting["polylect_queue_age_seconds"] < 60
    assert waiting["polylect_core_commit_seconds_count"] == 1
    assert waiting["polylect_core_commit_items_sum"] == 3
    await settle()
    settled = await read(port)
    fates = ("received", "stored", "duplicate", "quarantined", "refused")
    counted = [settled[f'polylect_ledger_events{{dialect="pulsora",fate="{fate}"}}'] for fate in fates]
    assert counted == [3, 1, 1, 1, 0]
    assert settled["polylect_quarantine_items"] == 1
    assert settled['polylect_quarantine_dropped_items_total{cause="room"}'] == 0
    assert (settled["polylect_queue_items"], settled["polylect_queue_age_seconds"]) == (0, 0)
    assert settled["polylect_ledger_unbalanced"] == 0
    # Nobody folds here.
    assert 0 < settled["polylect_rollup_age_seconds"] < 60
    with psycopg.connect(database_url) as connection:
        connection.execute("UPDATE ledger SET stored = stored - 1")
    assert (await read(port))["polylect_ledger_unbalanced"] == 1


async def test_requests_and_verdicts_by_reason(
    start: Any, database_url: str, unused_tcp_port: int, queued: Callable[[], EventBatch]
) -> None:
    port = unused_tcp_port
    core = await start(metrics_at=("127.0.0.1", port))
    await core.make_source()
    key = (await core.make_key()).secret
    service = (await core.make_key(kind=ingest_pb2.KEY_KIND_SERVICE)).secret
    await core.send(
        a_request(key, an_event(), an_event(name=""), an_event(name="")),
        a_request("pub_nobody", an_event(), an_event(), dialect="apex"),
    )
    stream = core.ingest.BatchIngestStream(metadata=FACADE)
    for number in range(3):
        await stream.write(BatchIngestStreamRequest(requests=[a_request(key, dialect="pulse")]))
        answer = await stream.read()
        assert len(answer.outcomes) == 1, number
    await stream.done_writing()
    assert await stream.read() is grpc.aio.EOF
    good = IngestRequest(events=[an_event(), an_event(name="")])
    await core.ingest.Ingest(good, metadata=bearer(service))
    await failure(core.ingest.Ingest(good, metadata=bearer("nobody")))
    own = core.ingest.IngestStream(metadata=bearer(service))
    for _ in range(2):
        await own.write(IngestStreamRequest(events=[an_event()]))
        await own.read()
    await own.done_writing()
    assert await own.read() is grpc.aio.EOF
    await failure(core.query.GetEvent(GetEventRequest(event_id="none"), metadata=ADMIN))
    seen = await read(port)
    events = {
        ("grpc", "accepted", ""): 3,
        ("grpc", "quarantined", "field_missing"): 1,
        # Refused unread.
        ("grpc", "refused", "credential_invalid"): 1,
        ("pulse", "accepted", ""): 3,
        ("pulsora", "accepted", ""): 1,
        ("pulsora", "quarantined", "field_missing"): 2,
        ("apex", "refused", "credential_invalid"): 2,
    }
    assert labelled(seen, "polylect_core_events_total", "dialect", "verdict", "reason") == events
    ingest, query = "/polylect.v1.IngestService/", "/polylect.v1.QueryService/"
    sources = "/polylect.v1.SourceService/"
    requests = {
        (f"{sources}CreateSource", "OK", ""): 1,
        (f"{sources}CreateKey", "OK", ""): 2,
        (f"{ingest}BatchIngest", "OK", ""): 1,
        (f"{ingest}BatchIngestStream", "OK", ""): 3,
        (f"{ingest}Ingest", "OK", ""): 1,
        (f"{ingest}Ingest", "UNAUTHENTICATED", "credential_invalid"): 1,
        (f"{ingest}IngestStream", "OK", ""): 2,
        (f"{query}GetEvent", "NOT_FOUND", "not_found"): 1,
    }
    assert labelled(seen, "polylect_core_requests_total", "endpoint", "status", "reason") == requests
    times = labelled(seen, "polylect_core_request_seconds_count", "endpoint")
    assert times[f"{ingest}BatchIngestStream",] == 3
    assert times[f"{ingest}Ingest",] == 2
    assert times[f"{ingest}IngestStream",] == 2
    buckets = labelled(seen, "polylect_core_request_seconds_bucket", "endpoint", "le")
    counted = [number for (method, _), number in buckets.items() if method == f"{ingest}BatchIngestStream"]
    assert counted == sorted(counted)
    assert counted[-1] == 3
    # What was counted as durable is.
    batch = queued()
    durable = sum(number for (_, verdict, _), number in events.items() if verdict != "refused")
    assert len(batch.events) + len(batch.quarantined) == durable


async def test_what_is_not_durable_is_no_verdict(start: Any, database_url: str, unused_tcp_port: int) -> None:
    port = unused_tcp_port
    core = await start(metrics_at=("127.0.0.1", port))
    await core.make_source()
    key = (await core.make_key()).secret
    service = (await core.make_key(kind=ingest_pb2.KEY_KIND_SERVICE)).secret
    with psycopg.connect(database_url) as connection:
        connection.execute("ALTER TABLE queue ADD CONSTRAINT none CHECK (false)")
    bad = a_request(key, an_event(), an_event(name=""))
    outcome, _ = await core.send(bad, a_request("pub_nobody"))
    assert outcome.refusal.reason == reasons.ERROR_REASON_STORAGE_UNAVAILABLE
    await failure(core.send(bad))
    await failure(core.ingest.Ingest(IngestRequest(events=[an_event(name="")]), metadata=bearer(service)))
    seen = await read(port)
    # Of the call that failed as a whole the facade gives the count.
    assert labelled(seen, "polylect_core_events_total", "dialect", "verdict", "reason") == {
        ("pulsora", "refused", "storage_unavailable"): 2,
        ("pulsora", "refused", "credential_invalid"): 1,
        ("grpc", "refused", "storage_unavailable"): 1,
    }
    requests = labelled(seen, "polylect_core_requests_total", "endpoint", "status", "reason")
    assert requests["/polylect.v1.IngestService/BatchIngest", "UNAVAILABLE", "storage_unavailable"] == 1
    assert requests["/polylect.v1.IngestService/Ingest", "UNAVAILABLE", "storage_unavailable"] == 1


async def test_without_the_database_it_says_so(start: Any, unused_tcp_port: int) -> None:
    port = unused_tcp_port
    await start(metrics_at=("127.0.0.1", port), database_url="postgresql://nobody@127.0.0.1:1/nothing")

    async def is_told() -> bool:
        return (await read(port))["polylect_core_store_up"] == 0

    await until(is_told)
