"""One part as a process: `python -m polylect_cli.run_part NAME`, its options on standard input.

Imports the part it is told, and none of the others: their imports are most of what a process takes.
"""

import sys
from importlib import import_module

import msgspec
import structlog

from polylect_cli.handover import receive
from polylect_cli.logs import configure_logs

# The module that has `run(options)`, and the class of the options there.
_PARTS = {
    "prepare": ("polylect_cli.prepare", "PrepareOptions"),
    "core": ("core_service.server", "CoreOptions"),
    "facade": ("rest_facade.server", "FacadeOptions"),
    "worker": ("storage.worker", "WorkerOptions"),
}
# What is given to `run` beside the options: module and function.
_COMPOSED = {"core": ("polylect_cli.translating", "load_translator")}


def _run(name: str) -> None:
    """Exit with 1, and one line that says why, when the surroundings don't let the part go on."""
    log_options, packed = receive()
    configure_logs(name, log_options.level, log_options.format)
    module_name, options_name = _PARTS[name]
    module = import_module(module_name)
    home, function = _COMPOSED.get(name, ("", ""))
    composed = [getattr(import_module(home), function)] if home else []
    try:
        module.run(msgspec.json.decode(packed, type=getattr(module, options_name)), *composed)
    except (OSError, RuntimeError, ValueError) as error:
        # A trace doesn't help with what the surroundings refuse.
        is_ours = not isinstance(error, OSError)
        structlog.get_logger().error("part_failed", error=str(error), exc_info=is_ours)
        raise SystemExit(1) from error


if __name__ == "__main__":
    _run(sys.argv[1])
