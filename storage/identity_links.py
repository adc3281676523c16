"""What identify events leave: one record each, for every visitor id they came with.

How they are read is `identity`'s.
"""

from collections.abc import Iterable
from typing import Any

import psycopg
from polylect.v1.event_pb2 import EVENT_KIND_IDENTIFY

from storage.arrays import time_array, uuid_array
from storage.prepared import PreparedEvent

_INSERT = """
INSERT INTO identity_links (source_id, linked_at, event_id, anonymous_id, user_id)
SELECT * FROM unnest(%s, %s, %s, %s::text[], %s::text[])
ON CONFLICT (source_id, anonymous_id, linked_at, event_id) DO NOTHING
"""


def insert_identity_links(connection: psycopg.Connection[Any], stored: Iterable[PreparedEvent]) -> None:
    """Leave the records of the identify events among `stored`. Raises the driver's errors."""
    links = [
        (one, visitor)
        for one in stored
        if one.event.kind == EVENT_KIND_IDENTIFY and one.event.user_id
        for visitor in {one.event.anonymous_id, one.event.cookie_id} - {"", one.event.user_id}
    ]
    if links:
        columns = (
            uuid_array(one.source_id for one, _ in links),
            time_array(one.received_micros for one, _ in links),
            uuid_array(one.event_id for one, _ in links),
            [visitor for _, visitor in links],
            [one.event.user_id for one, _ in links],
        )
        connection.execute(_INSERT, columns)
