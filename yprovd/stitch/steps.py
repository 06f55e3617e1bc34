"""The steps of a run: each `srun`, `mpirun` or `torchrun` of the wrapped command, with its ranks, nodes, programs,
times and what it cost. A step is called as Slurm calls it, where Slurm started any of its ranks, and else by its
launcher and a number, in the order of time: `openmpi.0`.

A step costs what the meters of its nodes counted between its first begin and its last end. Steps are another cut
through the run than contexts and spans: where two of them share a node at one time, the meters cannot tell them apart,
each has the whole figure and is marked `shared`, and their sum says nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from yprovd.ranks import DEVICES, LAUNCHERS, ranges
from yprovd.stitch.document import qname
from yprovd.stitch.energy import NodeEnergy, weakest
from yprovd.stitch.facts import host_list, lines_of, whole
from yprovd.stitch.meters import Meter, Peaks, window_of
from yprovd.stitch.record import Record
from yprovd.stitch.tasks import Task

#: Programs that a label names; the others are in the text of the layout.
MOST_NAMES = 3
_ORDER = {launcher: i for i, launcher in enumerate(LAUNCHERS)}


@dataclass(frozen=True)
class Step:
    """`begin_ns`, `end_ns`: wall clock, first task's begin to last task's end; a task whose end nobody saw
    (`endless` of them) lasts as long as its node was heard of. `programs`: one line per program, with its ranks when
    there are several (MPMD). `layout`: one line per kind of node. `coverage`: the part of the step's nodes and time
    for which there are readings of energy meters. None is absent, never 0."""

    id: str
    name: str
    begin_ns: int
    end_ns: int
    rank_count: int
    world_size: int | None
    launcher: str
    nodes: tuple[str, ...]
    programs: tuple[str, ...]
    layout: tuple[str, ...]
    endless: int
    shared: bool
    energy_j: float | None
    coverage: float | None
    cpu_s: float | None
    memory_peak_bytes: float | None
    energy_method: str = "measured"
    gpu_energy_j: float | None = None

    def attributes(self) -> dict[str, Any]:
        """What prov.json says of it."""
        return {
            "prov:label": f"step {self.id}" + (f": {self.name}" if self.name else ""), "yp:type": qname("yp:Step"),
            "yp:stepId": self.id, "yp:rankCount": self.rank_count, "yp:worldSize": self.world_size,
            "yp:launcher": self.launcher, "yp:nodeCount": len(self.nodes), "yp:nodeList": host_list(self.nodes),
            "yp:programs": lines_of(self.programs), "yp:layout": lines_of(self.layout),
            "yp:tasksWithoutEnd": self.endless or None, "yp:durationSeconds": (self.end_ns - self.begin_ns) / 1e9,
            "yp:energyJ": self.energy_j, "yp:energyMethod": "absent" if self.energy_j is None else self.energy_method,
            "yp:gpuEnergyJ": self.gpu_energy_j,
            "yp:coverage": self.coverage, "yp:cpuSeconds": self.cpu_s,
            "yp:peakMemoryBytes": whole(self.memory_peak_bytes), "yp:shared": self.shared or None,
        }


@dataclass
class _Times:
    """When a step was on one node: `certain` is the last time it was known to be there."""

    begin: int
    end: int
    certain: int


def steps_of(
    record: Record, energy: Sequence[NodeEnergy], cpu: Sequence[Meter | None], begin_ns: int, end_ns: int
) -> list[Step]:
    """The steps in the order of time; none for a run without ranks. `energy`, `cpu`: of `Record.nodes`; `begin_ns`,
    `end_ns`: the run, outside of which nothing is counted."""
    by_step = _by_step(record.tasks)
    if not by_step:
        return []
    last_heard = [max((int(s.wall_ns[-1]) for s in n.samples if len(s.wall_ns)), default=end_ns) for n in record.nodes]
    steps = list(by_step)
    places = [_places(by_step[step], last_heard, begin_ns, end_ns) for step in steps]
    windows = [(min(t.begin for t in p.values()), max(t.end for t in p.values())) for p in places]
    shared = _shared(places)
    on_node: dict[int, list[int]] = {}
    for i, place in enumerate(places):
        for _host, _boot, node in place:
            on_node.setdefault(node, []).append(i)
    joules, covered = _counted(record, [e.total for e in energy], on_node, windows)
    gpu_joules, _ = _counted(record, [e.gpus for e in energy], on_node, windows)
    seconds, _ = _counted(record, cpu, on_node, windows)
    peaks: dict[tuple[int, ...], Peaks | None] = {}
    out = []
    for i, step in enumerate(steps):
        nodes = tuple(sorted(node for _host, _boot, node in places[i] if node >= 0))
        if nodes not in peaks:
            peaks[nodes] = Peaks.of([record.nodes[n] for n in nodes])
        memory = peaks[nodes]
        begin, end = windows[i]
        out.append(Step(
            id=step, begin_ns=begin, end_ns=end, nodes=tuple(sorted({host for host, _boot, _node in places[i]})),
            endless=sum(t.end_wall_ns is None for t in by_step[step]), shared=i in shared,
            energy_j=joules.get(i), coverage=covered[i] / len(places[i]) if i in joules else None,
            cpu_s=seconds.get(i), memory_peak_bytes=_peak(memory, begin, end), gpu_energy_j=gpu_joules.get(i),
            energy_method=weakest(t.method for n in nodes if (t := energy[n].total) is not None), **_who(by_step[step]),
        ))
    return sorted(out, key=lambda s: (s.begin_ns, s.end_ns, s.id))


@dataclass
class _Launch:
    """One launch of a launcher outside of any step of Slurm's: the step it becomes, and who was in it so far."""

    step: str
    ranks: set[int]
    last_ns: float

    def may_have(self, task: Task) -> bool:
        """No rank twice, and not all of the others had gone before."""
        return task.rank not in self.ranks and task.begin_wall_ns < self.last_ns

    def add(self, task: Task) -> None:
        self.ranks.add(task.rank)
        self.last_ns = max(self.last_ns, float("inf") if task.end_wall_ns is None else task.end_wall_ns)


