"""Sources by name: ids are for programs."""

from polylect.v1.source_pb2 import ListSourcesRequest

from polylect_cli.calling import Core

NO_SOURCE = "00000000-0000-0000-0000-000000000000"
"""The source_id of what no source can be told of."""


class SourceNames:
    """Knows sources by name; asks again for one it has not heard of."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._names = {NO_SOURCE: "(none)"}

    def name(self, source_id: str) -> str:
        """Give the name of a source; its id when it has none any more."""
        if source_id not in self._names:
            answer = self._core.call(self._core.sources.ListSources, ListSourcesRequest())
            self._names |= {source.source_id: source.name for source in answer.sources}
        # Examples' events stay when the examples are gone.
        return self._names.setdefault(source_id, source_id)
