"""gRPC for someone with an address and a key, and no files."""

import grpc
import pytest

from .rpc import Rpc
from .stack import Stack


def test_reflection_tells_all_services(stack: Stack) -> None:
    with Rpc(stack.grpc_port) as rpc:
        assert {
            "polylect.v1.IngestService",
            "polylect.v1.QueryService",
            "polylect.v1.SourceService",
            "polylect.v1.QuarantineService",
            "polylect.v1.IdentityService",
            "grpc.health.v1.Health",
        } <= set(rpc.services())
        method = rpc.method("polylect.v1.IngestService/Ingest")
        assert method.input_type.fields_by_name["events"].message_type.full_name == "polylect.v1.Event"


def test_health_needs_no_credential(stack: Stack) -> None:
    with Rpc(stack.grpc_port) as rpc:
        for service in ("", "polylect.v1.IngestService"):
            assert rpc.call("grpc.health.v1.Health/Check", {"service": service}) == {"status": "SERVING"}


def test_an_event_goes_in_and_comes_out(stack: Stack) -> None:
    event = {
        "kind": "EVENT_KIND_TRACK",
        "name": "signup",
        "anonymous_id": "v_grpc",
        "message_id": "grpc-1",
        "properties": {"plan": "pro"},
    }
    with Rpc(stack.grpc_port, "sec_123") as rpc:
        results = rpc.call("polylect.v1.IngestService/Ingest", {"events": [event, {**event, "name": ""}]})[
            "results"
        ]
        stream = rpc.stream(
            "polylect.v1.IngestService/IngestStream",
            [{"events": [{**event, "message_id": f"grpc-stream-{number}"}]} for number in range(20)],
        )
        streamed = list(stream)

        assert results[0]["event_id"]
        assert results[1]["rejection"]["reason"] == "ERROR_REASON_FIELD_MISSING"
        assert [len(each["results"]) for each in streamed] == [1] * 20
        stack.await_rows("select 1 from events where message_id = 'grpc-1'")
        stack.await_rows("select 1 from events where message_id = 'grpc-stream-19'")
        found = rpc.call("polylect.v1.QueryService/GetEvent", {"message_id": "grpc-1"})["event"]
        refused = rpc.call("polylect.v1.QuarantineService/List", {"reason": "ERROR_REASON_FIELD_MISSING"})

    assert found["event_id"] == results[0]["event_id"]
    assert found["properties_json"].replace(" ", "") == '{"plan":"pro"}'
    assert found["provenance"]["dialect"] == "grpc"
    assert [event["rejection"]["field"] for event in refused["events"]][:1] == ["name"]


@pytest.mark.parametrize("key", ["", "svc_nobody"])
def test_without_a_good_key_nothing_is_told(stack: Stack, key: str) -> None:
    with Rpc(stack.grpc_port, key) as rpc, pytest.raises(grpc.RpcError) as refusal:
        rpc.call("polylect.v1.QueryService/ListEvents")
    assert refusal.value.code() is grpc.StatusCode.UNAUTHENTICATED


def test_administration_needs_the_admin_token(stack: Stack) -> None:
    with Rpc(stack.grpc_port, "sec_123") as rpc, pytest.raises(grpc.RpcError) as refusal:
        rpc.call("polylect.v1.SourceService/ListSources")
    assert refusal.value.code() is grpc.StatusCode.PERMISSION_DENIED
