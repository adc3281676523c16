"""What a database needs before the parts use it, as a process: the schema, and in demo mode the examples."""

from dataclasses import dataclass

from polylect_cli.handover import run_part
from storage.demo import create_demo
from storage.migrate import migrate


@dataclass(frozen=True)
class PrepareOptions:
    """What to prepare."""

    database_url: str
    demo: bool = False


def prepare(options: PrepareOptions) -> None:
    """Bring the schema up to date, make the examples if asked to. Repeating changes nothing."""
    migrate(options.database_url)
    if options.demo:
        create_demo(options.database_url)


if __name__ == "__main__":
    run_part("prepare", PrepareOptions, prepare)
