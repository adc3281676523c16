"""The trail as the core asks for it: the ledger, what waits, and the story of an id."""

from datetime import datetime

from polylect.v1.trail_pb2 import ExplainEventResponse, GetLedgerResponse

from storage.database import Database
from storage.explain import explain
from storage.ledger import QueueState, ledger_by_dialect, ledger_page, queue_state


class PostgresTrail:
    """What came of everything; `source_id` None means all sources. Any may raise StorageUnavailable."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def ledger(
        self,
        source_id: str | None,
        received_from: datetime | None,
        received_until: datetime | None,
        page_size: int,
        page_token: str,
    ) -> GetLedgerResponse:
        """Give a page of the ledger. Raises ValueError for a page token that is not one of its own."""
        return await ledger_page(
            self._database, source_id, (received_from, received_until), page_size, page_token
        )

    async def ledger_by_dialect(self) -> GetLedgerResponse:
        """Give the whole ledger, summed up: an entry for each dialect, of no source and hour."""
        return await ledger_by_dialect(self._database)

    async def queue_state(self) -> QueueState:
        """Tell what waits in the queue."""
        return await queue_state(self._database)

    async def explain(
        self, source_id: str | None, asked_id: str, *, with_sourceless: bool
    ) -> ExplainEventResponse:
        """Give the stories of an id, none when nothing is known of it.

        `with_sourceless`: also of what no source could be told of.
        """
        return await explain(self._database, source_id, asked_id, with_sourceless=with_sourceless)
