"""Identity records as people ask for them: in pages, and taken back by one statement."""

from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from datetime import timedelta
from typing import Any
from uuid import UUID

import psycopg
import pytest
from polylect.v1.event_pb2 import EVENT_KIND_GROUP, EVENT_KIND_IDENTIFY
from polylect.v1.identity_pb2 import GetIdentityResponse, IdentityUnlink, UnlinkIdentityResponse
from worker_factory import NOW, OTHER_SOURCE, SOURCE, Clock, column, enqueue, make_event, make_identify

from storage.database import Database
from storage.identity_records import PostgresIdentity
from storage.migrations.upgrade import script_directory
from storage.unlinking import MARKED_AT_ONCE, marking_void
from storage.values import timestamp_of
from storage.worker import Worker, WorkerOptions

SECOND = timedelta(seconds=1)


@pytest.fixture
async def store(database_url: str) -> AsyncIterator[PostgresIdentity]:
    database = Database(database_url)
    yield PostgresIdentity(database)
    await database.aclose()


@pytest.fixture
def connection(database_url: str) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(database_url, autocommit=True) as connection:
        yield connection


@pytest.fixture
def worker(database_url: str) -> Iterator[Worker]:
    worker = Worker(WorkerOptions(database_url), Clock())
    yield worker
    worker.close()


def uuid_of(number: int) -> str:
    return str(UUID(int=number))


def unlink_of(at: float = 0, number: int = 1, **fields: Any) -> IdentityUnlink:
    values = {"anonymous_id": "phone", "user_id": "ann", "unlink_id": uuid_of(number), "reason": "a mistake"}
    return IdentityUnlink(**values | fields, unlinked_at=timestamp_of(NOW + at * SECOND))


def insert_links(
    connection: psycopg.Connection[Any], count: int, visitor: str = "'phone'", user: str = "'ann'"
) -> None:
    """Link once a second; `visitor` and `user` are SQL over n."""
    connection.execute(
        "INSERT INTO identity_links (source_id, anonymous_id, user_id, event_id, linked_at)"
        f" SELECT %s::uuid, {visitor}, {user}, lpad(n::text, 32, '0')::uuid, %s + n * interval '1 second'"
        " FROM generate_series(0, %s - 1) AS n",
        (SOURCE, NOW, count),
    )


async def flags(store: PostgresIdentity) -> list[bool]:
    answer = await store.visitor_identity(SOURCE, "phone", 1000, "")
    return [record.link.in_force for record in answer.records if record.HasField("link")]


async def test_an_unlink_voids_what_is_in_force_and_is_told(
    store: PostgresIdentity, connection: psycopg.Connection[Any]
) -> None:
    insert_links(connection, 5, user="CASE WHEN n %% 2 = 0 THEN 'ann' ELSE 'bob' END")
    made = await store.unlink(SOURCE, unlink_of(10), dry_run=False)
    assert made == UnlinkIdentityResponse(
        unlink=unlink_of(10), voided_links=3, user_id_before="ann", user_id_after="bob"
    )
    answer = await store.visitor_identity(SOURCE, "phone", 1000, "")
    links = [(r.link.user_id, r.link.in_force) for r in answer.records[:-1]]
    assert sorted(links) == [("ann", False)] * 3 + [("bob", True)] * 2
    assert answer.records[-1].unlink == unlink_of(10)
    assert [(one.user_id, one.in_force) for one in answer.connected] == [("ann", False), ("bob", True)]
    assert column(connection, "SELECT count(*) FROM identity_links WHERE voided") == [3]


async def test_an_unlink_is_made_once_and_only_of_what_is_in_force(
    store: PostgresIdentity, connection: psycopg.Connection[Any]
) -> None:
    insert_links(connection, 1)
    for unlink in (
        unlink_of(user_id="bob"),
        unlink_of(anonymous_id="laptop"),
        unlink_of(user_id="ann\0"),
        unlink_of(anonymous_id="phone\0"),
    ):
        assert await store.unlink(SOURCE, unlink, dry_run=False) is None
    assert await store.unlink(OTHER_SOURCE, unlink_of(), dry_run=False) is None
    assert await store.unlink("no uuid", unlink_of(), dry_run=False) is None
    assert await store.unlink(SOURCE, unlink_of(), dry_run=False) is not None
    assert await store.unlink(SOURCE, unlink_of(5, number=2), dry_run=False) is None
    assert column(connection, "SELECT unlink_id::text FROM identity_unlinks") == [uuid_of(1)]


