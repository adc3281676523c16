"""2xx means stored, and once: whoever is killed, whenever, under load."""

import contextlib
import http.client
import json
import random
import signal
import socket
import threading
import time
from collections import Counter, deque
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import grpc
import psutil
import psycopg
import pytest

from .conftest import MakeStack
from .load import BACK, RECOVERY_SECONDS, VICTIMS, Keys, Load, make_source
from .rpc import Rpc
from .stack import STOP_SECONDS, Stack, await_restart, pause
from .waiting import eventually

# In one round, each at another moment; fewer a minute than the supervisor takes for hopeless.
_KILLS = 3


@pytest.mark.parametrize("victim", VICTIMS)
def test_a_part_killed_under_load_costs_no_event(loaded: tuple[Stack, Keys], victim: str) -> None:
    stack, keys = loaded
    with Load(stack, keys, keep_alive=False) as load:
        for _ in range(_KILLS):
            _kill_under_load(stack, load, victim)
    load.assert_answers_honest()
    load.assert_stored_once()


@pytest.mark.parametrize("victim", ["worker", "backend"])
@pytest.mark.parametrize("table", ["events", "queue"])
def test_a_claim_cut_short_is_done_again_once(loaded: tuple[Stack, Keys], table: str, victim: str) -> None:
    """Held up before it writes its events, or before it removes its rows, and killed just there."""
    stack, keys = loaded
    paused = pause(stack.parts("worker"))
    with Load(stack, keys) as load:
        load.await_acknowledged(300)
    stack.forget_database_url()
    with contextlib.suppress(psycopg.OperationalError), psycopg.connect(stack.database_url) as holder:
        # Readers may pass, writers wait.
        holder.execute(f"lock table {table} in share mode")
        for process in paused:
            process.resume()
        waiting = eventually(
            lambda: stack.sql("select pid from pg_stat_activity where wait_event_type = 'Lock'"),
            "the worker waits for the table",
        )
        doomed = stack.part("worker") if victim == "worker" else psutil.Process(waiting[0][0])
        doomed.kill()
        eventually(lambda: not doomed.is_running() or doomed.status() == psutil.STATUS_ZOMBIE, "it is dead")
    if victim == "worker":
        await_restart(stack, victim, doomed)
    load.assert_stored_once()


def test_a_stop_answers_every_connection_that_was_accepted(make_stack: MakeStack) -> None:
    """Whole requests and begun ones, on connections none of which had an answer before."""
    stack = make_stack().start()
    keys = make_source(stack, "load")
    clients = [Raw(stack, keys, f"accepted-{number}") for number in range(60)]
    for client in clients[:40]:
        client.send_all()
    for client in clients[40:]:
        client.send_half()
    assert stack.process is not None
    stack.process.send_signal(signal.SIGTERM)
    eventually(lambda: "stopping" in stack.output, "it is stopping", every_seconds=0.01)
    for client in clients[40:]:
        client.send_rest()

    answers = [client.read_answer() for client in clients]

    assert stack.process.wait(STOP_SECONDS) == 0
    assert [answer for answer in answers if answer not in (200, 503)] == []
    assert answers[:40] == [200] * 40
    stack.start()
    stack.wait_until_drained()
    assert stack.sql("select count(*) from events") == [(answers.count(200),)]
    assert stack.stop() == 0


@pytest.mark.parametrize("end", ["core killed", "all stopped"])
def test_grpc_callers_lose_nothing_either(make_stack: MakeStack, end: str) -> None:
    stack = make_stack().start()
    callers = [Caller(stack, streaming=number % 2 == 1) for number in range(4)]

    def enough() -> bool:
        return all(len(caller.acknowledged) > 300 for caller in callers)

    try:
        eventually(enough, "all callers are in full swing", within_seconds=20, context=stack.tail)
        if end == "core killed":
            stack.part("core").kill()
        else:
            assert stack.stop() == 0
    finally:
        for caller in callers:
            caller.join()
    stack.start() if end == "all stopped" else stack.wait_until_ready()
    stack.wait_until_drained()
    stored = Counter(each for (each,) in stack.sql("select message_id from events"))
    acknowledged = {each for caller in callers for each in caller.acknowledged}
    assert acknowledged - stored.keys() == set()
    assert set(stored.values()) == {1}
    codes = {code for caller in callers for code in caller.codes}
    # A cut connection is UNKNOWN to some versions; DEADLINE_EXCEEDED, INTERNAL and others never.
    assert codes <= {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.UNKNOWN, grpc.StatusCode.CANCELLED}
    assert stack.stop() == 0


