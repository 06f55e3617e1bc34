"""The node's CPUs: time by state, utilization, frequency, load.

Sources: /proc/stat and /proc/loadavg (proc(5)), cpufreq's scaling_cur_freq (kHz).
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Sequence

from yprovd.errors import SensorUnavailable
from yprovd.model import Metric
from yprovd.sensors import Surroundings
from yprovd.sensors.files import KeptFile

_TICK = 1.0 / os.sysconf("SC_CLK_TCK")

#: A mean over eight cores tells the frequency of the node; 256 reads a tick would tell no more.
_MOST_FREQUENCIES = 8

#: One read of scaling_cur_freq takes 1 us, or 10 to 20 ms on some Xeons and EPYCs (htop pull request 478,
#: libuv pull request 5200), and disturbs the core that it asks about. A tick that has spent this long (s)
#: stops asking, the next cores have their turn later, and all of it is kept below a hundredth of the time.
_FREQUENCY_BUDGET_S = 0.001

_METRICS = (
    Metric("system.cpu.time.user", "s", "counter", "CPU time of programs and guests", 0.01),
    Metric("system.cpu.time.system", "s", "counter", "CPU time of the kernel and its interrupts", 0.01),
    Metric("system.cpu.time.idle", "s", "counter", "CPU time with nothing to do", 0.01),
    Metric("system.cpu.time.iowait", "s", "counter", "CPU time with nothing to do but I/O under way", 0.01),
    Metric("system.cpu.utilization", "1", "gauge", "Share of CPU time that was not idle", 0.01),
    Metric("system.cpu.load_average.1m", "{thread}", "gauge", "Processes that run or wait, mean of a minute", 0.01),
)
_FREQUENCY = Metric("system.cpu.frequency", "Hz", "gauge", "Mean frequency of up to eight CPUs", 1e6)


class CpuSensor:
    """Utilization is NaN at the first read. There is no frequency metric on a machine without cpufreq."""

    name = "cpu"

    def __init__(self, where: Surroundings, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._stat = KeptFile(os.path.join(where.root, "proc/stat"), 512)  # the first line is enough
        self._load = KeptFile(os.path.join(where.root, "proc/loadavg"), 128)
        self._frequencies = _cpufreq(os.path.join(where.root, "sys/devices/system/cpu"))
        self._at = 0
        self._rest_until, self._last_frequency = -math.inf, math.nan
        self._times = [0, 0, 0, 0]
        self._before: tuple[int, int] | None = None
        try:
            _parse(self._stat.read())
        except (OSError, ValueError, IndexError) as e:
            self.close()
            raise SensorUnavailable(f"{self._stat.path} cannot be read: {e}") from e
        if self._frequencies and math.isnan(self._frequency()):
            self._close_frequencies()
        self.metrics = (*_METRICS, _FREQUENCY) if self._frequencies else _METRICS

    def read(self) -> Sequence[float]:
        user, nice, system, idle, iowait, irq, softirq, steal = _parse(self._stat.read())
        # idle and iowait step back at times (proc(5)): a counter does not.
        self._times = list(map(max, self._times, (user + nice, system + irq + softirq, idle, iowait)))
        rest, total = idle + iowait, user + nice + system + idle + iowait + irq + softirq + steal
        utilization = math.nan
        if self._before is not None and total > self._before[1]:
            utilization = 1.0 - (rest - self._before[0]) / (total - self._before[1])
            utilization = min(1.0, max(0.0, utilization))
        self._before = rest, total
        values = [t * _TICK for t in self._times]
        values += (utilization, self._load_average())
        if self._frequencies:
            values.append(self._frequency())
        return values

    def close(self) -> None:
        self._stat.close()
        self._load.close()
        self._close_frequencies()

    def _load_average(self) -> float:
        try:
            return float(self._load.read().split(None, 1)[0])
        except (OSError, ValueError, IndexError):
            return math.nan

    def _frequency(self) -> float:
        """Hz. Starts with the core after the last one read. The last value while slow reads are paid off."""
        start = self._clock()
        if start < self._rest_until:
            return self._last_frequency
        kilohertz = []
        for _ in self._frequencies:
            self._at = (self._at + 1) % len(self._frequencies)
            try:
                kilohertz.append(int(self._frequencies[self._at].read()))
            except (OSError, ValueError):
                pass  # a core that is offline, or `<unknown>`
            now = self._clock()
            if now > start + _FREQUENCY_BUDGET_S:
                self._rest_until = now + 100 * (now - start)
                break
        kilohertz = [k for k in kilohertz if k > 0]
        self._last_frequency = 1000.0 * sum(kilohertz) / len(kilohertz) if kilohertz else math.nan
        return self._last_frequency

    def _close_frequencies(self) -> None:
        for file in self._frequencies:
            file.close()
        self._frequencies = []


def _parse(stat: bytes) -> list[int]:
    """user, nice, system, idle, iowait, irq, softirq, steal in ticks. Guest time is inside user and nice."""
    fields = stat[: stat.index(b"\n")].split()
    if fields[0] != b"cpu" or len(fields) < 9:
        raise ValueError("no line `cpu` with eight numbers")
    return list(map(int, fields[1:9]))


def _cpufreq(base: str) -> list[KeptFile]:
    try:
        cpus = sorted(int(e[3:]) for e in os.listdir(base) if e.startswith("cpu") and e[3:].isdigit())
    except OSError:
        return []
    paths = [os.path.join(base, f"cpu{n}/cpufreq/scaling_cur_freq") for n in cpus]
    paths = [p for p in paths if os.path.exists(p)]
    count = min(len(paths), _MOST_FREQUENCIES)
    return [KeptFile(paths[i * len(paths) // count], 32) for i in range(count)]
