"""What a database needs before the parts use it: the schema, and in demo mode the examples."""

from dataclasses import dataclass

from storage.demo import create_demo
from storage.migrate import migrate


@dataclass(frozen=True)
class PrepareOptions:
    """What to prepare."""

    database_url: str
    demo: bool = False


def run(options: PrepareOptions) -> None:
    """Bring the schema up to date, make the examples if asked to. Repeating changes nothing."""
    migrate(options.database_url)
    if options.demo:
        create_demo(options.database_url)
