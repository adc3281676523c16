"""`polylect ledger` and `polylect why`: what they print for people and for programs, and how they end."""

import json
import time

import grpc
import psycopg
import pytest
from cli_operator import Operator, wait_until
from polylect.v1.event_pb2 import Event, EventKind
from polylect.v1.ingest_pb2 import IngestRequest
from polylect.v1.ingest_pb2_grpc import IngestServiceStub


def send(operator: Operator, secret: str, request_id: str, *events: Event) -> None:
    """Send over gRPC; a refusal is fine."""
    metadata = (("authorization", f"Bearer {secret}"), ("x-request-id", request_id))
    with grpc.insecure_channel(f"127.0.0.1:{operator.grpc_port}") as channel:
        call = IngestServiceStub(channel).Ingest.future(IngestRequest(events=events), metadata=metadata)
        assert call.code() in (grpc.StatusCode.OK, grpc.StatusCode.UNAUTHENTICATED)


def why(operator: Operator, asked_id: str) -> str:
    wait_until(lambda: operator.run("why", asked_id).returncode == 0)
    return operator.succeed("why", asked_id)


def test_the_story_and_the_sums(operator: Operator, database_url: str) -> None:
    assert operator.succeed("ledger").startswith("nothing came in")
    source_id = operator.json("source", "create", "shop")["source_id"]
    secret = operator.json("key", "create", "shop", "--kind", "service")["secret"]
    event = Event(kind=EventKind.EVENT_KIND_TRACK, name="paid\x1b[2J", anonymous_id="v1", message_id="m1")
    send(operator, secret, "first", event)
    send(operator, secret, "second", event)
    send(operator, secret, "bad", Event(kind=EventKind.EVENT_KIND_TRACK))
    send(operator, "svc_nobody", "nobody", event, event)
    assert "accepted and durable; it waits" in why(operator, "first")
    assert "on its way to quarantine" in why(operator, "bad")
    with operator.part("worker"):
        deadline = time.monotonic() + 20
        while operator.json("ledger")["total"]["in_queue"]:
            assert time.monotonic() < deadline
    stored = why(operator, "first").splitlines()
    assert stored[0].endswith(": stored.")
    assert "grpc /polylect.v1.IngestService/Ingest" in stored[1]
    assert stored[2:] == [
        "  Its source is shop.",
        "  It came with request first.",
        "  The client calls it m1.",
        "  It says: track paid�[2J v1.",
    ]
    event_id = stored[0].split()[1].rstrip(":")
    assert f"a duplicate of {event_id}" in why(operator, "second")
    assert "in quarantine: " in why(operator, "bad")
    assert "(field_missing, field name)" in why(operator, "bad")
    nobody = why(operator, "nobody")
    assert nobody.startswith(
        "Request nobody: refused: The credential is not valid here (credential_invalid)."
    )
    assert "No source could be told" in nobody
    (document,) = (json.loads(line) for line in operator.succeed("why", event_id, "--json").splitlines())
    assert (document["verdict"], document["source"], document["event_id"]) == ("stored", "shop", event_id)
    assert document["event"]["name"] == "paid\x1b[2J"
    whole = operator.json("ledger")
    assert whole["balances"]
    counts = {"received": 3, "stored": 1, "duplicate": 1, "quarantined": 1, "refused": 0, "in_queue": 0}
    (entry,) = (each for each in whole["entries"] if each["source"] == "shop")
    assert entry.items() >= {**counts, "missing": 0, "dialect": "grpc", "source_id": source_id}.items()
    assert whole["total"]["refused"] == 1
    for since in ("90m", "2020-01-01", "all"):
        last_line = operator.succeed("ledger", "--since", since).splitlines()[-1]
        assert last_line.split() == ["all", "4", "1", "1", "1", "1", "0", "0"]
    with psycopg.connect(database_url) as connection:
        connection.execute("UPDATE ledger SET stored = 0 WHERE stored = 1")
    code, said = operator.fail("ledger", "--source", "shop")
    assert code == 1
    assert "1 of these lines do not balance" in said


@pytest.mark.parametrize("since", ["1w", "h", "", "-1d", "999999999d"])
def test_a_bad_span(nobody: Operator, since: str) -> None:
    code, said = nobody.fail("ledger", f"--since={since}")
    assert (code, "24h or 7d" in said) == (2, True)


def test_what_is_not_known(operator: Operator, nobody: Operator) -> None:
    code, said = operator.fail("why", "never")
    assert code == 1
    assert "nothing is known of 'never'" in said
    assert "kept for 7 days" in said
    assert operator.fail("why", "x", "--source", "nowhere")[0] == 1
    assert operator.fail("ledger", "--source", "nowhere")[0] == 1
    assert operator.fail("why", "x" * 200)[0] == 1
    assert nobody.fail("why", "x")[0] == 3
    assert nobody.fail("ledger")[0] == 3
