"""How many events of each type and place there were in each hour: kept, and told for any range.

Hides that whole hours are added up from `event_hours` and the rest of a range is counted in `events`.
"""

from typing import Any

import psycopg

_FOLD = """
INSERT INTO event_hours (source_id, site_id, hour, group_hash, kind, name, country, device_type, events)
SELECT source_id, site_id, hour, md5(ROW(kind, name, country, device_type)::text)::uuid,
       kind, name, country, device_type, count(*)
FROM fresh
GROUP BY source_id, site_id, hour, kind, name, country, device_type
ON CONFLICT (source_id, site_id, hour, group_hash) DO UPDATE
SET events = event_hours.events + excluded.events
"""


def fold_events(connection: psycopg.Connection[Any]) -> None:
    """Add the events of `fresh`, in the caller's transaction. Raises the driver's errors."""
    connection.execute(_FOLD)
