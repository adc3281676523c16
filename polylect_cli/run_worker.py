"""A worker as a process: `python -m polylect_cli.run_worker`, options on standard input."""

from polylect_cli.handover import run_part
from storage.worker import WorkerOptions, run

if __name__ == "__main__":
    run_part("worker", WorkerOptions, run)
