"""How much the quarantine of a source may hold, and for how long: the oldest beyond are dropped, and counted.

Hides when to look. Counting takes a walk over a source's entries, so it is done each hour for all, and in
between for those that got a tenth of their room since; two workers may so exceed it by a fifth, for a moment.
It must not know why something is in quarantine.
"""

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from time import monotonic
from typing import Any

import psycopg
import structlog
from polylect.v1.quarantine_pb2 import QuarantinedEvent

from storage.errors import driver_errors_wrapped
from storage.partitions import Connect, Lock, try_lock
from storage.quarantine_rows import SIZE_BYTES, size_bytes_of
from storage.values import first_uuid7

# In a pass this worker claims nothing; it ends with the source, or chunk, at hand.
_PASS_SECONDS = 0.2
_DROP_ROWS = 5_000

_SOURCES = """
WITH RECURSIVE found AS (
    (SELECT source_id FROM quarantine ORDER BY source_id LIMIT 1)
    UNION ALL
    SELECT (SELECT source_id FROM quarantine WHERE source_id > found.source_id ORDER BY source_id LIMIT 1)
    FROM found WHERE found.source_id IS NOT NULL
) SELECT source_id::text FROM found WHERE source_id IS NOT NULL
"""
# The newest entry there is no room for. octet_length of a value kept elsewhere reads its header only.
_FIRST_WITHOUT_ROOM = f"""
SELECT quarantine_id::text FROM (
    SELECT quarantine_id, count(*) OVER newest AS entries,
           sum({SIZE_BYTES}) OVER newest AS size_bytes
    FROM quarantine WHERE source_id = %s
    WINDOW newest AS (ORDER BY quarantine_id DESC ROWS UNBOUNDED PRECEDING)
) AS kept WHERE entries > %s OR size_bytes > %s ORDER BY quarantine_id DESC LIMIT 1
"""  # noqa: S608 - of literals only
_DROP = """
DELETE FROM quarantine WHERE source_id = %(source_id)s AND quarantine_id = ANY(ARRAY(
    SELECT quarantine_id FROM quarantine
    WHERE source_id = %(source_id)s AND quarantine_id <= %(last_id)s ORDER BY quarantine_id LIMIT %(rows)s))
"""
_COUNT = """
INSERT INTO quarantine_drops AS known (source_id, for_room, for_age, last_dropped_at) VALUES (%s, %s, %s, %s)
ON CONFLICT (source_id) DO UPDATE
SET for_room = known.for_room + excluded.for_room, for_age = known.for_age + excluded.for_age,
    last_dropped_at = excluded.last_dropped_at
"""

log = structlog.get_logger()


@dataclass
class _Arrived:
    entries: int = 0
    size_bytes: int = 0


@dataclass
class QuarantineBounds:
    """Applies one installation's bounds, each per source. `days` 0 keeps entries for ever."""

    connect: Connect
    max_entries: int
    max_bytes: int
    days: int
    # By source, since its room was looked at.
    _arrived: dict[str, _Arrived] = field(default_factory=dict)
    # What is left of the round through all sources.
    _pending: deque[str] = field(default_factory=deque)

    def note(self, entries: Iterable[QuarantinedEvent]) -> None:
        """Hear of entries that were written."""
        for entry in entries:
            arrived = self._arrived.setdefault(entry.source_id, _Arrived())
            arrived.entries += 1
            arrived.size_bytes += size_bytes_of(entry)

    def pressed(self) -> list[str]:
        """Give the sources that got a tenth of their room since it was looked at."""
        return [
            source_id
            for source_id, arrived in self._arrived.items()
            if 10 * arrived.entries > self.max_entries or 10 * arrived.size_bytes > self.max_bytes
        ]

    def apply(self, now: datetime, source_ids: Sequence[str] | None = None) -> bool:
        """Drop some of what is too old or too much of these sources, by default of all, one after the other.

        False when there may be more, which another call goes on with. Raises StorageUnavailable. Does nothing
        while another worker is at it.
        """
        with driver_errors_wrapped(), self.connect() as connection:
            if not try_lock(connection, Lock.QUARANTINE):
                return True
            if source_ids is not None:
                pending = deque(source_ids)
            else:
                self._pending = self._pending or deque(found for (found,) in connection.execute(_SOURCES))
                pending = self._pending
            ends_at = monotonic() + _PASS_SECONDS
            while pending and monotonic() < ends_at:
                if self._apply_to(connection, pending[0], now):
                    self._arrived.pop(pending.popleft(), None)
        return not pending

    def _apply_to(self, connection: psycopg.Connection[Any], source_id: str, now: datetime) -> bool:
        aged = 0
        if self.days:
            cutoff = first_uuid7(now - timedelta(days=self.days))
            aged = self._drop(connection, source_id, cutoff, now, for_age=True)
        found = connection.execute(_FIRST_WITHOUT_ROOM, (source_id, self.max_entries, self.max_bytes))
        row = found.fetchone()
        crowded = self._drop(connection, source_id, row[0], now, for_age=False) if row else 0
        if aged or crowded:
            log.warning("quarantine_dropped", source_id=source_id, for_age=aged, for_room=crowded)
        return aged < _DROP_ROWS and crowded < _DROP_ROWS

    def _drop(
        self,
        connection: psycopg.Connection[Any],
        source_id: str,
        last_id: str,
        now: datetime,
        *,
        for_age: bool,
    ) -> int:
        """Drop a chunk of the oldest up to that id, and count it in the same transaction."""
        with connection.transaction():
            dropped = connection.execute(
                _DROP, {"source_id": source_id, "last_id": last_id, "rows": _DROP_ROWS}
            ).rowcount
            if dropped:
                counts = (0, dropped) if for_age else (dropped, 0)
                connection.execute(_COUNT, (source_id, *counts, now))
        return dropped