class Caller(threading.Thread):
    """Sends over gRPC, by calls or by a stream, until the first error. Remembers what was acknowledged."""

    def __init__(self, stack: Stack, *, streaming: bool) -> None:
        super().__init__()
        self._stack = stack
        self._streaming = streaming
        self._sent: deque[str] = deque()
        self.acknowledged: set[str] = set()
        self.codes: set[grpc.StatusCode] = set()
        self.start()

    def run(self) -> None:
        with Rpc(self._stack.grpc_port, "sec_123") as rpc:
            try:
                if self._streaming:
                    for answer in rpc.stream("polylect.v1.IngestService/IngestStream", self._requests()):
                        self._note(answer)
                for request in self._requests():
                    self._note(rpc.call("polylect.v1.IngestService/Ingest", request))
            except grpc.RpcError as error:
                self.codes.add(error.code())

    def _requests(self) -> Iterator[dict[str, Any]]:
        while True:
            self._sent.append(uuid4().hex)
            yield {"events": [{"kind": "EVENT_KIND_TRACK", "name": "call", "message_id": self._sent[-1]}]}

    def _note(self, answer: Any) -> None:
        assert answer["results"][0]["event_id"]
        self.acknowledged.add(self._sent.popleft())


class Raw:
    """One request, sent in the pieces a test wants."""

    def __init__(self, stack: Stack, keys: Keys, message_id: str) -> None:
        body = json.dumps({"type": "track", "event": "Raw", "messageId": message_id}).encode()
        head = (
            f"POST /v1/t HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {keys.datafly}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        self._half, self._rest = head.encode() + body[:20], body[20:]
        self._socket = socket.create_connection(("127.0.0.1", stack.http_port), timeout=15)

    def send_half(self) -> None:
        self._socket.sendall(self._half)

    def send_rest(self) -> None:
        self._socket.sendall(self._rest)

    def send_all(self) -> None:
        self._socket.sendall(self._half + self._rest)

    def read_answer(self) -> int:
        """Give the status. Raises OSError or HTTPException when there is no whole answer."""
        with self._socket:
            answer = http.client.HTTPResponse(self._socket)
            answer.begin()
            assert answer.read()
            return answer.status


@pytest.mark.parametrize("victims", [("worker", "facade-worker"), ("core", "worker")], ids=" and ".join)
def test_two_workers_and_two_facade_workers_store_once_too(
    make_stack: MakeStack, victims: tuple[str, ...]
) -> None:
    stack = make_stack(environment={"POLYLECT_WORKERS": "2", "POLYLECT_FACADE_WORKERS": "2"}).start()
    assert (len(stack.parts("worker")), len(stack.parts("facade-worker"))) == (2, 2)
    keys = make_source(stack, "load")
    with Load(stack, keys, keep_alive=False) as load:
        for victim in victims:
            _kill_under_load(stack, load, victim)
    load.assert_answers_honest()
    load.assert_stored_once()
    assert stack.stop() == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_under_load_answers_all_and_loses_nothing(
    make_stack: MakeStack, number: signal.Signals
) -> None:
    """Whoever had sent a whole request before the signal is answered, on a fresh connection or an old one.

    Later ones may find the door closed: that no answer then comes is all they may be told.
    """
    stack = make_stack().start()
    keys = make_source(stack, "load")
    with Load(stack, keys, clients=12, keep_alive=False) as load:
        load.await_moment()
        signalled = time.monotonic()
        code = stack.stop(number)
        load.stop()
    assert code == 0
    unanswered = [one for one in load.exchanges if one.sent and one.sent < signalled and one.status is None]
    assert not unanswered, (
        f"{len(unanswered)} requests sent before the signal have no answer: {unanswered[:3]}"
    )
    assert eventually(lambda: not stack.left_behind(), "no process is left")
    load.assert_answers_honest()
    stack.start()
    load.assert_stored_once()
    assert stack.stop() == 0


def test_a_second_signal_hurries_and_loses_nothing(make_stack: MakeStack) -> None:
    stack = make_stack().start()
    keys = make_source(stack, "load")
    with Load(stack, keys, clients=12, keep_alive=False) as load:
        load.await_moment()
        assert stack.process is not None
        stack.process.send_signal(signal.SIGINT)
        eventually(lambda: "stopping" in stack.output, "the first is heard", every_seconds=0.01)
        assert stack.stop(signal.SIGINT) == 0
        load.stop()
    assert eventually(lambda: not stack.left_behind(), "no process is left")
    load.assert_answers_honest()
    stack.start()
    load.assert_stored_once()
    assert stack.stop() == 0


def test_the_supervisor_killed_under_load_costs_no_event(make_stack: MakeStack) -> None:
    stack = make_stack().start()
    keys = make_source(stack, "load")
    with Load(stack, keys, keep_alive=False) as load:
        load.await_moment()
        stack.descendants()
        assert stack.process is not None
        stack.process.kill()
        stack.process.wait()
        load.stop()
    eventually(lambda: not stack.left_behind(), "no orphan is left", within_seconds=15, context=stack.tail)
    assert stack.ports_are_free()
    stack.start()
    load.assert_answers_honest()
    load.assert_stored_once()
    assert stack.stop() == 0


def test_a_power_cut_costs_no_event(make_stack: MakeStack) -> None:
    """All processes at once; what the operating system had not written yet only a real one can take."""
    stack = make_stack().start()
    keys = make_source(stack, "load")
    with Load(stack, keys, keep_alive=False) as load:
        load.await_moment()
        doomed = stack.descendants()
        assert stack.process is not None
        # The supervisor first, or it would start again what dies.
        stack.process.kill()
        for process in doomed:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        stack.process.wait()
        load.stop()
    stack.start()
    load.assert_answers_honest()
    load.assert_stored_once()
    assert stack.stop() == 0


def test_a_core_that_does_not_answer_is_said_honestly(loaded: tuple[Stack, Keys]) -> None:
    stack, keys = loaded
    with Load(stack, keys, keep_alive=False) as load:
        load.await_moment()
        paused = pause(stack.parts("core"))
        try:
            silent_since = time.monotonic()
            eventually(
                lambda: [one for one in load.exchanges if one.status == 503 and one.begun > silent_since],
                "503 while the core is silent",
                # Whoever was under way waits for 10 s, and then 10 s with what is sent after that.
                within_seconds=30,
                context=load.summary,
            )
        finally:
            for process in paused:
                process.resume()
        load.await_acknowledged(BACK, begun_after=time.monotonic(), within_seconds=RECOVERY_SECONDS)
    load.assert_answers_honest()
    load.assert_stored_once()


def test_a_database_that_does_not_answer_is_said_honestly(loaded: tuple[Stack, Keys]) -> None:
    stack, keys = loaded
    with Load(stack, keys, keep_alive=False) as load:
        load.await_moment()
        paused = pause(stack.parts("postmaster") + stack.parts("backend") + stack.parts("housekeeper"))
        try:
            silent_since = time.monotonic()
            refused = eventually(
                lambda: [one for one in load.exchanges if one.status == 503 and one.begun > silent_since],
                "503 while the database is silent",
                within_seconds=15,
                context=load.summary,
            )
            assert eventually(lambda: stack.get("/readyz").status == 503, "not ready", within_seconds=15)
            assert stack.get("/healthz").status == 200
            silent_until = time.monotonic()
        finally:
            for process in paused:
                process.resume()
        load.await_acknowledged(BACK, begun_after=silent_until, within_seconds=RECOVERY_SECONDS)
    assert all(int(one.retry_after or 0) >= 1 for one in refused)
    premature = [
        one
        for one in load.exchanges
        if one.acknowledged and one.begun > silent_since and one.ended < silent_until
    ]
    assert not premature, f"acknowledged without a database: {premature[:3]}"
    load.assert_answers_honest()
    load.assert_stored_once()
    eventually(lambda: stack.get("/readyz").status == 200, "ready again")


def _kill_under_load(stack: Stack, load: Load, victim: str) -> None:
    """Kill one process of a role, -9; return when the system takes events again and has that role again."""
    load.await_moment()
    candidates = eventually(lambda: stack.parts(victim), f"a process {victim} runs", context=stack.tail)
    doomed = random.choice(candidates)
    said_before = len(stack.output)
    killed = time.monotonic()
    doomed.kill()
    load.await_acknowledged(BACK, begun_after=killed, within_seconds=RECOVERY_SECONDS)
    if victim != "backend":
        await_restart(stack, victim, doomed)
    if victim in ("core", "worker", "facade-master", "postmaster"):
        assert "SIGKILL" in stack.output[said_before:], stack.tail()
    eventually(
        lambda: stack.get("/readyz").status == 200,
        "ready again",
        within_seconds=RECOVERY_SECONDS,
        despite=(OSError, http.client.HTTPException),
        context=stack.tail,
    )
