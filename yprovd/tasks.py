"""The tasks of a run on this node: its processes that have a rank of their own.

A task is the topmost process of the run with a given (step, launcher, rank): what slurmstepd, mpirun, torchrun or
another of `yprovd.ranks` started. Its children inherit the variables and are no tasks. A launcher started by a launcher
(torchrun in an srun step) gives two: the agent with Slurm's rank, and its workers with torchrun's.

Rows, as they stand in a TASK frame `{"tasks": [row, ...]}`:

    {"e": "begin", t, id, pid, start, started_ns, step, launcher, launch?, rank, local_rank, world_size, cpus,
     devices, program}
    {"e": "opened", t, id, files}
    {"e": "end", t, id, seen?}

`t` is when it was noticed, `started_ns` when it was started, both CLOCK_MONOTONIC; the latter comes from field 22 of
/proc/<pid>/stat, which counts ticks of CLOCK_BOOTTIME (10 ms), less what the two clocks differ by now. `step` is
`<job>.<step>` or "", `launch` how the launcher calls all that it started together. `cpus` is what the kernel allowed
when it was noticed. An end with `seen` was noticed by looking: the task was last there at that time; without, the
kernel said so when it happened. `files`: device files of accelerators that the task or a child of its rank held open,
such as `nvidia4`, `renderD131`: where a device cgroup numbers the GPUs from 0 in every task, nothing else says which
they are. `id` is `<pid>-<start>`: a daemon that was started again names the same task in the
same way.
"""

from __future__ import annotations

import heapq
import os
import re
import select
import time
from typing import Any, NamedTuple

from yprovd.processes import MARKER, stat_fields
from yprovd.ranks import devices_of, job_environment, launch_of, step_of

#: Tasks remembered; and those of them of which the kernel tells the end (a file descriptor each).
MOST, MOST_FDS = 4096, 512
#: A process that is new is looked at again, and again after that: it may have been between fork and exec, where the
#: daemon of a scheduler keeps the ranks until all are there.
AGAIN_NS = (400_000_000, 1_200_000_000)
#: When a task that may use accelerators is looked at for those that it has opened: a runtime opens them some seconds
#: after the start, and a compiler may run first (ns after the begin).
OPENED_NS = tuple(s * 1_000_000_000 for s in (5, 15, 45, 120, 360))
_ACCELERATOR = re.compile(r"/dev/(?:dri/)?((?:nvidia|renderD)\d+)")
_LONGEST = 200
_INTERPRETERS = re.compile(r"(python|pypy|(ba|da|z|k|c|tc)?sh|perl|ruby|Rscript|julia|node|java)[\d.]*")
_WITH_VALUE = ("-X", "-W", "-o", "-cp", "-classpath", "--project")


class _Key(NamedTuple):
    step: str
    launcher: str
    rank: int


class _Task(NamedTuple):
    id: str
    fd: int  # -1: the kernel does not tell
    key: _Key