def _by_step(tasks: list[Task]) -> dict[str, list[Task]]:
    """By id, from tasks in the order of time. `mpirun` starts ranks on its own node itself, where they are in no step
    of Slurm's, and those on other nodes by `srun`: they are one."""
    out: dict[str, list[Task]] = {}
    named: dict[tuple[str, str], str] = {}  # (launcher, launch): the step
    for task in tasks:
        if task.step:
            out.setdefault(task.step, []).append(task)
            if task.launch:
                named.setdefault((task.launcher, task.launch), task.step)
    numbers: dict[str, int] = {}
    nameless: dict[tuple[str, int | None], list[_Launch]] = {}
    for task in tasks:
        if task.step or not task.launcher:
            continue
        name = (task.launcher, task.launch)
        launches = nameless.setdefault((task.launcher, task.world_size), [])
        known = None if task.launch else next((x for x in launches if x.may_have(task)), None)
        step = known.step if known else named.get(name) if task.launch else None
        if step is None:
            number = numbers[task.launcher] = numbers.get(task.launcher, -1) + 1
            step = f"{task.launcher}.{number}"
            if task.launch:
                named[name] = step
            else:
                launches.append(known := _Launch(step, set(), 0.0))
        if known is not None:
            known.add(task)
        out.setdefault(step, []).append(task)
    return out


def _places(
    tasks: list[Task], last_heard: list[int], begin_ns: int, end_ns: int
) -> dict[tuple[str, str, int], _Times]:
    """Where a step was, and when: by host, boot and index of the node."""
    out: dict[tuple[str, str, int], _Times] = {}
    for task in tasks:
        begin = min(max(task.begin_wall_ns, begin_ns), end_ns)
        end = task.end_wall_ns
        if end is None:
            end = last_heard[task.node] if task.node >= 0 else end_ns
        end = max(begin, min(end, end_ns))
        certain = max(begin, min(end, task.seen_wall_ns or end))
        times = out.setdefault((task.host, task.boot_id, task.node), _Times(begin, end, certain))
        times.begin, times.end = min(times.begin, begin), max(times.end, end)
        times.certain = max(times.certain, certain)
    return out


def _shared(places: list[dict[tuple[str, str, int], _Times]]) -> set[int]:
    """The steps that were on a node together with another one."""
    by_host: dict[tuple[str, str, int], list[tuple[int, int, int]]] = {}
    for i, place in enumerate(places):
        for where, times in place.items():
            by_host.setdefault(where, []).append((times.begin, times.certain, i))
    out: set[int] = set()
    for stays in by_host.values():
        last, holder = 0, -1  # of the steps so far, the one that stays longest
        for begin, certain, i in sorted(stays):
            if begin < last:
                out |= {i, holder}
            if certain > last:
                last, holder = certain, i
    return out