async def test_every_void_link_is_marked_also_what_a_call_was_cut_off_at(
    store: PostgresIdentity, connection: psycopg.Connection[Any]
) -> None:
    insert_links(connection, 2 * MARKED_AT_ONCE + 1, user="CASE WHEN n = 7 THEN 'bob' ELSE 'ann' END")
    connection.execute(
        "INSERT INTO identity_unlinks VALUES (%s, 'phone', 'ann', %s, %s)",
        (SOURCE, NOW + 2 * MARKED_AT_ONCE * SECOND, uuid_of(1)),
    )
    assert await store.unlink(SOURCE, unlink_of(number=2), dry_run=True) is None
    assert column(connection, "SELECT count(*) FROM identity_links WHERE voided") == [0]
    assert await store.unlink(SOURCE, unlink_of(number=2), dry_run=False) is None
    assert column(connection, "SELECT user_id FROM identity_links WHERE NOT voided") == ["bob"]


async def test_a_link_that_came_after_the_unlink_is_not_marked(
    database_url: str, connection: psycopg.Connection[Any]
) -> None:
    # As when an identify is settled between an unlink's record and its marks.
    insert_links(connection, 5)
    connection.execute(
        "INSERT INTO identity_unlinks VALUES (%s, 'phone', 'ann', %s, %s)",
        (SOURCE, NOW + 2 * SECOND, uuid_of(1)),
    )
    async with aclosing(Database(database_url)) as database:
        assert await database.run(marking_void(SOURCE, unlink_of(9))) == 3
    marked = column(connection, "SELECT linked_at FROM identity_links WHERE voided ORDER BY 1")
    assert marked == [NOW, NOW + SECOND, NOW + 2 * SECOND]


async def test_a_dry_run_tells_and_does_nothing(
    store: PostgresIdentity, connection: psycopg.Connection[Any]
) -> None:
    insert_links(connection, 2)
    would = await store.unlink(SOURCE, unlink_of(5), dry_run=True)
    assert would == UnlinkIdentityResponse(
        unlink=unlink_of(5, unlink_id=""), voided_links=2, user_id_before="ann"
    )
    assert column(connection, "SELECT count(*) FROM identity_unlinks") == [0]
    assert await flags(store) == [True, True]


async def test_links_of_a_clock_that_is_ahead_are_voided_too(
    store: PostgresIdentity, connection: psycopg.Connection[Any]
) -> None:
    insert_links(connection, 4)
    made = await store.unlink(SOURCE, unlink_of(1.5), dry_run=False)
    assert made is not None
    assert (made.voided_links, made.unlink) == (4, unlink_of(3))
    assert await flags(store) == [False] * 4


async def test_a_link_that_comes_in_after_its_unlink_is_void_all_the_same(
    store: PostgresIdentity, connection: psycopg.Connection[Any], worker: Worker
) -> None:
    insert_links(connection, 1)
    await store.unlink(SOURCE, unlink_of(10), dry_run=False)
    for at in (10, 11):
        fields = {"kind": EVENT_KIND_IDENTIFY, "name": "", "anonymous_id": "phone", "user_id": "ann"}
        enqueue(connection, make_event(NOW + at * SECOND, **fields))
    worker.settle_all()
    assert await flags(store) == [False, False, True]
    again = await store.unlink(SOURCE, unlink_of(12, number=2), dry_run=False)
    assert again is not None
    assert again.voided_links == 1


