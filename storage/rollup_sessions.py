"""Sessions by day. Raises nothing of its own."""

from typing import Any

import psycopg


def fold_sessions(connection: psycopg.Connection[Any]) -> None:
    """Take in the events of `fresh`, in the caller's transaction. Raises the driver's errors."""
