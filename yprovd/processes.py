"""Processes of this machine: who is one, which belong to a run, and ending them.

A process is named by (pid, start time): a pid alone comes back. It belongs to a run when the run's id stands in its
environment (`YPROV_RUN_ID`), which every descendant inherits, also one that has daemonised and has a new parent.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

from yprovd import __version__

#: The variable that marks the processes of a run.
MARKER = "YPROV_RUN_ID"


class ProcessId(NamedTuple):
    """`start` is field 22 of /proc/<pid>/stat: clock ticks since boot."""

    pid: int
    start: int


def stat_fields(pid: int | str, root: str = "/") -> list[bytes] | None:
    """The fields of /proc/<pid>/stat from `state` (field 3, index 0) on, or None when there is no such process.

    The command name, field 2, may contain spaces and parentheses: everything up to the last `)` is passed over.
    """
    try:
        with open(os.path.join(root, "proc", str(pid), "stat"), "rb", buffering=0) as f:
            data = f.read()
    except OSError:
        return None
    return data[data.rfind(b")") + 2:].split()


def process_id(pid: int, root: str = "/") -> ProcessId | None:
    fields = stat_fields(pid, root)
    return None if fields is None else ProcessId(pid, int(fields[19]))


def is_alive(process: ProcessId, root: str = "/") -> bool:
    """Whether this very process still runs (a zombie does not)."""
    fields = stat_fields(process.pid, root)
    return fields is not None and int(fields[19]) == process.start and fields[0] not in (b"Z", b"X")


def boot_id(root: str = "/") -> str:
    """Names one boot of one machine (also of a container on it)."""
    try:
        with open(os.path.join(root, "proc/sys/kernel/random/boot_id"), encoding="ascii") as f:
            return f.read().strip()
    except OSError:
        return "unknown"


def short_name(host: str) -> str:
    """A host's name without its domain, by which schedulers and hosts call the same node; an address as it is."""
    return host if host.replace(".", "").isdigit() else host.partition(".")[0]


def about_source(role: str) -> dict[str, Any]:
    """What every process that makes frames announces of itself (the common part of a SOURCE frame)."""
    me = process_id(os.getpid())
    return {"role": role, "host": os.uname().nodename, "boot_id": boot_id(), "pid": os.getpid(),
            "start": me.start if me else 0, "software": __version__}


def carries_marker(pid: int | str, run_id: str, root: str = "/") -> bool:
    """Whether the environment that the process was started with names this run. False where it may not be read."""
    try:
        with open(os.path.join(root, "proc", str(pid), "environ"), "rb", buffering=0) as f:
            environ = f.read()
    except OSError:
        return False
    return f"\0{MARKER}={run_id}\0".encode() in b"\0" + environ + b"\0"


def job_processes(run_id: str, root: str = "/") -> Iterator[ProcessId]:
    """Every live process of the run on this machine: those that carry its mark, and their descendants, which may have
    emptied their environment. One that has done so and leads a session of its own has taken its leave on purpose (so
    have the daemons of a run within this run)."""
    start: dict[int, int] = {}
    children: dict[int, list[int]] = {}
    marked: list[int] = []
    for entry in os.listdir(os.path.join(root, "proc")):
        fields = stat_fields(entry, root) if entry.isdigit() else None
        if fields is None or fields[0] in (b"Z", b"X"):
            continue
        pid = int(entry)
        start[pid] = int(fields[19])
        if int(fields[3]) != pid:
            children.setdefault(int(fields[1]), []).append(pid)
        if carries_marker(entry, run_id, root):
            marked.append(pid)
    found: set[int] = set()
    while marked:
        pid = marked.pop()
        if pid not in found and pid != os.getpid():
            found.add(pid)
            marked += children.get(pid, [])
            yield ProcessId(pid, start[pid])


def end_job(run_id: str, *, grace_s: float, poll_s: float = 0.02) -> int:
    """End every process of the run: SIGTERM (and SIGCONT, for the stopped), and SIGKILL for what is left after
    `grace_s`. Blocks until they are gone, at most `grace_s` and one second. Returns how many there were."""
    seen: set[ProcessId] = set()
    deadline = time.monotonic() + grace_s
    last = deadline + 1.0
    while True:
        now = time.monotonic()
        alive = list(job_processes(run_id))
        if not alive or now > last:
            return len(seen)
        for process in alive:
            if now >= deadline:
                _send(process, signal.SIGKILL)
            elif process not in seen:
                _send(process, signal.SIGTERM)
                _send(process, signal.SIGCONT)
            seen.add(process)
        time.sleep(poll_s)


def _send(process: ProcessId, signum: int) -> None:
    try:
        os.kill(process.pid, signum)
    except (ProcessLookupError, PermissionError):
        pass  # it ended meanwhile, or it changed its user and is not ours to end
