"""segment-analytics-python, in a process of its own that has nothing but it and what it needs."""

import gzip
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from system.edge import Edge, Seen, Trouble
from system.stack import Stack

from .snippets import SNIPPETS
from .stored import rows_of

# Runs a program against the edge, and gives what it printed.
Run = Callable[[str], Any]

_END = """
analytics.shutdown()
print(json.dumps(failed))
"""


@pytest.fixture(scope="module")
def edge(stack: Stack) -> Iterator[Edge]:
    """What stands before the facade; in the clear, as on a server's own network."""
    edge = Edge(stack.http_port, tls=False)
    yield edge
    edge.close()


@pytest.fixture
def run(edge: Edge, python_packages: Path) -> Run:
    edge.forget()

    def run(program: str) -> Any:
        done = subprocess.run(
            # Without site-packages: only what requirements/clients.txt names.
            [sys.executable, "-S", "-c", program.replace("localhost:8080", f"localhost:{edge.port}")],
            env={**os.environ, "PYTHONPATH": str(python_packages), "NO_PROXY": "localhost"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout or "null")

    return run


def _client(*, key: str = "dk_live_abc123") -> str:
    """Give a program's first lines: a client whose failures are kept in `failed`."""
    return f"""
import json
from segment.analytics import Client
failed = []
def fail(error, items):
    failed.append([str(error), len(items)])
analytics = Client({key!r}, host="http://localhost:8080", on_error=fail, upload_interval=0.1)
"""


def _body(post: Seen) -> Any:
    zipped = post.headers.get("content-encoding") == "gzip"
    return json.loads(gzip.decompress(post.body) if zipped else post.body)


def _message_ids(post: Seen) -> list[str]:
    return [event["messageId"] for event in _body(post)["batch"]]


@pytest.mark.parametrize("zipped", [True, False])
def test_the_documented_lines(run: Run, edge: Edge, stack: Stack, zipped: bool) -> None:
    snippet = SNIPPETS["orders.py"]
    assert "gzip=True" in snippet
    run(snippet if zipped else snippet.replace("gzip=True", "gzip=False"))
    (post,) = edge.seen
    assert (post.path, post.headers.get("content-encoding")) == ("/v1/batch", "gzip" if zipped else None)
    columns = "kind, name, user_id, anonymous_id, properties, traits, context, provenance_library"
    common = ({"library": {"name": "analytics-python", "version": "2.4.0"}, "integrations": {}},)
    common = (*common, "analytics-python/2.4.0")
    order = {"order_id": 1234567890123456789, "total": 79.99}
    rows = [row for each in _message_ids(post) for row in rows_of(stack, columns, "message_id", each, 1)]
    assert rows == [
        ("identify", None, "user_98765", None, {}, {"plan": "premium"}, *common),
        ("track", "Order Completed", "user_98765", None, order, {}, *common),
    ]
    columns = "to_char(occurred_at at time zone 'utc', 'YYYY-MM-DD\"T\"HH24:MI:SS.MS\"+00:00\"')"
    (occurred,) = rows_of(stack, columns, "message_id", _message_ids(post)[0], 1)
    assert occurred == (_body(post)["batch"][0]["timestamp"],)


def test_every_call_and_every_visitor_apart(run: Run, edge: Edge, stack: Stack) -> None:
    calls = """
analytics.identify("ann", {"plan": "premium"}, anonymous_id="phone")
analytics.page(anonymous_id="tablet")
analytics.page(anonymous_id="phone", category="Shop", name="Cart", properties={"items": 2})
analytics.group("ann", "org_555", {"name": "Acme Corp"})
analytics.flush()
analytics.track(anonymous_id="tablet", event="Looked", properties={"at": [1, 2.50]})
"""
    assert run(_client() + calls + _END) == []
    first, second = edge.seen
    assert "cookie" not in second.headers
    ids = [*_message_ids(first), *_message_ids(second)]
    columns = "kind, name, user_id, anonymous_id, group_id, properties, traits, event_id::text"
    rows = [row for each in ids for row in rows_of(stack, columns, "message_id", each, 1)]
    assert [row[:-1] for row in rows] == [
        ("identify", None, "ann", "phone", None, {}, {"plan": "premium"}),
        ("page", None, None, "tablet", None, {}, {}),
        ("page", "Cart", None, "phone", None, {"items": 2}, {}),
        ("group", None, "ann", None, "org_555", {}, {"name": "Acme Corp"}),
        ("track", "Looked", None, "tablet", None, {"at": [1, 2.5]}, {}),
    ]
    # Only what is hers reads as hers.
    hers = stack.polylect("events", "--source", "demo-datafly", "--user", "ann", "--json").splitlines()
    found = {event["event_id"] for event in map(json.loads, hers)}
    assert [row[-1] in found for row in rows] == [True, False, True, True, False]


def test_a_repeated_message_id_is_stored_once(run: Run, edge: Edge, stack: Stack) -> None:
    calls = """
for name in ("first", "again"):
    analytics.track("ann", name, message_id="python-repeated")
analytics.flush()
analytics.track("ann", "later", message_id="python-repeated")
"""
    assert run(_client() + calls + _END) == []
    assert [_message_ids(post) for post in edge.seen] == [["python-repeated"] * 2, ["python-repeated"]]
    assert rows_of(stack, "name", "message_id", "python-repeated", 1) == [("first",)]


@pytest.mark.parametrize(
    "trouble",
    [Trouble(429, {"Retry-After": "1"}), Trouble(503, {"Retry-After": "1"}), Trouble(forwarded=True)],
    ids=["429", "503", "no answer"],
)
def test_what_was_put_off_is_sent_again_and_stored_once(
    run: Run, edge: Edge, stack: Stack, trouble: Trouble
) -> None:
    edge.troubles.append(trouble)
    assert run(_client() + "analytics.track('ann', 'a')\nanalytics.flush()" + _END) == []
    first, again = edge.seen
    assert _message_ids(first) == _message_ids(again)
    if trouble.status:
        assert again.at - first.at >= 1
    assert rows_of(stack, "name", "message_id", *_message_ids(first), 1) == [("a",)]


def test_a_bad_key_ends_it_at_once(run: Run, edge: Edge) -> None:
    failed = run(_client(key="dk_live_wrong") + "analytics.track('ann', 'a')" + _END)
    said = "[Segment] INVALID_PIPELINE_KEY: Invalid or missing pipeline key (401)"
    assert failed == [[said, 1]]
    assert len(edge.seen) == 1


def test_what_the_dialect_has_not_spoils_nothing_beside_it(run: Run, edge: Edge, stack: Stack) -> None:
    calls = """
analytics.screen("ann", name="Home")
analytics.alias("phone", "ann")
analytics.group("ann", 555)
analytics.track("ann", "good")
"""
    assert run(_client() + calls + _END) == []
    (post,) = edge.seen
    screen, alias, group, good = _message_ids(post)
    assert rows_of(stack, "name", "message_id", good, 1) == [("good",)]
    query = "select reason from quarantine where position(convert_to(%s, 'UTF8') in raw) > 0"
    kept = [stack.await_rows(query, each) for each in (screen, alias, group)]
    assert kept == [[("kind_unknown",)], [("kind_unknown",)], [("field_invalid",)]]
