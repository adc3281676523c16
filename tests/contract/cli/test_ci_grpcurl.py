"""`make grpcurl`: calls the core as its administrator, and tells no other user of the machine the token."""

import json
import os
import subprocess
from pathlib import Path

from cli_operator import Operator

SCRIPT = Path(__file__).parents[3] / ".ci" / "grpcurl"
TOKEN = "token-of-the-admin"


def grpcurl(environment: dict[str, str], *arguments: str) -> str:
    return subprocess.run(
        [SCRIPT, *arguments],
        env=environment | {"POLYLECT_ADMIN_TOKEN": TOKEN},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    ).stdout


def test_it_calls_the_core(tmp_path: Path, database_url: str) -> None:
    operator = Operator(tmp_path, DATABASE_URL=database_url, POLYLECT_ADMIN_TOKEN=TOKEN)
    with operator.part("core"):
        operator.wait_for_core()
        operator.succeed("source", "create", "shop")
        called = grpcurl(operator.environment, "polylect.v1.SourceService/ListSources")
        listed = grpcurl(operator.environment)
    assert [source["name"] for source in json.loads(called)["sources"]] == ["shop"]
    assert "polylect.v1.IngestService" in listed


def test_it_says_what_it_misses(tmp_path: Path) -> None:
    nowhere = {
        **os.environ,
        "POLYLECT_DATA_DIR": str(tmp_path),
        "POLYLECT_ADMIN_TOKEN": "",
        "POLYLECT_CORE_ADDRESS": "127.0.0.1:1",
    }
    for arguments, said in (
        (("", "{}"), "call what? make grpcurl CALL="),
        (("", "", "sec_123"), "call what? make grpcurl CALL="),
        (("polylect.v1.SourceService/ListSources",), "no key: give KEY="),
        (("polylect.v1.SourceService/ListSources", "", "key"), "no core answers at 127.0.0.1:1: "),
    ):
        done = subprocess.run(
            [SCRIPT, *arguments], env=nowhere, capture_output=True, text=True, check=False, timeout=60
        )
        assert done.returncode in (2, 3)
        assert (done.stderr.startswith(said), done.stderr.count("\n"), done.stdout) == (True, 1, "")


def test_the_token_stands_in_no_command_line(tmp_path: Path) -> None:
    (tmp_path / "grpcurl").write_text('#!/bin/sh\necho "$*"; echo "$token"\n')
    (tmp_path / "grpcurl").chmod(0o755)
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    command_line, expanded = grpcurl(environment, "polylect.v1.SourceService/ListSources").splitlines()
    assert "-expand-headers -H authorization: Bearer ${token}" in command_line
    assert TOKEN not in command_line
    assert expanded == TOKEN
