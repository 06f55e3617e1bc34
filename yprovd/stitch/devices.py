"""Which task had which GPUs, as devices that the daemon of its node recorded. Pure.

What a task can use is what its environment says (`yprovd.stitch.gpus`), else which device files it held open, unless
those are all that there are: then it only looked at them. Ranks of a node that see the same several
devices have one each by convention (`torch.cuda.set_device(local_rank)`): that is `assumed`, and only if their local
ranks fit. A rank that sees several by itself has them all. What is not known is an empty set with a reason.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from yprovd.ranks import LAUNCHERS
from yprovd.stitch.gpus import Gpus, devices_on, gpus_on, order_is_unsure, renumbers, seen_by, told
from yprovd.stitch.record import Node, Process, Record

#: A launcher is started by one that stands after it.
_INNERMOST_FIRST = {name: depth for depth, name in enumerate(LAUNCHERS)}


@dataclass(frozen=True)
class TaskDevices:
    """`ids`: devices of its node, in the order in which its runtime numbers them. `how`: "environment"; "opened": it
    held their device files open; "assumed": the environment leaves a choice, `reason` says why these; "": not known,
    `reason` says why. No ids by its environment: it has none."""

    ids: tuple[str, ...]
    how: Literal["environment", "opened", "assumed", ""]
    reason: str = ""


@dataclass(frozen=True)
class _Seat:
    """A task, or a process that belongs to none. `launch`: launcher and what it calls all that it started together.
    `environ`: None when it was not announced. `end`: wall clock, `math.inf` when nobody saw it."""

    node: int
    step: str
    launch: tuple[str, str]
    rank: int | None
    local_rank: int | None
    environ: Mapping[str, str] | None
    begin: int
    end: float
    opened: tuple[str, ...] = ()


def task_devices(record: Record) -> list[TaskDevices]:
    """Of each task of the record. O(tasks log tasks)."""
    return _of_all(record)[0]


def process_devices(record: Record) -> list[TaskDevices]:
    """Of each process that used the client: those of its task; without one, what its own environment says."""
    return _of_all(record)[1]


def owners_of(record: Record) -> dict[tuple[int, str], tuple[int, ...]]:
    """(index in `nodes`, id of a GPU) -> indices of the tasks that had it, by rank. A socket has the tasks of its
    members. Without a key: nobody is known to have had it."""
    tasks = record.tasks
    order = sorted(range(len(tasks)), key=lambda i: (tasks[i].rank, i))
    return _owners(record, [(i, tasks[i].node) for i in order], task_devices(record))


def process_owners_of(record: Record) -> dict[tuple[int, str], tuple[int, ...]]:
    """The same for the processes that used the client, in the order of `Record.processes`, which is by rank."""
    return _owners(record, [(i, p.node) for i, p in enumerate(record.processes)], process_devices(record))


def _owners(
    record: Record, order: Sequence[tuple[int, int]], had: Sequence[TaskDevices]
) -> dict[tuple[int, str], tuple[int, ...]]:
    """`order`: (index, node) of each owner."""
    socket_of: dict[tuple[int, str], str] = {}
    for n, node in enumerate(record.nodes):
        for device in devices_on(node):
            if device.cls == "socket":
                members = str(device.attributes.get("members") or "").split(",")
                socket_of.update({(n, member.strip()): device.id for member in members})
    owners: dict[tuple[int, str], dict[int, None]] = {}
    for i, n in order:
        for name in had[i].ids:
            owners.setdefault((n, name), {})[i] = None
            if (n, name) in socket_of:
                owners.setdefault((n, socket_of[n, name]), {})[i] = None
    return {key: tuple(of_key) for key, of_key in owners.items()}


def _of_all(record: Record) -> tuple[list[TaskDevices], list[TaskDevices]]:
    """Of the tasks, and of the processes."""
    seats: list[_Seat] = []
    places: dict[tuple[object, ...], int] = {}
    owner: dict[int, int] = {}  # of a process: the seat
    for i, task in enumerate(record.tasks):
        own = _environ(record.processes[task.process]) if task.process >= 0 else None
        if task.process >= 0:
            owner[task.process] = i
        places[task.node, task.step, task.launcher, task.rank] = i
        # What the process itself said counts more than what its task was started with: a script may have chosen.
        seats.append(_Seat(
            task.node, task.step, (task.launcher, task.launch), task.rank, task.local_rank,
            task.devices if own is None else own,
            task.begin_wall_ns, math.inf if task.end_wall_ns is None else task.end_wall_ns, task.opened,
        ))
    for i, process in enumerate(record.processes):
        if i in owner:
            continue
        step, launcher = str(process.attributes.get("step") or ""), str(process.attributes.get("launcher") or "")
        place = (process.node, step, launcher, process.rank)
        owner[i] = places[place] if place in places else len(seats)
        if place not in places:
            seats.append(_Seat(process.node, step, ("", str(i)), None, None, _environ(process), 0, math.inf))
    out = _of_seats(record.nodes, seats)
    return out[:len(record.tasks)], [out[owner[i]] for i in range(len(record.processes))]


def _environ(process: Process) -> dict[str, str] | None:
    value = process.attributes.get("devices")
    return {str(k): str(v) for k, v in value.items()} if isinstance(value, dict) else None


def _of_seats(nodes: Sequence[Node], seats: list[_Seat]) -> list[TaskDevices]:
    renumbered = renumbers([*map(told, nodes), *(seat.environ or {} for seat in seats)])
    on_node: dict[int, list[int]] = {}
    for i, seat in enumerate(seats):
        on_node.setdefault(seat.node, []).append(i)
    out = [TaskDevices((), "", "no daemon ran on its node")] * len(seats)
    for n, here in on_node.items():
        if n < 0:
            continue
        gpus = gpus_on(nodes[n], [seats[i].environ or {} for i in here], renumbered)
        agents = _agents(seats, here)
        for i in here:
            out[i] = _of_seat(seats[i], gpus, renumbered)
            if gpus and i in agents:
                out[i] = TaskDevices((), "", "the ranks that it started have them")
        for i, share in _shared_out(seats, here, out).items():
            out[i] = share
    return out


def _of_seat(seat: _Seat, gpus: Sequence[Gpus], renumbered: bool | None) -> TaskDevices:
    """What a process sees, whoever else sees it."""
    if not gpus:
        return TaskDevices((), "environment", "no GPU of its node was recorded")
    environ = seat.environ
    if environ is None:
        return TaskDevices((), "", "its environment was not announced")
    parts = [(g, seen_by(g, environ, seat.step, seat.launch[0], renumbered)) for g in gpus]
    ids = tuple(g.ids[at] for g, seen in parts for at in seen.at or ())
    reason = "; ".join(dict.fromkeys(seen.reason for _g, seen in parts if seen.reason))
    if not ids and any(seen.at is None for _g, seen in parts):
        held = _held(seat, gpus)
        return TaskDevices(held, "opened", reason) if held else TaskDevices((), "", reason)
    if any(order_is_unsure(g, environ, seen) for g, seen in parts):
        return TaskDevices(ids, "assumed", "the order in which CUDA counts the node's unlike GPUs")
    return TaskDevices(ids, "environment", reason)


def _held(seat: _Seat, gpus: Sequence[Gpus]) -> tuple[str, ...]:
    """The recorded devices whose files the task held open; none when these are all of several."""
    files = {"nvidia": "nvidia", "amd": "renderD"}
    named = [(f"{files.get(g.vendor)}{f.minor}", id) for g in gpus for f, id in zip(g.found, g.ids, strict=True)]
    held = tuple(id for file, id in named if file in seat.opened)
    return held if len(held) < len(named) or len(named) == 1 else ()


def _agents(seats: list[_Seat], here: list[int]) -> set[int]:
    """Tasks that are launchers themselves: ranks of another launcher began in their step while they were there."""
    begun: dict[tuple[str, int], list[int]] = {}
    for i in here:
        if (depth := _INNERMOST_FIRST.get(seats[i].launch[0])) is not None:
            begun.setdefault((seats[i].step, depth), []).append(seats[i].begin)
    for times in begun.values():
        times.sort()
    out = set()
    for i in here:
        seat = seats[i]
        for inner in range(_INNERMOST_FIRST.get(seat.launch[0], 0)):
            times = begun.get((seat.step, inner), [])
            at = bisect_left(times, seat.begin)
            if at < len(times) and times[at] <= seat.end:
                out.add(i)
    return out


def _shared_out(seats: list[_Seat], here: list[int], sees: Sequence[TaskDevices]) -> dict[int, TaskDevices]:
    """One each for ranks of a launch that see the same several devices at the same time."""
    groups: dict[tuple[str, tuple[str, str], tuple[str, ...]], list[int]] = {}
    for i in here:
        if len(sees[i].ids) > 1:
            groups.setdefault((seats[i].step, seats[i].launch, sees[i].ids), []).append(i)
    out: dict[int, TaskDevices] = {}
    for (_step, _launch, ids), group in groups.items():
        for together in _at_a_time(seats, group):
            if len({seats[i].rank for i in together}) > 1:
                out |= _one_each(seats, together, ids)
    return out


def _at_a_time(seats: list[_Seat], group: list[int]) -> Iterable[list[int]]:
    """Seats that were there together: a launcher that is started twice starts the same ranks again."""
    end = -math.inf
    out: list[list[int]] = []
    for i in sorted(group, key=lambda i: seats[i].begin):
        if seats[i].begin >= end:
            out.append([])
        out[-1].append(i)
        end = max(end, seats[i].end)
    return out


def _one_each(seats: list[_Seat], together: list[int], ids: tuple[str, ...]) -> dict[int, TaskDevices]:
    ranks = {(seats[i].rank, seats[i].local_rank) for i in together}
    local = {n for _rank, n in ranks if n is not None}
    if len(local) < len(ranks) or max(local) >= len(ids):
        reason = f"{len(ranks)} ranks see the same {len(ids)} devices, and their local ranks do not fit"
        return dict.fromkeys(together, TaskDevices((), "", reason))
    return {i: TaskDevices((ids[n],), "assumed", f"local rank {n} of {len(ranks)} that see the same {len(ids)} devices")
            for i in together if (n := seats[i].local_rank) is not None}
