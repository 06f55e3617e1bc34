"""The node's memory. Source: /proc/meminfo (proc(5)), kB that are KiB."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence

from yprovd.errors import SensorUnavailable
from yprovd.model import Metric
from yprovd.sensors import Surroundings
from yprovd.sensors.files import KeptFile

_MIB = 1048576

_METRICS = (
    Metric("system.memory.usage", "By", "gauge", "Memory that is not available: total - available", _MIB),
    Metric("system.memory.available", "By", "gauge", "Memory that programs could get without swapping", _MIB),
    Metric("system.memory.cached", "By", "gauge", "Page cache, and what lies in /dev/shm and tmpfs", _MIB),
)
_SWAP = Metric("system.swap.usage", "By", "gauge", "Swap in use", _MIB)


class MemorySensor:
    """There is no swap metric on a machine without swap."""

    name = "memory"

    def __init__(self, where: Surroundings) -> None:
        self._file = KeptFile(os.path.join(where.root, "proc/meminfo"))
        try:
            data = self._file.read()
        except OSError as e:
            raise SensorUnavailable(f"{self._file.path} cannot be read: {e}") from e
        self._swap = _bytes(data, b"\nSwapTotal:") > 0  # false for NaN
        self.metrics = (*_METRICS, _SWAP) if self._swap else _METRICS

    def read(self) -> Sequence[float]:
        data = self._file.read()
        available = _bytes(data, b"\nMemAvailable:")
        values = [_bytes(data, b"MemTotal:") - available, available, _bytes(data, b"\nCached:")]
        if self._swap:
            values.append(_bytes(data, b"\nSwapTotal:") - _bytes(data, b"\nSwapFree:"))
        return values

    def close(self) -> None:
        self._file.close()


def _bytes(data: bytes, key: bytes) -> float:
    """One value, NaN where this kernel does not tell it. Searching is cheaper than splitting the table."""
    at = data.find(key)
    if at < 0:
        return math.nan
    at += len(key)
    return int(data[at : data.index(b"kB", at)]) * 1024.0
