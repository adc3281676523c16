"""The story of an id: what became of a request, of an event, or of what a client calls by its own id.

Hides where such an id may stand and how much is looked at for it: no table has an index for request ids. Ids
made here are UUIDv7 and tell the time, so that what came with them is near; others are sought among the
latest of a source. It must not know who may ask.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, NamedTuple

from polylect.v1 import trail_pb2
from polylect.v1.event_pb2 import Event
from polylect.v1.trail_pb2 import AppliedLink, EventStory, ExplainEventResponse
from sqlalchemy import (
    Column,
    ColumnElement,
    Select,
    Subquery,
    Table,
    Text,
    cast,
    func,
    or_,
    select,
    true,
    union_all,
)

from storage.database import Database
from storage.dedup import message_key
from storage.events import PostgresEvents
from storage.listing import ANY_SOURCE
from storage.quarantine_rows import quarantined_of
from storage.schema import (
    dedup_keys,
    duplicates,
    events,
    identity_links,
    quarantine,
    refusals,
    sources,
)
from storage.stories import (
    story_of_duplicate,
    story_of_event,
    story_of_quarantined,
    story_of_refusal,
)
from storage.values import (
    NO_SOURCE,
    datetime_of,
    first_uuid7,
    moment_of_uuid7,
    selected,
    timestamp_of,
    uuid_text,
)
from storage.waiting import waiting_stories

_STORIES = 50
_STORIES_BYTES = 2 << 20
_LINKS = 10
# The first three or four groups of a UUIDv7: its time, and what tells apart most of what was made then.
_BEGINNING = re.compile("[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}(-[89ab][0-9a-f]{3})?")
# Of each table: takes some 0.1 s. Asked without a source, it is shared out.
_SEARCHED_ROWS = 100_000
_LEAST_SEARCHED_ROWS = 1_000
# Ids are made when a request has been read, soon after its own id.
_BEFORE, _AFTER = timedelta(seconds=1), timedelta(minutes=2)


class _Place(NamedTuple):
    """A table in which an id may stand."""

    table: Table
    # In the order of time.
    id_column: Column[str]
    request_id: Column[str]
    message_id: ColumnElement[str]


_EVENTS = _Place(events, events.c.event_id, events.c.provenance_request_id, events.c.message_id)
_DUPLICATES = _Place(duplicates, duplicates.c.event_id, duplicates.c.request_id, duplicates.c.message_id)
_NO_TEXT = cast(None, Text)
_QUARANTINE = _Place(quarantine, quarantine.c.quarantine_id, quarantine.c.request_id, _NO_TEXT)
_REFUSALS = _Place(refusals, refusals.c.refusal_id, refusals.c.request_id, _NO_TEXT)
_STORY_OF: Mapping[_Place, Callable[[Mapping[str, Any]], EventStory]] = {
    _DUPLICATES: story_of_duplicate,
    _QUARANTINE: lambda row: story_of_quarantined(quarantined_of(row)),
    _REFUSALS: story_of_refusal,
}


async def explain(
    database: Database, source_id: str | None, asked_id: str, *, with_sourceless: bool
) -> ExplainEventResponse:
    """Give the stories of an id, none when nothing is known of it; `source_id` None means all sources.

    `with_sourceless`: also of what no source could be told of. Raises StorageUnavailable.
    """
    found = _Found()
    if "\0" not in asked_id:
        search = _Search(database, source_id, asked_id, with_sourceless)
        # The queue first: what a worker takes off it meanwhile is in the tables when they are asked.
        found.add(await waiting_stories(database, search.visible, asked_id, search.made_at))
        for look in (search.by_own_id, search.by_beginning, search.near_its_time, search.among_latest):
            stories = await look()
            found.add(stories)
            if stories:
                break
    return found.response()


@dataclass
class _Found:
    """Stories, of one event or entry the latest."""

    _stories: dict[tuple[str, str, str], EventStory] = field(default_factory=dict)

    def add(self, stories: Iterable[EventStory]) -> None:
        for number, story in enumerate(stories):
            # A replayed event has its entry's id, and both are told until it is stored.
            other_id = "" if story.event_id else story.quarantine_id or f"{story.request_id} {number}"
            self._stories[story.source_id, story.event_id, other_id] = story

    def response(self) -> ExplainEventResponse:
        response = ExplainEventResponse()
        size_bytes = 0
        for story in sorted(self._stories.values(), key=_moment_of):
            size_bytes += story.ByteSize()
            count = len(response.stories)
            if count == _STORIES or (count and size_bytes > _STORIES_BYTES):
                response.truncated = True
                break
            response.stories.append(story)
        return response


class _Search:
    """One id, looked for in one place after another."""

    def __init__(
        self, database: Database, source_id: str | None, asked_id: str, with_sourceless: bool
    ) -> None:
        self._database = database
        self._stored = PostgresEvents(database)
        self._source_id = source_id
        self._asked_id = asked_id
        self._own_id = uuid_text(asked_id)
        self.made_at = moment_of_uuid7(self._own_id) if self._own_id else None
        only = {source_id, NO_SOURCE} if with_sourceless else {source_id}
        self.visible = None if source_id is None else [one for one in only if one and uuid_text(one)]

    async def by_own_id(self) -> list[EventStory]:
        """Look for what has that id itself."""
        if self._own_id is None:
            return []
        event = await self._stored.get_event(self._source_id, event_id=self._own_id)
        stories = [await self._story_of(event)] if event else []
        for place, story_of in _STORY_OF.items():
            of_source = place.table.c.source_id.in_(select(self._sources().c.source_id))
            rows = await self._rows(place, of_source, place.id_column == self._own_id)
            stories += [story_of(row) for row in rows]
        return stories

    async def by_beginning(self) -> list[EventStory]:
        """Look for what has an id that begins like that, as lists show one."""
        beginning = _BEGINNING.fullmatch(self._asked_id)
        if beginning is None:
            return []
        # The fourth begins with the two bits of its variant.
        lowest, highest = ("", "") if beginning[1] else ("-8000", "-bfff")
        first, last = f"{self._asked_id}{lowest}-{'0' * 12}", f"{self._asked_id}{highest}-{'f' * 12}"
        stories: list[EventStory] = []
        for place in (_EVENTS, *_STORY_OF):
            of_source = place.table.c.source_id.in_(select(self._sources().c.source_id))
            statement = (
                select(selected(place.table.c.source_id), selected(place.id_column).label("own_id"))
                .where(of_source, place.id_column.between(first, last))
                .limit(_STORIES + 1)
            )
            for key in await self._database.rows(statement):
                stories += await self._stories_of(place, key)
        return stories

    async def near_its_time(self) -> list[EventStory]:
        """Look for what came with a request whose id tells when that was."""
        if self.made_at is None:
            return []
        begin, end = first_uuid7(self.made_at - _BEFORE), first_uuid7(self.made_at + _AFTER)
        # A step into the index of every partition: cheaper than to be wrong about the day.
        return await self._named(lambda place: [place.id_column.between(begin, end)])

    async def among_latest(self) -> list[EventStory]:
        """Look for a name of the client's own: the one deduplication remembers, and the latest."""
        remembered = []
        key = dedup_keys.c.dedup_key == message_key(self._asked_id)
        of_source = dedup_keys.c.source_id.in_(select(self._sources().c.source_id))
        statement = select(*map(selected, dedup_keys.c)).where(of_source, key).limit(_STORIES + 1)
        for row in await self._database.rows(statement):
            event = await self._stored.get_event(row["source_id"], event_id=row["event_id"])
            remembered += [await self._story_of(event)] if event else []
        # An event found both ways is one story.
        return [*remembered, *await self._named(lambda _: [])]

    def _sources(self) -> Subquery:
        if self.visible is None:
            return ANY_SOURCE
        ids = [select(cast(one, sources.c.source_id.type).label("source_id")) for one in self.visible]
        return union_all(*ids).subquery("each_source")

    async def _named(self, conditions: Callable[[_Place], Sequence[ColumnElement[bool]]]) -> list[EventStory]:
        """Give what has the id as request id or message id, among the latest of each source that hold."""
        searched = await self._searched_rows()
        stories: list[EventStory] = []
        for place in (_EVENTS, *_STORY_OF):
            keys = await self._database.rows(self._keys(place, conditions(place), searched))
            for key in keys:
                stories += await self._stories_of(place, key)
        return stories

    def _keys(self, place: _Place, conditions: Sequence[ColumnElement[bool]], searched: int) -> Select[Any]:
        each_source = self._sources()
        latest = (
            select(
                place.table.c.source_id,
                place.id_column.label("own_id"),
                place.request_id.label("request_id"),
                place.message_id.label("message_id"),
            )
            .where(place.table.c.source_id == each_source.c.source_id, *conditions)
            .order_by(place.id_column.desc())
            .limit(searched)
            .lateral("latest")
        )
        named = or_(latest.c.request_id == self._asked_id, latest.c.message_id == self._asked_id)
        ids: list[ColumnElement[Any]] = [
            cast(latest.c[name], Text).label(name) for name in ("source_id", "own_id")
        ]
        return (
            select(*ids)
            .select_from(each_source.join(latest, true()))
            .where(named)
            .order_by(latest.c.own_id)
            .limit(_STORIES + 1)
        )

    async def _searched_rows(self) -> int:
        if self.visible is not None:
            return _SEARCHED_ROWS
        counting = select(func.count().label("count")).select_from(sources)
        count: int = (await self._database.rows(counting))[0]["count"]
        return max(_SEARCHED_ROWS // (count + 1), _LEAST_SEARCHED_ROWS)

    async def _rows(self, place: _Place, *conditions: ColumnElement[bool]) -> list[dict[str, Any]]:
        statement = select(*map(selected, place.table.c)).where(*conditions).limit(_STORIES + 1)
        return await self._database.rows(statement)

    async def _stories_of(self, place: _Place, key: Mapping[str, str]) -> list[EventStory]:
        """Give the story of one row, by its source_id and own_id; none when it is gone meanwhile."""
        if place is _EVENTS:
            event = await self._stored.get_event(key["source_id"], event_id=key["own_id"])
            return [await self._story_of(event)] if event else []
        of_source = place.table.c.source_id == key["source_id"]
        rows = await self._rows(place, of_source, place.id_column == key["own_id"])
        return [_STORY_OF[place](row) for row in rows]

    async def _story_of(self, event: Event) -> EventStory:
        story = story_of_event(event, trail_pb2.VERDICT_STORED)
        story.event.CopyFrom(event)
        visitors = [one for one in (event.anonymous_id, event.cookie_id) if one]
        if event.user_id and visitors and await self._came_without_user(event):
            story.links.extend(await self._links(event, visitors))
        return story

    async def _came_without_user(self, event: Event) -> bool:
        statement = select(events.c.user_id).where(
            events.c.source_id == event.source_id,
            events.c.event_id == event.event_id,
            events.c.received_at == datetime_of(event.received_at),
        )
        return any(row["user_id"] is None for row in await self._database.rows(statement))

    async def _links(self, event: Event, visitors: Sequence[str]) -> list[AppliedLink]:
        said = identity_links.c
        statement = (
            select(said.anonymous_id, said.user_id, said.linked_at, selected(said.event_id))
            .where(
                said.source_id == event.source_id,
                or_(*(said.anonymous_id == visitor for visitor in visitors)),
                said.user_id == event.user_id,
            )
            .order_by(said.linked_at.desc(), said.event_id.desc())
            .limit(_LINKS)
        )
        return [
            AppliedLink(**{**row, "linked_at": timestamp_of(row["linked_at"])})
            for row in await self._database.rows(statement)
        ]


def _moment_of(story: EventStory) -> tuple[int, int, str]:
    return story.received_at.seconds, story.received_at.nanos, story.event_id or story.quarantine_id
