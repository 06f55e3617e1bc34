"""Joules, CPU seconds and peak memory of the run and of every context, epoch and span.

A counter is read at any time by interpolation between its own readings, and held before the first and after the last.
A node's meters belong, at each time, to the lowest-ranked of its processes that is alive then and has opened spans;
what they count goes to the innermost span open in that process: the one begun last. Outside of its spans it is the
run's own, `outside`. So a pipeline of several programs is attributed program by program, and eight ranks of a node are
not counted eight times.

A span that was never ended lasts until its process said goodbye; of a process that said nothing (killed), until the
end of the run. Exclusive amounts are found first and summed upwards: children + outside = parent, by construction.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import numpy as np

from yprovd.stitch.meters import (
    Meter,
    Peaks,
    Share,
    Times,
    is_cpu_meter,
    is_energy_meter,
    owned,
    parents_of,
    saw_job,
    timeline_of,
    times_of,
    window_of,
)
from yprovd.stitch.record import F64, I64, MetricTable, Node, Record
from yprovd.stitch.steps import Step, steps_of
from yprovd.wire import NO_STEP

#: Spans within spans beyond this depth count for the one above: a recursive function is no tree of accounts.
DEPTH = 32
_FAR = np.iinfo(np.int64)


@dataclass(frozen=True)
class Account:
    """What one node of the run's tree cost. The tree is run > context (`training/augment` lies in `training`) >
    epoch > span names; a context is one account however often it was opened, on however many ranks.

    `path`: () for the run, then e.g. ("ctx/training",), ("ctx/training", "epoch/3"),
    ("ctx/training", "epoch/3", "span/forward"). `begin_ns`, `end_ns`: wall clock, first begin to last end.
    `count`: how many times it was opened; `duration_s`: for how long it was open, on whichever rank. Figures include
    the children, `*_outside` is what no child covers, None is absent (there is no meter), never 0.
    children + outside = the account itself.
    """

    path: tuple[str, ...]
    kind: str  # "run" | "context" | "epoch" | "span"
    name: str
    context: str | None
    epoch: int | None
    begin_ns: int
    end_ns: int
    count: int
    energy_j: float | None
    energy_outside_j: float | None
    cpu_s: float | None
    cpu_outside_s: float | None
    memory_peak_bytes: float | None
    duration_s: float
    first_step: int | None = None
    last_step: int | None = None


@dataclass(frozen=True)
class EnergyReport:
    """The energy of the run. `method` is "measured" (differences of hardware counters) or "absent", then with
    `reason`. `meters`: the devices summed, as "host: rapl/package-0". `coverage`: part of the run's time between
    the first and the last reading of the meters, 0 to 1."""

    energy_j: float | None
    method: str
    meters: tuple[str, ...]
    coverage: float | None
    reason: str = ""


@dataclass(frozen=True)
class Attribution:
    """`accounts[0]` is the run; parents come before children. `span_energy_j`, `span_cpu_s`, `span_peak_bytes` and
    `span_duration_s` align with `Record.spans`, NaN where there is no figure. `steps`: the scheduler's, by time."""

    accounts: list[Account]
    energy: EnergyReport
    span_energy_j: list[float]
    span_cpu_s: list[float]
    span_peak_bytes: list[float]
    span_duration_s: list[float]
    steps: list[Step] = field(default_factory=list)


def attribute(record: Record) -> Attribution:
    """Account for the run. Pure; O((spans + samples) log)."""
    begin = int(record.run.get("started_ns") or record.first_ns)
    end = max(begin, int((record.end or {}).get("ended_ns") or record.last_ns))
    times, parents = times_of(record, end), parents_of(record.spans)
    meters = [Meter.of(node, is_energy_meter) for node in record.nodes]
    energy = _share(record, times, meters, begin, end)
    cpu_meters = [Meter.of(node, is_cpu_meter) if saw_job(node) else None for node in record.nodes]
    cpu = _share(record, times, cpu_meters, begin, end)
    memory = Peaks.of(record.nodes)
    absent = np.full(len(record.spans), np.nan)
    peaks = memory.between(times.begin_wall, times.end_wall) if memory else absent
    ended = np.array([s.end_wall_ns is not None for s in record.spans], dtype=bool)
    config = record.run.get("config")
    run = _Node((), begin, end, count=1, has_energy=energy.total is not None, has_cpu=cpu.total is not None,
                children=_tree(record, times, parents, energy, cpu, peaks))
    run.energy = (energy.total or 0.0) - float(energy.exclusive.sum())
    run.cpu = (cpu.total or 0.0) - float(cpu.exclusive.sum())
    accounts = _accounts(run, _steps(record.metrics))
    return Attribution(
        [replace(
            accounts[0], name=str(config.get("name") or "") if isinstance(config, dict) else "",
            begin_ns=begin, end_ns=end, duration_s=(end - begin) / 1e9,
            memory_peak_bytes=float(memory.between(np.array([begin]), np.array([end]))[0]) if memory else None,
        ), *accounts[1:]],
        _report(record.nodes, meters, energy.total, begin, end),
        energy.inclusive(parents).tolist(), cpu.inclusive(parents).tolist(), peaks.tolist(),
        np.where(ended, (times.end_mono - times.begin_mono) / 1e9, absent).tolist(),
        steps_of(record, meters, cpu_meters, begin, end),
    )


