"""The core as a process: `python -m polylect_cli.run_core`, options on standard input."""

from core_service.server import CoreOptions, run
from polylect_cli.handover import run_part

if __name__ == "__main__":
    run_part("core", CoreOptions, run)
