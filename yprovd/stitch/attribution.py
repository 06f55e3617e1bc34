"""Joules, CPU seconds, GPU hours and peak memory of the run and of every context, epoch and span.

What the meters of a node counted belongs, at each time, to one process of the node, and in it to the innermost open
span, the one begun last (`yprovd.stitch.charging`): a GPU's to the lowest-ranked of those that own it, everything else
to the lowest-ranked of all that are alive then and have opened spans. Outside of its spans it is the run's own,
`outside`. So a pipeline of several programs is attributed program by program, and eight ranks of a node are not counted
eight times. What the meters counted, and which of them: `yprovd.stitch.energy`.

A span that was never ended lasts until its process said goodbye; of a process that said nothing (killed), until the
end of the run. Exclusive amounts are found first and summed upwards: children + outside = parent, by construction.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from yprovd.stitch.charging import Ledger, Share, energy_charges, gpu_charges, node_charge, time_charges
from yprovd.stitch.devices import process_owners_of
from yprovd.stitch.energy import energy_of
from yprovd.stitch.meters import Peaks, Times, cpu_meter, is_gpu_memory, parents_of, times_of, window_of
from yprovd.stitch.record import F64, MetricTable, Record
from yprovd.stitch.report import EnergyReport, report_of
from yprovd.stitch.steps import Step, steps_of
from yprovd.wire import NO_STEP

#: Spans within spans beyond this depth count for the one above: a recursive function is no tree of accounts.
DEPTH = 32
_FAR = np.iinfo(np.int64)
#: What is shared out among the spans (energy, processor time, GPU energy, GPU time), and what has peaks (memory).
_SHARES, _PEAKS = 4, 2


@dataclass(frozen=True)
class Account:
    """What one node of the run's tree cost. The tree is run > context (`training/augment` lies in `training`) >
    epoch > span names; a context is one account however often it was opened, on however many ranks.

    `path`: () for the run, then e.g. ("ctx/training",), ("ctx/training", "epoch/3"),
    ("ctx/training", "epoch/3", "span/forward"). `begin_ns`, `end_ns`: wall clock, first begin to last end.
    `count`: how many times it was opened; `duration_s`: for how long it was open, on whichever rank. Figures include
    the children, `*_outside` is what no child covers, None is absent (there is no meter), never 0.
    children + outside = the account itself. `energy_j` holds `gpu_energy_j`. `gpu_hours`: of the devices that were the
    job's (an MI250X has two), whether they worked or not.
    `memory_peak_method`: "rusage" where the peak is the kernel's own figure, and not one of samples.
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
    gpu_energy_j: float | None = None
    gpu_energy_outside_j: float | None = None
    gpu_hours: float | None = None
    gpu_memory_peak_bytes: float | None = None
    memory_peak_method: str | None = None


@dataclass(frozen=True)
class Attribution:
    """`accounts[0]` is the run; parents come before children. `span_*` align with `Record.spans`, NaN where there is no
    figure. `steps`: the scheduler's, by time."""

    accounts: list[Account]
    energy: EnergyReport
    span_energy_j: list[float]
    span_cpu_s: list[float]
    span_peak_bytes: list[float]
    span_duration_s: list[float]
    steps: list[Step] = field(default_factory=list)
    span_gpu_energy_j: list[float] = field(default_factory=list)


def attribute(record: Record) -> Attribution:
    """Account for the run. Pure; O((spans + samples) log)."""
    begin = int(record.run.get("started_ns") or record.first_ns)
    end = max(begin, int((record.end or {}).get("ended_ns") or record.last_ns))
    times, parents = times_of(record, end), parents_of(record.spans)
    windows = [window_of(node, begin, end) for node in record.nodes]
    energies = [energy_of(node, window) for node, window in zip(record.nodes, windows, strict=True)]
    processors = [cpu_meter(node) for node in record.nodes]
    owners, ledger = process_owners_of(record), Ledger(record, times, windows)
    energy = ledger.share((n, energy_charges(ledger, n, e, owners)) for n, e in enumerate(energies))
    cpu = ledger.share((n, node_charge(ledger, n, meter)) for n, meter in enumerate(processors))
    gpu = ledger.share((n, gpu_charges(ledger, n, e, owners)) for n, e in enumerate(energies))
    gpu_s = ledger.share((n, time_charges(ledger, n, record.nodes[n], windows[n], owners)) for n in range(len(windows)))
    shares = [energy, cpu, gpu, gpu_s]
    memories = [Peaks.of(record.nodes), Peaks.of(record.nodes, is_gpu_memory)]
    absent = np.full(len(record.spans), np.nan)
    peaks = [m.between(times.begin_wall, times.end_wall) if m else absent for m in memories]
    whole = [float(m.between(np.array([begin]), np.array([end]))[0]) if m else None for m in memories]
    ended = np.array([s.end_wall_ns is not None for s in record.spans], dtype=bool)
    config = record.run.get("config")
    memory, method = _at_least_the_kernels(whole[0], record.end)
    run = _Node((), begin, end, count=1, children=_tree(record, times, parents, shares, peaks))
    run.has = [share.total is not None for share in shares]
    run.own = [(share.total or 0.0) - float(share.exclusive.sum()) for share in shares]
    accounts = _accounts(run, _steps(record.metrics))
    return Attribution(
        [replace(
            accounts[0], name=str(config.get("name") or "") if isinstance(config, dict) else "",
            begin_ns=begin, end_ns=end, duration_s=(end - begin) / 1e9, memory_peak_bytes=memory,
            memory_peak_method=method, gpu_memory_peak_bytes=whole[1],
        ), *accounts[1:]],
        report_of(record, energies, windows, energy.total, gpu.total),
        energy.inclusive(parents).tolist(), cpu.inclusive(parents).tolist(), peaks[0].tolist(),
        np.where(ended, (times.end_mono - times.begin_mono) / 1e9, absent).tolist(),
        steps_of(record, energies, processors, begin, end),
        gpu.inclusive(parents).tolist(),
    )