def _share(record: Record, times: Times, meters: list[Meter | None], begin: int, end: int) -> Share:
    """What the meters of all nodes counted in the run, and in each span alone."""
    by_process: dict[int, list[int]] = {}
    for i, span in enumerate(record.spans):
        by_process.setdefault(span.process, []).append(i)
    on_node: dict[int, list[tuple[int, I64]]] = {}
    for p in sorted(by_process):  # the order of `Record.processes`: by rank, then by host and pid
        on_node.setdefault(record.processes[p].node, []).append((p, np.array(by_process[p])))
    share = Share(len(record.spans))
    for n, (node, meter) in enumerate(zip(record.nodes, meters, strict=True)):
        window = window_of(node, begin, end)
        if meter is None or window is None:
            continue
        share.total = (share.total or 0.0) + float(np.diff(meter.at(np.array(window)))[0])
        for spans, start, stop in owned(record, on_node.get(n, []), window, times):
            share.known[spans] = True
            edges, active = timeline_of(spans, times)
            amounts = np.diff(meter.at(np.clip(edges, start, stop)))
            np.add.at(share.exclusive, active[active >= 0], amounts[active >= 0])
    return share


def _report(
    nodes: list[Node], meters: list[Meter | None], total: float | None, begin: int, end: int
) -> EnergyReport:
    absent = [n for n, m in zip(nodes, meters, strict=True) if m is None]
    reasons = sorted({a.reason for n in absent for s in n.samples for a in s.schema.absences if a.sensor == "rapl"})
    reason = "; ".join(reasons)
    if not nodes:
        reason = "no node daemon ran"
    elif absent and not reason:
        read = any(is_energy_meter(m) for n in absent for s in n.samples for m in s.schema.metrics)
        reason = "the energy counters were read less than twice" if read else "there is no energy counter"
    if total is None:
        return EnergyReport(None, "absent", (), None, reason)
    parts = []
    for node, meter in zip(nodes, meters, strict=True):
        window = window_of(node, begin, end)
        parts.append(meter.covers(*window) if meter is not None and window is not None else 0.0)
    names = tuple(f"{n.host}: {name}" for n, m in zip(nodes, meters, strict=True) if m for name in m.names)
    note = f"{len(absent)} of {len(nodes)} nodes have no meter: {reason}" if absent else ""
    return EnergyReport(total, "measured", names, sum(parts) / len(parts), note)


# the tree


@dataclass
class _Node:
    """An account in the making. `energy`, `cpu`: its own, without the children."""

    path: tuple[str, ...]
    begin: int
    end: int
    count: int = 0
    energy: float = 0.0
    cpu: float = 0.0
    has_energy: bool = False
    has_cpu: bool = False
    peak: float = float("nan")
    children: list[_Node] = field(default_factory=list)
    open: list[tuple[int, int]] = field(default_factory=list)  # when: begin and end of each time, in any order

    def widen(self, begin: int, end: int, peak: float, has_energy: bool, has_cpu: bool) -> None:
        self.begin, self.end = min(self.begin, begin), max(self.end, end)
        self.peak = peak if math.isnan(self.peak) else max(self.peak, peak)
        self.has_energy |= has_energy
        self.has_cpu |= has_cpu


def _prefix(context: str | None, epoch: int | None) -> tuple[str, ...]:
    return (*(() if context is None else (f"ctx/{context}",)), *(() if epoch is None else (f"epoch/{epoch}",)))


