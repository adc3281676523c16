"""The supervisor as a process: `python -m polylect_cli.run_up COMMAND`, its plan on standard input."""

import asyncio
import sys

import msgspec

from polylect_cli.announce import ready_text, speaker
from polylect_cli.supervisor import Plan, Supervisor


async def _run(plan: Plan, command: str) -> int:
    def announce(seconds: float) -> None:
        sys.stdout.write(ready_text(plan, seconds, command))
        sys.stdout.flush()

    return await Supervisor(plan, speaker(plan)).run(announce)


if __name__ == "__main__":
    raise SystemExit(asyncio.run(_run(msgspec.json.decode(sys.stdin.buffer.read(), type=Plan), sys.argv[1])))
