"""What a part is started with."""

import subprocess
import sys

import pytest

from polylect_cli.handover import part_environment

_OPEN_A_CHANNEL = "import grpc; grpc.insecure_channel('127.0.0.1:1').close()"


def test_grpc_knows_what_it_is_told() -> None:
    environment = part_environment()
    assert environment["GRPC_EXPERIMENTS"]
    told = subprocess.run(
        [sys.executable, "-c", _OPEN_A_CHANNEL], env=environment, capture_output=True, text=True, check=True
    )
    assert told.stderr == ""


def test_what_the_operator_chose_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRPC_EXPERIMENTS", "tcp_frame_size_tuning")
    assert part_environment()["GRPC_EXPERIMENTS"] == "tcp_frame_size_tuning"
