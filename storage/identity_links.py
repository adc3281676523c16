"""What identify events leave: one record each, for every visitor id they came with.

How they are read is `identity`'s.
"""

from collections.abc import Iterable
from typing import Any

import psycopg
from polylect.v1.event_pb2 import EVENT_KIND_IDENTIFY, Event

from storage.values import array_literals

_INSERT = """
INSERT INTO identity_links (source_id, linked_at, event_id, anonymous_id, user_id)
SELECT * FROM unnest(%s::uuid[], %s::timestamptz[], %s::uuid[], %s::text[], %s::text[])
ON CONFLICT (source_id, anonymous_id, linked_at, event_id) DO NOTHING
"""


def insert_identity_links(connection: psycopg.Connection[Any], stored: Iterable[tuple[Event, str]]) -> None:
    """Leave the records of the identify events among `stored`, each with its time as Postgres reads it.

    Raises the driver's errors.
    """
    links = [
        (event, received_at, visitor)
        for event, received_at in stored
        if event.kind == EVENT_KIND_IDENTIFY and event.user_id
        for visitor in {event.anonymous_id, event.cookie_id} - {"", event.user_id}
    ]
    if links:
        keys = [(event.source_id, received_at, event.event_id) for event, received_at, _ in links]
        visitors = [visitor for _, _, visitor in links]
        users = [event.user_id for event, _, _ in links]
        connection.execute(_INSERT, [*array_literals(keys), visitors, users])
