"""Clients that send through all four dialects at once, and remember every answer.

Each event carries an id that is ours alone, so that the table can be held against what was answered. Clients
whose dialect has a client id repeat a request until it is acknowledged, and some of them once more; others
send once.
"""

import http.client
import itertools
import json
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from uuid import uuid4

from .stack import Stack
from .waiting import eventually

# How long a client waits before it repeats, and between two requests: enough load to keep every part busy,
# and little enough that the clients, which share the machine, don't starve it.
_REPEAT_SECONDS = 0.1
_PAUSE_SECONDS = 0.002
_PATIENCE_SECONDS = 30.0
_HONEST_REFUSALS = (429, 503)

VICTIMS = ("facade-worker", "facade-master", "core", "worker", "postmaster", "backend")
"""Who is killed under load."""
RECOVERY_SECONDS = 15.0
BACK = 200
"""Requests after which a recovered system counts as being back for good."""


@dataclass(frozen=True)
class Keys:
    """A source's secrets."""

    public: str
    secret: str
    pulse: str
    apex: str
    datafly: str
    site: str


@dataclass(frozen=True)
class Message:
    """One request, and the ids of its events."""

    path: str
    headers: Mapping[str, str]
    body: bytes
    ids: tuple[str, ...]
    # Whether the service can tell that it got it before.
    repeatable: bool


@dataclass(frozen=True)
class Exchange:
    """What became of one request. Times are monotonic seconds."""

    message: Message
    begun: float
    # When the last byte was with the system; None when it never was.
    sent: float | None
    ended: float
    # None: no answer.
    status: int | None
    retry_after: str | None
    error: str

    @property
    def acknowledged(self) -> bool:
        return self.status is not None and 200 <= self.status < 300


@dataclass
class Load:
    """Clients on threads, each sending as fast as it is answered. Use as a context manager.

    `keep_alive` False makes half of them connect anew for each request.
    """

    stack: Stack
    keys: Keys
    clients: int = 6
    keep_alive: bool = True
    exchanges: list[Exchange] = field(default_factory=list)
    _stop: threading.Event = field(default_factory=threading.Event)
    _threads: list[threading.Thread] = field(default_factory=list)
    _faults: list[BaseException] = field(default_factory=list)

    def __enter__(self) -> "Load":
        makers = itertools.cycle(_MAKERS)
        for number in range(self.clients):
            fresh = not self.keep_alive and number % 2 == 1
            makers_of_this = [next(makers) for _ in _MAKERS] if number % 2 else list(_MAKERS)
            thread = threading.Thread(target=self._run, args=(makers_of_this, fresh), name=f"client-{number}")
            thread.start()
            self._threads.append(thread)
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Let every client finish what it is at. Idempotent."""
        self._stop.set()
        for thread in self._threads:
            thread.join()
        if self._faults:
            raise self._faults[0]

    def await_acknowledged(
        self, count: int, *, begun_after: float = 0.0, within_seconds: float = 15.0
    ) -> None:
        """Wait until so many requests begun after a moment were acknowledged."""

        def enough() -> bool:
            done = self.exchanges
            return sum(one.acknowledged and one.begun > begun_after for one in reversed(done)) >= count

        eventually(
            enough,
            f"{count} requests acknowledged",
            within_seconds=within_seconds,
            context=lambda: f"{self.summary()}\n{self.stack.tail()}",
        )

    def await_moment(self) -> None:
        """Wait for a random moment in full swing, counted in acknowledged requests."""
        self.await_acknowledged(len(self.exchanges) + random.randint(150, 600))

    def summary(self) -> str:
        """Answers by status, for a failing test's message."""
        counts = Counter(str(one.status) if one.status else one.error for one in list(self.exchanges))
        return f"answers: {dict(counts)}"

    def acknowledged_ids(self) -> set[str]:
        return {each for one in self.exchanges if one.acknowledged for each in one.message.ids}

    def sent_ids(self) -> set[str]:
        return {each for one in self.exchanges for each in one.message.ids}

    def assert_answers_honest(self) -> None:
        """Nothing but acknowledgements, honest refusals and broken connections was seen."""
        for one in self.exchanges:
            if one.status is None or one.acknowledged:
                continue
            assert one.status in _HONEST_REFUSALS, f"{one.message.path} answered {one.status}: {one.error}"
            assert (one.retry_after or "").isdigit(), f"{one.status} with Retry-After {one.retry_after!r}"
            assert int(one.retry_after or 0) >= 1

    def assert_stored_once(self) -> None:
        """Every acknowledged event is in `events` exactly once; every other one at most once."""
        self.stack.wait_until_drained()
        stored = Counter(
            str(each)
            for (each,) in self.stack.sql(
                "select properties->>'load_id' from events where properties ? 'load_id'"
            )
        )
        acknowledged = self.acknowledged_ids()
        lost = {each for each in acknowledged if stored[each] == 0}
        sent = self.sent_ids()
        twice = {each for each, count in stored.items() if each in sent and count > 1}
        assert len(acknowledged) > 100, f"too little load to prove anything: {self.summary()}"
        assert not lost, (
            f"{len(lost)} of {len(acknowledged)} acknowledged events are lost, {sorted(lost)[:5]}"
        )
        assert not twice, f"{len(twice)} events are stored more than once, {sorted(twice)[:5]}"

    def _run(self, makers: "list[Maker]", fresh: bool) -> None:
        connection: http.client.HTTPConnection | None = None
        try:
            for make in itertools.cycle(makers):
                if self._stop.is_set():
                    return
                message = make(self.keys)
                # Some clients repeat what was acknowledged, too: their answer was lost on the way.
                wanted = 2 if message.repeatable and random.random() < 0.1 else 1
                while wanted and not self._stop.is_set():
                    if fresh and connection:
                        connection.close()
                        connection = None
                    exchange, connection = self._exchange(message, connection)
                    self.exchanges.append(exchange)
                    if exchange.acknowledged:
                        wanted -= 1
                    elif not message.repeatable:
                        wanted = 0
                    self._stop.wait(_PAUSE_SECONDS if exchange.acknowledged else _REPEAT_SECONDS)
        except BaseException as fault:
            self._faults.append(fault)
        finally:
            if connection:
                connection.close()

    def _exchange(
        self, message: Message, connection: http.client.HTTPConnection | None
    ) -> tuple[Exchange, http.client.HTTPConnection | None]:
        begun = time.monotonic()
        sent: float | None = None
        status, retry_after, error = None, None, ""
        if connection is None:
            connection = http.client.HTTPConnection(
                "127.0.0.1", self.stack.http_port, timeout=_PATIENCE_SECONDS
            )
        try:
            connection.request("POST", message.path, message.body, dict(message.headers))
            sent = time.monotonic()
            answer = connection.getresponse()
            body = answer.read()
            status, retry_after = answer.status, answer.headers.get("Retry-After")
            if status >= 300:
                error = body.decode(errors="replace")
            kept: http.client.HTTPConnection | None = None if answer.will_close else connection
        except (OSError, http.client.HTTPException) as failure:
            error, kept = f"{type(failure).__name__}: {failure}", None
        if kept is None:
            connection.close()
        ended = time.monotonic()
        return Exchange(message, begun, sent, ended, status, retry_after, error), kept


