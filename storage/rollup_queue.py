"""What leaves word of changes that the tables of statistics have yet to take in. Who takes it is `rollup`."""

from collections.abc import Sequence
from typing import Any

import psycopg

from storage.values import array_literals

_ENQUEUE = """
INSERT INTO rollup_queue (source_ids, event_ids, received_ats)
VALUES (%s::uuid[], %s::uuid[], %s::timestamptz[])
"""


def enqueue_rollup(connection: psycopg.Connection[Any], keys: Sequence[tuple[str, str, str]]) -> None:
    """Leave events just stored, by source_id, event_id and received_at, to be taken in.

    In the caller's transaction. Raises the driver's errors.
    """
    if keys:
        connection.execute(_ENQUEUE, array_literals(keys))
