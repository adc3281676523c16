"""`polylect identity` against a real core: who somebody is, and taking it back."""

import json
from datetime import UTC, datetime
from typing import Any

import grpc
import psycopg
import pytest
from cli_operator import Operator
from polylect.v1.event_pb2 import EVENT_KIND_GROUP, EVENT_KIND_IDENTIFY, EVENT_KIND_TRACK, Event
from polylect.v1.ingest_pb2 import IngestRequest
from polylect.v1.ingest_pb2_grpc import IngestServiceStub

from storage.worker import Worker, WorkerOptions

THE_TWO = ("--source", "shop", "--visitor", "phone", "--user", "ann")


@pytest.fixture
def shop(operator: Operator, database_url: str) -> Operator:
    """A shop where a phone was said to be bob, then ann; `ann` is also some visitor's id."""
    operator.succeed("source", "create", "shop")
    secret = operator.json("key", "create", "shop", "--kind", "service")["secret"]
    worker = Worker(WorkerOptions(database_url), lambda: datetime.now(UTC))
    for event in (
        Event(kind=EVENT_KIND_IDENTIFY, anonymous_id="phone", user_id="bob"),
        Event(kind=EVENT_KIND_IDENTIFY, anonymous_id="phone", user_id="ann"),
        Event(kind=EVENT_KIND_GROUP, anonymous_id="phone", group_id="acme\x1b[31m"),
        Event(kind=EVENT_KIND_IDENTIFY, anonymous_id="ann", user_id="cyd"),
        Event(kind=EVENT_KIND_TRACK, name="seen", anonymous_id="phone"),
    ):
        with grpc.insecure_channel(f"127.0.0.1:{operator.grpc_port}") as channel:
            metadata = (("authorization", f"Bearer {secret}"),)
            IngestServiceStub(channel).Ingest(IngestRequest(events=[event]), metadata=metadata, timeout=20)
    worker.settle_all()
    worker.close()
    return operator


def user_of_seen(operator: Operator) -> Any:
    return operator.json("events", "--kind", "track").get("user_id")


def test_show_tells_which_kind_of_id_it_is(shop: Operator) -> None:
    [phone] = shop.json("identity", "show", "phone")
    assert (phone["source"], phone["kind"], phone["anonymous_id"]) == ("shop", "visitor", "phone")
    assert [(one["user_id"], one["in_force"]) for one in phone["connected"]] == [("ann", True), ("bob", True)]
    assert [one["group_id"] for one in phone["groups"]] == ["acme\x1b[31m"]
    assert [(one["record"], one["user_id"], one["dialect"]) for one in phone["records"]] == [
        ("link", "bob", "grpc"),
        ("link", "ann", "grpc"),
    ]
    user, visitor = shop.json("identity", "show", "ann", "--source", "shop")
    assert (user["kind"], user["user_id"], [g["anonymous_id"] for g in user["groups"]]) == (
        "user",
        "ann",
        ["phone"],
    )
    assert (visitor["kind"], [one["user_id"] for one in visitor["connected"]]) == ("visitor", ["cyd"])
    assert shop.json("identity", "show", "nobody") == []


def test_show_for_people(shop: Operator) -> None:
    shown = shop.succeed("identity", "show", "ann")
    assert "ann is a user in source shop" in shown
    assert "ann is a visitor in source shop" in shown
    assert "\x1b" not in shown
    assert "no identify, unlink or group event names nobody" in shop.succeed("identity", "show", "nobody")
    limited = shop.succeed("identity", "show", "phone", "--limit", "1")
    assert "more with --limit" in limited
    [last] = shop.json("identity", "show", "phone", "--limit", "1")
    assert [one["user_id"] for one in last["records"]] == ["ann"]
    assert last["has_more_records"]


def test_show_reads_page_after_page(shop: Operator, database_url: str) -> None:
    with psycopg.connect(database_url) as connection:
        connection.execute(
            "INSERT INTO identity_links (source_id, anonymous_id, user_id, event_id, linked_at)"
            " SELECT source_id, 'kiosk', 'user ' || n, gen_random_uuid(), now() + n * interval '1 second'"
            " FROM generate_series(1, 2100) AS n, sources WHERE name = 'shop'"
        )
    [kiosk] = shop.json("identity", "show", "kiosk", "--limit", "2050")
    expected = [f"user {number}" for number in range(51, 2101)]
    assert [one["user_id"] for one in kiosk["records"]] == expected


def test_unlink_asks_first(shop: Operator) -> None:
    assert user_of_seen(shop) == "ann"
    for answer in (b"n\n", b"\n", b"\x04"):
        refused = shop.asked("identity", "unlink", *THE_TWO, answer=answer)
        assert (refused.returncode, refused.stdout) == (1, "")
        assert "1 link is void then, of visitor phone to user ann" in refused.stderr
        assert "nothing changed" in refused.stderr
    # Nobody is there to ask, whatever is piped in.
    piped = shop.run("identity", "unlink", *THE_TWO, given="y\n")
    assert (piped.returncode, piped.stdout, "--yes" in piped.stderr) == (2, "", True)
    assert user_of_seen(shop) == "ann"
    done = shop.asked("identity", "unlink", *THE_TWO, "--reason", "lent", "--json", answer=b"y\n")
    assert done.returncode == 0, done.stderr
    # The question is not among the JSON.
    assert json.loads(done.stdout)["user_id_after"] == "bob"
    assert user_of_seen(shop) == "bob"
    [phone] = shop.json("identity", "show", "phone")
    assert [(one["record"], one["reason"]) for one in phone["records"][2:]] == [("unlink", "lent")]
    shown = shop.succeed("identity", "show", "phone")
    assert "unlink" in shown
    assert "lent" in shown


def test_unlink_for_programs(shop: Operator) -> None:
    made = shop.json("identity", "unlink", *THE_TWO, "--yes")
    assert (made["voided_links"], made["user_id_before"], made["user_id_after"]) == (1, "ann", "bob")
    assert (made["anonymous_id"], made["user_id"], made["reason"]) == ("phone", "ann", None)
    code, error = shop.fail("identity", "unlink", *THE_TWO, "--yes")
    assert (code, "is in force" in error) == (1, True)
    code, error = shop.fail("identity", "show", "phone", "--source", "none")
    assert (code, "none" in error) == (1, True)
