"""Decodes quarantined events again, as the dialects are now: `Translator` of the core's ports, without HTTP.

Hides how what was kept of a request stands in for it. It must not know why an event was refused, or judge it.
"""

from polylect.v1 import error_reason_pb2 as reasons
from polylect.v1.error_reason_pb2 import Rejection
from polylect.v1.ingest_pb2 import ClientItem, ClientRequest
from polylect.v1.quarantine_pb2 import QuarantinedEvent

from rest_facade.decode import Arrival, Decoder
from rest_facade.dialects import DIALECTS


class KeptEvents:
    """Translates entries of every dialect there is."""

    def __init__(self) -> None:
        """Compile the dialects, some 10 ms."""
        self._decoders = {
            (dialect.name, endpoint.path): Decoder(dialect, endpoint)
            for dialect in DIALECTS
            for endpoint in dialect.endpoints
        }

    def __call__(self, entry: QuarantinedEvent) -> ClientRequest:
        """Give the request the entry's event would make now, with one item."""
        request = ClientRequest()
        decoder = self._decoders.get((entry.dialect, entry.endpoint))
        if decoder is None:
            message = "No dialect takes events there any more"
            rejection = Rejection(reason=reasons.ERROR_REASON_NOT_FOUND, message=message)
            request.items.append(ClientItem(rejection=rejection, raw=entry.raw))
            return request
        kept = entry.circumstances
        arrival = Arrival(
            headers={"user-agent": kept.user_agent} if kept.user_agent else {},
            query={},
            client_ip=entry.client_ip,
            request_id=entry.request_id,
            received_us=0,
            cookie_id=kept.cookie_id,
            message_id=entry.quarantine_id,
        )
        decoder.decode_kept(entry.raw, kept, arrival, request)
        return request
