"""What leaves word of changes that the tables of statistics have yet to take in. Who takes it is `rollup`."""

from collections.abc import Sequence
from typing import Any

import psycopg

from storage.arrays import time_array, uuid_array

_ENQUEUE = """
INSERT INTO rollup_queue (source_ids, event_ids, received_ats)
VALUES (%s, %s, %s)
"""


def enqueue_rollup(connection: psycopg.Connection[Any], keys: Sequence[tuple[bytes, bytes, int]]) -> None:
    """Leave events just stored, by source_id, event_id and received_at in microseconds, to be taken in.

    In the caller's transaction. Raises the driver's errors.
    """
    if keys:
        sources, ids, received = zip(*keys, strict=True)
        connection.execute(_ENQUEUE, (uuid_array(sources), uuid_array(ids), time_array(received)))
