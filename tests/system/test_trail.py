"""The ledger balances to the event, whoever was killed; and what became of anything can be asked for."""

import http.client
import json
import random
import socket
import time
from typing import Any
from uuid import uuid4

import psycopg
import pytest

from .load import BACK, RECOVERY_SECONDS, VICTIMS, Keys, Load
from .stack import Stack, await_restart
from .waiting import eventually


@pytest.mark.parametrize("victim", VICTIMS)
def test_the_ledger_balances_after_a_kill_under_load(loaded: tuple[Stack, Keys], victim: str) -> None:
    stack, keys = loaded
    with Load(stack, keys, keep_alive=False) as load:
        for _ in range(2):
            load.await_moment()
            doomed = random.choice(eventually(lambda: stack.parts(victim), f"{victim} runs"))
            # Of what is refused whole there is some, at every moment.
            _refused(stack)
            killed = time.monotonic()
            doomed.kill()
            load.await_acknowledged(BACK, begun_after=killed, within_seconds=RECOVERY_SECONDS)
            if victim != "backend":
                await_restart(stack, victim, doomed)
    load.assert_stored_once()
    _assert_balanced(stack)


def test_every_answer_can_be_asked_for(loaded: tuple[Stack, Keys]) -> None:
    stack, keys = loaded
    message_id = uuid4().hex
    event = {"type": "track", "event": "Asked", "messageId": message_id}
    good = {"Authorization": f"Bearer {keys.datafly}"}
    first = stack.post("/v1/t", event, good).headers["x-request-id"]
    again = stack.post("/v1/t", event, {**good, "X-Request-Id": "again-1"}).headers["x-request-id"]
    assert again == "again-1"
    wrong = stack.post("/v1/t", {"type": "track"}, good).headers["x-request-id"]
    nobody = stack.post("/v1/t", event, {"Authorization": "Bearer dk_live_nobody"}).headers["x-request-id"]
    unread = stack.post("/v1/t", "{", good).headers["x-request-id"]
    nowhere = stack.post("/v1/nowhere", event, good).headers["x-request-id"]
    ids = {first: "stored", again: "duplicate", wrong: "quarantined"}
    ids |= dict.fromkeys((nobody, unread, nowhere, _no_http(stack)), "refused")
    told = {each: _story(stack, each, verdict) for each, verdict in ids.items()}
    assert all(story["request_id"] == each for each, story in told.items())
    assert told[again]["duplicate_of"] == told[first]["event_id"]
    assert told[first]["event"]["name"] == "Asked"
    assert told[first]["client_ip"] == "127.0.0.1"
    assert told[wrong]["rejection"]["reason"] == "field_missing"
    assert told[nobody]["rejection"]["reason"] == "credential_invalid"
    assert told[unread]["rejection"]["reason"] == "payload_unreadable"
    assert told[nowhere]["rejection"]["reason"] == "not_found"
    assert told[nobody]["source"] == "(none)"
    assert told[first]["source"] == "load"
    by_message = [json.loads(line) for line in stack.polylect("why", message_id, "--json").splitlines()]
    assert [story["verdict"] for story in by_message] == ["stored", "duplicate"]
    assert "is stored, this one not" in stack.polylect("why", again, "--source", "load")
    unknown = stack.command("why", uuid4().hex)
    assert unknown.returncode == 1
    assert "7 days" in unknown.stderr
    # Nowhere stands a key.
    assert stack.sql("select * from refusals where refusals::text like '%dk_live_%'") == []
    _assert_balanced(stack)


