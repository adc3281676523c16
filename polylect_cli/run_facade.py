"""The facade as a process: `python -m polylect_cli.run_facade`, options on standard input."""

from rest_facade.server import FacadeOptions, run

from polylect_cli.handover import run_part

if __name__ == "__main__":
    run_part("facade", FacadeOptions, run)