@pytest.mark.parametrize("kind", ["user", "visitor"])
async def test_records_come_in_pages_the_latest_first_the_newest_last(
    store: PostgresIdentity, connection: psycopg.Connection[Any], kind: str
) -> None:
    # Of one identify that came with two visitor ids each is a record; a page's end may be between them.
    insert_links(connection, 5)
    insert_links(connection, 5, visitor="'laptop'")
    await store.unlink(SOURCE, unlink_of(4), dry_run=False)
    ask = store.user_identity if kind == "user" else store.visitor_identity
    wanted = "ann" if kind == "user" else "phone"
    whole = await ask(SOURCE, wanted, 1000, "")
    assert len(whole.records) == (11 if kind == "user" else 6)
    for page_size in range(1, 12):
        records, token, pages = [], "", 0
        while token or not pages:
            page = await ask(SOURCE, wanted, page_size, token)
            records[:0] = page.records
            token = page.next_page_token
            assert bool(page.connected) == (not pages)
            pages += 1
        assert records == list(whole.records)
        assert pages == -(-len(records) // page_size)


async def test_a_token_of_another_list_is_refused(
    store: PostgresIdentity, connection: psycopg.Connection[Any]
) -> None:
    insert_links(connection, 3)
    token = (await store.visitor_identity(SOURCE, "phone", 1, "")).next_page_token
    assert (await store.visitor_identity(SOURCE, "phone", 5, token)).records
    for wrong in ("x", "!!!!", "é", "AAAA", "e" * 10_000, token[:-4], token + "=", "WyJ1c2VyX2lkIl0"):
        with pytest.raises(ValueError, match="page token"):
            await store.visitor_identity(SOURCE, "phone", 5, wrong)
    with pytest.raises(ValueError, match="page token"):
        await store.user_identity(SOURCE, "ann", 5, token)


async def test_an_id_nobody_knows_has_nothing(store: PostgresIdentity) -> None:
    for wanted in ("nobody", "no\0body", "x" * 5_000):
        assert await store.user_identity(SOURCE, wanted, 5, "") == GetIdentityResponse()
        assert await store.visitor_identity("no uuid", wanted, 5, "") == GetIdentityResponse()


async def test_the_dialect_is_told_as_long_as_the_event_is_kept(
    store: PostgresIdentity, connection: psycopg.Connection[Any], worker: Worker
) -> None:
    enqueue(connection, make_identify(anonymous_id="phone", user_id="ann"))
    worker.settle_all()

    async def dialects() -> list[str]:
        return [record.link.dialect for record in (await store.user_identity(SOURCE, "ann", 5, "")).records]

    assert await dialects() == ["grpc"]
    connection.execute("DELETE FROM events")
    assert await dialects() == [""]


async def test_a_user_of_very_many_records_is_answered_in_bounds(
    store: PostgresIdentity, connection: psycopg.Connection[Any]
) -> None:
    insert_links(connection, 12_000, visitor="'v' || n")
    connection.execute("ANALYZE identity_links")
    answer = await store.user_identity(SOURCE, "ann", 1000, "")
    assert [len(answer.records), len(answer.connected)] == [1000, 1000]
    assert [one.anonymous_id for one in answer.connected][:2] == ["v11999", "v11998"]
    assert answer.records[-1].link.anonymous_id == "v11999"


async def test_groups_go_with_who_the_visitor_was(
    store: PostgresIdentity, connection: psycopg.Connection[Any], worker: Worker
) -> None:
    def group(at: int, group_id: str, **ids: str) -> Any:
        return make_event(NOW + at * SECOND, kind=EVENT_KIND_GROUP, name="", group_id=group_id, **ids)

    def identify(at: int, user_id: str) -> Any:
        return make_event(
            NOW + at * SECOND, kind=EVENT_KIND_IDENTIFY, name="", anonymous_id="tablet", user_id=user_id
        )

    enqueue(
        connection,
        identify(0, "ann"),
        group(1, "hers", anonymous_id="tablet", cookie_id="tablet"),
        identify(2, "bob"),
        group(3, "his", anonymous_id="other", cookie_id="tablet"),
        group(4, "own", user_id="bob", anonymous_id="tablet"),
        group(5, "nobodys"),
    )
    worker.settle_all()

    async def groups(ask: Any, wanted: str) -> list[tuple[str, str]]:
        return [(g.group_id, g.anonymous_id) for g in (await ask(SOURCE, wanted, 5, "")).groups]

    assert await groups(store.user_identity, "ann") == [("hers", "tablet")]
    assert await groups(store.user_identity, "bob") == [("own", ""), ("his", "tablet")]
    assert await groups(store.visitor_identity, "tablet") == [("his", "tablet"), ("hers", "tablet")]
    assert await groups(store.visitor_identity, "other") == [("his", "other")]
    unlink = unlink_of(9, anonymous_id="tablet", user_id="bob")
    assert await store.unlink(SOURCE, unlink, dry_run=False)
    assert await groups(store.user_identity, "ann") == [("his", "tablet"), ("hers", "tablet")]
    assert await groups(store.user_identity, "bob") == [("own", "")]
    assert column(connection, "SELECT count(*) FROM group_links") == [3]


async def test_group_events_from_before_there_were_records_are_found(
    connection: psycopg.Connection[Any], worker: Worker
) -> None:
    fields = {"kind": EVENT_KIND_GROUP, "name": "", "group_id": "acme"}
    enqueue(
        connection,
        make_event(user_id="ann", anonymous_id="phone", **fields),
        make_event(anonymous_id="phone", cookie_id="phone", **fields),
        make_event(anonymous_id="phone", cookie_id="c1", **fields),
        make_event(cookie_id="c2", **fields),
        make_event(**fields),
    )
    worker.settle_all()
    written = column(connection, "SELECT group_links::text FROM group_links ORDER BY 1")
    assert len(written) == 4
    [revision] = [
        one for one in script_directory().walk_revisions() if one.module.__name__.endswith("identity_py")
    ]
    connection.execute("TRUNCATE group_links")
    connection.execute(revision.module._GROUPS_SO_FAR)
    assert column(connection, "SELECT group_links::text FROM group_links ORDER BY 1") == written
