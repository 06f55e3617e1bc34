"""series.zarr: every series of a run as a Zarr v3 store that xarray opens. Format `yprov-series`, version 1.

    host/                  (node, time)    metrics of the nodes themselves
    gpu/ disk/ rapl/ ...   (device, time)  one group per device class, with `device`, `node`, `device_name`
    gpu_fast/ ...          (row)           what devices of a class recorded by themselves, faster than the samples come
    clock/offset_us        (node, time)    when each node really sampled, in microseconds after the tick
    metrics/<context>/     (row)           what the script logged: step, epoch, rank, time, a column per metric
    spans/ events/         (row)           every begin and end, every event, of every process
    nodes/ processes/      (node) (process)
    tasks/ steps/          (row)           the ranks where they ran, and the scheduler's steps with what they cost
    meters/                (row)           what each energy meter counted in the run, and whether it is in the sums
    accounts/              (row)           what the run and every context, epoch and span cost (`stitch.tables`)

One array per metric whatever the number of nodes and devices. `time` is the nominal grid, the same for all groups of
one rate; a second rate has groups of its own (`gpu_0.1s`). Units: `yprovd.stitch.align.STORAGE`. A counter is stored
as `<name>_increment` and `<name>_start`. What is missing is the least integer of the type, in `_FillValue` and in the
Zarr fill value, or NaN. A device's own time of a value (a metric of kind `time`, such as `hw.energy.time`) is stored
like the clock: `energy_time_offset`, microseconds after the tick of the grid.

A row of `gpu_fast` is one moment of one device: `device`, its index in the group `gpu` (a class at a second rate,
`gpu_0.1s`, has a `gpu_0.1s_fast`), `time`, to the microsecond, and a column for each metric that was recorded so.
Rows are sorted by device and then by time. Nothing in it is resampled.

Contexts and names of metrics are percent-encoded only where a path needs it: `urllib.parse.unquote` gives the name
back. A long column of short decimals is stored as integers with the attribute `decimals` = k: the logged float64 is
exactly `stored / 10**k`; what xarray makes of `scale_factor` is within one unit in the last place.

Nothing of the machine or time of the stitch is in it: one spool, one store.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from yprovd.stitch.align import (
    STORAGE,
    Group,
    figures_of,
    groups_of,
    integers,
    storage_of,
    stored_counter,
    stored_gauge,
)
from yprovd.stitch.attribution import Attribution
from yprovd.stitch.document import json_text
from yprovd.stitch.record import F64, I64, MetricTable, Process, Record
from yprovd.stitch.storage import LARGE, Store, encoded, int64, sentinel, text
from yprovd.stitch.tables import (
    write_accounts,
    write_declared,
    write_events,
    write_meters,
    write_nodes,
    write_spans,
    write_tasks,
)
from yprovd.stitch.traces import Traced
from yprovd.wire import NO_STEP

__all__ = ["STORAGE", "SeriesInfo", "encoded", "write_series"]

GROUPS = frozenset({"host", "clock", "metrics", "spans", "events", "nodes", "processes", "tasks", "steps",
                    "meters", "accounts"})
_COORDINATES = frozenset({"time", "node", "hostname", "device", "device_name", "device_attributes"})
_COLUMNS = frozenset({"step", "epoch", "rank", "time", "row", "context"})


@dataclass(frozen=True)
class SeriesInfo:
    """One data array of the store: `name` is its path, `metric` what it is called elsewhere. `unit` and the figures
    are those of the array (of the increments, for a counter; `total` is then their sum). `count`: values that came,
    `non_finite` of them NaN or infinite as the script logged them; `missing`: cells without a value. None: absent."""

    group: str
    name: str
    metric: str
    context: str | None
    unit: str
    source: str
    count: int
    missing: int
    non_finite: int
    min: float | None
    mean: float | None
    max: float | None
    last: float | None
    total: float | None = None


def write_series(record: Record, attribution: Attribution, path: Path) -> list[SeriesInfo]:
    """Write the store into the new folder `path`; what is in it. Raises OSError when the disk does."""
    config = record.run.get("config")
    title = config.get("name") if isinstance(config, dict) else None
    store = Store(path, {"Conventions": "CF-1.11", "title": text(str(title or "")), "format": "yprov-series",
                         "version": 1})
    infos: list[SeriesInfo] = []
    groups = groups_of(record.nodes)
    for group in groups:
        rate = f"{group.interval_ns / 1e9:.9f}".rstrip("0").rstrip(".")
        suffix = "" if group.interval_ns == groups[0].interval_ns else f"_{rate}s"
        infos += _write_group(store, record, group, suffix)
    infos += _write_metrics(store, record.metrics, record.processes)
    write_spans(store, record, attribution)
    write_events(store, record)
    write_declared(store, record)
    write_nodes(store, record)
    write_tasks(store, record, attribution)
    write_meters(store, attribution)
    write_accounts(store, attribution)
    store.close()
    return infos


# what the sensors delivered


def _write_group(store: Store, record: Record, group: Group, suffix: str) -> list[SeriesInfo]:
    """A group of one device class, and `clock` beside the group of the nodes."""
    nodes = np.array([node for node, _device in group.rows], dtype=np.int32)
    if not group.cls:
        late, _missing = integers(group.offsets(), "i4")
        clock = f"clock{suffix}"
        _grid(store, group, clock, nodes, record)
        store.array(f"{clock}/offset_us", late, ("node", "time"), fill=late.dtype.kind == "i", units="us",
                    long_name="when the sensors were read, after the tick of the grid", coordinates="hostname")
    if not group.metrics and not group.traces:
        return []
    name = (encoded(group.cls, GROUPS) if group.cls else "host") + suffix
    dims, coordinates = _grid(store, group, name, nodes, record)
    taken = set(_COORDINATES)
    infos: list[SeriesInfo] = []
    for metric, values in group.blocks():
        unit = storage_of(metric)
        counter = metric.kind == "counter"
        short = metric.name.removeprefix("system.").removeprefix("hw.").replace(".", "_")
        array = base = encoded(short) + ("_offset" if metric.kind == "time" else "")
        number = 1
        while not taken.isdisjoint({f"{array}_increment", f"{array}_start"} if counter else {array}):
            number += 1
            array = f"{base}_{number}"
        about: dict[str, Any] = {"units": unit.units, "metric": metric.name, "coordinates": coordinates}
        if counter:
            cells, start, resets, figures = stored_counter(values, unit)
            store.array(f"{name}/{array}_start", start, dims[:1], fill=start.dtype.kind == "i", units=unit.units,
                        metric=metric.name, long_name=f"first value: {metric.description}", coordinates=coordinates)
            taken.add(f"{array}_start")
            array += "_increment"
            about |= {"long_name": f"growth since the value before: {metric.description}",
                      "cell_methods": "time: sum", "resets": resets}
        else:
            cells, figures = stored_gauge(values, unit)
            after = ", after the tick of the grid" if metric.kind == "time" else ""
            about |= {"long_name": metric.description + after, "cell_methods": "time: point"}
        taken.add(array)
        store.array(f"{name}/{array}", cells, dims, fill=cells.dtype.kind == "i", **about)
        infos.append(SeriesInfo(name, f"{name}/{array}", metric.name, None, unit.units, "yprov", non_finite=0,
                                **asdict(figures)))
    return infos + _write_traces(store, f"{name}_fast", group.traces)


def _write_traces(store: Store, name: str, traces: list[tuple[int, Traced]]) -> list[SeriesInfo]:
    """The table of what the devices of a group recorded by themselves. The metrics of one device mostly have their
    values at the same times: these share a row."""
    if not traces:
        return []
    device = np.concatenate([np.full(len(t.values), row, dtype=np.int32) for row, t in traces])
    # A vendor's stamps are microseconds, and the clocks of a node agree no better.
    time = np.concatenate([(t.wall_ns + 500) // 1000 for _row, t in traces])
    names = list(dict.fromkeys(t.metric.name for _row, t in traces))
    column = np.concatenate([np.full(len(t.values), names.index(t.metric.name), np.int8) for _row, t in traces])
    order = np.lexsort((time, device))
    new = np.ones(len(order), dtype=bool)
    new[1:] = (np.diff(device[order]) != 0) | (np.diff(time[order]) != 0)
    row = np.empty(len(order), dtype=np.int64)
    row[order] = np.cumsum(new) - 1
    heads = order[new]
    store.group(name)
    store.array(f"{name}/device", device[heads], ("row",),
                long_name=f"index of the device in the group `{name.removesuffix('_fast')}`")
    store.times(f"{name}/time", time[heads] * 1000, "row", "when the device had the value")
    values = np.concatenate([t.values for _row, t in traces])
    infos: list[SeriesInfo] = []
    for i, metric_name in enumerate(names):
        metric = min((t.metric for _row, t in traces if t.metric.name == metric_name), key=lambda m: m.resolution)
        cells: F64 = np.full((1, len(heads)), np.nan)
        cells[0, row[column == i]] = values[column == i]
        unit = storage_of(metric)
        stored, figures = stored_gauge(cells, unit)
        array = f"{name}/{encoded(metric.name.removeprefix('hw.').replace('.', '_'), _COORDINATES)}"
        store.array(array, stored[0], ("row",), fill=stored.dtype.kind == "i", units=unit.units, metric=metric.name,
                    long_name=metric.description)
        infos.append(SeriesInfo(name, array, metric.name, None, unit.units, "yprov", non_finite=0, **asdict(figures)))
    return infos


def _grid(store: Store, group: Group, name: str, nodes: Any, record: Record) -> tuple[tuple[str, str], str]:
    """Make the group and its coordinates: (dimensions, what else describes a row)."""
    store.group(name, {"interval_seconds": group.interval_ns / 1e9})
    grid = group.start_ns + group.interval_ns * np.arange(group.slots, dtype=np.int64)
    store.times(f"{name}/time", grid, "time", "tick of the grid")
    store.array(f"{name}/node", nodes, ("device" if group.cls else "node",),
                long_name="index of the node in the group `nodes`")
    if not group.cls:
        store.array(f"{name}/hostname", [record.nodes[i].host for i in nodes], ("node",), long_name="host name")
        return ("node", "time"), "hostname"
    devices = [device for _node, device in group.rows if device is not None]
    store.array(f"{name}/device", [d.id for d in devices], ("device",), long_name="identity of the device")
    store.array(f"{name}/device_name", [d.name for d in devices], ("device",), long_name="name of the device")
    coordinates = "node device_name"
    if any(d.attributes for d in devices):
        store.array(f"{name}/device_attributes", [json_text(dict(d.attributes)) for d in devices], ("device",),
                    long_name="what else is known of the device, as JSON")
        coordinates += " device_attributes"
    return ("device", "time"), coordinates


# what the script logged


def _write_metrics(store: Store, table: MetricTable, processes: list[Process]) -> list[SeriesInfo]:
    if not len(table.key):
        return []
    store.group("metrics")
    contexts: dict[str | None, int] = {}
    names: dict[str, int] = {}
    of_context = np.array([contexts.setdefault(c, len(contexts)) for _n, c, _e in table.keys])
    of_name = np.array([names.setdefault(n, len(names)) for n, _c, _e in table.keys])
    of_epoch = np.array([int64(e) for _n, _c, e in table.keys], dtype=np.int64)
    ranks = np.array([i if p.rank is None else p.rank for i, p in enumerate(processes)], dtype=np.int32)
    context, listed = of_context[table.key], list(names)
    infos: list[SeriesInfo] = []
    for name in sorted(contexts, key=lambda n: (n is not None, n or "")):
        which = np.flatnonzero(context == contexts[name]) if len(contexts) > 1 else slice(None)
        key = table.key[which]
        calls = _Calls(table.process[which], table.step[which], of_epoch[key], of_name[key], table.wall_ns[which],
                       table.value[which])
        group = "metrics/" + ("run" if name is None else encoded(name, {"run"}))
        store.group(group, {"context": text(name)} if name is not None else {})
        infos += _write_table(store, group, name, calls, listed, ranks)
    return infos


@dataclass
class _Calls:
    """Calls of `log_metric` in one context, as columns of one length, in the order in which they were made."""

    process: I64
    step: I64
    epoch: I64
    metric: I64
    wall_ns: I64
    value: F64


def _ids(*columns: I64) -> I64:
    """One number for each different combination, in the order of their values (the first column counts most)."""
    changes = np.zeros(len(columns[0]), dtype=bool)
    changes[0] = True
    for column in columns:
        changes[1:] |= column[1:] != column[:-1]
    starts = np.flatnonzero(changes)  # calls come in runs: sort one of each
    heads = [column[starts] for column in columns]
    order = np.lexsort(heads[::-1])
    new = np.zeros(len(starts), dtype=bool)
    for head in heads:
        new[1:] |= head[order][1:] != head[order][:-1]
    ids = np.empty(len(starts), dtype=np.int64)
    ids[order] = np.cumsum(new)
    return np.repeat(ids, np.diff(starts, append=len(changes)))


def _rows(group: I64, metric: I64) -> tuple[I64, I64]:
    """(order, first): the calls sorted by `group`, and where in that order each row begins. Within a group, a call
    goes into the row that is open; a metric that the row has already opens the next one."""
    order = np.arange(len(group)) if np.all(group[1:] >= group[:-1]) else np.argsort(group, kind="stable")
    group, metric = group[order], metric[order]
    both = group * (int(metric.max()) + 1) + metric
    ends = np.append(np.flatnonzero(group[1:] != group[:-1]) + 1, len(group))
    if np.all(both[1:] > both[:-1]):
        return order, np.concatenate(([0], ends[:-1]))
    # The next call of the same metric in the same group, or the group's end; the row that begins at i ends before
    # the first of these of all calls from i on.
    following = np.repeat(ends, np.diff(ends, prepend=0))
    by_both = np.argsort(both, kind="stable")
    again = both[by_both][1:] == both[by_both][:-1]
    following[by_both[:-1][again]] = by_both[1:][again]
    until = np.minimum.accumulate(following[::-1])[::-1].tolist()
    first = [0]
    while (at := until[first[-1]]) < len(until):
        first.append(at)
    return order, np.array(first)


def _write_table(
    store: Store, group: str, context: str | None, calls: _Calls, names: list[str], ranks: Any
) -> list[SeriesInfo]:
    order, first = _rows(_ids(calls.process, calls.step, calls.epoch), calls.metric)
    n = len(first)
    time = np.minimum.reduceat(calls.wall_ns[order], first)
    rank = ranks[calls.process[order[first]]]
    sort = np.lexsort((rank, time))
    position = np.empty(n, dtype=np.int64)
    position[sort] = np.arange(n)
    row = np.empty(len(order), dtype=np.int64)
    row[order] = np.repeat(position, np.diff(first, append=len(order)))
    heads = order[first][sort]
    for name, which in (("step", calls.step[heads]), ("epoch", calls.epoch[heads])):
        store.array(f"{group}/{name}", which, ("row",), fill=bool(np.any(which == NO_STEP)), long_name=name)
    store.array(f"{group}/rank", rank[sort], ("row",), long_name="rank of the process, else its index")
    store.times(f"{group}/time", time[sort], "row", "first call of the row")
    by_metric = np.argsort(calls.metric.astype(np.uint32), kind="stable") if len(names) > 1 else np.arange(len(order))
    ends = np.cumsum(np.bincount(calls.metric, minlength=len(names)))
    infos: list[SeriesInfo] = []
    for m, name in enumerate(names):
        mine = by_metric[ends[m - 1] if m else 0:ends[m]]
        if not len(mine):
            continue
        column: F64 = np.full(n, np.nan)
        column[row[mine]] = calls.value[mine]
        path = f"{group}/{encoded(name, _COLUMNS)}"
        non_finite = _write_column(store, path, name, column, len(mine))
        figures = figures_of(column[np.isfinite(column)], n - len(mine))
        infos.append(SeriesInfo(group, path, name, context, "", "script", non_finite=non_finite,
                                **asdict(figures) | {"count": len(mine)}))
    return infos


def _write_column(store: Store, path: str, name: str, column: F64, logged: int) -> int:
    """How many of the logged values are not finite. Those cannot stand in an integer column."""
    finite = np.isfinite(column)
    values = column if finite.all() else column[finite]
    places = _decimals(values) if len(column) >= LARGE and logged == len(values) else None
    if places is None:
        store.array(path, column, ("row",), long_name=name)
    else:
        cells = np.full(len(column), sentinel("i4"), dtype=np.int32)
        cells[finite] = np.rint(values * 10.0**places)
        scale = {"scale_factor": 10.0**-places, "decimals": places} if places else {}
        store.array(path, cells, ("row",), fill=True, long_name=name, **scale)
    return logged - len(values)


def _decimals(values: F64) -> int | None:
    """The least k up to 6 such that each value is exactly a 32-bit integer divided by 10**k; None without one."""
    def fits(sample: F64, k: int) -> bool:
        whole = np.rint(sample * 10.0**k)
        return bool(np.all(np.abs(whole) < 2.0**31) and np.array_equal(whole / 10.0**k, sample))

    if np.any(np.signbit(values[values == 0])):
        return None  # -0.0
    probe = values[::max(1, len(values) // 500)]
    with np.errstate(over="ignore"):
        return next((k for k in range(7) if fits(probe, k) and fits(values, k)), None)
