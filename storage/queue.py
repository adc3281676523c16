"""The queue in Postgres: append, claim, settle.

Hides that a batch is a row, its compression, how a claim is cut and kept from other workers, and that
settling it deletes rows. It must not know what becomes of events.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakSet

import psycopg
import structlog
import zstandard
from google.protobuf.message import DecodeError
from polylect.v1.event_pb2 import Event
from polylect.v1.quarantine_pb2 import QuarantinedEvent
from polylect.v1.queue_pb2 import EventBatch

from storage.database import Database
from storage.quarantine_rows import undecodable
from storage.reckoning import Line, Reckoning, decode_received, encode_received, hour_of
from storage.roundtrip import Connection

# Under this zstd saves less disk than it costs time.
_COMPRESS_FROM_BYTES = 2048
# What a protobuf EventBatch can't begin with: its fields are 1 and 2.
_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
# A batch is bounded by the core's buffers; a frame that claims more is not one of ours.
_LARGEST_BATCH_BYTES = 1 << 30

_STATEMENT = b"polylect_append"
_INSERT = b"INSERT INTO queue (item_count, payload, received) VALUES ($1, $2, $3)"
# jsonb in binary is its version, then the text.
_JSONB_VERSION = b"\x01"

# One round trip when there is nothing; by the index, for the table's first pages hold dead rows only.
_WAITING = "SELECT queue_id FROM queue ORDER BY queue_id LIMIT 1"
# Rows are locked as they are fetched, so that other workers find the rest. Sizes come first, payloads when it
# is known which fit: a fetch of payloads could bring any amount.
_CLAIM = """
DECLARE claim NO SCROLL CURSOR FOR
SELECT queue_id, item_count, octet_length(payload) FROM queue ORDER BY queue_id FOR UPDATE SKIP LOCKED
"""
_PAYLOADS = "SELECT queue_id, payload, received FROM queue WHERE queue_id = ANY(%s) ORDER BY queue_id"
_DELETE = "DELETE FROM queue WHERE queue_id = ANY(%s)"
_FIRST_FETCH_ROWS = 8
_LARGEST_FETCH_ROWS = 1_000
# What a claim's events become and the rows it deletes are in one transaction: a crash that loses the commit
# loses both, and the claim is done again. So, unlike the core's commit, this one need not wait for the disk.
_CLAIM_SETTINGS = "SET LOCAL synchronous_commit = off"

log = structlog.get_logger()

_compressor = zstandard.ZstdCompressor(level=1)


class PostgresQueue:
    """The core's end of the queue. Give it a Database of its own, so that queries can't make it wait."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._prepared: WeakSet[Connection] = WeakSet()

    async def append(self, batch: bytes, item_count: int, received: Mapping[Line, int] | None = None) -> None:
        """Commit an EventBatch of so many items, given in bytes, as one row, synced to disk.

        `received` is the ledger's word on what came in; without it, what the batch holds when it is claimed.

        Raises StorageUnavailable; when the connection broke at the commit, the row may be there all the same.
        """
        payload = encode_batch(batch)
        counted = None if received is None else _JSONB_VERSION + encode_received(received)
        async with self._database.connection() as connection:
            try:
                if connection not in self._prepared:
                    await connection.prepare(_STATEMENT, _INSERT)
                    self._prepared.add(connection)
                await connection.run_prepared(_STATEMENT, (item_count.to_bytes(4), payload, counted))
            except psycopg.Error:
                # It may be the statement that is gone: a new connection starts anew.
                await connection.close()
                raise


@dataclass(frozen=True)
class Claim:
    """What was taken off the queue for one transaction; others don't get it until that ends."""

    connection: psycopg.Connection[Any]
    queue_ids: list[int]
    events: list[Event]
    refused: list[QuarantinedEvent]
    # Nothing more was there to claim.
    emptied: bool
    # Has what came in; what becomes of it is the writer's to add.
    reckoning: Reckoning = field(default_factory=Reckoning)

    @property
    def items(self) -> int:
        return max(len(self.events) + len(self.refused), len(self.queue_ids))

    def settle(self) -> None:
        """Take it off the queue, for good when the transaction commits. Raises the driver's errors."""
        self.connection.execute(_DELETE, (self.queue_ids,))


