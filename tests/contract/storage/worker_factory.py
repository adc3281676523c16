"""Events, batches and looks into the tables, for the tests of the worker's side of storage."""

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
from polylect.v1.event_pb2 import EVENT_KIND_IDENTIFY, EVENT_KIND_TRACK, Event, Provenance
from polylect.v1.quarantine_pb2 import QuarantinedEvent
from polylect.v1.queue_pb2 import EventBatch
from psycopg.rows import dict_row
from uuid_utils.compat import uuid7

from storage.queue import encode_batch
from storage.values import timestamp_of

NOW = datetime(2026, 1, 31, 12, 0, tzinfo=UTC)
SOURCE = "01941f29-7c00-7000-8000-000000000001"
OTHER_SOURCE = "01941f29-7c00-7000-8000-000000000002"


class Clock:
    """A clock that stands until it is moved."""

    def __init__(self, now: datetime = NOW) -> None:
        self.now = now

    def __call__(self) -> datetime:
        return self.now

    def forward(self, **span: float) -> None:
        self.now += timedelta(**span)


def make_event(received_at: datetime = NOW, **fields: Any) -> Event:
    """Give a valid event, stamped as the core would."""
    values: dict[str, Any] = {
        "event_id": str(uuid7()),
        "source_id": SOURCE,
        "kind": EVENT_KIND_TRACK,
        "name": "signup",
        "properties_json": '{"plan": "pro"}',
        "provenance": Provenance(dialect="grpc"),
    }
    event = Event(**(values | fields))
    event.received_at.CopyFrom(timestamp_of(received_at))
    event.occurred_at.CopyFrom(timestamp_of(received_at))
    return event


def make_identify(**fields: Any) -> Event:
    return make_event(kind=EVENT_KIND_IDENTIFY, name="", **({"user_id": "user-1"} | fields))


def make_refused(**fields: Any) -> QuarantinedEvent:
    values: dict[str, Any] = {"quarantine_id": str(uuid7()), "source_id": SOURCE, "raw": b'{"type":'}
    return QuarantinedEvent(**(values | fields))


def enqueue(connection: psycopg.Connection[Any], *events: Event, refused: list[Any] | None = None) -> None:
    """Append one queue row, as the core does."""
    batch = EventBatch(events=events, quarantined=refused or [])
    enqueue_payload(connection, encode_batch(batch.SerializeToString()), len(events) + len(refused or []))


def enqueue_payload(connection: psycopg.Connection[Any], payload: bytes, item_count: int = 1) -> None:
    connection.execute("INSERT INTO queue (item_count, payload) VALUES (%s, %b)", (item_count, payload))


def select(connection: psycopg.Connection[Any], query: str) -> list[dict[str, Any]]:
    with connection.cursor(row_factory=dict_row) as cursor:
        return cursor.execute(query.encode()).fetchall()


def column(connection: psycopg.Connection[Any], query: str) -> list[Any]:
    return [value for (value,) in connection.execute(query.encode())]


def stored_ids(connection: psycopg.Connection[Any]) -> list[str]:
    return column(connection, "SELECT event_id::text FROM events ORDER BY event_id")


def ids_of(*events: Event) -> list[str]:
    return sorted(event.event_id for event in events)


def wait_until(condition: Callable[[], object], seconds: float = 10) -> None:
    """Look again and again until `condition` holds; fail after the deadline."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition never came to hold"
        time.sleep(0.005)
