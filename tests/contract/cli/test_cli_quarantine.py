"""`polylect quarantine` against a real core and worker: what it prints, what it asks, and what it does."""

import json
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import grpc
import psycopg
import pytest
from cli_operator import Operator, wait_until
from polylect.v1.error_reason_pb2 import ERROR_REASON_FIELD_MISSING, Rejection
from polylect.v1.event_pb2 import Event
from polylect.v1.ingest_pb2 import (
    KEY_KIND_PULSE,
    BatchIngestRequest,
    ClientItem,
    ClientRequest,
    IngestRequest,
)
from polylect.v1.ingest_pb2_grpc import IngestServiceStub

FACADE_TOKEN = "facade-token"


@pytest.fixture
def operator(tmp_path: Path, database_url: str) -> Iterator[Operator]:
    """An operator whose core and worker run over an empty database, with the source `shop`."""
    made = Operator(tmp_path, DATABASE_URL=database_url, POLYLECT_FACADE_TOKEN=FACADE_TOKEN)
    with made.part("core"), made.part("worker"):
        made.wait_for_core()
        made.succeed("source", "create", "shop")
        yield made


def a_visit(**members: Any) -> bytes:
    visit = {"site_id": "a", "event_type": "page_view", "session_id": "s", "price": "1.10"} | members
    return json.dumps({**visit, "timestamp": time.time_ns() // 1_000_000}).encode()


def refuse(operator: Operator, *bodies: bytes) -> None:
    """Send bodies to PULSE as the facade does where it finds them wrong, and wait for the worker."""
    secret = operator.json("key", "create", "shop", "--kind", "pulse", "--site", "z")["secret"]
    missing = Rejection(reason=ERROR_REASON_FIELD_MISSING, message="no event_type", field="event_type")
    requests = [
        ClientRequest(
            credential=secret,
            accepted_kinds=[KEY_KIND_PULSE],
            dialect="pulse",
            endpoint="/collect",
            request_id=f"r-{number}",
            client_ip="203.0.113.7",
            user_agent="Mozilla/5.0 \x1b[31m",
            items=[ClientItem(rejection=missing, raw=body)],
        )
        for number, body in enumerate(bodies)
    ]
    with grpc.insecure_channel(f"127.0.0.1:{operator.grpc_port}") as channel:
        IngestServiceStub(channel).BatchIngest(
            BatchIngestRequest(requests=requests),
            metadata=(("authorization", f"Bearer {FACADE_TOKEN}"),),
            timeout=20,
        )
    wait_until(lambda: len(listed(operator)) == len(bodies))


def listed(operator: Operator, *options: str) -> list[Any]:
    lines = operator.succeed("quarantine", "list", "--json", *options).splitlines()
    return [json.loads(line) for line in lines]


def test_list_and_show(operator: Operator) -> None:
    hostile = b'{"a": "\x1b]0;owned\x07'
    refuse(operator, b'{\n  "price": 1.10,\n  "note": "\xc2\x9b31m\xe2\x80\xae"\n}', hostile, b"{}")
    last, broken, first = listed(operator)
    assert first.pop("received_at")[:10] in (str(datetime.now(UTC).date()), str(date_before()))
    assert first == {
        "quarantine_id": first["quarantine_id"],
        "source_id": operator.json("source", "show", "shop")["source_id"],
        "reason": "field_missing",
        "message": "no event_type",
        "field": "event_type",
        "dialect": "pulse",
        "endpoint": "/collect",
        "request_id": "r-0",
        "client_ip": "203.0.113.7",
        "user_agent": "Mozilla/5.0 \x1b[31m",
        "cookie_id": None,
        "raw": {"price": 1.1, "note": "\x9b31m\u202e"},
    }
    assert '"raw":{"price":1.10,' in operator.succeed("quarantine", "list", "--json", "--request-id", "r-0")
    assert broken["raw_base64"] == "eyJhIjogIhtdMDtvd25lZAc="
    assert last["raw"] == {}
    assert [one["request_id"] for one in listed(operator, "--limit", "2")] == ["r-2", "r-1"]
    assert listed(operator, "--reason", "field_invalid") == []
    assert listed(operator, "--until", "1h") == []
    assert len(listed(operator, "--since", "1h", "--field", "event_type", "--dialect", "pulse")) == 3
    assert len(listed(operator, "--source", "shop", "--since", "2020-01-01")) == 3
    table = operator.succeed("quarantine", "list")
    assert table.splitlines()[0].split()[:3] == ["quarantine_id", "received", "reason"]
    assert "field_missing" in table.splitlines()[1]
    assert operator.succeed("quarantine", "list", "--dialect", "apex") == "nothing of that is in quarantine\n"

    shown = operator.succeed("quarantine", "show", first["quarantine_id"])
    assert '  "price": 1.10,\n' in shown
    assert "no event_type" in shown
    for text in (shown, operator.succeed("quarantine", "show", broken["quarantine_id"])):
        assert not set(text) & set("\x1b\x07\x9b\u202e")
    assert operator.json("quarantine", "show", last["quarantine_id"]) == last


def date_before() -> Any:
    return (datetime.now(UTC) - timedelta(minutes=5)).date()


def stored(operator: Operator) -> list[Any]:
    return [json.loads(line) for line in operator.succeed("events", "--json").splitlines()]


def test_replay(operator: Operator) -> None:
    refuse(operator, a_visit(), a_visit(), b"{}")
    nothing = {"would_store": 0, "stored": 0, "still_refused": {"site_unknown": 2, "field_missing": 1}}
    assert operator.json("quarantine", "replay", "shop") == nothing
    operator.succeed("key", "create", "shop", "--kind", "pulse", "--site", "a")
    would = {"would_store": 2, "stored": 0, "still_refused": {"field_missing": 1}}
    assert operator.json("quarantine", "replay", "shop", "--dry-run") == would
    said = operator.succeed("quarantine", "replay", "shop", "--dry-run")
    assert [line.split() for line in said.splitlines()[1:]] == [
        ["would", "be", "stored", "2"],
        ["still", "refused:", "field_missing", "1"],
    ]
    # Nobody is there to ask.
    code, error = operator.fail("quarantine", "replay", "shop")
    assert (code, "--yes" in error) == (2, True)
    assert stored(operator) == []
    chosen = listed(operator)[1]
    one = operator.json("quarantine", "replay", "shop", chosen["quarantine_id"], "--yes")
    assert one == {"would_store": 1, "stored": 1, "still_refused": {}}
    # Until the worker has stored it, its entry is there.
    wait_until(lambda: len(stored(operator)) == 1)
    assert operator.json("quarantine", "replay", "shop", "--reason", "field_missing", "--yes") == {
        "would_store": 1,
        "stored": 1,
        "still_refused": {"field_missing": 1},
    }
    wait_until(lambda: len(stored(operator)) == 2)
    event = next(one for one in stored(operator) if one["event_id"] == chosen["quarantine_id"])
    assert event["received_at"][:23] == chosen["received_at"][:23]
    assert event["device"]["user_agent"] == "Mozilla/5.0 \x1b[31m"
    assert [one["request_id"] for one in listed(operator)] == ["r-2"]


def test_somebody_is_asked(operator: Operator) -> None:
    refuse(operator, b"{}")
    # Ctrl-D where nothing is said.
    for answer, remaining in ((b"n\n", 1), (b"\n", 1), (b"\x04", 1), (b"y\n", 0)):
        done = operator.asked("quarantine", "discard", "shop", "--all", answer=answer)
        assert "Discard 1 for good?" in done.stderr
        assert done.returncode == remaining
        assert ("1 discarded" in done.stdout) is not bool(remaining)
        assert ("nothing was discarded" in done.stderr) is bool(remaining)
        assert len(listed(operator)) == remaining


@pytest.mark.parametrize("command", ["replay", "discard"])
def test_an_id_that_is_not_there_ends_all(operator: Operator, command: str) -> None:
    refuse(operator, b"{}")
    (there,) = listed(operator)
    ids = [there["quarantine_id"], str(uuid4())]
    code, error = operator.fail("quarantine", command, "shop", *ids, "--yes")
    assert (code, "1 of 2 ids" in error) == (1, True)
    assert listed(operator) == [there]


def test_discard_and_summary(operator: Operator, database_url: str) -> None:
    assert operator.json("quarantine", "summary") == []
    assert "nothing" in operator.succeed("quarantine", "summary")
    refuse(operator, b"{}", b"{}", b"{}")
    (summary,) = operator.json("quarantine", "summary", "--source", "shop")
    assert (summary["entries"], summary["reasons"]) == (3, {"field_missing": 3})
    assert (summary["dropped_for_room"], summary["dropped_for_age"]) == (0, 0)
    with psycopg.connect(database_url) as connection:
        connection.execute("INSERT INTO quarantine_drops VALUES (%s, 7, 8, now())", (summary["source_id"],))
    said = operator.succeed("quarantine", "summary").splitlines()
    assert said[1].split()[:4] == ["shop", "3", "field_missing", "3"]
    assert said[1].split()[-2:] == ["7", "8"]
    count = {"would_discard": 1, "discarded": 0}
    assert operator.json("quarantine", "discard", "shop", "--request-id", "r-1", "--dry-run") == count
    assert len(listed(operator)) == 3
    done = operator.json("quarantine", "discard", "shop", "--request-id", "r-1", "--yes")
    assert done == {"would_discard": 1, "discarded": 1}
    gone = operator.json("quarantine", "discard", "shop", "--all", "--yes")
    assert gone == {"would_discard": 2, "discarded": 2}
    assert operator.json("quarantine", "discard", "shop", "--all", "--yes") == {
        "would_discard": 0,
        "discarded": 0,
    }


def test_an_event_is_shown_as_one(operator: Operator) -> None:
    secret = operator.json("key", "create", "shop", "--kind", "service")["secret"]
    event = Event(kind="EVENT_KIND_TRACK", name="", properties_json='{"price":1.10}')  # type: ignore[arg-type]
    with grpc.insecure_channel(f"127.0.0.1:{operator.grpc_port}") as channel:
        IngestServiceStub(channel).Ingest(
            IngestRequest(events=[event]), metadata=(("authorization", f"Bearer {secret}"),), timeout=20
        )
    wait_until(lambda: len(listed(operator)) == 1)
    (entry,) = listed(operator)
    assert (entry["dialect"], entry["event"]["properties"]) == ("grpc", {"price": 1.1})
    shown = operator.succeed("quarantine", "show", entry["quarantine_id"])
    assert "the event:" in shown
    assert '"price": 1.10' in shown


def test_wrong_use_is_told(operator: Operator) -> None:
    for arguments, code, said in (
        ("list --reason boredom", 2, "field_missing"),
        ("list --since yesterday", 2, "--since yesterday"),
        ("list --until 999999d", 2, "--until"),
        ("list --source nowhere", 1, "nowhere"),
        ("discard shop", 2, "--all"),
        ("discard shop --all --field x", 2, "--all"),
        ("replay nowhere --yes", 1, "nowhere"),
        ("show none", 1, "No such entry"),
    ):
        exit_code, error = operator.fail("quarantine", *arguments.split())
        assert (exit_code, said in error) == (code, True), error