def is_waiting(connection: psycopg.Connection[Any]) -> bool:
    """Tell whether there is anything in the queue, be it claimed by others. Raises the driver's errors."""
    return connection.execute(_WAITING).fetchone() is not None


def claim(connection: psycopg.Connection[Any], max_items: int, max_bytes: int) -> Claim | None:
    """Claim the oldest batches that nobody else has, within the transaction `connection` is in.

    Whole batches, one at least, until it has so many items, or bytes; None when there is nothing to claim.
    What nobody can read is among the refused. Without `settle` and a commit, nothing has happened. Raises the
    driver's errors.
    """
    connection.execute(_CLAIM_SETTINGS)
    locked, emptied = _lock(connection, max_items, max_bytes)
    if not locked:
        return None
    queue_ids: list[int] = []
    events: list[Event] = []
    refused: list[QuarantinedEvent] = []
    decoded_bytes = 0
    reckoning = Reckoning()
    for queue_id, payload, received in connection.execute(_PAYLOADS, (locked,), binary=True):
        queue_ids.append(queue_id)
        try:
            plain = _inflated(payload)
            batch = _parsed(plain)
        except ValueError as error:
            # In quarantine an operator can find it; in the queue it would stop everything behind it.
            log.error("queue_row_undecodable", queue_id=queue_id, error=str(error))
            refused.append(undecodable(payload, error))
            # All of it, as one piece.
            reckoning.received.update(decode_received(received or []))
            reckoning.quarantined.update(decode_received(received or []))
            continue
        events += batch.events
        refused += batch.quarantined
        reckoning.received.update(_contents(batch) if received is None else decode_received(received))
        decoded_bytes += len(plain)
        if decoded_bytes >= max_bytes:
            break
    return Claim(connection, queue_ids, events, refused, emptied and len(queue_ids) == len(locked), reckoning)


def _contents(batch: EventBatch) -> Mapping[Line, int]:
    """Count what is in a batch of which nobody else has."""
    reckoning = Reckoning()
    reckoning.quarantine(batch.quarantined)
    reckoning.quarantined.update(
        (event.source_id, event.provenance.dialect, hour_of(event.received_at.seconds))
        for event in batch.events
    )
    return reckoning.quarantined


def _lock(connection: psycopg.Connection[Any], max_items: int, max_bytes: int) -> tuple[list[int], bool]:
    """Lock the rows of a claim; tell too whether these were all there were for us."""
    connection.execute(_CLAIM)
    queue_ids: list[int] = []
    items = size = 0
    step = _FIRST_FETCH_ROWS
    while True:
        rows = connection.execute(f"FETCH FORWARD {step} FROM claim").fetchall()
        for queue_id, item_count, payload_bytes in rows:
            if queue_ids and (items + item_count > max_items or size + payload_bytes > max_bytes):
                return queue_ids, False
            queue_ids.append(queue_id)
            items += item_count
            size += payload_bytes
        if len(rows) < step:
            return queue_ids, True
        fitting = (max_items - items) * len(queue_ids) // max(items, 1)
        step = min(max(fitting, 1), _LARGEST_FETCH_ROWS)


def encode_batch(batch: bytes) -> bytes:
    """Give the payload for an EventBatch's bytes: these, or one zstd frame of them where that is smaller."""
    if len(batch) < _COMPRESS_FROM_BYTES:
        return batch
    compressed = _compressor.compress(batch)
    return compressed if len(compressed) < len(batch) else batch


def decode_batch(payload: bytes) -> EventBatch:
    """Give the batch of a payload. Raises ValueError when it holds none."""
    return _parsed(_inflated(payload))


def _inflated(payload: bytes) -> bytes:
    if not payload.startswith(_ZSTD_MAGIC):
        return payload
    try:
        return zstandard.ZstdDecompressor().decompress(payload, max_output_size=_LARGEST_BATCH_BYTES)
    except zstandard.ZstdError as error:
        raise ValueError(f"not the payload of a batch: {error}") from error


def _parsed(plain: bytes) -> EventBatch:
    try:
        return EventBatch.FromString(plain)
    except DecodeError as error:
        raise ValueError(f"not the payload of a batch: {error}") from error
