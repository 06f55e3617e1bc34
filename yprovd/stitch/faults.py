"""What went wrong with the hardware while the job ran, by the devices' own counters. Pure.

A GPU that fell off the bus, or whose memory failed, is the first thing to look for when a rank died.
"""

from __future__ import annotations

import numpy as np

from yprovd.stitch.record import F64, Node

#: Of GPUs: a counter -> what one of its errors is called, and whether it counts from the start of the run (what it
#: shows first was then counted in it) or from the start of the driver.
_COUNTERS = {"hw.errors.xid": ("Xid error", True),
             "hw.errors": ("memory error that could not be corrected", False)}
_LAST = "hw.errors.xid.last"
#: Devices that are named; the rest are a number.
_MOST = 20


def fault_lines(nodes: list[Node]) -> list[str]:
    """`n1 GPU-5b2c: 2 Xid errors, the last 79`, one for each device and counter, sorted; few enough to be read."""
    count: dict[tuple[str, str, str], int] = {}
    last: dict[tuple[str, str], int] = {}
    for node in nodes:
        for samples in node.samples:
            for j, metric in enumerate(samples.schema.metrics):
                if metric.device is None or metric.device.cls != "gpu" or not metric.name.startswith("hw.errors"):
                    continue
                values = samples.values[:, j]
                values = values[np.isfinite(values)]
                if metric.name == _LAST and len(values):
                    last[node.host, metric.device.id] = int(values[-1])
                elif metric.name in _COUNTERS and (more := _grown(values, whole=_COUNTERS[metric.name][1])):
                    key = (node.host, metric.device.id, metric.name)
                    count[key] = count.get(key, 0) + more
    lines = []
    for host, device, name in sorted(count):
        number = count[host, device, name]
        what = _COUNTERS[name][0].replace("error", "errors", 1) if number > 1 else _COUNTERS[name][0]
        which = f", the last {last[host, device]}" if name != "hw.errors" and (host, device) in last else ""
        lines.append(f"{host} {device}: {number} {what}{which}")
    return lines[:_MOST] + ([f"and {len(lines) - _MOST} more"] if len(lines) > _MOST else [])


def _grown(values: F64, *, whole: bool) -> int:
    """By how much a counter rose; where it fell, it began anew at 0."""
    if not len(values):
        return 0
    steps = np.diff(values, prepend=0.0 if whole else values[0])
    return round(float(np.where(steps < 0, values, steps).sum()))
