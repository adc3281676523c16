"""What storage raises: the edge that no driver error crosses."""

from collections.abc import Iterator
from contextlib import contextmanager

import psycopg


class StorageUnavailable(ConnectionError):
    """The database can't be reached, did not answer in time, or refused to work; its cause says why."""


class MigrationFailed(Exception):
    """The schema could not be brought to this version's; the message says what to do."""


@contextmanager
def driver_errors_wrapped() -> Iterator[None]:
    """Turn every driver error of the block into StorageUnavailable."""
    try:
        yield
    except (psycopg.Error, OSError) as error:
        if isinstance(error, StorageUnavailable):
            raise
        # A failed connect gives several lines, the first of which names the trouble.
        summary = str(error).strip().partition("\n")[0] or type(error).__name__
        raise StorageUnavailable(f"the database is not available: {summary}") from error
