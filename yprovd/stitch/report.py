"""The energy of the whole run in one report, by the rule in `yprovd.stitch.energy`. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from yprovd.stitch.absences import absences_of, unread_gpus
from yprovd.stitch.energy import SCOPES, NodeEnergy, Window, weakest
from yprovd.stitch.facts import host_list, part
from yprovd.stitch.presence import never_heard
from yprovd.stitch.record import Node, Record
from yprovd.stitch.scheduling import job_of


@dataclass(frozen=True)
class MeterRow:
    """One meter in the whole run, a row of the group `meters` of the store. `node`: index of the node; `counts`:
    whether it is in the energy of the run, `counts_gpu`: in that of the GPUs. None is absent."""

    node: int
    cls: str
    device: str
    meter: str
    method: str
    energy_j: float | None
    ratio: float | None
    resets: int
    coverage: float
    counts: bool
    counts_gpu: bool
    reason: str


@dataclass(frozen=True)
class EnergyReport:
    """The energy of the run. `method`, `scope`: see `yprovd.stitch.energy`; "absent" and "" without a figure, and then,
    or when a node has no meter, `reason` says why. `meters`: the devices summed, as "host: rapl/package-0". `coverage`:
    the part of the run's time that the meters cover, 0 to 1. `not_covered`: what is not in the figure. `notes`: meters
    that were passed over, counters that were not believed. `gpus_not_covered`: hosts whose GPUs, if they have any, are
    not in the GPUs' figures. `rows`: every meter that there was. Nodes of which nothing was heard count as nodes whose
    energy is not in the figure."""

    energy_j: float | None
    method: str
    meters: tuple[str, ...]
    coverage: float | None
    reason: str = ""
    scope: str = ""
    not_covered: tuple[str, ...] = ()
    gpu_energy_j: float | None = None
    gpu_method: str = "absent"
    gpu_scope: str = ""
    gpu_coverage: float | None = None
    gpus_not_covered: tuple[str, ...] = ()
    shared: bool = False
    notes: tuple[str, ...] = ()
    rows: tuple[MeterRow, ...] = field(default=(), repr=False)


def report_of(
    record: Record, nodes: Sequence[NodeEnergy], windows: Sequence[Window | None], energy_j: float | None,
    gpu_energy_j: float | None,
) -> EnergyReport:
    """`nodes`, `windows`: what the meters of `Record.nodes` say, and the run on their clocks. `energy_j`,
    `gpu_energy_j`: the sums over all of them, as they were attributed."""
    absent = [record.nodes[i] for i, e in enumerate(nodes) if e.total is None]
    unheard = never_heard(record)
    number = len(nodes) + len(unheard)
    reason = _absence(absent, [e for e in nodes if e.total is None]) if record.nodes else "no node daemon ran"
    rows = tuple(row for i, (e, w) in enumerate(zip(nodes, windows, strict=True)) for row in _rows(i, e, w))
    notes = _by_host((record.nodes[i].host, note) for i, e in enumerate(nodes) for note in e.notes)
    if energy_j is None:
        return EnergyReport(None, "absent", (), None, reason, notes=notes, rows=rows)
    metered = [(record.nodes[i], e, e.total, w) for i, (e, w) in enumerate(zip(nodes, windows, strict=True))
               if e.total is not None and w is not None]
    names = tuple(f"{n.host}: {r.name}" for n, _e, total, _w in metered for r in total.readings)
    lacking = _by_host((n.host, what) for n, e, _t, _w in metered for what in e.not_covered)
    without = [n.host for n in absent] + unheard
    if without:
        lacking = (*lacking, f"{host_list(without)}: all of it")
    with_gpus = [(e.gpus, e.gpus_without, w) for _n, e, _t, w in metered if e.gpus is not None]
    parts = [total.covers(*w) for _n, _e, total, w in metered]
    gpu_parts = [g.covers(*w) * len(g.readings) / (len(g.readings) + unmetered) for g, unmetered, w in with_gpus]
    dark_gpus = [n.host for n, e in zip(record.nodes, nodes, strict=True) if e.gpus is None and unread_gpus(n)]
    dark_gpus += unheard if gpu_parts else []
    sees = {r.sees for g, _unmetered, _w in with_gpus for r in g.readings}
    return EnergyReport(
        energy_j, weakest(total.method for _n, _e, total, _w in metered), names, sum(parts) / number,
        "; ".join(filter(None, [f"{len(absent)} of {number} nodes have no meter: {reason}" if absent else "",
                                f"nothing was heard of {len(unheard)} of {number} nodes" if unheard else ""])),
        "partial" if without else max((e.scope for _n, e, _t, _w in metered), key=SCOPES.index),
        tuple(dict.fromkeys(line.partition(": ")[2] for line in lacking) if number == 1 else lacking),
        gpu_energy_j, weakest(g.method for g, _unmetered, _w in with_gpus), "module" if "module" in sees else
        "gpu" if sees else "", sum(gpu_parts) / (len(gpu_parts) + len(dark_gpus)) if gpu_parts else None,
        tuple(dark_gpus) if gpu_parts else (), any(e.shared for e in nodes) or _part_of_nodes(record), notes, rows,
    )


def _rows(index: int, energy: NodeEnergy, window: Window | None) -> list[MeterRow]:
    counted = {id(r) for r in energy.total.readings} if energy.total is not None else set()
    of_gpus = {id(r) for r in energy.gpus.readings} if energy.gpus is not None else set()
    begin, end = window or (0, 0)
    return [MeterRow(
        index, r.device.cls, r.device.id, r.sees, r.method, r.energy(begin, end), r.ratio,
        sum(begin <= t <= end for t in r.resets), r.coverage(begin, end), id(r) in counted, id(r) in of_gpus, r.reason,
    ) for r in energy.readings]


def _absence(nodes: Sequence[Node], energies: Sequence[NodeEnergy]) -> str:
    """Why these have no figure: what is wrong with their meters; without one, RAPL is what any node could have."""
    reasons = sorted({r.reason for e in energies for r in e.readings if r.reason}
                     | {reason for n in nodes for reason in unread_gpus(n)}) or sorted(
        {a.reason for n in nodes for a in absences_of(n) if a.sensor == "rapl"})
    return "; ".join(reasons) or ("there is no energy counter" if nodes else "")


def _by_host(lines: Iterable[tuple[str, str]]) -> tuple[str, ...]:
    """`n[1-4]: text`: equal ones are one line."""
    hosts: dict[str, list[str]] = {}
    for host, text in lines:
        hosts.setdefault(text, []).append(host)
    return tuple(f"{host_list(names)}: {text}" for text, names in hosts.items())


def _part_of_nodes(record: Record) -> bool:
    """Whether the scheduler gave the job a part of its nodes' processors only, and the rest perhaps to others. (A job
    that has its nodes alone may not use all of them either: some are kept for the system.)"""
    job = job_of(record)
    alone = part(job, "other").get("OverSubscribe")
    cpus, nodes = job.get("cpu_count"), job.get("node_count")
    there = [n.facts["logical_cpus"] for n in record.nodes if isinstance(n.facts.get("logical_cpus"), int)]
    if alone in (None, "NO") or not isinstance(cpus, int) or not isinstance(nodes, int) or not nodes or not there:
        return False
    return bool(cpus / nodes < min(there))
