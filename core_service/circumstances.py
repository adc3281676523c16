"""What of a request is kept with a refused event; hides where each part of it is found.

Two ways give the same: an event that exists has taken them in already, and of one that has no shape only its
request can tell.
"""

from collections.abc import Callable, Mapping

from polylect.v1.ingest_pb2 import ClientItem, ClientRequest
from polylect.v1.quarantine_pb2 import Circumstances


def circumstances_of(
    request: ClientRequest,
    item: ClientItem,
    vendor_ids: Mapping[str, str],
    make_fingerprint: Callable[[str], str],
) -> Circumstances | None:
    """Give what is to be kept; None where that is nothing.

    `vendor_ids` are those the source lists. A fingerprint is made of a User-Agent, for an item that asks.
    """
    kept = Circumstances(vendor_ids=vendor_ids)
    if request.HasField("envelope"):
        kept.envelope = request.envelope
    if item.HasField("event"):
        event = item.event
        kept.user_agent = event.device.user_agent
        kept.cookie_id = event.cookie_id
        kept.sanitized = event.sanitized
        if item.fingerprint_visitor:
            kept.fingerprint = event.anonymous_id
    else:
        kept.user_agent = request.user_agent
        kept.cookie_id = request.cookie_id
        kept.sanitized = item.sanitized
        if item.fingerprint_visitor:
            kept.fingerprint = make_fingerprint(request.user_agent)
    return kept if kept.ByteSize() else None
