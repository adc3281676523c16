"""The records of who is who, as people ask for them: read by either id, page by page, and taken back.

Hides how links and unlinks make one list, and what its page tokens hold. What an event is read with is
`storage.identity`'s to say.
"""

import base64
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

import msgspec
from polylect.v1.identity_pb2 import (
    ConnectedIdentity,
    GetIdentityResponse,
    IdentityLink,
    IdentityRecord,
    IdentityUnlink,
    UnlinkIdentityResponse,
)
from sqlalchemy import (
    Boolean,
    Column,
    ColumnElement,
    Select,
    Table,
    Text,
    cast,
    func,
    literal,
    null,
    select,
    true,
    tuple_,
    union_all,
)

from storage.database import Database
from storage.group_links import groups_of_user, groups_of_visitor, membership_of
from storage.identity import link_is_in_force
from storage.schema import events, identity_links, identity_unlinks
from storage.unlinking import MARKED_AT_ONCE, marking_void, unlinking
from storage.values import timestamp_of, uuid_text

_USER, _VISITOR = "user_id", "anonymous_id"
# How far back connected ids are looked for, and how many are told.
_LINKS_SEARCHED = 10_000
_MOST_CONNECTED = 1_000

_NOT_A_LINK = cast(null(), Boolean).label("in_force")
_TIMESTAMP, _UUID = identity_links.c.linked_at.type, identity_links.c.event_id.type


class _Position(NamedTuple):
    """Where a record stands in the list of an id: the list is in this order."""

    at: datetime
    record_id: str
    # Of an identify that came with two visitor ids each is a record.
    anonymous_id: str


class _Asked(NamedTuple):
    """The id whose records are wanted."""

    source_id: str
    kind: str
    wanted: str

    @property
    def other(self) -> str:
        """The kind of id it is linked with."""
        return _VISITOR if self.kind == _USER else _USER

    def conditions(self, table: Table) -> tuple[ColumnElement[bool], ...]:
        """Give what makes a row of a table of records one of its."""
        return table.c.source_id == self.source_id, table.c[self.kind] == self.wanted


