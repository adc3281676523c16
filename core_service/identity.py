"""IdentityService: who is who, and taking it back.

Hides whose records a caller may see, and what the administrator may write. How records are kept and resolved
is the store's.
"""

from collections.abc import Callable
from datetime import datetime

import structlog
from polylect.v1 import error_reason_pb2 as reasons
from polylect.v1.identity_pb2 import (
    GetIdentityRequest,
    GetIdentityResponse,
    IdentityUnlink,
    UnlinkIdentityRequest,
    UnlinkIdentityResponse,
)
from polylect.v1.identity_pb2_grpc import IdentityServiceServicer
from uuid_utils import uuid7

from core_service.callers import Callers, Context
from core_service.errors import CoreError, missing
from core_service.moments import timestamp_of
from core_service.ports import IdentityStore
from core_service.readers import Readers, page_size_of, refusing_page_token

_REASON_LENGTH = 1_024

log = structlog.get_logger()


class IdentityServicer(IdentityServiceServicer):
    """Reads for the admin, or for a key what is its source's; unlinks for the admin."""

    def __init__(
        self, callers: Callers, readers: Readers, store: IdentityStore, clock: Callable[[], datetime]
    ) -> None:
        """Take the parts."""
        self._callers = callers
        self._readers = readers
        self._store = store
        self._clock = clock

    async def GetIdentity(self, request: GetIdentityRequest, context: Context) -> GetIdentityResponse:  # noqa: N802 - the proto's name
        """Give a page of the records of an id."""
        key, source_id = await self._readers.reader(context, request.source, "events:read")
        if source_id is None:
            raise missing("source")
        page_size = page_size_of(request.page_size)
        async with self._readers.turn(key):
            with refusing_page_token(request.page_token):
                if request.user_id:
                    return await self._store.user_identity(
                        source_id, request.user_id, page_size, request.page_token
                    )
                if request.anonymous_id:
                    return await self._store.visitor_identity(
                        source_id, request.anonymous_id, page_size, request.page_token
                    )
        raise missing("user_id")

    async def UnlinkIdentity(  # noqa: N802 - the proto's name
        self, request: UnlinkIdentityRequest, context: Context
    ) -> UnlinkIdentityResponse:
        """Void what linked a visitor to a user."""
        self._callers.require_admin(context)
        for field in ("source", "anonymous_id", "user_id"):
            if not getattr(request, field):
                raise missing(field)
        if len(request.reason) > _REASON_LENGTH or "\0" in request.reason:
            message = f"A reason has at most {_REASON_LENGTH} characters, and no U+0000"
            raise CoreError(reasons.ERROR_REASON_ARGUMENT_INVALID, message, field="reason")
        source_id = await self._readers.source_id(None, request.source)
        assert source_id is not None
        unlink = IdentityUnlink(
            anonymous_id=request.anonymous_id,
            user_id=request.user_id,
            unlinked_at=timestamp_of(self._clock()),
            unlink_id=str(uuid7()),
            reason=request.reason,
        )
        made = await self._store.unlink(source_id, unlink, dry_run=request.dry_run)
        if made is None:
            message = f"No link of visitor {request.anonymous_id!r} to user {request.user_id!r} is in force"
            raise CoreError(reasons.ERROR_REASON_NOT_FOUND, message)
        if not request.dry_run:
            log.info(
                "identity_unlinked",
                source_id=source_id,
                unlink_id=made.unlink.unlink_id,
                links=made.voided_links,
            )
        return made
