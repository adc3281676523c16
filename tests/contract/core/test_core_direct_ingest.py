"""Ingest and IngestStream: gRPC callers, by the same rules as browsers."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from core_calls import (
    ADMIN,
    FACADE,
    NOW,
    Caller,
    Clock,
    an_event,
    bearer,
    failure,
    failure_of,
    queue_rows,
)
from google.protobuf.struct_pb2 import Struct
from google.type.money_pb2 import Money
from polylect.v1 import event_pb2, ingest_pb2, source_pb2
from polylect.v1.error_reason_pb2 import ErrorReason
from polylect.v1.event_pb2 import Event, Page, Provenance, Revenue
from polylect.v1.ingest_pb2 import IngestRequest, IngestResponse, IngestStreamRequest
from polylect.v1.query_pb2 import ListEventsRequest
from polylect.v1.query_pb2_grpc import QueryServiceStub

SERVICE = ingest_pb2.KEY_KIND_SERVICE


@pytest.fixture
async def secret(core: Caller) -> str:
    await core.make_source()
    return (await core.make_key(kind=SERVICE)).secret


async def ingest(core: Caller, secret: str, *events: Event) -> IngestResponse:
    return await core.ingest.Ingest(IngestRequest(events=events), metadata=bearer(secret))


def reasons_of(response: IngestResponse) -> list[str]:
    names = [ErrorReason.Name(result.rejection.reason) for result in response.results]
    return [
        "" if result.event_id else name[13:] for result, name in zip(response.results, names, strict=True)
    ]


def money(units: int, nanos: int = 0, currency: str = "USD") -> Money:
    return Money(currency_code=currency, units=units, nanos=nanos)


def sale(**fields: Any) -> Event:
    revenue = Revenue(**{"amount": money(79, 990_000_000), "transaction_id": "t1", **fields})
    return Event(kind=event_pb2.EVENT_KIND_REVENUE, revenue=revenue)


async def test_an_event_becomes_canonical(core: Caller, secret: str, queued: Any) -> None:
    properties = Struct()
    properties.update(
        {"plan": "pro", "seats": 3, "rate": 0.5, "list": [1, None, True], "deep": {"a": "x\0y"}}
    )
    sent = an_event(
        name="sign\0up",
        event_id="mine",
        source_id="mine",
        sanitized=True,
        properties=properties,
        traits_json='{"big": 123456789012345678901234567890, "price": 1.10}',
        context_json="",
        provenance=Provenance(dialect="pulsora", endpoint="/x", request_id="mine", library="lib 1"),
        client_ip="2001:db8::1",
    )
    sent.received_at.seconds = 1
    metadata = (*bearer(secret), ("x-request-id", "request-9"))
    response = await core.ingest.Ingest(IngestRequest(events=[sent]), metadata=metadata)
    (stored,) = queued().events
    source = await core.sources.GetSource(source_pb2.GetSourceRequest(source="shop"), metadata=ADMIN)
    expected = an_event(
        name="signup",
        event_id=response.results[0].event_id,
        source_id=source.source.source_id,
        sanitized=True,
        properties_json=stored.properties_json,
        traits_json='{"big": 123456789012345678901234567890, "price": 1.10}',
        provenance=Provenance(
            dialect="grpc",
            endpoint="/polylect.v1.IngestService/Ingest",
            request_id="request-9",
            library="lib 1",
        ),
        client_ip="2001:db8::1",
    )
    expected.received_at.FromDatetime(NOW)
    expected.occurred_at.FromDatetime(NOW)
    assert stored == expected
    parts = ('"plan":"pro"', '"seats":3', '"rate":0.5', '"list":[1,null,true]', '"deep":{"a":"xy"}')
    assert all(part in stored.properties_json for part in parts)
    assert len(stored.properties_json) == sum(map(len, parts)) + len(parts) + 1


async def test_escaped_nul_is_taken_out_and_digits_stay(core: Caller, secret: str, queued: Any) -> None:
    text = '{"a\\u0000b":"\\u0000","n":[1.10,12345678901234567890]}'
    await ingest(core, secret, an_event(properties_json=text), an_event(properties_json='{"a":"\\\\u0000"}'))
    first, second = queued().events
    assert (first.properties_json, first.sanitized) == ('{"ab":"","n":[1.10,12345678901234567890]}', True)
    assert (second.properties_json, second.sanitized) == ('{"a":"\\\\u0000"}', False)


def nested(levels: int) -> str:
    return '{"a":' * levels + "1" + "}" * levels


def nested_struct(levels: int) -> Struct:
    struct = Struct()
    inner = struct
    for _ in range(levels - 1):
        inner = inner.fields["a"].struct_value
    inner.fields["a"].number_value = 1
    return struct


def number_struct(*numbers: float) -> Struct:
    struct = Struct()
    for number in numbers:
        struct.fields["n"].list_value.values.add(number_value=number)
    return struct


@pytest.mark.parametrize(
    ("event", "reason", "field"),
    [
        (an_event(properties_json="["), "PAYLOAD_UNREADABLE", "properties_json"),
        (an_event(properties_json="[1]"), "PAYLOAD_UNREADABLE", "properties_json"),
        (an_event(traits_json='{"a":NaN}'), "PAYLOAD_UNREADABLE", "traits_json"),
        (an_event(context_json='{"a":"\\ud800"}'), "PAYLOAD_UNREADABLE", "context_json"),
        (an_event(context_json='{"a":"\0"}'), "PAYLOAD_UNREADABLE", "context_json"),
        (an_event(properties=number_struct(float("nan"))), "PAYLOAD_UNREADABLE", "properties"),
        (an_event(properties=number_struct(float("inf"))), "PAYLOAD_UNREADABLE", "properties"),
        (an_event(properties_json=nested(33)), "PAYLOAD_TOO_DEEP", "properties_json"),
        (an_event(properties_json='{"a":' + "[" * 100_000), "PAYLOAD_TOO_DEEP", "properties_json"),
        (an_event(properties=nested_struct(33)), "PAYLOAD_TOO_DEEP", "properties"),
        (an_event(properties_json='{"a":1e999999}'), "NUMBER_OUT_OF_RANGE", "properties_json"),
        (an_event(properties_json='{"a":1e-9999}'), "NUMBER_OUT_OF_RANGE", "properties_json"),
        (an_event(properties_json='{"a":1e99999999999999999999}'), "NUMBER_OUT_OF_RANGE", "properties_json"),
        (an_event(properties_json='{"a":1e401}'), "NUMBER_OUT_OF_RANGE", "properties_json"),
        (an_event(properties_json='{"a":1e-401}'), "NUMBER_OUT_OF_RANGE", "properties_json"),
        (an_event(traits_json='{"a":[1e400' + ",1e400" * 2_000 + "]}"), "NUMBER_OUT_OF_RANGE", "traits_json"),
        (an_event(traits=number_struct(*[1e300] * 2_000)), "NUMBER_OUT_OF_RANGE", "traits"),
        (an_event(properties_json='{"a":' + "9" * 1_100 + "}"), "NUMBER_OUT_OF_RANGE", "properties_json"),
        (an_event(properties_json='{"a":' + "9" * 9_000 + "}"), "NUMBER_OUT_OF_RANGE", "properties_json"),
        (an_event(properties_json='{"a":"' + "x" * 2**20 + '"}'), "EVENT_TOO_LARGE", "properties_json"),
        (an_event(page=Page(title="x" * 2**21)), "EVENT_TOO_LARGE", ""),
        (an_event(client_ip="localhost"), "FIELD_INVALID", "client_ip"),
        (an_event(client_ip="fe80::1%eth0"), "FIELD_INVALID", "client_ip"),
        (an_event(geo={"country": "Germany"}), "FIELD_INVALID", "geo.country"),
        (an_event(name=""), "FIELD_MISSING", "name"),
        (an_event(occurred_at={"seconds": 0}), "TIMESTAMP_OUT_OF_RANGE", "occurred_at"),
        (an_event(sent_at={"seconds": 2**60}), "TIMESTAMP_OUT_OF_RANGE", "sent_at"),
        (an_event(sent_at={"seconds": 10**9, "nanos": -1}), "TIMESTAMP_OUT_OF_RANGE", "sent_at"),
        (an_event(provenance={"site_id": "elsewhere"}), "SITE_UNKNOWN", "site_id"),
        (sale(amount=None), "FIELD_MISSING", "revenue.amount"),
        (sale(transaction_id=""), "FIELD_MISSING", "revenue.transaction_id"),
        (sale(event_type="gift"), "FIELD_INVALID", "revenue.event_type"),
        (sale(amount=money(1, currency="usd")), "FIELD_INVALID", "revenue.amount"),
        (sale(amount=money(1, -1)), "FIELD_INVALID", "revenue.amount"),
        (sale(amount=money(0, 1_000_000_000)), "FIELD_INVALID", "revenue.amount"),
        (sale(amount=money(-1)), "FIELD_INVALID", "revenue.amount"),
        (sale(amount=money(0)), "FIELD_INVALID", "revenue.amount"),
        (sale(event_type="churn", amount=money(-1)), "FIELD_INVALID", "revenue.amount"),
        (sale(event_type="refund"), "FIELD_INVALID", "revenue.amount"),
        (sale(event_type="refund", amount=money(0)), "FIELD_INVALID", "revenue.amount"),
        (sale(mrr_impact=money(1, currency="EUR")), "FIELD_INVALID", "revenue.mrr_impact"),
    ],
)
async def test_a_bad_event_is_quarantined_and_its_neighbours_stored(
    core: Caller, secret: str, queued: Any, event: Event, reason: str, field: str
) -> None:
    good = an_event(properties_json=nested(32), traits=nested_struct(32))
    response = await ingest(core, secret, good, event, an_event())
    assert reasons_of(response) == ["", reason, ""]
    assert response.results[1].rejection.field == field
    batch = queued()
    assert len(batch.events) == 2
    (refused,) = batch.quarantined
    assert Event.FromString(refused.raw) == event
    assert refused.rejection == response.results[1].rejection


async def test_numbers_in_exponent_notation_as_programs_write_them_are_taken(
    core: Caller, secret: str, queued: Any
) -> None:
    text = '{"n":[1e-7' + ",1.5e-10,1e21" * 2_000 + ",1e300,5e-324,1.7976931348623157e308]}"
    assert reasons_of(await ingest(core, secret, an_event(properties_json=text))) == [""]
    assert queued().events[0].properties_json == text


async def test_any_event_taken_can_be_read_with_a_clients_default_limit(
    core: Caller, secret: str, settle: Any
) -> None:
    wide = {"properties_json": '{"x":"' + "y" * 2**20, "traits_json": '{"x":"' + "z" * 2**20}
    event = an_event(**{name: text[: 2**20 - 128] + '"}' for name, text in wide.items()})
    assert reasons_of(await ingest(core, secret, event)) == [""]
    await settle()
    async with grpc.aio.insecure_channel(core.address) as channel:
        stub = QueryServiceStub(channel)
        answer = await stub.ListEvents(ListEventsRequest(source="shop"), metadata=ADMIN)
    assert len(answer.events) == 1


async def test_revenue(core: Caller, secret: str, queued: Any) -> None:
    refund = sale(event_type="refund", amount=money(0, -1), mrr_impact=money(-5))
    churn = sale(event_type="churn", amount=money(0))
    assert reasons_of(await ingest(core, secret, sale(), refund, churn)) == ["", "", ""]
    assert [event.revenue.event_type for event in queued().events] == ["purchase", "refund", "churn"]
    public = await core.make_key()
    assert reasons_of(await ingest(core, public.secret, sale())) == ["REVENUE_NOT_PERMITTED"]


async def test_what_no_key_may(core: Caller, secret: str) -> None:
    request = IngestRequest(events=[an_event()])
    reader = await core.make_key(scopes=["events:read"])
    for metadata, code, reason in (
        ((), grpc.StatusCode.UNAUTHENTICATED, "CREDENTIAL_MISSING"),
        ((("authorization", f"Basic {secret}"),), grpc.StatusCode.UNAUTHENTICATED, "CREDENTIAL_MISSING"),
        (bearer("svc_nobody"), grpc.StatusCode.UNAUTHENTICATED, "CREDENTIAL_INVALID"),
        (ADMIN, grpc.StatusCode.PERMISSION_DENIED, "SCOPE_MISSING"),
        (FACADE, grpc.StatusCode.PERMISSION_DENIED, "SCOPE_MISSING"),
        (bearer(reader.secret), grpc.StatusCode.PERMISSION_DENIED, "SCOPE_MISSING"),
    ):
        failed = await failure(core.ingest.Ingest(request, metadata=metadata))
        assert (failed.code, failed.reason) == (code, reason)


async def test_at_most_1000_events(core: Caller, secret: str) -> None:
    many = [an_event()] * 1_001
    failed = await failure(core.ingest.Ingest(IngestRequest(events=many), metadata=bearer(secret)))
    assert (failed.code, failed.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "BATCH_TOO_LARGE")
    assert failed.field == "events"
    assert reasons_of(await ingest(core, secret, *many[1:])) == [""] * 1_000
    assert reasons_of(await ingest(core, secret)) == []


async def test_the_sources_own_limit_holds_for_grpc_too(core: Caller, secret: str, clock: Clock) -> None:
    change = source_pb2.UpdateSourceRequest(source="shop", rate_limit={"limit": 2, "window_seconds": 30})
    await core.sources.UpdateSource(change, metadata=ADMIN)
    for _ in range(2):
        await ingest(core, secret, an_event(), an_event())
    failed = await failure(ingest(core, secret, an_event()))
    assert (failed.code, failed.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "RATE_LIMITED")
    assert failed.retry_seconds == 30
    clock.advance(seconds=failed.retry_seconds)
    await ingest(core, secret, an_event())


async def test_a_stream_answers_in_order(core: Caller, secret: str, database_url: str) -> None:
    async def messages() -> AsyncIterator[IngestStreamRequest]:
        for number in range(300):
            yield IngestStreamRequest(
                events=[an_event(message_id=f"{number}-{n}") for n in range(number % 4)]
            )

    answers = [answer async for answer in core.ingest.IngestStream(messages(), metadata=bearer(secret))]
    assert [len(answer.results) for answer in answers] == [number % 4 for number in range(300)]
    stored = {event.event_id: event for row in queue_rows(database_url) for event in row.events}
    for number, answer in enumerate(answers):
        for n, result in enumerate(answer.results):
            assert stored[result.event_id].message_id == f"{number}-{n}"
    assert len(stored) == sum(number % 4 for number in range(300))
    endpoints = {event.provenance.endpoint for event in stored.values()}
    assert endpoints == {"/polylect.v1.IngestService/IngestStream"}


async def test_a_stream_ends_with_the_refusal_after_the_answers_before_it(core: Caller, secret: str) -> None:
    call = core.ingest.IngestStream(metadata=bearer(secret))
    await call.write(IngestStreamRequest(events=[an_event(), an_event(name="")]))
    await call.write(IngestStreamRequest(events=[an_event()] * 1_001))
    answer = await call.read()
    assert [bool(result.event_id) for result in answer.results] == [True, False]
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call.read()
    assert failure_of(caught.value).reason == "BATCH_TOO_LARGE"


async def test_a_revoked_key_ends_its_stream(core: Caller, secret: str) -> None:
    call = core.ingest.IngestStream(metadata=bearer(secret))
    await call.write(IngestStreamRequest(events=[an_event()]))
    assert (await call.read()).results[0].event_id
    keys = await core.sources.ListKeys(source_pb2.ListKeysRequest(source="shop"), metadata=ADMIN)
    revocation = source_pb2.RevokeKeyRequest(key_id=keys.keys[0].key_id)
    await core.sources.RevokeKey(revocation, metadata=ADMIN)
    await call.write(IngestStreamRequest(events=[an_event()]))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call.read()
    assert failure_of(caught.value).reason == "CREDENTIAL_INVALID"


async def test_a_stream_without_a_key(core: Caller) -> None:
    call = core.ingest.IngestStream(metadata=bearer("svc_nobody"))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call.read()
    assert failure_of(caught.value).reason == "CREDENTIAL_INVALID"


async def test_a_caller_that_goes_away_leaves_the_core_well(core: Caller, secret: str) -> None:
    calls = [core.ingest.IngestStream(metadata=bearer(secret)) for _ in range(5)]
    for call in calls:
        await call.write(IngestStreamRequest(events=[an_event()]))
        call.cancel()
    unary = core.ingest.Ingest(IngestRequest(events=[an_event()]), metadata=bearer(secret))
    unary.cancel()
    with pytest.raises(asyncio.CancelledError):
        await unary
    assert reasons_of(await ingest(core, secret, an_event())) == [""]
