"""The rule of docs/identity.md in plain Python: what events read with, and what is known of an id."""

from collections.abc import Sequence
from dataclasses import dataclass

from polylect.v1.event_pb2 import EVENT_KIND_GROUP, EVENT_KIND_IDENTIFY, Event
from polylect.v1.identity_pb2 import (
    ConnectedIdentity,
    GetIdentityResponse,
    GroupMembership,
    IdentityLink,
    IdentityRecord,
    IdentityUnlink,
)

Moment = tuple[int, int]


@dataclass(frozen=True)
class Model:
    """All that was ever said in one source, in any order."""

    events: Sequence[Event]
    unlinks: Sequence[IdentityUnlink]

    def users(self) -> dict[str, str]:
        """Give the user each event is read with, by event ids."""
        return {event.event_id: event.user_id or self.said(event) for event in self.events}

    def said(self, event: Event) -> str:
        """Give the user that the event's visitor was said to be; "" when nobody said so."""
        mine = [link for link in self._links() if link.anonymous_id in _visitors(event) and link.in_force]
        mine.sort(key=lambda link: (_at(link.linked_at), link.event_id))
        happened = (_at(event.received_at), event.event_id)
        before = [link for link in mine if (_at(link.linked_at), link.event_id) <= happened]
        chosen = before[-1:] or mine[:1]
        return chosen[0].user_id if chosen else ""

    def of_user(self, user_id: str) -> GetIdentityResponse:
        """Give what must be known of a user."""
        links = [link for link in self._links() if link.user_id == user_id]
        connected = _connected(links, "anonymous_id")
        visitors = {one.anonymous_id for one in connected}
        groups = [(event, "") for event in self._group_events() if event.user_id == user_id]
        groups += [
            (event, min(_visitors(event) & visitors))
            for event in self._group_events()
            if not event.user_id and _visitors(event) & visitors and self.said(event) == user_id
        ]
        unlinks = [unlink for unlink in self.unlinks if unlink.user_id == user_id]
        return _answer(links, unlinks, connected, groups)

    def of_visitor(self, anonymous_id: str) -> GetIdentityResponse:
        """Give what must be known of a visitor."""
        links = [link for link in self._links() if link.anonymous_id == anonymous_id]
        groups = [
            (event, anonymous_id)
            for event in self._group_events()
            if not event.user_id and anonymous_id in _visitors(event)
        ]
        unlinks = [unlink for unlink in self.unlinks if unlink.anonymous_id == anonymous_id]
        return _answer(links, unlinks, _connected(links, "user_id"), groups)

    def _group_events(self) -> list[Event]:
        return [event for event in self.events if event.kind == EVENT_KIND_GROUP]

    def _links(self) -> list[IdentityLink]:
        return [
            IdentityLink(
                anonymous_id=visitor,
                user_id=event.user_id,
                linked_at=event.received_at,
                event_id=event.event_id,
                dialect=event.provenance.dialect,
                in_force=not any(
                    (unlink.anonymous_id, unlink.user_id) == (visitor, event.user_id)
                    and _at(event.received_at) <= _at(unlink.unlinked_at)
                    for unlink in self.unlinks
                ),
            )
            for event in self.events
            if event.kind == EVENT_KIND_IDENTIFY
            for visitor in _visitors(event) - {event.user_id}
        ]


def _at(timestamp: object) -> Moment:
    return timestamp.seconds, timestamp.nanos  # type: ignore[attr-defined]


def _visitors(event: Event) -> set[str]:
    return {event.anonymous_id, event.cookie_id} - {""}


def _connected(links: Sequence[IdentityLink], kind: str) -> list[ConnectedIdentity]:
    found = []
    for other in {getattr(link, kind) for link in links}:
        theirs = [link for link in links if getattr(link, kind) == other]
        last = max(theirs, key=lambda link: _at(link.linked_at))
        found.append(
            ConnectedIdentity(
                **{kind: other},
                last_linked_at=last.linked_at,
                in_force=any(link.in_force for link in theirs),
            )
        )
    by_id = sorted(found, key=lambda one: getattr(one, kind))
    return sorted(by_id, key=lambda one: _at(one.last_linked_at), reverse=True)


def _answer(
    links: Sequence[IdentityLink],
    unlinks: Sequence[IdentityUnlink],
    connected: Sequence[ConnectedIdentity],
    groups: Sequence[tuple[Event, str]],
) -> GetIdentityResponse:
    records = [
        *((_at(one.linked_at), one.event_id, one.anonymous_id, IdentityRecord(link=one)) for one in links),
        *((_at(o.unlinked_at), o.unlink_id, o.anonymous_id, IdentityRecord(unlink=o)) for o in unlinks),
    ]
    records.sort(key=lambda record: record[:3])
    newest = sorted(groups, key=lambda group: (_at(group[0].received_at), group[0].event_id))
    latest = {event.group_id: (event, visitor) for event, visitor in newest}
    ordered = sorted(latest.values(), key=lambda one: (_at(one[0].received_at), one[0].event_id))
    return GetIdentityResponse(
        records=[record[3] for record in records],
        connected=connected,
        groups=[
            GroupMembership(
                group_id=event.group_id,
                linked_at=event.received_at,
                event_id=event.event_id,
                anonymous_id=visitor,
            )
            for event, visitor in reversed(ordered)
        ],
    )