def _tree(
    record: Record, times: Times, parents: list[tuple[int, int]], energy: Share, cpu: Share, peaks: F64
) -> list[_Node]:
    """The accounts directly below the run, with those below them. Contexts come before epochs and epochs before
    spans, in whatever order the script nests them."""
    nodes: dict[tuple[str, ...], _Node] = {}

    def node(path: tuple[str, ...]) -> _Node:
        if path not in nodes:
            nodes[path] = _Node(path, _FAR.max, _FAR.min)
        return nodes[path]

    names: dict[int, tuple[str, ...]] = {-1: ()}
    figures = list(zip(*(column.tolist() for column in (
        times.begin_wall, times.end_wall, peaks, energy.known, cpu.known, energy.exclusive, cpu.exclusive,
    )), strict=True))
    for i, parent in parents:
        span = record.spans[i]
        names[i] = names[parent]
        if span.kind == "span" and len(names[i]) < DEPTH:
            names[i] = (*names[i], f"span/{span.name}")
        begin, end, peak, has_energy, has_cpu, own_energy, own_cpu = figures[i]
        it = node((*_prefix(span.context, span.epoch), *names[i]))
        it.count += 1
        it.energy += own_energy
        it.cpu += own_cpu
        it.open.append((begin, end))
        it.widen(begin, end, peak, has_energy, has_cpu)
        opened = _prefix(span.context, None if span.kind == "context" else span.epoch)
        if span.kind != "span" and opened and opened != it.path:  # a context within an epoch opens itself as well
            node(opened).count += 1
    for path in list(nodes):
        for length in range(1, len(path)):
            node(path[:length])
    top: list[_Node] = []
    for path, it in nodes.items():
        above = nodes[path[:-1]] if len(path) > 1 else _context_around(nodes, path[0])
        (top if above is None else above.children).append(it)
    return top


def _context_around(nodes: dict[tuple[str, ...], _Node], name: str) -> _Node | None:
    """`ctx/training/augment` lies in `ctx/training`, if there is one."""
    while name.startswith("ctx/") and "/" in name[4:]:
        name = name.rpartition("/")[0]
        if (name,) in nodes:
            return nodes[name,]
    return None


def _accounts(run: _Node, steps: dict[tuple[str, ...], tuple[int, int]]) -> list[Account]:
    """Accounts of the tree, parents first, siblings in the order of time; children summed up into their parents."""
    order = [run]
    for it in order:
        order += it.children
    totals: dict[tuple[str, ...], tuple[float, float]] = {}
    for it in reversed(order):
        energy, cpu = it.energy, it.cpu
        for child in it.children:
            it.widen(child.begin, child.end, child.peak, child.has_energy, child.has_cpu)
            it.open += child.open
            energy += totals[child.path][0]
            cpu += totals[child.path][1]
        totals[it.path] = energy, cpu
        it.open = _union(it.open)
        it.children.sort(key=lambda n: (n.begin, n.path), reverse=True)
    out: list[Account] = []
    stack = [run]
    while stack:
        it = stack.pop()
        stack += it.children
        kind, _, name = it.path[-1].partition("/") if it.path else ("run", "", "")
        energy, cpu = totals[it.path]
        first, last = steps.get(it.path, (None, None))
        out.append(Account(
            it.path, "context" if kind == "ctx" else kind, name,
            next((p[4:] for p in it.path[:1] if p.startswith("ctx/")), None),
            next((int(p[6:]) for p in it.path[:2] if p.startswith("epoch/")), None),
            it.begin, it.end, it.count,
            energy if it.has_energy else None, it.energy if it.has_energy else None,
            cpu if it.has_cpu else None, it.cpu if it.has_cpu else None,
            None if math.isnan(it.peak) else it.peak, sum(b - a for a, b in it.open) / 1e9, first, last,
        ))
    return out


def _union(intervals: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """The same moments as intervals that do not overlap, in order."""
    out: list[tuple[int, int]] = []
    for begin, end in sorted(intervals):
        if out and begin <= out[-1][1]:
            out[-1] = out[-1][0], max(out[-1][1], end)
        else:
            out.append((begin, end))
    return out


def _steps(table: MetricTable) -> dict[tuple[str, ...], tuple[int, int]]:
    """The first and the last step that were logged in each context (with those within it), each epoch, and the run."""
    given = table.step != NO_STEP
    first = np.full(len(table.keys), _FAR.max)
    last = np.full(len(table.keys), _FAR.min)
    np.minimum.at(first, table.key[given], table.step[given])
    np.maximum.at(last, table.key[given], table.step[given])
    out: dict[tuple[str, ...], tuple[int, int]] = {}
    for (_name, context, epoch), low, high in zip(table.keys, first.tolist(), last.tolist(), strict=True):
        if low > high:
            continue
        paths = {(), _prefix(context, epoch)}
        parts = [] if context is None else context.split("/")
        paths |= {_prefix("/".join(parts[:n]), None) for n in range(1, len(parts) + 1)}
        for path in paths:
            a, b = out.get(path, (low, high))
            out[path] = min(a, low), max(b, high)
    return out
