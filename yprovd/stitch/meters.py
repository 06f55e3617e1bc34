"""The meters of the nodes as functions of time, and in which part of it they belong to which span."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from yprovd.model import Metric
from yprovd.stitch.record import F64, I64, Node, Record, Samples, Span


def is_energy_meter(metric: Metric) -> bool:
    """Whether a metric counts for the energy of its node: each joule must be in one of these only. RAPL's zones lie
    within each other; the sensor marks those that do not."""
    device = metric.device
    return (metric.name == "hw.energy" and metric.kind == "counter" and device is not None and device.cls == "rapl"
            and device.attributes.get("summed") is True)


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


def _columns(node: Node, wanted: Callable[[Metric], bool]) -> list[tuple[str, list[tuple[Samples, int]]]]:
    """(name, columns) of each device that has a wanted metric (the node itself: ""), in all of a node's schemas."""
    out: dict[str, tuple[str, list[tuple[Samples, int]]]] = {}
    for samples in node.samples:
        for j, m in enumerate(samples.schema.metrics):
            if wanted(m):
                name = f"{m.device.cls}/{m.device.name or m.device.id}" if m.device else ""
                out.setdefault(m.device.id if m.device else "", (name, []))[1].append((samples, j))
    return list(out.values())


def _readings(columns: list[tuple[Samples, int]], clock: str) -> tuple[I64, F64]:
    """The valid readings of one device, by time."""
    times = np.concatenate([getattr(s, clock) for s, _j in columns])
    values = np.concatenate([s.values[:, j] for s, j in columns])
    valid = np.isfinite(values)
    order = np.argsort(times[valid], kind="stable")
    return times[valid][order], values[valid][order]


@dataclass
class Meter:
    """Counters of one node that are summed: (monotonic times, cumulative values from 0) of each."""

    names: list[str]
    series: list[tuple[I64, F64]]

    @classmethod
    def of(cls, node: Node, wanted: Callable[[Metric], bool]) -> Meter | None:
        """None when no counter was read twice: a difference needs two readings."""
        meter = cls([], [])
        for name, columns in _columns(node, wanted):
            times, values = _readings(columns, "mono_ns")
            if len(times) >= 2:
                grown = np.maximum(np.diff(values, prepend=values[0]), 0.0)  # a fall is a restart
                meter.names.append(name)
                meter.series.append((times, np.cumsum(grown)))
        return meter if meter.series else None

    def at(self, mono_ns: I64) -> F64:
        out: F64 = np.zeros(len(mono_ns))
        for times, values in self.series:
            out += np.interp(mono_ns - times[0], times - times[0], values)
        return out

    def covers(self, begin: int, end: int) -> float:
        """The part of a stretch of time that lies between the first and the last reading of all counters."""
        first, last = max(int(t[0]) for t, _v in self.series), min(int(t[-1]) for t, _v in self.series)
        return max(0, min(last, end) - max(first, begin)) / (end - begin) if end > begin else 1.0


class Peaks:
    """A gauge summed over the nodes: its greatest value between any two times (a sparse table)."""

    def __init__(self, wall_ns: I64, values: F64) -> None:
        self.times = wall_ns
        self.levels = [values]
        while (width := 1 << len(self.levels)) <= len(values):
            below, count = self.levels[-1], len(values) - width + 1
            self.levels.append(np.maximum(below[:count], below[width // 2:][:count]))

    @classmethod
    def of(cls, nodes: list[Node]) -> Peaks | None:
        """One node's at its own times. Several nodes' on the grid that they share; a node that is not there (late, or
        gone) counts nothing."""
        found = [columns for n in nodes if saw_job(n) for _name, columns in _columns(n, is_memory)]
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


def owned(
    record: Record, processes: list[tuple[int, I64]], window: tuple[int, int], times: Times
) -> list[tuple[I64, int, int]]:
    """(spans of a process, from, to): whose a node's meters are in which part of the run, on the monotonic clock."""
    out: list[tuple[I64, int, int]] = []
    free = [window]
    for p, spans in processes:
        born = int(times.begin_mono[spans].min())
        gone = max(int(times.end_mono[spans].max()), record.processes[p].last_mono_ns)
        left: list[tuple[int, int]] = []
        for start, stop in free:
            low, high = max(start, born), min(stop, gone)
            if low < high:
                out.append((spans, low, high))
                left += [(a, b) for a, b in ((start, low), (high, stop)) if a < b]
            else:
                left.append((start, stop))
        free = left
    return out


def timeline_of(spans: I64, times: Times) -> tuple[I64, I64]:
    """(edges, active): between edges[i] and edges[i + 1] the innermost open span is active[i], -1 for none."""
    spans = spans[times.end_mono[spans] > times.begin_mono[spans]]
    edges = np.concatenate([times.end_mono[spans], times.begin_mono[spans]])
    begins = np.repeat([False, True], len(spans))
    which = np.concatenate([spans, spans])
    order = np.lexsort((which, begins, edges))  # of two at one time, the end comes before the begin
    active = np.full(max(0, len(edges) - 1), -1, dtype=np.int64)
    open_: list[tuple[int, int]] = []
    closed: set[int] = set()
    begun = times.begin_mono.tolist()
    for i, (span, begin) in enumerate(zip(which[order].tolist(), begins[order].tolist(), strict=True)):
        if begin:
            heapq.heappush(open_, (-begun[span], -span))
        else:
            closed.add(span)
        while open_ and -open_[0][1] in closed:
            heapq.heappop(open_)
        if open_ and i < len(active):
            active[i] = -open_[0][1]
    return edges[order], active


class Share:
    """What one kind of meter counted: in all, and in each span alone. `known`: spans that meters belonged to."""

    def __init__(self, spans: int) -> None:
        self.total: float | None = None
        self.exclusive = np.zeros(spans)
        self.known = np.zeros(spans, dtype=bool)

    def inclusive(self, parents: list[tuple[int, int]]) -> F64:
        """With the spans within, NaN where there is no figure."""
        out = self.exclusive.tolist()
        for i, parent in reversed(parents):
            if parent >= 0:
                out[parent] += out[i]
        return np.where(self.known, out, np.nan)


def parents_of(spans: list[Span]) -> list[tuple[int, int]]:
    """(span, the span that it lies in or -1), parents first. Ids count up within a process."""
    at = {(s.process, s.id): i for i, s in enumerate(spans)}
    return [(i, at.get((process, spans[i].parent), -1) if spans[i].parent < number else -1)
            for (process, number), i in sorted(at.items())]
