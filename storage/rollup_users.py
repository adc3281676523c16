"""Users by day. Raises nothing of its own."""

from typing import Any

import psycopg


def fold_users(connection: psycopg.Connection[Any]) -> None:
    """Take in `fresh` and `unlinked`, in the caller's transaction. Raises the driver's errors."""
