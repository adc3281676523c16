"""What an operator is told of verdicts: counts, and a line for a request that was refused or had bad events.

Hides in whose words. A line names the request's id, by which facade and worker log it too, and nothing that a
client wrote: a message or a field's name may hold anything, a key too.
"""

from collections import Counter
from collections.abc import Iterable, Sequence

import structlog
from polylect.v1.error_reason_pb2 import ErrorReason
from polylect.v1.ingest_pb2 import ClientRequest

from core_service.admission import Receipt
from core_service.commit import Consignment
from core_service.counts import Counts
from core_service.errors import CoreError, reason_label

log = structlog.get_logger()


def log_refused(request: ClientRequest, reason: ErrorReason.ValueType, source_id: str) -> None:
    """Log a request that was refused whole; `source_id` "" when its key told none."""
    log.info(
        "request_refused",
        request_id=request.request_id,
        source_id=source_id,
        dialect=request.dialect,
        endpoint=request.endpoint,
        reason=reason_label(reason),
    )


def count_durable(
    counts: Counts,
    consignment: Consignment,
    errors: Iterable[CoreError | None],
    spoiled: Sequence[Receipt],
) -> None:
    """Count the parcels that were committed (None), and log `spoiled`: of these, who had refused events."""
    quarantined: dict[tuple[str, ErrorReason.ValueType], int] = {}
    for receipt in spoiled:
        request = receipt.request
        bad = Counter(one.rejection.reason for one in receipt.results if one.HasField("rejection"))
        for reason, events in bad.items():
            bad_events = request.dialect, reason
            quarantined[bad_events] = quarantined.get(bad_events, 0) + events
            log.info(
                "events_quarantined",
                request_id=request.request_id,
                source_id=receipt.key.source.source_id,
                dialect=request.dialect,
                endpoint=request.endpoint,
                reason=reason_label(reason),
                events=events,
            )
    committed = zip(consignment.parcels, errors, strict=True)
    counts.count_durable((parcel.received for parcel, error in committed if error is None), quarantined)
