"""The keys the demo page reads by: one of each demo source, which may read its events and nothing else.

Apart from the sources themselves, so that those who hand the keys on import no database driver.
"""

from collections.abc import Mapping
from types import MappingProxyType

DEMO_READERS: Mapping[str, str] = MappingProxyType(
    {
        "demo-pulsora": "svc_demo_reads_pulsora",
        "demo-pulse": "svc_demo_reads_pulse",
        "demo-apex": "svc_demo_reads_apex",
        "demo-datafly": "svc_demo_reads_datafly",
    }
)
"""Secrets by the name of their source. As public as the examples' own: they exist in demo mode only."""
