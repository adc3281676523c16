"""What Prometheus reads of the core."""

import asyncio
import re
import urllib.request
from collections.abc import Awaitable, Callable
from typing import Any

import psycopg
from core_calls import a_request, an_event, until


async def read(port: int) -> dict[str, float]:
    """Give the figures, by name and labels."""
    url = f"http://127.0.0.1:{port}/metrics"
    text = await asyncio.to_thread(lambda: urllib.request.urlopen(url, timeout=10).read().decode())
    return {name: float(value) for name, value in re.findall(r"^([^# ]\S*) (\S+)$", text, re.MULTILINE)}


async def test_commits_queue_and_ledger(
    start: Any, database_url: str, settle: Callable[[], Awaitable[None]], unused_tcp_port: int
) -> None:
    port = unused_tcp_port
    core = await start(metrics_at=("127.0.0.1", port))
    await core.make_source()
    key = await core.make_key()
    assert (await read(port))["polylect_queue_items"] == 0
    await core.send(
        a_request(key.secret, an_event(message_id="m"), an_event(message_id="m"), an_event(name=""))
    )
    waiting = await read(port)
    assert waiting["polylect_queue_items"] == 3
    assert 0 < waiting["polylect_queue_age_seconds"] < 60
    assert waiting["polylect_core_commit_seconds_count"] == 1
    assert waiting["polylect_core_commit_items_sum"] == 3
    await settle()
    settled = await read(port)
    fates = ("received", "stored", "duplicate", "quarantined", "refused")
    counted = [settled[f'polylect_ledger_events_total{{fate="{fate}"}}'] for fate in fates]
    assert counted == [3, 1, 1, 1, 0]
    assert (settled["polylect_queue_items"], settled["polylect_queue_age_seconds"]) == (0, 0)
    assert settled["polylect_ledger_unbalanced"] == 0
    with psycopg.connect(database_url) as connection:
        connection.execute("UPDATE ledger SET stored = stored - 1")
    assert (await read(port))["polylect_ledger_unbalanced"] == 1


async def test_without_the_database_it_says_so(start: Any, unused_tcp_port: int) -> None:
    port = unused_tcp_port
    await start(metrics_at=("127.0.0.1", port), database_url="postgresql://nobody@127.0.0.1:1/nothing")

    async def is_told() -> bool:
        return (await read(port))["polylect_core_store_up"] == 0

    await until(is_told)
