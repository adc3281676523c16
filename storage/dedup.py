"""What makes two events the same one: how the deduplication key is derived from the client's ids."""

from hashlib import blake2b

from polylect.v1.event_pb2 import EVENT_KIND_REVENUE, Event

_KEY_BYTES = 16


def dedup_key(event: Event) -> str | None:
    """Give the event's key within its source, as a uuid's 32 hex digits; None when the client gave no id.

    A payment is the same by its transaction id and event type, whatever message told of it.
    """
    if event.kind == EVENT_KIND_REVENUE and event.revenue.transaction_id:
        return _hashed(f"t\0{event.revenue.transaction_id}\0{event.revenue.event_type}")
    return message_key(event.message_id) if event.message_id else None


def message_key(message_id: str) -> str:
    """Give the key of every event with that message_id, but for revenue with a transaction id."""
    return _hashed(f"m\0{message_id}")


def _hashed(identity: str) -> str:
    return blake2b(identity.encode(), digest_size=_KEY_BYTES).hexdigest()
