"""What of a request is kept with a refused event; hides where each part of it is found.

Two ways give the same: an event that exists has taken them in already, and of one that has no shape only its
request can tell.
"""

from collections.abc import Mapping

from polylect.v1.ingest_pb2 import ClientItem, ClientRequest
from polylect.v1.quarantine_pb2 import Circumstances


def circumstances_of(
    request: ClientRequest, item: ClientItem, vendor_ids: Mapping[str, str]
) -> Circumstances:
    """Give all but the fingerprint; `vendor_ids` are those the source lists."""
    circumstances = Circumstances(vendor_ids=vendor_ids)
    if request.HasField("envelope"):
        circumstances.envelope = request.envelope
    if item.HasField("event"):
        event = item.event
        circumstances.user_agent = event.device.user_agent
        circumstances.cookie_id = event.cookie_id
        circumstances.sanitized = event.sanitized
    else:
        circumstances.user_agent = request.user_agent
        circumstances.cookie_id = request.cookie_id
        circumstances.sanitized = item.sanitized
    return circumstances
