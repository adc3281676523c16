"""The bench still works: it starts, measures each kind of row, finds what it sent. Speed is not looked at."""

import json
import re
import shutil
import subprocess
import sys
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest

_ROOT = Path(__file__).resolve().parents[2]
# Rows and the lines of each. single-1, single-128 and other sizes of batches are the same with other numbers.
_ROWS = {
    "start": [""],
    "idle": ["idle"],
    "single-32": ["pulsora", "pulse", "apex", "datafly", "Ingest"],
    "batch-100": ["pulse", "apex", "datafly", "IngestStream"],
    "duplicates": [
        "one a request, plain",
        "one a request, repeats",
        "batches of 100, plain",
        "batches of 100, repeats",
    ],
    "identify": [
        "one a request, plain",
        "one a request, identify",
        "batches of 100, plain",
        "batches of 100, identify",
    ],
    "peer": ["the facade", "Envoy, transcoding"],
    "growth": [
        "0: one a request",
        "0: batches of 100",
        "1,000: one a request",
        "1,000: batches of 100",
    ],
    "memory": ["before", "most under load", "after half", "after the hour"],
    "burst": ["queue only", "1 worker", "2 workers"],
}
_NOT_SENT = {"start", "idle"}


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the bench wrote."""
    directory = tmp_path_factory.mktemp("bench")
    figures = directory / "figures.json"
    command = [
        sys.executable,
        "-m",
        "benchmarks",
        "--smoke",
        "--loader=own",
        f"--json={figures}",
        f"--scratch={directory}",
    ]
    done = subprocess.run(command, cwd=_ROOT, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert list(directory.glob("polylect-bench-*")) == [], "the scratch directory is still there"
    written: dict[str, Any] = json.loads(figures.read_text())
    return written


def test_the_bench_measures_every_kind_of_row_and_loses_nothing(measured: dict[str, Any]) -> None:
    assert measured["durability"] == {"fsync": "on", "synchronous_commit": "on", "full_page_writes": "on"}
    rows = {row["name"]: row for row in measured["rows"]}
    assert list(rows) == list(_ROWS)
    for name in rows.keys() - {"peer"}:
        assert [line["label"] for line in rows[name]["lines"]] == _ROWS[name]
        _check_accounts(name, rows[name])


def test_the_bench_measures_the_peer(measured: dict[str, Any]) -> None:
    (row,) = (row for row in measured["rows"] if row["name"] == "peer")
    notes = [note for line in row["lines"] for note in line["account"]["notes"]]
    if missing := [note for note in notes if "can't be installed" in note]:
        pytest.skip(missing[0])
    assert [line["label"] for line in row["lines"]] == _ROWS["peer"]
    _check_accounts("peer", row)


def _check_accounts(name: str, row: dict[str, Any]) -> None:
    assert row["balanced"], row
    total: Counter[str] = Counter()
    for line in row["lines"]:
        account = line["account"]
        assert account["refused"] == account["broken"] == account["quarantined"] == 0, (name, line)
        assert account["stored"] + account["repeated"] == account["acknowledged"], (name, line)
        if "repeats" in line["label"]:
            assert account["repeated"] > 0, line
        total["sent"] += account["acknowledged"]
    assert bool(total["sent"]) is (name not in _NOT_SENT), row


class _Recorder(BaseHTTPRequestHandler):
    """Keeps the bodies it gets."""

    protocol_version = "HTTP/1.1"
    bodies: ClassVar[list[bytes]] = []

    def do_POST(self) -> None:
        self.bodies.append(self.rfile.read(int(self.headers["Content-Length"])))
        self.send_response(200)
        # In one write: two would wait for each other.
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *arguments: object) -> None:
        """Say nothing."""


@pytest.mark.skipif(not shutil.which("wrk"), reason="wrk is not installed")
def test_wrk_numbers_visitors_and_messages_as_the_own_loader_does() -> None:
    sent = {}
    for tool in ("wrk", "own"):
        _Recorder.bodies.clear()
        with ThreadingHTTPServer(("127.0.0.1", 0), _Recorder) as server:
            serving = threading.Thread(target=server.serve_forever)
            serving.start()
            _send(tool, server.server_port)
            server.shutdown()
            serving.join()
        sent[tool] = [_ids(body) for body in _Recorder.bodies]

    # One connection, so they come in order; wrk asks for its first request twice.
    count = min(len(each) for each in sent.values()) - 1
    assert count >= 50, "enough for message ids to repeat"
    assert sent["wrk"][:count] == sent["own"][1 : count + 1]
    messages = [message for ids in sent["own"][:50] for _, _, message in ids]
    repeats = [count for count in Counter(messages).values() if count > 1]
    assert repeats, "none repeats"


def _send(tool: str, port: int) -> None:
    """Send batches of three, with message ids that repeat, for a second."""
    program = (
        "from benchmarks import load, payloads\n"
        "payload = payloads.payload('datafly', 'dk_live_x', 3, 'repeats')\n"
        f"load.send({tool!r}, payload, {port}, load.Load(1, seconds=1), lambda share: None)\n"
    )
    subprocess.run([sys.executable, "-c", program], cwd=_ROOT, check=True, timeout=60)


def _ids(body: bytes) -> list[tuple[str, str, str]]:
    """Give the numbers in the ids of each event, without what tells one load from another."""
    return [
        (event["type"], _number(event["anonymousId"]), _number(event["messageId"]))
        for event in json.loads(body)["batch"]
    ]


def _number(text: str) -> str:
    found = re.search(r"\d{10}$", text)
    assert found, text
    return found[0]


def test_the_bench_of_queries_asks_every_question(tmp_path: Path) -> None:
    figures = tmp_path / "figures.json"
    command = [sys.executable, "-m", "benchmarks.query", "--events=2000", "--repeats=1"]

    done = subprocess.run(
        [*command, f"--json={figures}", f"--scratch={tmp_path}"],
        cwd=_ROOT,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )

    assert done.returncode == 0, done.stdout + done.stderr
    measured = json.loads(figures.read_text())
    assert 1_000 < measured["events"] < 3_000
    # Seven metrics at four periods, and at two of them by each of four groupings; none ran out of time.
    assert len(measured["rows"]) == 7 * 4 + 7 * 2 * 4
    assert all(len(row["ms"]) == 1 and row["ms"][0] < 60_000 for row in measured["rows"])
    assert list(tmp_path.glob("polylect-bench-*")) == [], "the scratch directory is still there"
