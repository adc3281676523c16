"""Counting for the ledger: what came in, and what became of it, in lines of source, dialect and hour.

Hides how counts become rows, and in which order rows are locked, so that workers and cores which add to the
same lines wait for each other and never in a circle. It must not know why an event became what it became.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec
import psycopg
from polylect.v1.event_pb2 import Event
from polylect.v1.quarantine_pb2 import QuarantinedEvent

from storage.values import END_OF_TIME_SECONDS, NO_SOURCE, uuid_text

HOUR_SECONDS = 3_600
_DIALECT_CHARACTERS = 64

Line = tuple[str, str, int]
"""source_id, dialect, and the start of the UTC hour of receipt in seconds since the epoch."""

# One statement for everybody, so that all lock rows in the order it sorts them.
UPSERT = """
INSERT INTO ledger (source_id, dialect, hour, received, stored, duplicate, quarantined, refused)
SELECT source_id, dialect, to_timestamp(hour), received, stored, duplicate, quarantined, refused
FROM unnest(%s::uuid[], %s::text[], %s::bigint[], %s::bigint[], %s::bigint[], %s::bigint[], %s::bigint[],
            %s::bigint[])
    AS line (source_id, dialect, hour, received, stored, duplicate, quarantined, refused)
ORDER BY source_id, dialect, hour
ON CONFLICT (source_id, dialect, hour) DO UPDATE
SET received = ledger.received + excluded.received,
    stored = ledger.stored + excluded.stored,
    duplicate = ledger.duplicate + excluded.duplicate,
    quarantined = ledger.quarantined + excluded.quarantined,
    refused = ledger.refused + excluded.refused
"""


def hour_of(seconds: int) -> int:
    """Give the start of the UTC hour of a moment, both in seconds since the epoch."""
    return seconds - seconds % HOUR_SECONDS


class Reckoning:
    """What a claim took off the queue and what became of it, or what a core refused. Written once."""

    def __init__(self) -> None:
        self.received: Counter[Line] = Counter()
        self.stored: Counter[Line] = Counter()
        self.duplicate: Counter[Line] = Counter()
        self.quarantined: Counter[Line] = Counter()
        self.refused: Counter[Line] = Counter()

    def refuse(self, counts: Mapping[Line, int]) -> None:
        """Add events refused with their whole request: received and refused in one."""
        self.received.update(counts)
        self.refused.update(counts)

    def quarantine(self, entries: Iterable[QuarantinedEvent]) -> None:
        """Add events put into quarantine."""
        self.quarantined.update(
            (entry.source_id, entry.dialect, hour_of(entry.received_at.seconds)) for entry in entries
        )

    def release(self, replayed: Iterable[Event], removed: set[tuple[str, str]], duplicates: set[str]) -> None:
        """Take replayed events out of the quarantine: they were received when their entries were.

        Not one of `duplicates` (event_ids) whose entry was not there to be `removed` (source and id): a
        replay before it has done that, and it comes to nothing.
        """
        left = set(removed)
        for event in replayed:
            line = event.source_id, event.provenance.dialect, hour_of(event.received_at.seconds)
            entry = event.source_id, event.event_id
            if entry in left or event.event_id not in duplicates:
                left.discard(entry)
                self.quarantined[line] -= 1
            else:
                self.duplicate[line] -= 1

    def write(self, connection: psycopg.Connection[Any]) -> None:
        """Add to the ledger within the caller's transaction, as its last lock. Raises the driver's errors."""
        parameters = self.parameters()
        if parameters[0]:
            connection.execute(UPSERT, parameters)

    def parameters(self) -> list[list[Any]]:
        """Give the parameters of UPSERT: its columns, empty when nothing was counted."""
        lines: dict[Line, list[int]] = {}
        columns = (self.received, self.stored, self.duplicate, self.quarantined, self.refused)
        for index, counts in enumerate(columns):
            for line, events in counts.items():
                lines.setdefault(_writable(line), [0] * len(columns))[index] += events
        rows = [(*line, *counts) for line, counts in lines.items()]
        return [list(column) for column in zip(*rows, strict=True)] or [[] for _ in range(8)]


def encode_received(received: Mapping[Line, int]) -> bytes:
    """Give what was admitted as the queue's column has it, in JSON."""
    return msgspec.json.encode([(*_writable(line), events) for line, events in received.items()])


def decode_received(received: list[list[Any]]) -> dict[Line, int]:
    """Give what a row of the queue says was admitted into it."""
    counts: Counter[Line] = Counter()
    for source_id, dialect, hour, events in received:
        counts[source_id, dialect, hour] += events
    return counts


def _writable(line: Line) -> Line:
    """Give the line any row can hold: counting must not be what a claim fails of."""
    source_id, dialect, hour = line
    seconds = hour if 0 <= hour < END_OF_TIME_SECONDS else 0
    return uuid_text(source_id) or NO_SOURCE, dialect.replace("\0", "")[:_DIALECT_CHARACTERS], seconds
