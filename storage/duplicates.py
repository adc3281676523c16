"""What is remembered of events that were dropped because their client's id was stored before.

Hides how the stored one is found and when it is forgotten. It must not know what makes two events the same.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import psycopg

from storage.arrays import time_array, uuid_array
from storage.prepared import PreparedEvent
from storage.purging import purge_many, purge_old

# The one that was stored is the one that has the key; a row says it again for who asks later.
_INSERT = """
INSERT INTO duplicates (source_id, event_id, received_at, duplicate_of, message_id, request_id, dialect,
                        endpoint, client_ip)
SELECT source_id, dropped.event_id, dropped.received_at, kept.event_id, message_id, request_id, dialect,
       endpoint, client_ip
FROM unnest(%s, %s, %s, %s, %s::text[], %s::text[], %s::text[], %s::text[], %s::text[])
    AS dropped (source_id, dedup_key, event_id, received_at, message_id, request_id, dialect, endpoint,
                client_ip)
JOIN dedup_keys AS kept USING (source_id, dedup_key)
ON CONFLICT (source_id, event_id) DO NOTHING
"""

# A source that sends everything twice must not fill the disk with it.
_LARGEST_OF_SOURCE = 1_000_000


def insert_duplicates(connection: psycopg.Connection[Any], dropped: Sequence[PreparedEvent]) -> None:
    """Remember those that were dropped for their key. Raises the driver's errors."""
    keyed = [(one, one.dedup_key) for one in dropped if one.dedup_key]
    provenances = [one.event.provenance for one, _ in keyed]
    columns = (
        uuid_array(one.source_id for one, _ in keyed),
        uuid_array(key for _, key in keyed),
        uuid_array(one.event_id for one, _ in keyed),
        time_array(one.received_micros for one, _ in keyed),
        [_text(one.event.message_id) for one, _ in keyed],
        [_text(provenance.request_id) for provenance in provenances],
        [_text(provenance.dialect) for provenance in provenances],
        [_text(provenance.endpoint) for provenance in provenances],
        [_text(one.event.client_ip) for one, _ in keyed],
    )
    connection.execute(_INSERT, columns)


def purge_duplicates(connection: psycopg.Connection[Any], cutoff: datetime) -> bool:
    """Forget a chunk of those received before `cutoff`, and of too many; False when more is due.

    Raises the driver's errors.
    """
    # Both, whatever the one says.
    return purge_old(connection, "duplicates", cutoff) & purge_many(
        connection, "duplicates", "event_id", _LARGEST_OF_SOURCE
    )


def _text(text: str) -> str | None:
    # The event was never tried against a column.
    return text.replace("\0", "") or None
