"""How a part gets its options: as JSON on standard input, from the process that started it.

Hides that way, and why: reading settings takes 23 MB and 0.1 s, which only the command line pays, and secrets
stand neither in a command line nor in an environment. Knows nothing of what the options are.
"""

import os
import sys
from collections.abc import Callable, Mapping
from typing import Any, Literal, TypeVar

import msgspec
import structlog

from polylect_cli.logs import configure_logs

# grpc reads it when it is imported. With its event engine each message of a Python program passes through one
# thread more, in and out: half of the time of a call between facade and core. A version of grpc that knows
# the names no more says so in one line and goes on.
_GRPC_EXPERIMENTS = "-event_engine_client,-event_engine_listener"

Options = TypeVar("Options")


class LogOptions(msgspec.Struct, frozen=True):
    """How a part logs; see Settings.log_level and log_format."""

    level: str
    format: Literal["auto", "json", "console"]


class _Envelope(msgspec.Struct, frozen=True):
    log: LogOptions
    options: msgspec.Raw


def pack(log: LogOptions, options: Mapping[str, Any]) -> bytes:
    """Give what `run_part` reads."""
    return msgspec.json.encode({"log": log, "options": options})


def run_part(part: str, options_type: type[Options], run: Callable[[Options], None]) -> None:
    """Read the options, configure the logs, run.

    Exits with 1, and one line that says why, when the surroundings don't let it go on.
    """
    envelope = msgspec.json.decode(sys.stdin.buffer.read(), type=_Envelope)
    # Nothing else reads it, and a part must not hold its starter's pipe.
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    configure_logs(part, envelope.log.level, envelope.log.format)
    try:
        run(msgspec.json.decode(envelope.options, type=options_type))
    except (OSError, RuntimeError, ValueError) as error:
        structlog.get_logger().error(f"{part} can't run", error=str(error), exc_info=_is_ours(error))
        raise SystemExit(1) from error


def _is_ours(error: Exception) -> bool:
    """Tell whether the trace helps: not for what the surroundings refuse."""
    return not isinstance(error, OSError)


def part_environment() -> dict[str, str]:
    """Give the environment of a part: ours, and what grpc does best with unless the operator chose."""
    return {"GRPC_EXPERIMENTS": _GRPC_EXPERIMENTS, **os.environ}


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
