"""The job's processes on an NVIDIA GPU: how many, their memory, and how much of the time their kernels ran.

nvmlDeviceGetComputeRunningProcesses lists them by the host's process numbers, which takes milliseconds under a lock of
the driver; nvmlDeviceGetProcessUtilization gives samples of some tenths of a second since a given time, for each
process that ran then, and nothing where MIG is on. Both are asked twice a minute at most.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import TYPE_CHECKING

from yprovd.sensors.nvml import NOT_FOUND, REFUSED, Library

if TYPE_CHECKING:
    from yprovd.sensors.nvidia_gpu import Gpu

COUNT, MEMORY, UTILIZATION = "hw.gpu.process.count", "hw.gpu.process.memory", "hw.gpu.process.utilization"


class Processes:
    """Of one GPU. `names`: the metrics that can be had, empty without a list of processes."""

    def __init__(self, library: Library, gpu: Gpu) -> None:
        self._library, self._gpu = library, gpu
        self._since_us = 0
        known = self.memory() is not None or library.status not in REFUSED
        self.names: tuple[str, ...] = (COUNT, MEMORY) if known else ()
        if known and not gpu.parts:
            library.ask("nvmlDeviceGetProcessUtilization", gpu.handle, 0)
            self.names += () if library.status in REFUSED else (UTILIZATION,)

    def memory(self) -> dict[int, float] | None:
        """Memory (By, NaN when not told) by pid; None when the list cannot be had now."""
        found: dict[int, float] = {}
        for handle in self._gpu.parts.values() or (self._gpu.handle,):
            listed = self._library.ask("nvmlDeviceGetComputeRunningProcesses", handle)
            if listed is None:
                return None
            for process in listed:
                memory = process.usedGpuMemory
                found[process.pid] = found.get(process.pid, 0.0) + (math.nan if memory is None else float(memory))
        return found

    def utilization(self) -> dict[int, float] | None:
        """Share of the time by pid, the mean of its samples since the last call; None when it is not told now."""
        samples = self._library.ask("nvmlDeviceGetProcessUtilization", self._gpu.handle, self._since_us)
        if samples is None:
            return {} if self._library.status == NOT_FOUND else None
        by_pid: dict[int, list[float]] = {}
        for sample in samples:
            if sample.timeStamp > self._since_us:
                by_pid.setdefault(sample.pid, []).append(min(sample.smUtil, 100) / 100)
        self._since_us = max((s.timeStamp for s in samples), default=self._since_us)
        return {pid: math.fsum(shares) / len(shares) for pid, shares in by_pid.items()}

    def values(self, memory: dict[int, float], job: Collection[int]) -> list[float]:
        """What the metrics of `names` have, given the list and the job's processes."""
        mine = [pid for pid in memory if pid in job]
        out = [float(len(mine)), math.fsum(memory[pid] for pid in mine)]
        if UTILIZATION in self.names:
            used = self.utilization()
            out.append(math.nan if used is None else min(1.0, math.fsum(used.get(pid, 0.0) for pid in mine)))
        return out