def _at_least_the_kernels(sampled: float | None, end: dict[str, Any] | None) -> tuple[float | None, str | None]:
    """The run's peak of memory, and how it was got. getrusage(2) knows that of the largest process to the page, also
    where it lived between two samples; the job has used that much at least."""
    rusage = (end or {}).get("rusage")
    kernels = rusage.get("max_rss_bytes") if isinstance(rusage, dict) else None
    if isinstance(kernels, (int, float)) and not isinstance(kernels, bool) and (sampled is None or kernels > sampled):
        return float(kernels), "rusage"
    return sampled, None


# the tree


@dataclass
class _Node:
    """An account in the making. `own`: its energy, processor time, GPU energy and GPU time without the children; `has`:
    which of them there are; `peaks`: of its memory and of its GPUs', NaN without."""

    path: tuple[str, ...]
    begin: int
    end: int
    count: int = 0
    own: list[float] = field(default_factory=lambda: [0.0] * _SHARES)
    has: list[bool] = field(default_factory=lambda: [False] * _SHARES)
    peaks: list[float] = field(default_factory=lambda: [math.nan] * _PEAKS)
    children: list[_Node] = field(default_factory=list)
    open: list[tuple[int, int]] = field(default_factory=list)  # when: begin and end of each time, in any order

    def widen(self, begin: int, end: int, peaks: Sequence[float], has: Sequence[bool]) -> None:
        self.begin, self.end = min(self.begin, begin), max(self.end, end)
        self.peaks = [b if a != a else max(a, b) for a, b in zip(self.peaks, peaks, strict=True)]
        self.has = [a or b for a, b in zip(self.has, has, strict=True)]


def _prefix(context: str | None, epoch: int | None) -> tuple[str, ...]:
    return (*(() if context is None else (f"ctx/{context}",)), *(() if epoch is None else (f"epoch/{epoch}",)))


def _tree(
    record: Record, times: Times, parents: list[tuple[int, int]], shares: list[Share], peaks: list[F64]
) -> list[_Node]:
    """The accounts directly below the run, with those below them. Contexts come before epochs and epochs before
    spans, in whatever order the script nests them."""
    nodes: dict[tuple[str, ...], _Node] = {}

    def node(path: tuple[str, ...]) -> _Node:
        if path not in nodes:
            nodes[path] = _Node(path, _FAR.max, _FAR.min)
        return nodes[path]

    names: dict[int, tuple[str, ...]] = {-1: ()}
    when = list(zip(times.begin_wall.tolist(), times.end_wall.tolist(), strict=True))
    own = np.array([share.exclusive for share in shares]).T.tolist()
    known = np.array([share.known for share in shares]).T.tolist()
    high = np.array(peaks).T.tolist()
    for i, parent in parents:
        span = record.spans[i]
        names[i] = names[parent]
        if span.kind == "span" and len(names[i]) < DEPTH:
            names[i] = (*names[i], f"span/{span.name}")
        it = node((*_prefix(span.context, span.epoch), *names[i]))
        it.count += 1
        it.own = [a + b for a, b in zip(it.own, own[i], strict=True)]
        it.open.append(when[i])
        it.widen(*when[i], high[i], known[i])
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
    totals: dict[tuple[str, ...], list[float]] = {}
    for it in reversed(order):
        total = it.own
        for child in it.children:
            it.widen(child.begin, child.end, child.peaks, child.has)
            it.open += child.open
            total = [a + b for a, b in zip(total, totals[child.path], strict=True)]
        totals[it.path] = total
        it.open = _union(it.open)
        it.children.sort(key=lambda n: (n.begin, n.path), reverse=True)
    out: list[Account] = []
    stack = [run]
    while stack:
        it = stack.pop()
        stack += it.children
        kind, _, name = it.path[-1].partition("/") if it.path else ("run", "", "")
        energy, cpu, gpu, gpu_s = (t if has else None for t, has in zip(totals[it.path], it.has, strict=True))
        energy_outside, cpu_outside, gpu_outside, _idle = (
            t if has else None for t, has in zip(it.own, it.has, strict=True))
        memory, gpu_memory = (None if math.isnan(peak) else peak for peak in it.peaks)
        first, last = steps.get(it.path, (None, None))
        out.append(Account(
            it.path, "context" if kind == "ctx" else kind, name,
            next((p[4:] for p in it.path[:1] if p.startswith("ctx/")), None),
            next((int(p[6:]) for p in it.path[:2] if p.startswith("epoch/")), None),
            it.begin, it.end, it.count,
            energy, energy_outside, cpu, cpu_outside, memory, sum(b - a for a, b in it.open) / 1e9, first, last,
            gpu, gpu_outside, None if gpu_s is None else gpu_s / 3600, gpu_memory,
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
