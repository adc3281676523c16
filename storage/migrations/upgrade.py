"""Brings a database to the newest revision: the only module that imports Alembic, run as a program.

`python -m storage.migrations.upgrade` reads the database's URL from standard input, where no process list
shows its password, and says on standard error why it failed. To migrate, call
`storage.migrate`.
"""

import sys
from pathlib import Path

import psycopg
from alembic.config import Config
from alembic.runtime.environment import EnvironmentContext
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import create_engine, text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import NullPool

# Whoever migrates holds it, so that several processes may start together.
_ADVISORY_LOCK = 0x706F6C796C656374


def script_directory() -> ScriptDirectory:
    """Give the revisions."""
    return ScriptDirectory(Path(__file__).parent)


def upgrade(url: str) -> None:
    """Run the missing revisions in one transaction, after whoever else is at it.

    Raises CommandError when the database is newer than this program.
    """
    scripts = script_directory()

    # What Alembic's own `upgrade` command does; the type is narrower than what it calls it with.
    def missing_revisions(current: tuple[str, ...], _: MigrationContext) -> list[object]:
        return list(scripts._upgrade_revs("head", current))  # type: ignore[arg-type]

    # The connection is psycopg's own, for it reads every form of URL that Postgres documents.
    engine = create_engine("postgresql+psycopg://", creator=lambda: psycopg.connect(url), poolclass=NullPool)
    with engine.connect() as connection, EnvironmentContext(Config(), scripts, fn=missing_revisions) as steps:
        # Held to the end of the transaction, so that it can't outlive it.
        connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _ADVISORY_LOCK})
        steps.configure(connection=connection)
        steps.run_migrations()
        connection.commit()


def main() -> int:
    """Upgrade the database named on standard input."""
    try:
        upgrade(sys.stdin.readline().strip())
    except (CommandError, SQLAlchemyError, psycopg.Error) as error:
        sys.stderr.write(f"{str(error).strip()}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
