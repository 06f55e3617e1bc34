"""What nodes counted and measured beside energy (`yprovd.stitch.energy`), and when the spans were open. Pure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from yprovd.model import Metric
from yprovd.stitch.curves import Curve
from yprovd.stitch.record import F64, I64, Node, Record, Samples, Span


class Meter(Protocol):
    """What has counted up to a time of a node's monotonic clock, and the part of a stretch of time that it knows."""

    def at(self, mono_ns: I64) -> F64: ...

    def covers(self, begin: int, end: int) -> float: ...


def is_cpu_meter(metric: Metric) -> bool:
    return metric.name == "process.cpu.time" and metric.kind == "counter" and metric.device is None


def saw_job(node: Node) -> bool:
    """Whether a process of the job was there at any sample. A program that was over before the next one was not, and
    then the counters of its processes say nothing about it: their 0 is no figure."""
    return any(
        bool(np.any(s.values[:, j] > 0))
        for s in node.samples for j, m in enumerate(s.schema.metrics) if m.name == "process.count"
    ) or not any(m.name == "process.count" for s in node.samples for m in s.schema.metrics)


def is_memory(metric: Metric) -> bool:
    return metric.name == "process.memory.rss" and metric.device is None


def is_gpu_memory(metric: Metric) -> bool:
    return metric.name == "hw.gpu.memory.usage" and metric.device is not None


#: The columns of one schema's samples that belong together, and the samples.
Columns = list[tuple[Samples, list[int]]]


def _columns(node: Node, wanted: Callable[[Metric], bool]) -> Columns:
    """Those of the wanted metrics, in all of a node's schemas."""
    found = [(s, [j for j, m in enumerate(s.schema.metrics) if wanted(m)]) for s in node.samples]
    return [(s, columns) for s, columns in found if columns]


def _summed(samples: Samples, columns: list[int]) -> F64:
    """Of several devices, NaN where there is none of them."""
    if len(columns) == 1:
        return samples.values[:, columns[0]]
    values = samples.values[:, columns]
    there = np.isfinite(values)
    total: F64 = np.where(there.any(axis=1), np.where(there, values, 0.0).sum(axis=1), np.nan)
    return total


def _readings(columns: Columns, clock: str) -> tuple[I64, F64]:
    """The valid readings, by time."""
    times = np.concatenate([getattr(s, clock) for s, _j in columns])
    values = np.concatenate([_summed(s, j) for s, j in columns])
    valid = np.isfinite(values)
    order = np.argsort(times[valid], kind="stable")
    return times[valid][order], values[valid][order]


def cpu_meter(node: Node) -> Curve | None:
    """The processor time of the job on a node. None when it was not read twice: a difference needs two readings."""
    columns = _columns(node, is_cpu_meter) if saw_job(node) else []
    times, values = _readings(columns, "mono_ns") if columns else (np.zeros(0, dtype=np.int64), np.zeros(0))
    if len(times) < 2:
        return None
    grown = np.maximum(np.diff(values, prepend=values[0]), 0.0)  # a fall is a restart
    return Curve(times, np.cumsum(grown))


