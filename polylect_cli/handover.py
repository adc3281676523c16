"""How a part gets its options: as JSON on standard input, from the process that started it.

Hides that way, and why: reading settings takes 23 MB and 0.1 s, which only the command line pays, and secrets
stand neither in a command line nor in an environment. Knows nothing of what the options are.
"""

import os
import sys
from collections.abc import Mapping
from typing import Any, Literal

import msgspec

RUN_PART = "polylect_cli.run_part"
"""The module every part is run by: `python -m polylect_cli.run_part NAME`."""

# grpc reads it when it is imported. With its event engine each message of a Python program passes through one
# thread more, in and out: half of the time of a call between facade and core. A version of grpc that knows
# the names no more says so in one line and goes on.
_GRPC_EXPERIMENTS = "-event_engine_client,-event_engine_listener"
# What grpc itself says of callers' mistakes goes past our log, a line for each: anyone could fill a disk.
_GRPC_VERBOSITY = "NONE"


class LogOptions(msgspec.Struct, frozen=True):
    """How a part logs; see Settings.log_level and log_format."""

    level: str
    format: Literal["auto", "json", "console"]


class _Envelope(msgspec.Struct, frozen=True):
    log: LogOptions
    options: msgspec.Raw


def pack(log: LogOptions, options: Mapping[str, Any]) -> bytes:
    """Give what `receive` reads."""
    return msgspec.json.encode({"log": log, "options": options})


def receive() -> tuple[LogOptions, msgspec.Raw]:
    """Read what was packed from standard input, and let go of it."""
    envelope = msgspec.json.decode(sys.stdin.buffer.read(), type=_Envelope)
    # Nothing else reads it, and a part must not hold its starter's pipe.
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    return envelope.log, envelope.options


def part_environment() -> dict[str, str]:
    """Give the environment of a part: ours, and what grpc does best with unless the operator chose."""
    return {"GRPC_EXPERIMENTS": _GRPC_EXPERIMENTS, "GRPC_VERBOSITY": _GRPC_VERBOSITY, **os.environ}


def hand_over(module: str, arguments: list[str], packed: bytes) -> None:
    """Become `python -m module` with `packed` on standard input. Does not return."""
    reading, writing = os.pipe()
    # Well below what a pipe takes without a reader.
    os.write(writing, packed)
    os.close(writing)
    os.dup2(reading, 0)
    os.close(reading)
    sys.stdout.flush()
    # -P: a directory named as one of our packages, where the operator stands, must not be imported.
    command = [sys.executable, "-P", "-m", module, *arguments]
    os.execve(sys.executable, command, part_environment())  # noqa: S606
