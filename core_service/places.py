"""How many calls may be under way at a time, and whose. Knows nothing of calls."""

from collections import defaultdict

from polylect.v1 import error_reason_pb2 as reasons

from core_service.callers import Caller
from core_service.errors import OVERLOAD_RETRY_SECONDS, CoreError

# Of all keys; of those of one source, so that none can shut out the others; of the admin, who can end that.
_CLIENT_CALLS = 1_000
_SOURCE_CALLS = 500
_ADMIN_CALLS = 100


class Places:
    """Room for so many at a time, taken from a larger room; who comes when there is none may come back."""

    def __init__(self, count: int, within: "Places | None" = None) -> None:
        """Have so many free."""
        self._left = count
        self._within = within

    def __enter__(self) -> None:
        """Take a place. Raises CoreError."""
        if not self._left:
            raise CoreError(
                reasons.ERROR_REASON_OVERLOADED,
                "Too many calls at once",
                retry_after_seconds=OVERLOAD_RETRY_SECONDS,
            )
        if self._within is not None:
            self._within.__enter__()
        self._left -= 1

    def __exit__(self, *_: object) -> None:
        """Give it back."""
        self._left += 1
        if self._within is not None:
            self._within.__exit__()


class CallerPlaces:
    """The places of all callers but the facade, which needs none."""

    def __init__(self) -> None:
        """Have all of them free."""
        self._admins = Places(_ADMIN_CALLS)
        clients = Places(_CLIENT_CALLS)
        # By source_id: of keys that exist, so bounded by them.
        self._sources = defaultdict[str, Places](lambda: Places(_SOURCE_CALLS, clients))

    def of(self, caller: Caller) -> Places:
        """Give where the caller's calls have their places."""
        return self._sources[caller.key.source.source_id] if caller.key else self._admins
