"""The queue's front in Postgres, and the form of its payloads.

Hides compression, and that a batch is a row. Claiming and settling are the worker's.
"""

from weakref import WeakSet

import psycopg
import zstandard
from google.protobuf.message import DecodeError
from polylect.v1.queue_pb2 import EventBatch

from storage.database import Connection, Database
from storage.roundtrip import prepare, run_prepared

# Under this zstd saves less disk than it costs time.
_COMPRESS_FROM_BYTES = 2048
# What a protobuf EventBatch can't begin with: its fields are 1 and 2.
_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
# A batch is bounded by the core's buffers; a frame that claims more is not one of ours.
_LARGEST_BATCH_BYTES = 1 << 30

_STATEMENT = b"polylect_append"
_INSERT = b"INSERT INTO queue (item_count, payload) VALUES ($1, $2)"


class PostgresQueue:
    """The core's end of the queue. Give it a Database of its own, so that queries can't make it wait."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._prepared: WeakSet[Connection] = WeakSet()

    async def append(self, batch: EventBatch) -> None:
        """Commit `batch` as one row, synced to disk; an empty one needs none.

        Raises StorageUnavailable; when the connection broke at the commit, the row may be there all the same.
        """
        item_count = len(batch.events) + len(batch.quarantined)
        if not item_count:
            return
        payload = encode_batch(batch)
        async with self._database.connection() as connection:
            try:
                if connection not in self._prepared:
                    await prepare(connection, _STATEMENT, _INSERT)
                    self._prepared.add(connection)
                await run_prepared(connection, _STATEMENT, (item_count.to_bytes(4), payload))
            except psycopg.Error:
                # It may be the statement that is gone: a new connection starts anew.
                await connection.close()
                raise


def encode_batch(batch: EventBatch) -> bytes:
    """Give the payload for `batch`: its bytes, or one zstd frame of them where that is smaller."""
    plain = batch.SerializeToString()
    if len(plain) < _COMPRESS_FROM_BYTES:
        return plain
    compressed = zstandard.ZstdCompressor(level=1).compress(plain)
    return compressed if len(compressed) < len(plain) else plain


def decode_batch(payload: bytes) -> EventBatch:
    """Give the batch of a payload. Raises ValueError when it holds none."""
    try:
        if payload.startswith(_ZSTD_MAGIC):
            payload = zstandard.ZstdDecompressor().decompress(payload, max_output_size=_LARGEST_BATCH_BYTES)
        return EventBatch.FromString(payload)
    except (zstandard.ZstdError, DecodeError) as error:
        raise ValueError(f"not the payload of a batch: {error}") from error
