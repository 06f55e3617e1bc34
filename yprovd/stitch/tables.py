"""The tables of series.zarr beside the series: spans, events, parameters, files, nodes, ranks, steps, meters, accounts.

One row for each, whatever prov.json has room for. What the columns mean is in their `long_name` and `units`; the
layout of the store is in `yprovd.stitch.series`.
"""

from __future__ import annotations

import numpy as np

from yprovd.stitch.attribution import Attribution
from yprovd.stitch.devices import task_devices
from yprovd.stitch.document import json_text
from yprovd.stitch.record import Record
from yprovd.stitch.storage import Store
from yprovd.wire import NO_STEP


def write_spans(store: Store, record: Record, attribution: Attribution) -> None:
    spans = record.spans
    if not spans:
        return
    store.group("spans")
    row = ("row",)
    ranks = [-1 if (r := p.rank) is None else r for p in record.processes]
    store.array("spans/process", np.array([s.process for s in spans], dtype=np.int32), row,
                long_name="index of the process in the group `processes`")
    store.array("spans/rank", np.array([ranks[s.process] for s in spans], dtype=np.int32), row, long_name="rank, or -1")
    for name in ("kind", "name", "context"):
        store.array(f"spans/{name}", [getattr(s, name) or "" for s in spans], row, long_name=name)
    store.optional("spans/epoch", [s.epoch for s in spans])
    for name in ("id", "parent"):
        store.array(f"spans/{name}", np.array([getattr(s, name) for s in spans], dtype=np.int64), row,
                    long_name=f"{name} within the process")
    store.times("spans/begin", np.array([s.begin_wall_ns for s in spans]), "row", "begin")
    ends = np.array([NO_STEP if s.end_wall_ns is None else s.end_wall_ns for s in spans])
    store.times("spans/end", ends, "row", "end, missing when the process never said so", missing=True)
    for name, units, values in (
        ("duration", "s", attribution.span_duration_s), ("energy", "J", attribution.span_energy_j),
        ("cpu_time", "s", attribution.span_cpu_s), ("memory_peak", "byte", attribution.span_peak_bytes),
        ("gpu_energy", "J", attribution.span_gpu_energy_j),
    ):
        if name != "gpu_energy" or not np.isnan(values).all():
            store.array(f"spans/{name}", np.array(values, dtype=np.float64), row, units=units, long_name=name)


def write_events(store: Store, record: Record) -> None:
    events = record.events
    if not events:
        return
    store.group("events")
    store.times("events/time", np.array([e.wall_ns for e in events]), "row", "time")
    store.array("events/process", np.array([e.process for e in events], dtype=np.int32), ("row",),
                long_name="index of the process in the group `processes`")
    for name, values in (
        ("name", [e.name for e in events]), ("context", [e.context or "" for e in events]),
        ("attributes", [json_text(e.attributes) for e in events]),
    ):
        store.array(f"events/{name}", values, ("row",), long_name=name)
    store.optional("events/epoch", [e.epoch for e in events])


