"""GetLedger and ExplainEvent: what came of everything. Hides whose ledger and stories a caller may see."""

from polylect.v1 import error_reason_pb2 as reasons
from polylect.v1.trail_pb2 import (
    ExplainEventRequest,
    ExplainEventResponse,
    GetLedgerRequest,
    GetLedgerResponse,
)

from core_service.callers import Context
from core_service.errors import CoreError, missing
from core_service.moments import moment_of
from core_service.ports import TrailStore
from core_service.readers import Readers, page_size_of, refusing_page_token

_ID_CHARACTERS = 128


class Trail:
    """Reads for the admin, or for a key what is its source's."""

    def __init__(self, readers: Readers, store: TrailStore) -> None:
        """Take the parts."""
        self._readers = readers
        self._store = store

    async def ledger(self, request: GetLedgerRequest, context: Context) -> GetLedgerResponse:
        """Give a page of the ledger."""
        key, source_id = await self._readers.reader(context, request.source, "events:read")
        received_from = moment_of(request.received_from) if request.HasField("received_from") else None
        received_until = moment_of(request.received_until) if request.HasField("received_until") else None
        async with self._readers.turn(key):
            with refusing_page_token(request.page_token):
                return await self._store.ledger(
                    source_id,
                    received_from,
                    received_until,
                    page_size_of(request.page_size),
                    request.page_token,
                )

    async def explain(self, request: ExplainEventRequest, context: Context) -> ExplainEventResponse:
        """Give the stories of an id."""
        key, source_id = await self._readers.reader(context, request.source, "events:read")
        if not request.id:
            raise missing("id")
        if len(request.id) > _ID_CHARACTERS:
            message = f"An id has at most {_ID_CHARACTERS} characters"
            raise CoreError(reasons.ERROR_REASON_FIELD_INVALID, message, field="id")
        async with self._readers.turn(key):
            return await self._store.explain(source_id, request.id, with_sourceless=key is None)
