"""What a database needs before the parts use it: the schema, and in demo mode the examples."""

import sys
from dataclasses import dataclass

from storage.demo import create_demo
from storage.migrate import HEAD, migrate


@dataclass(frozen=True)
class PrepareOptions:
    """What to prepare."""

    database_url: str
    demo: bool = False
    # Say on standard output what was done.
    tell: bool = False


def run(options: PrepareOptions) -> None:
    """Bring the schema up to date, make the examples if asked to. Repeating changes nothing."""
    migrated = migrate(options.database_url)
    said = f"migrated to revision {HEAD}" if migrated else f"the schema is up to date (revision {HEAD})"
    if options.demo:
        create_demo(options.database_url)
        said += "; the documents' example keys are in (demo mode)"
    if options.tell:
        sys.stdout.write(f"{said}\n")
