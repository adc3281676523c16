"""The bench still works: it starts, measures every row, and finds what it sent. Speed is not looked at."""

import json
import subprocess
import sys
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[2]
_ROWS = ["start", "idle", "single-1", "single-32", "single-128", "batch-100", "memory"]


def test_the_bench_measures_every_row_and_loses_nothing(tmp_path: Path) -> None:
    figures = tmp_path / "figures.json"
    command = [
        sys.executable,
        "-m",
        "benchmarks",
        "--smoke",
        "--loader=own",
        f"--json={figures}",
        f"--scratch={tmp_path}",
    ]

    done = subprocess.run(command, cwd=_ROOT, capture_output=True, text=True, timeout=100, check=False)

    assert done.returncode == 0, done.stdout + done.stderr
    measured = json.loads(figures.read_text())
    assert measured["durability"] == {"fsync": "on", "synchronous_commit": "on", "full_page_writes": "on"}
    assert [row["name"] for row in measured["rows"]] == _ROWS
    for row in measured["rows"]:
        account = row["account"]
        assert account["balanced"], row
        assert account["refused"] == account["broken"] == account["quarantined"] == 0, row
        if row["name"].startswith(("single", "batch")):
            assert account["stored"] == account["acknowledged"] > 0, row
    assert list(tmp_path.glob("polylect-bench-*")) == [], "the scratch directory is still there"


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
