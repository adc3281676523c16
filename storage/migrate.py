"""Whether a database has this version's schema, and giving it that schema.

Hides that Alembic does it, in a process of its own: every start asks, few need it, and the import
costs 0.8 s.
"""

import subprocess
import sys

import psycopg

from storage.errors import MigrationFailed, driver_errors_wrapped

HEAD = "0007"
"""The newest revision, which this version's code is written against."""

_CONNECT_TIMEOUT_SECONDS = 10


def is_current(database_url: str) -> bool:
    """Tell whether the database has this version's schema. Raises StorageUnavailable."""
    with (
        driver_errors_wrapped(),
        psycopg.connect(
            database_url, autocommit=True, connect_timeout=_CONNECT_TIMEOUT_SECONDS
        ) as connection,
    ):
        if connection.execute("SELECT to_regclass('alembic_version')").fetchone() == (None,):
            return False
        return connection.execute("SELECT version_num FROM alembic_version").fetchall() == [(HEAD,)]


def migrate(database_url: str) -> bool:
    """Give the database this version's schema; False when it had it. Several processes may call it at once.

    Raises StorageUnavailable, and MigrationFailed when a revision can't be applied or the database is newer.
    """
    if is_current(database_url):
        return False
    upgrade = subprocess.run(
        [sys.executable, "-P", "-m", "storage.migrations.upgrade"],
        input=f"{database_url}\n",
        capture_output=True,
        text=True,
        check=False,
    )
    if upgrade.returncode:
        raise MigrationFailed(f"the database could not be migrated: {upgrade.stderr.strip()}")
    return True