def write_declared(store: Store, record: Record) -> None:
    """Every parameter and every file as it was logged: prov.json holds the first thousand of the one and the first
    three hundred of the other."""
    if params := record.params:
        store.group("params")
        store.times("params/time", np.array([p.wall_ns for p in params]), "row", "time")
        store.array("params/process", np.array([p.process for p in params], dtype=np.int32), ("row",),
                    long_name="index of the process in the group `processes`")
        store.array("params/name", [p.name for p in params], ("row",), long_name="name")
        store.array("params/role", [p.role for p in params], ("row",), long_name="input (it was set) or output")
        store.array("params/value", [json_text(p.value) for p in params], ("row",), long_name="value, as JSON")
    if files := record.files:
        store.group("files")
        store.times("files/time", np.array([f.wall_ns for f in files]), "row", "time")
        store.array("files/process", np.array([f.process for f in files], dtype=np.int32), ("row",),
                    long_name="index of the process in the group `processes`, -1 for the command line")
        for name in ("role", "path", "name", "context", "sha256", "stored", "reason"):
            store.array(f"files/{name}", [str(getattr(f, name) or "") for f in files], ("row",), long_name=name)
        store.optional("files/missing", [int(f.missing) for f in files])
        store.optional("files/changed_after", [f.changed_after_ns // 1000 or None for f in files], units="us")
        store.optional("files/size", [f.size for f in files], units="byte")
        store.optional("files/epoch", [f.epoch for f in files])


def write_nodes(store: Store, record: Record) -> None:
    if record.nodes:
        store.group("nodes")
        for name, values in (
            ("hostname", [n.host for n in record.nodes]), ("boot_id", [n.boot_id for n in record.nodes]),
            ("facts", [json_text(n.facts) for n in record.nodes]),
        ):
            store.array(f"nodes/{name}", values, ("node",), long_name=name)
        for name, units in (("logical_cpus", "1"), ("memory_bytes", "byte")):
            numbers = [f if isinstance(f := n.facts.get(name), int) else None for n in record.nodes]
            if any(f is not None for f in numbers):
                store.optional(f"nodes/{name}", numbers, "node", units=units)
    if record.processes:
        store.group("processes")
        store.array("processes/host", [p.host for p in record.processes], ("process",), long_name="host name")
        for name in ("pid", "rank", "node", "logged", "received", "dropped", "rejected"):
            store.optional(f"processes/{name}", [getattr(p, name) for p in record.processes], "process")


def write_tasks(store: Store, record: Record, attribution: Attribution) -> None:
    row = ("row",)
    if tasks := record.tasks:
        store.group("tasks")
        for name in ("host", "step", "launcher", "cpus", "program"):
            store.array(f"tasks/{name}", [getattr(t, name) for t in tasks], row, long_name=name)
        store.array("tasks/devices", [json_text(t.devices) if t.devices else "" for t in tasks], row,
                    long_name="what the environment says of accelerators, as JSON")
        had = task_devices(record)
        for name, about, values in (
            ("gpus", "GPUs that the task had: `device` of the group gpu", [",".join(h.ids) for h in had]),
            ("gpus_by", "how that is known: environment, opened, assumed, or not at all", [str(h.how) for h in had]),
            ("gpus_reason", "why, where it is not plain", [h.reason for h in had]),
        ):
            store.array(f"tasks/{name}", values, row, long_name=about)
        for name in ("rank", "local_rank", "world_size", "pid"):
            store.optional(f"tasks/{name}", [getattr(t, name) for t in tasks])
        for name in ("node", "process"):
            store.array(f"tasks/{name}", np.array([getattr(t, name) for t in tasks], dtype=np.int32), row,
                        long_name=f"index in the group `{name}{'es' if name == 'process' else 's'}`, or -1")
        _write_times(store, "tasks", [(t.begin_wall_ns, t.end_wall_ns) for t in tasks])
    if steps := attribution.steps:
        store.group("steps")
        for name, values in (
            ("step", [s.id for s in steps]), ("nodes", [",".join(s.nodes) for s in steps]),
            ("programs", ["\n".join(s.programs) for s in steps]), ("layout", ["\n".join(s.layout) for s in steps]),
        ):
            store.array(f"steps/{name}", values, row, long_name=name)
        for name in ("rank_count", "world_size"):
            store.optional(f"steps/{name}", [getattr(s, name) for s in steps])
        store.array("steps/shared", np.array([s.shared for s in steps], dtype=np.int8), row,
                    long_name="1: another step was on one of its nodes, and the figures are those of both")
        _write_times(store, "steps", [(s.begin_ns, s.end_ns) for s in steps])
        for name, units, figures in (
            ("energy", "J", [s.energy_j for s in steps]), ("coverage", "1", [s.coverage for s in steps]),
            ("cpu_time", "s", [s.cpu_s for s in steps]), ("memory_peak", "byte", [s.memory_peak_bytes for s in steps]),
            ("gpu_energy", "J", [s.gpu_energy_j for s in steps]),
        ):
            if name != "gpu_energy" or any(f is not None for f in figures):
                store.array(f"steps/{name}", np.array([np.nan if f is None else f for f in figures]), row, units=units,
                            long_name=name)


def write_meters(store: Store, attribution: Attribution) -> None:
    """What the sums of prov.json are made of: `energy` of the rows with `counts` is the run's, of those with
    `counts_gpu` its GPUs'."""
    rows = attribution.energy.rows
    if not rows:
        return
    row = ("row",)
    store.group("meters")
    store.array("meters/node", np.array([m.node for m in rows], dtype=np.int32), row,
                long_name="index of the node in the group `nodes`")
    for name, values, long_name in (
        ("class", [m.cls for m in rows], "class of the device"), ("device", [m.device for m in rows], "its identity"),
        ("meter", [m.meter for m in rows], "what it meters: node, platform, module, cpu, memory, gpu"),
        ("method", [m.method for m in rows], "measured, integrated, estimated or absent"),
        ("reason", [m.reason for m in rows], "why it is absent or not measured"),
    ):
        store.array(f"meters/{name}", values, row, long_name=long_name)
    for name, units, figures, long_name in (
        ("energy", "J", [m.energy_j for m in rows], "energy in the run"),
        ("ratio", "1", [m.ratio for m in rows], "growth of the counter over the integral of the meter's own power"),
        ("coverage", "1", [m.coverage for m in rows], "part of the run that it covers"),
    ):
        store.array(f"meters/{name}", np.array([np.nan if f is None else f for f in figures], dtype=np.float64), row,
                    units=units, long_name=long_name)
    store.array("meters/resets", np.array([m.resets for m in rows], dtype=np.int32), row,
                long_name="how often its counter began anew in the run")
    for name, flags in (("counts", [m.counts for m in rows]), ("counts_gpu", [m.counts_gpu for m in rows])):
        store.array(f"meters/{name}", np.array(flags, dtype=np.int8), row,
                    long_name=f"1: in the energy of the {'run' if name == 'counts' else 'GPUs'}")


def write_accounts(store: Store, attribution: Attribution) -> None:
    """What the run and each context, epoch and span of its tree cost, also those for which prov.json has no room."""
    accounts, row = attribution.accounts, ("row",)
    if len(accounts) < 2:
        return  # only the run, which prov.json holds
    store.group("accounts")
    store.array("accounts/path", ["/".join(a.path) for a in accounts], row,
                long_name="place in the tree, as in the identifiers of prov.json; empty: the run")
    for name, values in (("kind", [a.kind for a in accounts]), ("name", [a.name for a in accounts]),
                         ("context", [a.context or "" for a in accounts])):
        store.array(f"accounts/{name}", values, row, long_name=name)
    for name, numbers in (("epoch", [a.epoch for a in accounts]), ("first_step", [a.first_step for a in accounts]),
                          ("last_step", [a.last_step for a in accounts])):
        store.optional(f"accounts/{name}", numbers)
    store.array("accounts/count", np.array([a.count for a in accounts], dtype=np.int64), row,
                long_name="how many times it was opened")
    _write_times(store, "accounts", [(a.begin_ns, a.end_ns) for a in accounts])
    for name, units, figures, long_name in (
        ("duration", "s", [a.duration_s for a in accounts], "for how long it was open, on whichever rank"),
        ("energy", "J", [a.energy_j for a in accounts], "energy, with that of what lies in it"),
        ("energy_outside", "J", [a.energy_outside_j for a in accounts], "energy of no part of it"),
        ("cpu_time", "s", [a.cpu_s for a in accounts], "processor time"),
        ("memory_peak", "byte", [a.memory_peak_bytes for a in accounts], "memory of all nodes at its peak"),
        ("gpu_energy", "J", [a.gpu_energy_j for a in accounts], "energy of GPUs, a part of `energy`"),
        ("gpu_energy_outside", "J", [a.gpu_energy_outside_j for a in accounts], "energy of GPUs, of no part of it"),
        ("gpu_time", "h", [a.gpu_hours for a in accounts], "GPU-hours"),
        ("gpu_memory_peak", "byte", [a.gpu_memory_peak_bytes for a in accounts], "memory of all GPUs at its peak"),
    ):
        if any(f is not None for f in figures):
            store.array(f"accounts/{name}", np.array([np.nan if f is None else f for f in figures], dtype=np.float64),
                        row, units=units, long_name=long_name)


def _write_times(store: Store, group: str, times: list[tuple[int, int | None]]) -> None:
    store.times(f"{group}/begin", np.array([begin for begin, _end in times]), "row", "begin")
    ends = np.array([NO_STEP if end is None else end for _begin, end in times])
    store.times(f"{group}/end", ends, "row", "end, missing when nobody saw it", missing=True)
