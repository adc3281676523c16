"""What a durable write costs where the scratch database lies: no figure means anything without it."""

import os
import statistics
import tempfile
import time
from pathlib import Path

import psutil  # type: ignore[import-untyped]

_BLOCK = bytes(8192)
_FLUSHES = 40


def describe_disk(directory: Path) -> dict[str, object]:
    """Give the file system's type, and the median milliseconds a written and flushed block takes."""
    with tempfile.TemporaryFile(dir=directory, buffering=0) as file:
        times = []
        for _ in range(_FLUSHES):
            begun = time.perf_counter()
            file.write(_BLOCK)
            os.fdatasync(file.fileno())
            times.append(time.perf_counter() - begun)
    return {"filesystem": _filesystem(directory), "flush_ms": 1000 * statistics.median(times)}


def _filesystem(directory: Path) -> str:
    whole = str(directory.resolve())
    mounts = psutil.disk_partitions(all=True)
    found = [mount for mount in mounts if f"{whole}/".startswith(mount.mountpoint.rstrip("/") + "/")]
    return max(found, key=lambda mount: len(mount.mountpoint)).fstype if found else "unknown"
