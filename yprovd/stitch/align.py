"""Samples of many nodes onto one grid of time, and metrics into the integers that the archive stores."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from yprovd.model import Device, Metric
from yprovd.stitch.record import F64, I64, Node, Samples
from yprovd.stitch.storage import sentinel
from yprovd.stitch.traces import Traced

Cells = npt.NDArray[Any]

#: Bytes of float64 values that are laid out at once.
BLOCK = 16 << 20


class Unit(NamedTuple):
    """How the archive stores a metric: `units` as udunits reads them, and stored = value x factor in `dtype`."""

    units: str
    factor: float
    dtype: str


#: (unit, resolution) of a metric -> how it is stored. Native integers compress to half of what floats do, and CF
#: readers need no scale for them. The rest of the rules: `storage_of`.
STORAGE: dict[tuple[str, float], Unit] = {
    ("1", 0.01): Unit("percent", 100, "i4"),
    ("J", 1e-6): Unit("uJ", 1e6, "i8"),
    ("J", 1e-3): Unit("mJ", 1e3, "i8"),
    ("J", 1.0): Unit("J", 1, "i8"),
    ("W", 1e-3): Unit("mW", 1e3, "i4"),
    ("W", 1.0): Unit("W", 1, "i4"),
    ("s", 1e-6): Unit("us", 1e6, "i4"),
    ("s", 1e-3): Unit("ms", 1e3, "i4"),
    ("s", 0.01): Unit("ms", 1e3, "i4"),
    ("Hz", 1e6): Unit("MHz", 1e-6, "i4"),
    ("Cel", 1.0): Unit("degC", 1, "i4"),
}
#: In spools of before these have the unit of a share, and are none: 8.2 processes are not 820 percent.
_NO_SHARES = ("system.cpu.load_average.1m",)


def storage_of(metric: Metric) -> Unit:
    """Counters are int64, and so are bytes; times are microseconds after the tick of the grid; what the table does not
    know is a float in its own unit."""
    unit, resolution = metric.unit, metric.resolution
    if metric.kind == "time":
        return STORAGE["s", 1e-6]
    if metric.name in _NO_SHARES:
        return Unit("1", 1, "f4")
    if unit == "By":
        size, name = next((s for s in ((1 << 20, "MiB"), (1 << 10, "KiB")) if resolution >= s[0]), (1, "byte"))
        return Unit(name, 1 / size, "i8")
    found = STORAGE.get((unit, resolution))
    if unit.startswith("{"):
        unit = "1"  # a count of something; udunits knows no braces
        found = Unit("1", 1, "i4") if resolution >= 1 else None
    elif found is None and unit == "1" and metric.kind == "counter" and resolution >= 1:
        found = Unit("1", 1, "i4")
    if found is None:
        return Unit(unit, 1, "f4" if unit == "1" and metric.kind == "gauge" else "f8")
    return found._replace(dtype="i8") if metric.kind == "counter" else found


@dataclass
class Group:
    """One device class (or the nodes themselves) at one rate: what becomes a group of the store.

    `rows`: (node, device) of each row; `metrics`: what is measured, in the order of first appearance;
    `start_ns`, `slots`: the grid, in steps of `interval_ns`. `traces`: (row, curve) of what devices recorded by
    themselves, which is on no grid.
    """

    cls: str
    interval_ns: int
    start_ns: int
    slots: int
    rows: list[tuple[int, Device | None]] = field(default_factory=list)
    metrics: list[Metric] = field(default_factory=list)
    traces: list[tuple[int, Traced]] = field(default_factory=list)
    _row_of: dict[tuple[int, str], int] = field(default_factory=dict)
    _metric_of: dict[tuple[str, str, str], int] = field(default_factory=dict)
    _parts: list[tuple[int, Samples, I64, I64, I64]] = field(default_factory=list)

    def add(self, node: int, samples: Samples, columns: list[int]) -> None:
        """Take these columns of a node's samples; later ones go over earlier ones."""
        if not self.cls:
            self._row(node, None)
        which: list[int] = []
        rows: list[int] = []
        device: Device | None = None
        row = -1
        for column in columns:
            m = samples.schema.metrics[column]
            key = (m.name, m.unit, m.kind)
            k = self._metric_of.setdefault(key, len(self.metrics))
            if k == len(self.metrics):
                self.metrics.append(m)
            elif m.resolution < self.metrics[k].resolution:
                self.metrics[k] = m
            if row < 0 or m.device is not device:
                device, row = m.device, self._row(node, m.device)
            which.append(k)
            rows.append(row)
        self._parts.append((node, samples, np.array(which, np.int64), np.array(rows, np.int64),
                            np.array(columns, np.int64)))

    def trace(self, node: int, curve: Traced) -> None:
        self.traces.append((self._row(node, curve.metric.device), curve))

    def has(self, node: int, device: Device | None) -> bool:
        return (node, device.id if device else "") in self._row_of

    def _row(self, node: int, device: Device | None) -> int:
        row = self._row_of.setdefault((node, device.id if device else ""), len(self.rows))
        if row == len(self.rows):
            self.rows.append((node, device))
        return row

    def blocks(self) -> Iterator[tuple[Metric, F64]]:
        """Each metric with its values[row, slot], NaN where there is none; times as seconds after the tick of the grid.
        A block may be overwritten."""
        batch = max(1, BLOCK // (8 * len(self.rows) * self.slots))
        for first in range(0, len(self.metrics), batch):
            metrics = self.metrics[first:first + batch]
            block = np.full((len(metrics), len(self.rows), self.slots), np.nan)
            seen: set[int] = set()
            for node, samples, k, row, column in self._parts:
                if batch < len(self.metrics):
                    here = (k >= first) & (k < first + batch)
                    k, row, column = k[here] - first, row[here], column[here]
                values = samples.values.T[column]
                for i in np.flatnonzero([samples.schema.metrics[j].kind == "time" for j in column.tolist()]):
                    values[i] -= _monotonic_ticks(samples)
                _fill(block, k, row, self._slots_of(samples), values, over=node in seen)
                seen.add(node)
            yield from zip(metrics, block, strict=True)

    def offsets(self) -> F64:
        """Of the group of the nodes: when each tick was really read, as microseconds[node, slot] after the grid."""
        out = np.full((1, len(self.rows), self.slots), np.nan)
        for node, samples, *_columns in self._parts:
            row = np.array([self._row(node, None)])
            late = (samples.wall_ns - samples.nominal_ns) / 1000
            _fill(out, np.zeros(1, dtype=np.int64), row, self._slots_of(samples), late[None], over=True)
        late_us: F64 = np.rint(out[0])
        return late_us

    def _slots_of(self, samples: Samples) -> I64:
        return (samples.nominal_ns - self.start_ns) // self.interval_ns


def _monotonic_ticks(samples: Samples) -> F64:
    """When the ticks of the grid were, in seconds of the node's monotonic clock."""
    ticks: F64 = (samples.mono_ns - (samples.wall_ns - samples.nominal_ns)) / 1e9
    return ticks


def _fill(block: F64, k: I64, row: I64, slots: I64, values: F64, *, over: bool) -> None:
    """Put values[metric, tick] into block[k, row, slot]; slots outside of the grid are left out. Of two ticks in one
    slot the later wins where it has a value (a daemon that was started again). `over`: the rows may hold something."""
    most = block.shape[2]
    if not len(k) or not len(slots):
        return
    if slots.min() < 0 or slots.max() >= most:
        inside = (slots >= 0) & (slots < most)
        slots, values = slots[inside], values[:, inside]
    cuts = [0, *(np.flatnonzero(np.diff(slots) <= 0) + 1).tolist(), len(slots)]
    for begin, stop in itertools.pairwise(cuts):
        part, new = slots[begin:stop], values[:, begin:stop]
        where: Any = (k[:, None], row[:, None], part)
        if len(part) and part[-1] - part[0] == len(part) - 1:
            where = (k, row, slice(int(part[0]), int(part[-1]) + 1))
        if over or begin:
            new = np.where(np.isnan(new), block[where], new)
        block[where] = new


def groups_of(nodes: list[Node]) -> list[Group]:
    """What there is to store, in the order of first appearance. All groups of one rate share a grid."""
    ticks: dict[int, list[I64]] = {}
    for samples in (s for n in nodes for s in n.samples if len(s.nominal_ns)):
        ticks.setdefault(samples.schema.interval_ns, []).append(samples.nominal_ns)
    grids = {interval: _grid(interval, parts) for interval, parts in ticks.items()}
    groups: dict[tuple[str, int], Group] = {}
    for i, node in enumerate(nodes):
        for samples in node.samples:
            if not len(samples.nominal_ns):
                continue
            columns: dict[str, list[int]] = {}
            for j, m in enumerate(samples.schema.metrics):
                columns.setdefault(m.device.cls if m.device else "", []).append(j)
            interval = samples.schema.interval_ns
            columns.setdefault("", [])  # the clock is measured for every node that sampled
            for cls, which in columns.items():
                if (cls, interval) not in groups:
                    groups[cls, interval] = Group(cls, interval, *grids[interval])
                groups[cls, interval].add(i, samples, which)
        for curve in node.traces:
            device = curve.metric.device
            cls = device.cls if device else ""
            mine = next((g for g in groups.values() if g.cls == cls and g.has(i, device)), None)
            if mine is None and ticks:  # a device that only records by itself
                interval = next((s.schema.interval_ns for s in node.samples if len(s.nominal_ns)), min(ticks))
                mine = groups.setdefault((cls, interval), Group(cls, interval, *grids[interval]))
            if mine is not None:
                mine.trace(i, curve)
    return list(groups.values())


def _grid(interval: int, parts: list[I64]) -> tuple[int, int]:
    """(first tick, number of slots) that hold all ticks. A node whose clock is wrong by years must not blow the grid
    up: it is then cut around the median, and what lies outside is missing."""
    start, stop = min(int(p.min()) for p in parts), max(int(p.max()) for p in parts)
    slots = (stop - start) // interval + 1
    most = 86_400 + 4 * max(len(p) for p in parts)
    if slots > most:
        middle = int(np.sort(np.concatenate(parts))[sum(map(len, parts)) // 2])
        start, slots = middle - most // 2 * interval, most
    return start, slots


@dataclass(frozen=True)
class Figures:
    """Statistics of the values as they are stored. `missing`: cells without one; `total`: of a counter."""

    count: int
    missing: int
    min: float | None
    mean: float | None
    max: float | None
    last: float | None
    total: float | None = None


def figures_of(values: Cells, missing: int, total: float | None = None) -> Figures:
    """`values`: those that are there, as stored, in the order of the array."""
    if not values.size:
        return Figures(0, missing, None, None, None, None, None)
    with np.errstate(over="ignore"):
        mean = float(values.mean(dtype=np.float64))
    return Figures(values.size, missing, float(values.min()), mean if np.isfinite(mean) else None,
                   float(values.max()), float(values[-1]), total)


def integers(scaled: F64, dtype: str) -> tuple[Cells, bool]:
    """Whole numbers, NaN where missing, as the integer type `dtype`, or as int64 when they do not fit: (array, whether
    something is missing). What does not even fit into int64 stays a float. `scaled` is overwritten."""
    low, high = np.fmin.reduce(scaled, axis=None), np.fmax.reduce(scaled, axis=None)
    if low <= -(2.0**63) or high >= 2.0**63:
        return scaled, False
    if dtype == "i4" and (low <= -(2.0**31) or high >= 2.0**31):
        dtype = "i8"
    absent = np.isnan(scaled)
    missing = bool(absent.any())
    if missing:
        scaled[absent] = sentinel(dtype)
    return scaled.astype(dtype), missing


def stored_gauge(x: F64, unit: Unit) -> tuple[Cells, Figures]:
    """values[row, slot] as stored. Infinity is not a reading: missing. `x` is overwritten."""
    if np.isinf(np.fmin.reduce(x, axis=None)) or np.isinf(np.fmax.reduce(x, axis=None)):
        x[np.isinf(x)] = np.nan
    cells: Cells
    if unit.dtype[0] == "f":
        cells, holes = x.astype(unit.dtype), True
    else:
        if unit.factor != 1:
            x *= unit.factor
        cells, holes = integers(np.rint(x, out=x), unit.dtype)
        holes = holes or cells.dtype.kind == "f"
    valid = cells[~_absent(cells)] if holes else cells.ravel()
    return cells, figures_of(valid, cells.size - valid.size)


def _absent(cells: Cells) -> npt.NDArray[np.bool_]:
    return np.isnan(cells) if cells.dtype.kind == "f" else cells == sentinel(cells.dtype)


def stored_counter(x: F64, unit: Unit) -> tuple[Cells, Cells, int, Figures]:
    """(increments[row, slot], start[row], resets, figures of the increments) of a counter's values[row, slot].

    An increment is the value minus the last valid one: 0 at the first, the whole growth after a gap, and 0 where the
    counter fell, which is a restart. The rounded values are differenced: the increments of a row that was not
    restarted sum to last minus first exactly. `x` is overwritten.
    """
    if unit.dtype[0] == "i":
        if unit.factor != 1:
            x *= unit.factor
        np.rint(x, out=x)
    slots = x.shape[1]
    valid = np.isfinite(x)
    flat = np.flatnonzero(valid) if not valid.all() else None
    values = x.ravel() if flat is None else x.ravel()[flat]
    whole = unit.dtype[0] == "i" and (not len(values) or max(-values.min(), values.max()) < 2.0**62)
    dtype = np.dtype(np.int64 if whole else np.float64)
    missing = sentinel(dtype) if whole else np.nan
    values = values.astype(dtype)
    rows = np.arange(0, len(values), slots) if flat is None else np.unique(flat // slots, return_index=True)[1]
    increments = np.zeros(len(values), dtype=dtype)
    np.subtract(values[1:], values[:-1], out=increments[1:])
    increments[rows] = 0
    fell = increments < 0
    resets = int(np.count_nonzero(fell))
    if resets:
        increments[fell] = 0
    start = np.full(x.shape[0], missing, dtype=dtype)
    start[rows // slots if flat is None else flat[rows] // slots] = values[rows]
    if flat is None:
        cells = increments.reshape(x.shape)
    else:
        cells = np.full(x.shape, missing, dtype=dtype)
        cells.ravel()[flat] = increments
    return cells, start, resets, figures_of(increments, x.size - len(values), float(increments.sum()))
