"""Who is charged for what the meters counted: a rank, and in it the innermost open span. Pure.

A *line* is a list of processes in the order of rank; at each time what is charged to it belongs to the first of them
that is alive then and has opened spans. The line of a GPU is the processes that own it (`yprovd.stitch.devices`); of
everything else, and of a GPU that nobody is known to own, all processes of the node. A node's energy holds that of its
GPUs: the line of the node is charged for the rest, which may fall below zero for a moment where two meters see a change
at different times. So the parts of a node add up to its figure, whatever its meters say.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from yprovd.stitch.curves import Curve
from yprovd.stitch.energy import NodeEnergy, Window
from yprovd.stitch.meters import Times
from yprovd.stitch.record import F64, I64, Node, Record

Line = tuple[int, ...]


@dataclass
class Charge:
    """What is charged to one line of a node: curves, each with +1 or -1."""

    line: Line
    curves: list[tuple[float, Curve]] = field(default_factory=list)

    def at(self, mono_ns: I64) -> F64:
        out: F64 = np.zeros(len(mono_ns))
        for sign, curve in self.curves:
            out += sign * curve.at(mono_ns)
        return out


class Share:
    """What one kind of meter counted: in all, and in each span alone. `known`: spans that meters belonged to."""

    def __init__(self, spans: int) -> None:
        self.total: float | None = None
        self.exclusive = np.zeros(spans)
        self.known = np.zeros(spans, dtype=bool)

    def inclusive(self, parents: list[tuple[int, int]]) -> F64:
        """With the spans within, NaN where there is no figure."""
        if self.total is None:
            return np.full(len(self.exclusive), np.nan)
        out = self.exclusive.tolist()
        for i, parent in reversed(parents):
            if parent >= 0:
                out[parent] += out[i]
        return np.where(self.known, out, np.nan)


class Ledger:
    """The spans of a record, ready to be charged. `windows`: the run on the clock of each node."""

    def __init__(self, record: Record, times: Times, windows: Sequence[Window | None]) -> None:
        self._record = record
        self._times = times
        self._windows = windows
        self._spans: dict[int, I64] = {}
        by_process: dict[int, list[int]] = {}
        for i, span in enumerate(record.spans):
            by_process.setdefault(span.process, []).append(i)
        on_node: dict[int, list[int]] = {}
        for p in sorted(by_process):  # the order of `Record.processes`: by rank, then by host and pid
            self._spans[p] = np.array(by_process[p])
            on_node.setdefault(record.processes[p].node, []).append(p)
        self._on_node = {n: tuple(line) for n, line in on_node.items()}
        self._timelines: dict[int, tuple[I64, I64]] = {}

    def line_of(self, node: int) -> Line:
        return self._on_node.get(node, ())

    def line_of_owners(self, node: int, owners: Line | None) -> Line:
        """`owners`: processes by rank, None where nobody is known."""
        return self.line_of(node) if not owners else tuple(p for p in owners if p in self._spans)

    def share(self, charges: Iterable[tuple[int, Sequence[Charge]]]) -> Share:
        """(index of a node, what is charged there)."""
        share = Share(len(self._record.spans))
        for n, of_node in charges:
            window = self._windows[n]
            if window is None or not of_node:
                continue
            edges = np.array(window)
            share.total = (share.total or 0.0) + sum(float(np.diff(charge.at(edges))[0]) for charge in of_node)
            for charge in of_node:
                for p, start, stop in self._owned(charge.line, window):
                    share.known[self._spans[p]] = True
                    edges, active = self._timeline(p)
                    amounts = np.diff(charge.at(np.clip(edges, start, stop)))
                    np.add.at(share.exclusive, active[active >= 0], amounts[active >= 0])
        return share

    def _owned(self, line: Line, window: Window) -> list[tuple[int, int, int]]:
        """(process, from, to): whose the meters are in which part of the run, on the monotonic clock."""
        times = self._times
        out: list[tuple[int, int, int]] = []
        free = [window]
        for p in line:
            spans = self._spans[p]
            born = int(times.begin_mono[spans].min())
            gone = max(int(times.end_mono[spans].max()), self._record.processes[p].last_mono_ns)
            left: list[tuple[int, int]] = []
            for start, stop in free:
                low, high = max(start, born), min(stop, gone)
                if low < high:
                    out.append((p, low, high))
                    left += [(a, b) for a, b in ((start, low), (high, stop)) if a < b]
                else:
                    left.append((start, stop))
            free = left
        return out

    def _timeline(self, process: int) -> tuple[I64, I64]:
        if process not in self._timelines:
            self._timelines[process] = timeline_of(self._spans[process], self._times)
        return self._timelines[process]


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
    begun = dict(zip(spans.tolist(), times.begin_mono[spans].tolist(), strict=True))
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


Owners = Mapping[tuple[int, str], Line]


def energy_charges(ledger: Ledger, n: int, energy: NodeEnergy, owners: Owners) -> list[Charge]:
    """The node's energy: of each GPU that somebody owns to its line, the rest to the node's."""
    if energy.total is None:
        return []
    host = Charge(ledger.line_of(n), [(1.0, curve) for curve in energy.total.curves])
    charges = [host]
    for charge in gpu_charges(ledger, n, energy, owners):
        if charge.line != host.line:
            charges.append(charge)
            for _sign, curve in charge.curves:
                if (1.0, curve) in host.curves:
                    host.curves.remove((1.0, curve))
                else:
                    host.curves.append((-1.0, curve))
    return charges


def node_charge(ledger: Ledger, n: int, meter: Curve | None) -> list[Charge]:
    """What is the node's own."""
    return [] if meter is None else [Charge(ledger.line_of(n), [(1.0, meter)])]


def gpu_charges(ledger: Ledger, n: int, energy: NodeEnergy, owners: Owners) -> list[Charge]:
    """The energy of the node's GPUs."""
    by_line: dict[Line, Charge] = {}
    for reading in energy.gpus.readings if energy.gpus is not None else ():
        line = ledger.line_of_owners(n, owners.get((n, reading.device.id)))
        if reading.curve is not None:
            by_line.setdefault(line, Charge(line)).curves.append((1.0, reading.curve))
    return list(by_line.values())


def time_charges(ledger: Ledger, n: int, node: Node, window: Window | None, owners: Owners) -> list[Charge]:
    """How long the node's GPUs were the job's, in seconds, whether they worked or not."""
    gpus = {d.id for s in node.samples for m in s.schema.metrics if (d := m.device) is not None and d.cls == "gpu"}
    if window is None:
        return []
    whole = Curve(np.array(window), np.array([0.0, (window[1] - window[0]) / 1e9]))
    by_line: dict[Line, Charge] = {}
    for device in sorted(gpus):
        line = ledger.line_of_owners(n, owners.get((n, device)))
        by_line.setdefault(line, Charge(line)).curves.append((1.0, whole))
    return list(by_line.values())
