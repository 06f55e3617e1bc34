"""What the vendors' sensors cost, on stand-ins for libraries and kernel: firmware and driver come on top."""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.common import Row, Spread
from benchmarks.daemon import watched
from tests import nodes
from yprovd.sensors import Sensor, Surroundings
from yprovd.sensors.amd import AmdSensor
from yprovd.sensors.cray import CraySensor
from yprovd.sensors.nvidia import NvidiaSensor

#: figure, node, sensor, bar in microseconds (None: there is none)
_SAMPLES: tuple[tuple[str, Callable[[Path], nodes.Node], Callable[[Surroundings], Sensor], float | None], ...] = (
    ("one sample of 8 GPUs by NVML", nodes.h100_mig, NvidiaSensor, 100.0),
    ("one sample of 8 GCDs by gpu_metrics", nodes.frontier, AmdSensor, 50.0),
    ("one sample of pm_counters", nodes.frontier, CraySensor, None),
)


def _microseconds(sensor: Sensor, reads: int, repeats: int) -> Spread:
    """Medians of the reads with the traces that come with them. (What is read every 10 s only is in few of them.)"""
    traces = getattr(sensor, "traces", None)
    medians = []
    for _ in range(repeats):
        took = []
        for _ in range(reads):
            began = time.perf_counter()
            sensor.read()
            if traces is not None:
                traces()
            took.append(time.perf_counter() - began)
        medians.append(statistics.median(took) * 1e6)
    return Spread(medians)


def sensors(quick: bool) -> list[Row]:
    """A sample: median of 500 reads in a row (quick: 100), five times, the files and the library in memory. The daemon:
    CPU time of all its threads at 1 Hz in % of one core and its resident memory, on a node of 8 MI250X GCDs with
    pm_counters and 4 Slingshot NICs, whose files change 10 times a second, and on one of 8 H100; three windows of 20 s
    (quick: of 5 s)."""
    rows = []
    with tempfile.TemporaryDirectory(prefix="yprov-bench-") as name:
        for number, (figure, make, kind, bar) in enumerate(_SAMPLES):
            node = make(Path(name) / f"sample{number}")
            with nodes.Driver(*node.parts):
                pass  # once
            sensor = kind(Surroundings(str(node.root), "bench", {}))
            try:
                spread = _microseconds(sensor, 100 if quick else 500, 5)
            finally:
                sensor.close()
            rows.append(Row(figure, f"{spread.text('us', digits=0)}; {len(sensor.metrics)} metrics",
                            f"<= {bar:g} us" if bar else "", spread.median <= bar if bar else None))
        seconds = 5.0 if quick else 20.0
        for what, make in (("8 GCDs, pm_counters, host", nodes.frontier), ("8 H100, RAPL, host", nodes.h100_mig)):
            node = make(Path(name) / what.replace(" ", "-"))
            with nodes.Driver(*node.parts):
                windows = watched(1.0, seconds, 3, ["--root", str(node.root)])
            cpu = Spread([w["node"]["cpu"] for w in windows])
            rss = windows[-1]["node"]["rss"]
            rows.append(Row(f"node daemon, 1 Hz, {what}: CPU of one core", cpu.text("%", digits=3), "<= 0.2 %",
                            cpu.median <= 0.2, raw={"windows": windows}))
            rows.append(Row(f"node daemon, 1 Hz, {what}: memory", f"{rss:.1f} MB", "<= 30 MB", rss <= 30))
    return rows


if __name__ == "__main__":
    for row in sensors("--quick" in sys.argv):
        print(row.figure, "|", row.ours, "|", row.bar, "|", row.met)
