"""An event on its way into the tables: enriched, with what is derived from it alone."""

from typing import NamedTuple

from polylect.v1.event_pb2 import Event

from storage.reckoning import Line, hour_of
from storage.rows import COLUMNS, Row
from storage.values import MICROS_PER_SECOND

_DIALECT = COLUMNS.index("provenance_dialect")
_SOURCE_ID = COLUMNS.index("source_id")


class PreparedEvent(NamedTuple):
    """An enriched event, and what is derived from it alone. Ids are the 16 bytes of a UUID."""

    event: Event
    event_id: bytes
    source_id: bytes
    row: Row
    # Within the source; None without a client's id.
    dedup_key: bytes | None
    received_micros: int

    @property
    def line(self) -> Line:
        """Where the ledger counts it."""
        hour = hour_of(self.received_micros // MICROS_PER_SECOND)
        # From the row: a message's field takes ten times as long.
        return self.row[_SOURCE_ID], self.row[_DIALECT], hour