def _counted(
    record: Record, meters: Sequence[Meter | None], on_node: dict[int, list[int]], windows: list[tuple[int, int]]
) -> tuple[dict[int, float], dict[int, float]]:
    """What the meters of its nodes counted in each step, and how many nodes' worth of its time they cover. Steps
    without a reading have no figure."""
    amounts: dict[int, float] = {}
    covered: dict[int, float] = {}
    for node, steps in on_node.items():
        meter = meters[node] if node >= 0 else None
        if meter is None:
            continue
        edges = [window_of(record.nodes[node], *windows[i]) for i in steps]
        readings = meter.at(np.array([t for edge in edges for t in edge or (0, 0)], dtype=np.int64))
        for k, (i, edge) in enumerate(zip(steps, edges, strict=True)):
            part = meter.covers(*edge) if edge is not None else 0.0
            if part > 0:
                amounts[i] = amounts.get(i, 0.0) + float(readings[2 * k + 1] - readings[2 * k])
                covered[i] = covered.get(i, 0.0) + part
    return amounts, covered


def _peak(memory: Peaks | None, begin: int, end: int) -> float | None:
    return float(memory.between(np.array([begin]), np.array([end]))[0]) if memory else None


def _who(tasks: list[Task]) -> dict[str, Any]:
    """Ranks, programs and layout. The ranks are those of the innermost launcher: the workers of torchrun, where that
    is what each of Slurm's tasks is."""
    launcher = min({t.launcher for t in tasks}, key=lambda name: (_ORDER.get(name, len(_ORDER)), name))
    ranks = [t for t in tasks if t.launcher == launcher]
    programs: dict[str, set[int]] = {}
    for task in sorted(ranks, key=lambda t: t.rank):
        programs.setdefault(task.program, set()).add(task.rank)
    names = [_short(program) for program in programs if program]
    more = len(names) - MOST_NAMES
    lines = list(programs)
    if len(programs) > 1:
        lines = [f"{p or '?'}: {'rank' if len(own) == 1 else 'ranks'} {ranges(own)}" for p, own in programs.items()]
    return {
        "name": ", ".join(names[:MOST_NAMES]) + (f" and {more} more" if more > 0 else ""),
        "rank_count": len({t.rank for t in ranks}), "launcher": launcher,
        "world_size": max((t.world_size for t in ranks if t.world_size is not None), default=None),
        "programs": tuple(lines), "layout": _layout(ranks),
    }


def _short(program: str) -> str:
    """`python train.py` is called `train.py`."""
    return program.partition(" ")[2].removeprefix("-m ") or program


def _layout(ranks: list[Task]) -> tuple[str, ...]:
    """`n[1-4]: 2 ranks each, 4 CPUs and 1 device per rank`: nodes of a kind together, the first rank's kind first."""
    by_host: dict[str, dict[int, Task]] = {}
    for task in ranks:
        by_host.setdefault(task.host, {})[task.rank] = task
    kinds: dict[tuple[int, int, int], list[str]] = {}
    for host, own in sorted(by_host.items(), key=lambda item: (min(item[1]), item[0])):
        cpus = {_cpu_count(t.cpus) for t in own.values()}
        devices = {_device_count(t.devices) for t in own.values()}
        kind = (len(own), cpus.pop() if len(cpus) == 1 else 0, devices.pop() if len(devices) == 1 else 0)
        kinds.setdefault(kind, []).append(host)
    out = []
    for (count, cpu, device), hosts in kinds.items():
        each = [f"{n} {word}{'s' if n > 1 else ''}" for n, word in ((cpu, "CPU"), (device, "device")) if n]
        out.append(f"{host_list(hosts)}: {count} rank{'s' if count > 1 else ''}{' each' if len(hosts) > 1 else ''}"
                   + (f", {' and '.join(each)}{' per rank' if count > 1 else ''}" if each else ""))
    return tuple(out)


def _cpu_count(cpus: str) -> int:
    """`0-3,8` are 5; 0 for what is no such list."""
    total = 0
    for part in cpus.split(","):
        first, _, last = part.partition("-")
        if not first.isdecimal() or (last and not last.isdecimal()):
            return 0
        total += int(last or first) - int(first) + 1
    return total


def _device_count(devices: Mapping[str, str]) -> int:
    """The least of what the variables allow."""
    return min((sum(1 for d in text.split(",") if d) for name, text in devices.items() if name in DEVICES), default=0)