class TaskWatch:
    """Looks for the tasks of one run. Not thread-safe.

    `look()` is to be called about once a second. `fileno()` becomes readable when a task has ended: call `ended()`
    then, and its end is known to the millisecond. `root` is the directory that holds `proc`.
    """

    def __init__(self, root: str, run_id: str) -> None:
        self._root = root
        self._proc = os.path.join(root, "proc")
        self._marker = f"\0{MARKER}={run_id}\0".encode()
        self._seen: set[str] = set()
        self._again: dict[str, tuple[int, int]] = {}  # when, for the how manieth time
        self._keys: dict[str, _Key | None] = {}  # processes of the run, with or without a rank
        self._known: dict[_Key, None] = {}  # announced, in this order
        self._tasks: dict[str, _Task] = {}
        self._by_fd: dict[int, str] = {}
        self._looked_ns = 0
        self._open_due: list[tuple[int, int, str]] = []  # when, for the how manieth time, which process
        self._ends = select.epoll()

    def fileno(self) -> int:
        return self._ends.fileno()

    def close(self) -> None:
        for fd in self._by_fd:
            os.close(fd)
        self._by_fd.clear()
        self._ends.close()

    def look(self, now_ns: int) -> list[dict[str, Any]]:
        """What began and what ended since the last look. `now_ns`: CLOCK_MONOTONIC. Reads of a process only when it is
        new, and twice more within two seconds. Does not raise; a process that goes meanwhile was none."""
        rows = self.ended(now_ns)
        try:
            names = set(os.listdir(self._proc))
        except OSError:
            return rows
        for name in self._seen - names:
            self._again.pop(name, None)
            self._keys.pop(name, None)
            task = self._tasks.pop(name, None)
            if task is not None:
                self._forget_fd(task.fd)
                rows.append({"e": "end", "t": now_ns, "id": task.id, "seen": self._looked_ns})
        new = [name for name in names - self._seen if name.isdigit()]
        due = [name for name, (t, _time) in self._again.items() if t <= now_ns]
        for name in due:
            _t, time_ = self._again.pop(name)
            if time_ + 1 < len(AGAIN_NS):
                self._again[name] = now_ns + AGAIN_NS[time_ + 1], time_ + 1
        self._seen = names
        self._looked_ns = now_ns
        if new or due:
            for name in new:
                self._again[name] = now_ns + AGAIN_NS[0], 0
            rows += self._begun(new + due, now_ns)
        while self._open_due and self._open_due[0][0] <= now_ns:
            _due, time_, name = heapq.heappop(self._open_due)
            rows += self._opened(name, time_, now_ns)
        return rows

    def processes(self) -> list[str]:
        """The numbers of the run's processes that were seen at the last look, ranks or not."""
        return sorted(self._keys, key=int)

    def ended(self, now_ns: int) -> list[dict[str, Any]]:
        """The tasks that have ended by now, those of which the kernel tells it. Two microseconds when there is none."""
        rows: list[dict[str, Any]] = []
        for fd, _event in self._ends.poll(0):
            name = self._by_fd[fd]
            self._forget_fd(fd)
            self._keys.pop(name, None)
            self._again[name] = now_ns, len(AGAIN_NS)  # the number may be somebody else's by now
            rows.append({"e": "end", "t": now_ns, "id": self._tasks.pop(name).id})
        return rows

    def _begun(self, names: list[str], now_ns: int) -> list[dict[str, Any]]:
        candidates: list[tuple[int, str, int, _Key, dict[str, str]]] = []
        for name in names:
            environ = self._place(name)
            key = self._keys.get(name)
            if environ is None or key is None or name in self._tasks:
                continue
            fields = stat_fields(name, self._root)
            if fields is not None and fields[0] not in (b"Z", b"X"):
                candidates.append((int(fields[19]), name, int(fields[1]), key, environ))
        rows = []
        for start, name, parent, key, environ in sorted(candidates, key=lambda c: (c[0], int(c[1]))):
            if len(self._tasks) < MOST and self._is_task(key, str(parent)):
                self._again.pop(name, None)
                self._known[key] = None
                if len(self._known) > MOST:
                    del self._known[next(iter(self._known))]
                task = _Task(f"{name}-{start}", self._open_fd(name), key)
                self._tasks[name] = task
                rows.append(self._row(name, task.id, start, key, environ, now_ns))
                if rows[-1]["devices"]:
                    heapq.heappush(self._open_due, (now_ns + OPENED_NS[0], 0, name))
        return rows

    def _opened(self, name: str, time_: int, now_ns: int) -> list[dict[str, Any]]:
        """What the task and its children have open; if that is nothing yet, it is looked at again later."""
        task = self._tasks.get(name)
        if task is None:
            return []
        files: set[str] = set()
        for other in [other for other, key in self._keys.items() if key == task.key]:
            folder = f"{self._proc}/{other}/fd"
            try:
                for fd in os.listdir(folder):
                    if match := _ACCELERATOR.fullmatch(os.readlink(f"{folder}/{fd}")):
                        files.add(match[1])
            except OSError:
                continue  # it has gone, or is not ours to look at
        if files:
            return [{"e": "opened", "t": now_ns, "id": task.id, "files": sorted(files)}]
        if time_ + 1 < len(OPENED_NS):
            heapq.heappush(self._open_due, (now_ns + OPENED_NS[time_ + 1] - OPENED_NS[time_], time_ + 1, name))
        return []

    def _place(self, name: str) -> dict[str, str] | None:
        """The environment of a process of the run, and its place noted; None for any other process."""
        try:
            with open(f"{self._proc}/{name}/environ", "rb", buffering=0) as f:
                data = b"\0" + f.read() + b"\0"
        except OSError:
            data = b""
        if self._marker not in data:
            self._keys.pop(name, None)
            return None
        lines = data.decode("utf-8", "surrogateescape").split("\0")
        environ = dict(line.split("=", 1) for line in lines if "=" in line)
        job = job_environment(environ)
        self._keys[name] = None if job.rank is None else _Key(step_of(environ), job.launcher, job.rank)
        return environ

    def _is_task(self, key: _Key, parent: str) -> bool:
        """Whether a process with this key is the topmost. One whose parent is gone may be a daemonised child of a task
        that is known: only a launcher that belongs to the run (mpirun, torchrun) starts a rank a second time."""
        if parent in self._again and parent in self._keys:
            self._place(parent)  # it may have been between fork and exec
        return self._keys.get(parent) != key and (parent in self._keys or key not in self._known)

    def _row(
        self, name: str, task: str, start: int, key: _Key, environ: dict[str, str], now_ns: int
    ) -> dict[str, Any]:
        job = job_environment(environ)
        asleep_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME) - time.clock_gettime_ns(time.CLOCK_MONOTONIC)
        started_ns = start * 1_000_000_000 // os.sysconf("SC_CLK_TCK") - asleep_ns
        launch = launch_of(environ, key.launcher)[:_LONGEST]
        return {
            "e": "begin", "t": now_ns, "id": task, "pid": int(name), "start": start,
            "started_ns": min(started_ns, now_ns), "step": key.step, "launcher": key.launcher,
            **({"launch": launch} if launch else {}), "rank": key.rank, "local_rank": job.local_rank,
            "world_size": job.world_size, "cpus": self._cpus(name), "devices": devices_of(environ),
            "program": program_of(self._read(name, "cmdline").split(b"\0")),
        }

    def _cpus(self, name: str) -> str:
        _, _, rest = self._read(name, "status").partition(b"\nCpus_allowed_list:")
        return rest.partition(b"\n")[0].strip().decode("ascii", "replace")

    def _read(self, name: str, file: str) -> bytes:
        try:
            with open(f"{self._proc}/{name}/{file}", "rb", buffering=0) as f:
                return f.read()
        except OSError:
            return b""

    def _open_fd(self, name: str) -> int:
        """Ask the kernel to tell the end; -1 where it cannot (Linux before 5.3, no descriptor left, a fixture)."""
        if self._root != "/" or len(self._by_fd) >= MOST_FDS:
            return -1
        try:
            fd = os.pidfd_open(int(name))
        except (OSError, AttributeError):
            return -1
        self._ends.register(fd, select.EPOLLIN)
        self._by_fd[fd] = name
        return fd

    def _forget_fd(self, fd: int) -> None:
        if fd >= 0:
            self._by_fd.pop(fd, None)
            self._ends.unregister(fd)
            os.close(fd)


def program_of(argv: list[bytes]) -> str:
    """What a command line runs, without folders and arguments: `a.out`, `python train.py`, `python -m torchrun`."""
    words = [a.decode("utf-8", "surrogateescape") for a in argv]
    while words and not words[-1]:
        words.pop()
    if not words:
        return ""
    name = os.path.basename(words[0].removeprefix("-"))
    if _INTERPRETERS.fullmatch(name):
        name = " ".join([name, *_script(words[1:])])
    return name[:_LONGEST]


def _script(words: list[str]) -> list[str]:
    rest = iter(words)
    for word in rest:
        if word in ("-c", "-e"):
            break
        if word == "-m":
            return [word, *list(rest)[:1]]
        if word in _WITH_VALUE:
            next(rest, None)
        elif not word.startswith("-"):
            return [os.path.basename(word)]
    return []
