"""IdentityService: who may see whose records, and what the administrator may take back."""

import asyncio
from typing import Any

import pytest
from core_calls import ADMIN, FACADE, NOW, Caller, Clock, a_request, an_event, bearer, failure
from polylect.v1 import event_pb2, ingest_pb2
from polylect.v1.identity_pb2 import GetIdentityRequest, UnlinkIdentityRequest
from polylect.v1.query_pb2 import GetEventRequest

from core_service.ports import NO_SOURCE

SECRET, PUBLIC = ingest_pb2.KEY_KIND_PULSORA_SECRET, ingest_pb2.KEY_KIND_PULSORA_PUBLIC
THE_TWO = {"source": "shop", "anonymous_id": "v1", "user_id": "ann"}


class Shops:
    """`shop`, where visitor v1 was said to be ann, and `other`, where nothing was."""

    def __init__(self, core: Caller) -> None:
        self.core = core

    async def fill(self, settle: Any) -> None:
        await self.core.make_source("shop")
        await self.core.make_source("other")
        self.key = (await self.core.make_key("shop", SECRET)).secret
        self.public_key = (await self.core.make_key("shop", PUBLIC)).secret
        self.other_key = (await self.core.make_key("other", SECRET)).secret
        provenance = event_pb2.Provenance(dialect="pulsora")
        identify = an_event(kind=event_pb2.EVENT_KIND_IDENTIFY, name="", user_id="ann", provenance=provenance)
        group = an_event(kind=event_pb2.EVENT_KIND_GROUP, name="", group_id="acme")
        [outcome] = await self.core.send(a_request(self.key, identify, group, an_event()))
        self.identify_id, _, self.event_id = (result.event_id for result in outcome.results)
        await settle()

    async def user(self) -> str:
        request = GetEventRequest(event_id=self.event_id)
        return (await self.core.query.GetEvent(request, metadata=ADMIN)).event.user_id


@pytest.fixture
async def shops(core: Caller, settle: Any) -> Shops:
    shops = Shops(core)
    await shops.fill(settle)
    return shops


async def test_records_are_shown_to_whom_they_belong(core: Caller, shops: Shops) -> None:
    by_visitor = GetIdentityRequest(anonymous_id="v1")
    for request, metadata in (
        (by_visitor, bearer(shops.key)),
        (GetIdentityRequest(user_id="ann"), bearer(shops.key)),
        (GetIdentityRequest(source="shop", user_id="ann"), ADMIN),
    ):
        answer = await core.identity.GetIdentity(request, metadata=metadata)
        [link] = [record.link for record in answer.records]
        assert (link.anonymous_id, link.user_id, link.event_id) == ("v1", "ann", shops.identify_id)
        assert (link.dialect, link.in_force) == ("pulsora", True)
        assert link.linked_at.ToDatetime(NOW.tzinfo) == NOW
        assert [(one.anonymous_id or one.user_id, one.in_force) for one in answer.connected] in (
            [("v1", True)],
            [("ann", True)],
        )
        assert [group.group_id for group in answer.groups] == ["acme"]
    elsewhere = await core.identity.GetIdentity(by_visitor, metadata=bearer(shops.other_key))
    assert not elsewhere.records


async def test_what_is_asked_wrongly_is_told(core: Caller, shops: Shops) -> None:
    ann, public = GetIdentityRequest(user_id="ann"), bearer(shops.public_key)
    for request, metadata, code, reason, field in (
        (ann, public, "PERMISSION_DENIED", "SCOPE_MISSING", ""),
        (ann, FACADE, "PERMISSION_DENIED", "SCOPE_MISSING", ""),
        (ann, (), "UNAUTHENTICATED", "CREDENTIAL_MISSING", ""),
        (ann, ADMIN, "INVALID_ARGUMENT", "FIELD_MISSING", "source"),
        (GetIdentityRequest(source="shop"), ADMIN, "INVALID_ARGUMENT", "FIELD_MISSING", "user_id"),
        (GetIdentityRequest(source="none", user_id="ann"), ADMIN, "NOT_FOUND", "NOT_FOUND", "source"),
        (
            GetIdentityRequest(source="other", user_id="ann"),
            bearer(shops.key),
            "NOT_FOUND",
            "NOT_FOUND",
            "source",
        ),
        (
            GetIdentityRequest(user_id="ann", page_token="x"),
            bearer(shops.key),
            "INVALID_ARGUMENT",
            "FIELD_INVALID",
            "page_token",
        ),
    ):
        failed = await failure(core.identity.GetIdentity(request, metadata=metadata))
        assert (failed.code.name, failed.reason, failed.field) == (code, reason, field)