class Peaks:
    """A gauge summed over the nodes: its greatest value between any two times (a sparse table)."""

    def __init__(self, wall_ns: I64, values: F64) -> None:
        self.times = wall_ns
        self.levels = [values]
        while (width := 1 << len(self.levels)) <= len(values):
            below, count = self.levels[-1], len(values) - width + 1
            self.levels.append(np.maximum(below[:count], below[width // 2:][:count]))

    @classmethod
    def of(cls, nodes: list[Node], wanted: Callable[[Metric], bool] = is_memory) -> Peaks | None:
        """One node's at its own times. Several nodes' on the grid that they share; a node that is not there (late, or
        gone) counts nothing."""
        found = [columns for n in nodes if (columns := _columns(n, wanted)) and (wanted is not is_memory or saw_job(n))]
        if len(found) == 1:
            times, values = _readings(found[0], "wall_ns")
            return cls(times, values) if len(times) else None
        series = [(s, max(c[0].schema.interval_ns for c in columns)) for columns in found
                  if len((s := _readings(columns, "nominal_ns"))[0])]
        if not series:
            return None
        grid = np.unique(np.concatenate([times for (times, _values), _interval in series]))
        total = np.zeros(len(grid))
        for (times, values), interval in series:
            here = np.interp(grid - grid[0], times - grid[0], values)
            total += np.where((grid > times[0] - interval) & (grid < times[-1] + interval), here, 0.0)
        return cls(grid, total)

    def between(self, begin_ns: I64, end_ns: I64) -> F64:
        """Of the samples within, and at the two edges."""
        base = self.times[0]
        out: F64 = np.maximum(*(np.interp(t - base, self.times - base, self.levels[0]) for t in (begin_ns, end_ns)))
        first = np.searchsorted(self.times, begin_ns, "left")
        last = np.searchsorted(self.times, end_ns, "right")
        some = last > first
        level = np.zeros(len(out), dtype=np.int64)
        level[some] = np.log2(last[some] - first[some]).astype(np.int64)
        for k in np.unique(level[some]):
            which = np.flatnonzero(some & (level == k))
            table = self.levels[k]
            out[which] = np.maximum(out[which], np.maximum(table[first[which]], table[last[which] - (1 << int(k))]))
        return out


# who is charged


@dataclass
class Times:
    """When the spans were open, on the clock of their host and on the wall clock, ends filled in. Aligned to spans."""

    begin_mono: I64
    end_mono: I64
    begin_wall: I64
    end_wall: I64


#: A process that others have outlived by so much did not end with the run.
OUTLIVED_NS = 1_000_000_000


def times_of(record: Record, run_end: int) -> Times:
    """When each span was open. One without an end lasts until its process's last sign of life; or until the run's end,
    when that process was among the last on its node to give one: it was killed with the run, and may have been silent
    for long before. (A worker that is terminated while the others go on must not hold its context open.)"""
    last_on_node: dict[int, int] = {}
    for p in record.processes:
        last_on_node[p.node] = max(last_on_node.get(p.node, 0), p.last_wall_ns)
    rows = np.zeros((len(record.spans), 4), dtype=np.int64)
    for i, s in enumerate(record.spans):
        end_mono, end_wall = s.end_mono_ns, s.end_wall_ns
        if end_mono is None or end_wall is None:
            process = record.processes[s.process]
            survived = process.last_wall_ns < last_on_node[process.node] - OUTLIVED_NS
            to_the_end = process.logged is None and not survived
            end_wall = run_end if to_the_end else process.last_wall_ns
            end_mono = s.begin_mono_ns + end_wall - s.begin_wall_ns if to_the_end else process.last_mono_ns
        rows[i] = (s.begin_mono_ns, max(s.begin_mono_ns, end_mono), s.begin_wall_ns, max(s.begin_wall_ns, end_wall))
    return Times(*rows.T.copy())


def window_of(node: Node, begin: int, end: int) -> tuple[int, int] | None:
    """The run on the node's monotonic clock, by the clock pairs of its first and last sample."""
    samples = [s for s in node.samples if len(s.mono_ns)]
    if not samples:
        return None
    start = begin - int(samples[0].wall_ns[0] - samples[0].mono_ns[0])
    last = max(samples, key=lambda s: int(s.mono_ns[-1]))
    return start, max(start, end - int(last.wall_ns[-1] - last.mono_ns[-1]))


def parents_of(spans: list[Span]) -> list[tuple[int, int]]:
    """(span, the span that it lies in or -1), parents first. Ids count up within a process."""
    at = {(s.process, s.id): i for i, s in enumerate(spans)}
    return [(i, at.get((process, spans[i].parent), -1) if spans[i].parent < number else -1)
            for (process, number), i in sorted(at.items())]