class PostgresIdentity:
    """Identity records of one source at a time. Any method may raise StorageUnavailable."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def user_identity(
        self, source_id: str, user_id: str, page_size: int, page_token: str
    ) -> GetIdentityResponse:
        """Give a page of what is known of a user. Raises ValueError for a page token of another list."""
        return await self._identity(source_id, _USER, user_id, page_size, page_token)

    async def visitor_identity(
        self, source_id: str, anonymous_id: str, page_size: int, page_token: str
    ) -> GetIdentityResponse:
        """Give a page of what is known of a visitor. Raises ValueError for a page token of another list."""
        return await self._identity(source_id, _VISITOR, anonymous_id, page_size, page_token)

    async def _identity(
        self, source_id: str, kind: str, wanted: str, page_size: int, page_token: str
    ) -> GetIdentityResponse:
        before = _position_of(page_token, kind) if page_token else None
        answer = GetIdentityResponse()
        # No text in Postgres holds U+0000, and asking for one is an error.
        if (canonical := uuid_text(source_id)) is None or "\0" in wanted:
            return answer
        asked = _Asked(canonical, kind, wanted)
        rows = await self._database.rows(_records(asked, before, page_size + 1))
        if len(rows) > page_size:
            rows = rows[:page_size]
            last = rows[-1]
            position = _Position(last["at"], last["record_id"], last[_VISITOR])
            answer.next_page_token = _token_of(position, kind)
        answer.records.extend(map(_record_of, reversed(rows)))
        if before is None:
            connected = await self._database.rows(_connected(asked))
            answer.connected.extend(_connected_of(row, asked.other) for row in connected)
            if kind == _VISITOR:
                groups = groups_of_visitor(canonical, wanted)
            else:
                groups = groups_of_user(canonical, wanted, [row["other"] for row in connected])
            answer.groups.extend(map(membership_of, await self._database.rows(groups)))
        return answer

    async def unlink(
        self, source_id: str, unlink: IdentityUnlink, *, dry_run: bool
    ) -> UnlinkIdentityResponse | None:
        """Add the record `unlink`, and give it as it then stands with what it changes; once.

        Its time is moved to that of the latest link, where that is later. None, and nothing done, when no
        link of the two is in force. A dry run does nothing, and gives the record without its id.
        """
        canonical = uuid_text(source_id)
        if canonical is None or "\0" in unlink.anonymous_id + unlink.user_id:
            return None
        [row] = await self._database.rows(unlinking(canonical, unlink, dry_run))
        if not dry_run:
            # Of what an earlier call was cut off at, too. What is not marked is void all the same.
            marking = marking_void(canonical, unlink)
            while await self._database.run(marking) == MARKED_AT_ONCE:
                pass
        if not row["links"]:
            return None
        made = IdentityUnlink(
            anonymous_id=unlink.anonymous_id,
            user_id=unlink.user_id,
            unlinked_at=timestamp_of(row["unlinked_at"]),
            unlink_id="" if dry_run else unlink.unlink_id,
            reason=unlink.reason,
        )
        return UnlinkIdentityResponse(
            unlink=made,
            voided_links=row["links"],
            user_id_before=row["user_before"] or "",
            user_id_after=row["user_after"] or "",
        )


def _records(asked: _Asked, before: _Position | None, limit: int) -> Select[Any]:
    """Select the latest records before that position, latest first."""
    link, unlink = identity_links.c, identity_unlinks.c
    each = (
        _before(
            before,
            (link.linked_at, link.event_id, link.anonymous_id),
            select(
                link.linked_at.label("at"),
                link.event_id.label("record_id"),
                *(link.anonymous_id, link.user_id, link_is_in_force().label("in_force")),
                cast(null(), Text).label("reason"),
            ).where(*asked.conditions(identity_links)),
        ),
        # As many as the administrator made for the id: few, so that sorting them is cheap.
        _before(
            before,
            (unlink.unlinked_at, unlink.unlink_id, unlink.anonymous_id),
            select(
                unlink.unlinked_at.label("at"),
                unlink.unlink_id.label("record_id"),
                *(
                    unlink.anonymous_id,
                    unlink.user_id,
                    _NOT_A_LINK,
                    unlink.reason,
                ),
            ).where(*asked.conditions(identity_unlinks)),
        ),
    )
    both = union_all(*(one.limit(limit).subquery().select() for one in each)).subquery("both_kinds")
    newest_first = (both.c.at.desc(), both.c.record_id.desc(), both.c.anonymous_id.desc())
    return _with_dialect(select(both).order_by(*newest_first).limit(limit), asked.source_id)


def _before(
    before: _Position | None,
    position: tuple[Column[datetime], Column[str], Column[str]],
    records: Select[Any],
) -> Select[Any]:
    if before is not None:
        bound = (literal(before.at, _TIMESTAMP), literal(before.record_id, _UUID), before.anonymous_id)
        records = records.where(tuple_(*position) < tuple_(*bound))
    return records.order_by(*(column.desc() for column in position))


def _with_dialect(records: Select[Any], source_id: str) -> Select[Any]:
    page = records.subquery("page")
    # With the time given, only its day's partition is looked into.
    event = (
        select(events.c.provenance_dialect.label("dialect"))
        .where(
            events.c.source_id == source_id,
            events.c.event_id == page.c.record_id,
            events.c.received_at == page.c.at,
            page.c.in_force.is_not(None),
        )
        .lateral("event")
    )
    columns = (page.c[name] for name in (_VISITOR, _USER, "in_force", "reason"))
    return (
        select(page.c.at, cast(page.c.record_id, Text).label("record_id"), *columns, event.c.dialect)
        .select_from(page.outerjoin(event, true()))
        .order_by(page.c.at.desc(), page.c.record_id.desc(), page.c.anonymous_id.desc())
    )


def _connected(asked: _Asked) -> Select[Any]:
    searched = (
        select(
            identity_links.c[asked.other].label("other"),
            identity_links.c.linked_at,
            link_is_in_force().label("in_force"),
        )
        .where(*asked.conditions(identity_links))
        .order_by(identity_links.c.linked_at.desc(), identity_links.c.event_id.desc())
        .limit(_LINKS_SEARCHED)
        .subquery("searched")
    )
    last = func.max(searched.c.linked_at).label("last_linked_at")
    return (
        # What voids the last link voids all before it.
        select(searched.c.other, last, func.bool_or(searched.c.in_force).label("in_force"))
        .group_by(searched.c.other)
        .order_by(last.desc(), searched.c.other)
        .limit(_MOST_CONNECTED)
    )


def _record_of(row: dict[str, Any]) -> IdentityRecord:
    who = {_VISITOR: row[_VISITOR], _USER: row[_USER]}
    at, record_id = timestamp_of(row["at"]), row["record_id"]
    if row["in_force"] is None:
        unlink = IdentityUnlink(**who, unlinked_at=at, unlink_id=record_id, reason=row["reason"])
        return IdentityRecord(unlink=unlink)
    link = IdentityLink(
        **who, linked_at=at, event_id=record_id, dialect=row["dialect"] or "", in_force=row["in_force"]
    )
    return IdentityRecord(link=link)


def _connected_of(row: dict[str, Any], kind: str) -> ConnectedIdentity:
    last = timestamp_of(row["last_linked_at"])
    return ConnectedIdentity(**{kind: row["other"]}, last_linked_at=last, in_force=row["in_force"])


def _token_of(position: _Position, kind: str) -> str:
    content = msgspec.json.encode([kind, *position])
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()


def _position_of(token: str, kind: str) -> _Position:
    try:
        content = base64.urlsafe_b64decode(token + "=" * (-len(token) % 4))
        _, at, record_id, anonymous_id = msgspec.json.decode(content, type=tuple[str, datetime, UUID, str])
    except ValueError as error:
        raise ValueError("not a page token") from error
    position = _Position(at, str(record_id), anonymous_id)
    # A position has one token in a list: whatever else can be read as one is none of ours.
    if _token_of(position, kind) != token or "\0" in anonymous_id:
        raise ValueError("not a page token of this list")
    return position