def test_one_request_id_is_in_the_lines_of_every_part(loaded: tuple[Stack, Keys]) -> None:
    """Of a request with an event that is refused, and one that is accepted and can't be written."""
    stack, keys = loaded
    request_id = f"poisoned-{uuid4().hex}"
    headers = {"Authorization": f"Bearer {keys.datafly}", "X-Request-Id": request_id}
    batch = {"batch": [{"type": "track", "event": "poison"}, {"type": "track"}]}
    stack.sql_script("alter table events add constraint poison check (name <> 'poison')")
    try:
        answer = stack.post("/v1/batch", batch, headers)
        assert (answer.status, answer.json["accepted"]) == (200, 1)

        def lines() -> list[dict[str, Any]]:
            every = [json.loads(line) for line in stack.output.splitlines() if request_id in line]
            return every if sum(line["part"] == "worker" for line in every) == 3 else []

        told = eventually(lines, "the worker tells of both, and why one can't be written", context=stack.tail)
    finally:
        stack.sql_script("alter table events drop constraint poison")
    assert {line["request_id"] for line in told} == {request_id}
    assert {(line["part"], line["event"], line.get("reason")) for line in told} == {
        ("facade", "events_refused", "field_missing"),
        ("core", "events_quarantined", "field_missing"),
        ("worker", "event_unwritable", None),
        ("worker", "event_quarantined", "field_missing"),
        ("worker", "event_quarantined", "unwritable"),
    }
    ((source_id,),) = stack.sql("select source_id::text from sources where name = 'load'")
    assert {line["source_id"] for line in told if line["part"] != "facade"} == {source_id}
    (unwritable,) = (line for line in told if line.get("reason") == "unwritable")
    assert answer.json["errors"][0]["index"] == 1
    assert _story(stack, unwritable["quarantine_id"], "quarantined")["request_id"] == request_id
    # What is refused whole is in two parts' lines, and no key in any.
    nobody = f"nobody-{uuid4().hex}"
    stack.post("/v1/t", {}, {"Authorization": "Bearer dk_live_of_nobody", "X-Request-Id": nobody})
    told = [json.loads(line) for line in stack.output.splitlines() if nobody in line]
    assert {(line["part"], line["event"]) for line in told} == {
        ("facade", "events_refused"),
        ("core", "request_refused"),
    }
    assert not any(secret in stack.output for secret in ("dk_live_of_nobody", keys.datafly))


def test_an_event_that_vanishes_is_seen(loaded: tuple[Stack, Keys]) -> None:
    """The check is worth something: a row of the queue whose payload lost an event does not balance."""
    stack, keys = loaded
    for process in stack.parts("worker"):
        process.suspend()
    with Load(stack, keys) as load:
        load.await_acknowledged(50)
    with psycopg.connect(stack.database_url) as connection:
        taken = connection.execute(
            "delete from queue where queue_id = (select min(queue_id) from queue) returning received"
        ).fetchone()
        assert taken is not None
        line = taken[0][0]
        # Its count comes back without its events.
        connection.execute(
            "insert into queue (item_count, payload, received) values (0, '', %s)", [json.dumps([line])]
        )
    for process in stack.parts("worker"):
        process.resume()
    stack.wait_until_drained()
    done = stack.command("ledger", "--json")
    assert done.returncode == 1
    document = json.loads(done.stdout)
    assert not document["balances"]
    assert document["total"]["missing"] == line[3]
    assert "do not balance" in done.stderr


def _refused(stack: Stack) -> None:
    for body, key in (("{", "nobody"), ('{"type": "track", "event": "x"}', "nobody")):
        try:
            stack.post("/v1/t", body, {"Authorization": f"Bearer dk_live_{key}"})
        except (OSError, http.client.HTTPException):
            continue


def _no_http(stack: Stack) -> str:
    with socket.create_connection(("127.0.0.1", stack.http_port), timeout=10) as connection:
        connection.sendall(b"GARBAGE\r\n\r\n")
        answer = http.client.HTTPResponse(connection)
        answer.begin()
        assert answer.status == 400
        return answer.headers["X-Request-Id"]


def _story(stack: Stack, asked_id: str, verdict: str) -> dict[str, Any]:
    def stories() -> list[dict[str, Any]]:
        told = stack.command("why", asked_id, "--json").stdout.splitlines()
        return [story for line in told if (story := json.loads(line))["verdict"] == verdict]

    (story,) = eventually(stories, f"{asked_id} is {verdict}")
    return story


def _assert_balanced(stack: Stack) -> None:
    stack.wait_until_drained()
    document = json.loads(stack.polylect("ledger", "--since", "all", "--json"))
    assert document["balances"]
    total = document["total"]
    assert total["missing"] == total["in_queue"] == 0
    assert total["refused"] > 0
    counted = stack.sql(
        "select source_id::text, provenance_dialect, count(*) from events group by 1, 2 order by 1, 2"
    )
    kept = stack.sql(
        "select source_id::text, dialect, sum(stored)::bigint from ledger where stored > 0"
        " group by 1, 2 order by 1, 2"
    )
    assert kept == counted
    assert stack.sql("select count(*) from quarantine") == stack.sql("select sum(quarantined) from ledger")
