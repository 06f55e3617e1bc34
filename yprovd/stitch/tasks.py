"""The tasks of the record: what the node daemons saw of the run's ranks, and what those that use the client said. Pure.

A daemon that was started again announces its tasks again; they are one by (host, boot, pid, start). A process that uses
the client belongs to the task that it is, or to that of the same step, launcher and rank on its host (a task is often a
shell, and the client in its child). One that no daemon saw is a task by its own word, if it has a rank.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from yprovd.wire import Frame

if TYPE_CHECKING:
    from yprovd.stitch.record import Process

#: (source, frame, object), in the order of time.
Frames = Iterable[tuple[int, Frame, dict[str, Any]]]
#: What a row that is none raises while it is taken apart.
_NONSENSE = (ValueError, KeyError, TypeError, AttributeError, OverflowError)


@dataclass
class Task:
    """One process with a rank of its own. `node` indexes `Record.nodes` and `process` `Record.processes`, -1 without.
    `step`: Slurm's `<job>.<step>`, or "". `launch`: how its launcher calls all that it started together, or "".
    `opened`: device files of accelerators that it held open. `end_*` is None when nobody saw the end; `seen_wall_ns`
    is when it was last known to be there (its end, or up to a second before)."""

    host: str
    boot_id: str
    node: int
    pid: int
    start: int
    step: str
    launcher: str
    rank: int
    local_rank: int | None
    world_size: int | None
    cpus: str
    devices: dict[str, str]
    program: str
    begin_mono_ns: int
    begin_wall_ns: int
    end_mono_ns: int | None = None
    end_wall_ns: int | None = None
    seen_wall_ns: int | None = None
    process: int = -1
    launch: str = ""
    opened: tuple[str, ...] = ()


@dataclass
class _Tasks:
    """Tasks in the making."""

    nodes: Mapping[tuple[str, str], int]
    all: list[Task] = field(default_factory=list)
    by_id: dict[tuple[str, str, str], Task] = field(default_factory=dict)
    by_place: dict[tuple[str, str, str, str, int], list[Task]] = field(default_factory=dict)

    def begun(self, host: str, boot_id: str, row: Mapping[str, Any], begin_ns: int, offset_ns: int) -> Task:
        task = Task(
            host, boot_id, self.nodes.get((host, boot_id), -1), _whole(row["pid"]), _whole(row["start"]),
            str(row.get("step") or ""), str(row.get("launcher") or ""), _whole(row["rank"]),
            _number(row.get("local_rank")), _number(row.get("world_size")), str(row.get("cpus") or ""),
            {str(k): str(v) for k, v in dict(row.get("devices") or {}).items()}, str(row.get("program") or ""),
            begin_ns, begin_ns + offset_ns, launch=str(row.get("launch") or ""),
        )
        same = self.by_id.setdefault((host, boot_id, f"{task.pid}-{task.start}"), task)
        if same is task:
            self.all.append(task)
            place = (host, boot_id, task.step, task.launcher, task.rank)
            self.by_place.setdefault(place, []).append(task)
        return same


def tasks_of(
    rows: Frames, announcements: Frames, sources: Mapping[int, Mapping[str, Any]], processes: list[Process],
    nodes: Mapping[tuple[str, str], int], damaged: Callable[[Any], None],
) -> list[Task]:
    """All tasks, by time. `rows`: TASK frames, `announcements`: SOURCE frames; `damaged` is told of each row that is
    none."""
    tasks = _Tasks(nodes)
    for source, frame, value in rows:
        about = sources.get(source)
        listed = value.get("tasks")
        if about is None or not isinstance(listed, list):
            damaged(value)
            continue
        for row in listed:
            try:
                _take(tasks, about["host"], about["boot_id"], row, frame.wall_ns - frame.mono_ns)
            except _NONSENSE:
                damaged(row)
    index = {p.source: i for i, p in enumerate(processes)}
    firsts: dict[int, Frame] = {}
    for source, frame, _value in announcements:
        if source in index:
            firsts.setdefault(source, frame)
    for source in sorted(firsts, key=lambda s: index[s]):
        try:
            _join(tasks, firsts[source], sources[source], index[source], processes[index[source]])
        except _NONSENSE:
            damaged(sources[source])
    return sorted(tasks.all, key=lambda t: (t.begin_wall_ns, t.rank, t.host, t.boot_id, t.pid, t.start))


def _take(tasks: _Tasks, host: str, boot_id: str, row: Mapping[str, Any], offset_ns: int) -> None:
    t = _whole(row["t"])
    if row["e"] == "begin":
        started = row.get("started_ns")
        tasks.begun(host, boot_id, row, t if started is None else _whole(started), offset_ns)
    elif row["e"] == "opened":
        task = tasks.by_id.get((host, boot_id, str(row["id"])))
        if task is not None:
            task.opened = tuple(str(name) for name in row["files"])
    elif row["e"] == "end":
        task = tasks.by_id.get((host, boot_id, str(row["id"])))
        if task is not None and task.end_mono_ns is None:
            task.end_mono_ns, task.end_wall_ns = t, t + offset_ns
            task.seen_wall_ns = _whole(row.get("seen") or t) + offset_ns


def _join(tasks: _Tasks, frame: Frame, about: Mapping[str, Any], number: int, process: Process) -> None:
    """Give a process of the client to its task."""
    host, boot_id, rank = process.host, process.boot_id, process.rank
    task = tasks.by_id.get((host, boot_id, f"{process.pid}-{about.get('start')}"))
    if task is None and rank is not None:
        place = (host, boot_id, str(about.get("step") or ""), str(about.get("launcher") or ""), rank)
        known = tasks.by_place.get(place, ())
        task = next((t for t in reversed(known) if t.begin_wall_ns <= frame.wall_ns), None)
        if task is None:
            row = {**about, "rank": rank, "program": os.path.basename(str((about.get("argv") or [""])[0]))}
            task = tasks.begun(host, boot_id, row, frame.mono_ns, frame.wall_ns - frame.mono_ns)
            if process.logged is not None:
                task.end_mono_ns, task.end_wall_ns = process.last_mono_ns, process.last_wall_ns
                task.seen_wall_ns = task.end_wall_ns
    if task is not None and task.process < 0:
        task.process = number


def _number(value: Any) -> int | None:
    return None if value is None else _whole(value)


def _whole(value: Any) -> int:
    """An integer that an array and a calendar can hold. Raises ValueError."""
    number = int(value)
    if abs(number) >= 1 << 62:
        raise ValueError(f"{number} is no number of this format")
    return number