async def test_an_unlink_changes_what_events_read_with_and_is_a_record(
    core: Caller, shops: Shops, clock: Clock
) -> None:
    clock.advance(seconds=5)
    request = UnlinkIdentityRequest(**THE_TWO, reason="shared tablet")
    dry = UnlinkIdentityRequest(**THE_TWO, dry_run=True)
    would = await core.identity.UnlinkIdentity(dry, metadata=ADMIN)
    assert (would.voided_links, would.unlink.unlink_id, await shops.user()) == (1, "", "ann")
    made = await core.identity.UnlinkIdentity(request, metadata=ADMIN)
    assert (made.voided_links, made.user_id_before, made.user_id_after) == (1, "ann", "")
    assert made.unlink.unlinked_at.ToDatetime(NOW.tzinfo) == clock.now
    assert await shops.user() == ""
    answer = await core.identity.GetIdentity(GetIdentityRequest(source="shop", user_id="ann"), metadata=ADMIN)
    assert [record.WhichOneof("record") for record in answer.records] == ["link", "unlink"]
    assert not answer.records[0].link.in_force
    assert answer.records[1].unlink == made.unlink
    assert made.unlink.reason == "shared tablet"
    assert not answer.groups
    failed = await failure(core.identity.UnlinkIdentity(request, metadata=ADMIN))
    assert (failed.code.name, failed.reason) == ("NOT_FOUND", "NOT_FOUND")
    request.source = NO_SOURCE
    failed = await failure(core.identity.UnlinkIdentity(request, metadata=ADMIN))
    assert (failed.code.name, failed.reason) == ("NOT_FOUND", "NOT_FOUND")


async def test_a_later_identify_links_anew(core: Caller, shops: Shops, clock: Clock, settle: Any) -> None:
    await core.identity.UnlinkIdentity(UnlinkIdentityRequest(**THE_TWO), metadata=ADMIN)
    clock.advance(seconds=1)
    identify = an_event(kind=event_pb2.EVENT_KIND_IDENTIFY, name="", user_id="ann")
    request = a_request(shops.key, identify)
    request.received_at.FromDatetime(clock.now)
    await core.send(request)
    await settle()
    assert await shops.user() == "ann"


async def test_two_unlinks_at_once_leave_nothing_in_force(core: Caller, shops: Shops) -> None:
    request = UnlinkIdentityRequest(**THE_TWO)
    calls = [core.identity.UnlinkIdentity(request, metadata=ADMIN) for _ in range(2)]
    made = await asyncio.gather(*calls, return_exceptions=True)
    assert any(not isinstance(one, BaseException) for one in made)
    assert await shops.user() == ""


async def test_only_the_admin_unlinks_and_says_what(core: Caller, shops: Shops) -> None:
    def request(**fields: Any) -> UnlinkIdentityRequest:
        return UnlinkIdentityRequest(**{**THE_TWO, **fields})

    for asked, metadata, code, reason, field in (
        (request(), bearer(shops.key), "PERMISSION_DENIED", "SCOPE_MISSING", ""),
        (request(), FACADE, "PERMISSION_DENIED", "SCOPE_MISSING", ""),
        (request(source=""), ADMIN, "INVALID_ARGUMENT", "FIELD_MISSING", "source"),
        (request(user_id=""), ADMIN, "INVALID_ARGUMENT", "FIELD_MISSING", "user_id"),
        (request(anonymous_id=""), ADMIN, "INVALID_ARGUMENT", "FIELD_MISSING", "anonymous_id"),
        (request(reason="x" * 1_025), ADMIN, "INVALID_ARGUMENT", "ARGUMENT_INVALID", "reason"),
        (request(reason="\0"), ADMIN, "INVALID_ARGUMENT", "ARGUMENT_INVALID", "reason"),
        (request(source="none"), ADMIN, "NOT_FOUND", "NOT_FOUND", "source"),
        (request(user_id="bob"), ADMIN, "NOT_FOUND", "NOT_FOUND", ""),
        (request(user_id="a\0b"), ADMIN, "NOT_FOUND", "NOT_FOUND", ""),
    ):
        failed = await failure(core.identity.UnlinkIdentity(asked, metadata=metadata))
        assert (failed.code.name, failed.reason, failed.field) == (code, reason, field)
    assert await shops.user() == "ann"
