"""QuarantineService: reads what was refused; hides how a reason is spelled in the table."""

from polylect.v1 import error_reason_pb2 as reasons
from polylect.v1.error_reason_pb2 import ErrorReason
from polylect.v1.quarantine_pb2 import ListRequest, ListResponse
from polylect.v1.quarantine_pb2_grpc import QuarantineServiceServicer

from core_service.callers import Callers, Context, require_scope
from core_service.errors import CoreError, reason_word
from core_service.ports import EventStore
from core_service.query import Visibility, bad_page_token, page_size


class QuarantineServicer(QuarantineServiceServicer):
    """Reads for the admin, or for a key what is its source's."""

    def __init__(self, callers: Callers, visibility: Visibility, events: EventStore) -> None:
        """Take the parts."""
        self._callers = callers
        self._visibility = visibility
        self._events = events

    async def List(self, request: ListRequest, context: Context) -> ListResponse:  # noqa: N802 - the proto's name
        """Give a page of quarantined events."""
        key = self._callers.require_admin_or_key(context)
        require_scope(key, "events:read")
        if request.reason not in ErrorReason.values():
            raise CoreError(reasons.ERROR_REASON_FIELD_INVALID, "There is no such reason", field="reason")
        reason = reason_word(request.reason).lower() if request.reason else ""
        source_id = await self._visibility.source_id(key, request.source)
        try:
            events, token = await self._events.list_quarantined(
                source_id, reason, page_size(request.page_size), request.page_token
            )
        except ValueError as error:
            raise bad_page_token() from error
        return ListResponse(events=events, next_page_token=token)