def _new_id() -> str:
    return uuid4().hex


def _message(
    path: str, body: object, ids: tuple[str, ...], headers: Mapping[str, str], *, repeatable: bool = False
) -> Message:
    typed = {"Content-Type": "application/json", **headers}
    return Message(path, typed, json.dumps(body).encode(), ids, repeatable)


Maker = Callable[[Keys], Message]


def _pulsora_event(keys: Keys) -> Message:
    each = _new_id()
    data = {
        "visitor_fingerprint": "fp_load",
        "session_id": "s",
        "event_name": "load",
        "event_data": {"load_id": each},
    }
    return _message("/api/ingest", {"type": "event", "data": data}, (each,), {"X-API-Token": keys.public})


def _pulsora_revenue(keys: Keys) -> Message:
    each = _new_id()
    data = {
        "visitor_fingerprint": "fp_load",
        "session_id": "s",
        "customer_id": "cus_load",
        "amount": 19.99,
        "transaction_id": each,
        "metadata": {"load_id": each},
    }
    body = {"type": "revenue", "data": data}
    return _message("/api/ingest", body, (each,), {"X-API-Token": keys.secret}, repeatable=True)


def _pulse_event(keys: Keys) -> Message:
    each = _new_id()
    body = {
        "site_id": keys.site,
        "event_type": "click",
        "timestamp": int(time.time() * 1000),
        "session_id": "s",
        "load_id": each,
    }
    return _message("/collect", body, (each,), {"Authorization": f"Bearer {keys.pulse}"})


def _pulse_batch(keys: Keys) -> Message:
    ids = tuple(_new_id() for _ in range(5))
    body = {"session_id": "s", "events": [{"event_type": "click", "load_id": each} for each in ids]}
    return _message("/collect/batch", body, ids, {"Authorization": f"Bearer {keys.pulse}"})


def _apex_batch(keys: Keys) -> Message:
    ids = tuple(_new_id() for _ in range(3))
    events = [{"type": "click", "url": "/pricing", "data": {"load_id": each}} for each in ids]
    return _message("/api/events", {"projectKey": keys.apex, "visitorId": "v", "events": events}, ids, {})


def _datafly_event(keys: Keys) -> Message:
    each = _new_id()
    body = {"type": "track", "event": "Load", "messageId": each, "properties": {"load_id": each}}
    return _message("/v1/t", body, (each,), {"Authorization": f"Bearer {keys.datafly}"}, repeatable=True)


def _datafly_batch(keys: Keys) -> Message:
    ids = tuple(_new_id() for _ in range(4))
    batch = [
        {"type": "track", "event": "Load", "messageId": each, "properties": {"load_id": each}} for each in ids
    ]
    return _message(
        "/v1/batch", {"batch": batch}, ids, {"Authorization": f"Bearer {keys.datafly}"}, repeatable=True
    )


_MAKERS: tuple[Maker, ...] = (
    _pulsora_event,
    _datafly_event,
    _pulse_event,
    _apex_batch,
    _datafly_batch,
    _pulsora_revenue,
    _pulse_batch,
)


def make_source(stack: Stack, name: str) -> Keys:
    """Make a source with a key of every dialect and no rate limit, by the command line."""
    stack.polylect_json("source", "create", name)
    stack.polylect("source", "set", name, "--rate-limit", "off")

    def secret(kind: str) -> str:
        made: dict[str, str] = stack.polylect_json("key", "create", name, "--kind", kind)
        return made["secret"]

    return Keys(
        public=secret("pulsora-public"),
        secret=secret("pulsora-secret"),
        pulse=secret("pulse"),
        apex=secret("apex"),
        datafly=secret("datafly"),
        site=name,
    )
