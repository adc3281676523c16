"""What waits in the queue under some id: accepted, durable, and not yet in any table.

Hides which rows are looked into, and that a row must be decoded to know what it holds. It must not know who
may ask.
"""

import asyncio
from collections.abc import Collection, Sequence
from datetime import datetime, timedelta
from itertools import chain
from typing import Any

from polylect.v1 import trail_pb2
from polylect.v1.trail_pb2 import EventStory
from sqlalchemy import ColumnElement, cast, func, literal, or_, select
from sqlalchemy.dialects.postgresql import JSONB

from storage.database import Database
from storage.queue import decode_batch
from storage.schema import queue
from storage.stories import story_of_event, story_of_quarantined

# What is decoded for one question; the rest of a long queue is not looked into.
_ROWS = 64
_BYTES = 16 << 20
_STORIES_OF_ROW = 100
# The id's clock, the core's or the facade's, and the database's.
_CLOCKS = timedelta(minutes=1)
_AFTER = timedelta(minutes=3)


async def waiting_stories(
    database: Database, visible: Collection[str] | None, asked_id: str, made_at: datetime | None
) -> list[EventStory]:
    """Give what waits under an event_id, message_id, request id or quarantine_id.

    Looked into are rows of the sources `visible` (None: all), those enqueued when the id was made first, then
    the latest. Raises StorageUnavailable.
    """
    sizes = select(queue.c.queue_id, func.octet_length(queue.c.payload).label("size"))
    if visible is not None:
        holds = [queue.c.received.contains(cast(literal(f'[["{one}"]]'), JSONB)) for one in visible]
        # Replayed events were received when their entries were: their row tells no source.
        nothing = cast(literal("[]"), JSONB)
        sizes = sizes.where(or_(queue.c.received.is_(None), queue.c.received == nothing, *holds))
    order: list[ColumnElement[Any]] = [queue.c.queue_id.desc()]
    if made_at is not None:
        near = queue.c.enqueued_at.between(made_at - _CLOCKS, made_at + _AFTER)
        order.insert(0, near.desc())
    stories: list[EventStory] = []
    for queue_id in _fitting(await database.rows(sizes.order_by(*order).limit(_ROWS))):
        for row in await database.rows(select(queue.c.payload).where(queue.c.queue_id == queue_id)):
            # Not in the way of others: a large row takes some 50 ms.
            stories += await asyncio.to_thread(_stories_in, row["payload"], visible, asked_id)
    return stories


def _fitting(rows: Sequence[dict[str, Any]]) -> list[int]:
    chosen: list[int] = []
    size_bytes = 0
    for row in rows:
        size_bytes += row["size"]
        if chosen and size_bytes > _BYTES:
            break
        chosen.append(row["queue_id"])
    return chosen


def _stories_in(payload: bytes, visible: Collection[str] | None, asked_id: str) -> list[EventStory]:
    try:
        batch = decode_batch(payload)
    except ValueError:
        return []
    stories = [
        story_of_event(event, trail_pb2.VERDICT_IN_QUEUE)
        for event in chain(batch.events, batch.replayed)
        if asked_id in (event.event_id, event.message_id, event.provenance.request_id)
        and (visible is None or event.source_id in visible)
    ]
    for entry in batch.quarantined:
        is_asked = asked_id in (entry.quarantine_id, entry.request_id)
        if is_asked and (visible is None or entry.source_id in visible):
            story = story_of_quarantined(entry)
            story.verdict = trail_pb2.VERDICT_IN_QUEUE
            stories.append(story)
    return stories[:_STORIES_OF_ROW]
