"""What became of events: rows of the running system's tables."""

from typing import Any

from system.stack import Stack
from system.waiting import eventually

Row = tuple[Any, ...]


def rows_of(stack: Stack, columns: str, column: str, value: object, number: int) -> list[Row]:
    """Wait until so many events, no more, have this value in a column; give columns, in order of receipt."""
    query = f"select {columns} from events where {column} = %s order by event_id"

    def look() -> list[Row] | None:
        found = stack.sql(query, value)
        return found if len(found) >= number else None

    what = f"{number} events with {column} {value}"
    rows = eventually(look, what, within_seconds=20, context=stack.tail)
    # What came twice may still be on its way.
    stack.wait_until_drained()
    assert len(stack.sql(query, value)) == number
    return rows
