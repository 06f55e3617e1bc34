"""The processes of the job on this node, summed. Sources: /proc/<pid>/stat, io and smaps_rollup (proc(5)).

A process belongs to the job when its parent does, or when its environment carries the run's mark. Sums never
step back when a process ends. CPU time: T(p) = utime + stime + cutime + cstime, where the last two hold the
children that p has waited for, those too that were never seen here. The total is T of what lives, and what
was lost: when a process vanishes, the growth of its parent's cutime + cstime covers its T, and only what that
does not cover (an orphan, a parent that ignores SIGCHLD) is added to the losses. A parent's io holds that of
its reaped children in the same way.
"""

from __future__ import annotations

import errno
import math
import os
import time
from collections.abc import Callable, Sequence

from yprovd.errors import SensorUnavailable
from yprovd.model import Metric
from yprovd.processes import carries_marker, stat_fields
from yprovd.sensors import Surroundings
from yprovd.sensors.files import KeptFile

_TICK = 1.0 / os.sysconf("SC_CLK_TCK")
_PAGE = float(os.sysconf("SC_PAGE_SIZE"))
_NO_IO = (0, 0, 0, 0)

#: Processes whose files stay open. The others of a crowded node are opened at every tick: descriptors are
#: 1024.
_KEPT = 200

#: A process just forked still has its parent's environment (slurmstepd keeps its children waiting before they
#: become the task), so one without the mark is looked at again at the next two ticks, and after these times
#: (s).
_LOOK_AGAIN_S = (0.0, 0.0, 1.0, 2.0, 4.0, 8.0, 16.0)

#: The processes are listed at least so often (s): in a container with lxcfs, /proc/loadavg lags behind.
_LIST_PERIOD_S = 5.0

#: smaps_rollup holds the mmap lock of the training while it looks at every page: seldom (s), and briefly (s).
#: One read cannot be cut short, so that a round is not begun when the pages, at 33 ns each (measured, warm),
#: are too many.
_PSS_FIRST_S, _PSS_PERIOD_S, _PSS_BUDGET_S, _PSS_PER_PAGE_S = 2.0, 30.0, 0.020, 33e-9

#: A thread of the kernel (PF_KTHREAD in field 9 of stat). Not "a child of 2": in a container that is anyone.
_KERNEL_THREAD = 0x00200000

#: The pass over all processes is repeated until none vanished during it. A fork bomb may not hold up the
#: tick.
_PASSES = 4

_METRICS = (
    Metric("process.cpu.time", "s", "counter", "CPU time of the job's processes, ended ones included", 0.01),
    Metric("process.memory.rss", "By", "gauge", "Resident memory, shared pages counted repeatedly", 1024),
    Metric("process.memory.pss", "By", "gauge", "Resident memory, shared pages divided up; each 30 s", 1024),
    Metric("process.count", "{process}", "gauge", "Live processes of the job", 1),
    Metric("process.threads", "{thread}", "gauge", "Their threads", 1),
    Metric("process.io.read", "By", "counter", "Bytes read by system calls, from anything", 1),
    Metric("process.io.write", "By", "counter", "Bytes written by system calls", 1),
    Metric("process.disk.read", "By", "counter", "Bytes fetched from block devices", 1),
    Metric("process.disk.write", "By", "counter", "Bytes sent to block devices", 1),
)


class _Process:
    """One process, as it was at its last `refresh()`. Times in clock ticks."""

    __slots__ = (
        "_io_file", "_stat", "cpu", "io", "pid", "ppid", "reaped", "rss", "start", "state", "threads")

    def __init__(self, pid: str, start: int, root: str, *, keep: bool) -> None:
        self.pid, self.start, self.ppid, self.state = pid, start, "", b""
        self.cpu = self.reaped = self.rss = self.threads = 0
        self.io: tuple[int, ...] | None = None
        self._stat = KeptFile(os.path.join(root, "proc", pid, "stat"), 1024, keep=keep)
        self._io_file = KeptFile(os.path.join(root, "proc", pid, "io"), 512, keep=keep)

    def refresh(self) -> bool:
        """False when this very process is gone. After any other error it stays what it was."""
        try:
            data = self._stat.read()
            fields = data[data.rfind(b")") + 2:].split(None, 22)
            # X: its parent is waiting for it at this moment, and has its time already.
            if int(fields[19]) != self.start or fields[0] == b"X":
                return False
        except OSError as e:
            return e.errno not in (errno.ENOENT, errno.ESRCH)
        except (ValueError, IndexError):
            return False
        self.state, self.ppid = fields[0], fields[1].decode()
        self.reaped = int(fields[13]) + int(fields[14])
        self.cpu = int(fields[11]) + int(fields[12]) + self.reaped
        self.threads, self.rss = int(fields[17]), int(fields[21])
        try:
            io = self._io_file.read().split(None, 12)
            self.io = int(io[1]), int(io[3]), int(io[9]), int(io[11])
        except (OSError, ValueError, IndexError):
            pass  # another user's, or not dumpable
        return True

    def close(self) -> None:
        self._stat.close()
        self._io_file.close()


class ProcessesSensor:
    """Counters start at 0 before the job's first process. PSS is NaN until its first round, and when a round
    would take too long; `io` is NaN when no process lets us read it."""

    name = "processes"
    metrics = _METRICS

    def __init__(self, where: Surroundings, clock: Callable[[], float] = time.monotonic) -> None:
        if not where.run_id:
            raise SensorUnavailable("no run to follow", hint="yprov run -- COMMAND starts one")
        self._root, self._run_id, self._clock = where.root, where.run_id, clock
        self._proc = os.path.join(where.root, "proc")
        if not os.path.isdir(self._proc):
            raise SensorUnavailable(f"there is no {self._proc}")
        self._load = KeptFile(os.path.join(self._proc, "loadavg"), 128)
        self._last_pid, self._list_due = b"", -math.inf
        self._known: set[str] = set()
        self._doubtful: dict[str, tuple[int, float]] = {}  # looked at so often, look again then
        self._tracked: dict[str, _Process] = {}
        self._lost_cpu = 0
        self._lost_io = list(_NO_IO)
        self._total = [0] * 5
        self._readable = True
        self._pss, self._pss_due, self._pss_period = math.nan, math.inf, _PSS_PERIOD_S

    def read(self) -> Sequence[float]:
        now = self._clock()
        before = {pid: (p.reaped, p.io or _NO_IO) for pid, p in self._tracked.items()}
        gone = self._discover(now)
        self._refresh(gone)
        if gone:
            self._settle(gone, before)
            self._known -= gone.keys()  # such a number may be someone else's already: list and look again
            self._last_pid = b""
        return self._sums(now)

    def close(self) -> None:
        self._load.close()
        for process in self._tracked.values():
            process.close()
        self._tracked = {}

    def _discover(self, now: float) -> dict[str, _Process]:
        """Look at every process not seen before. Returns tracked ones that are no longer listed.

        A number is known until it is missing from a listing. It cannot come back between two of them, save
        where all of the pids went round; for the tracked the start time tells.
        """
        for pid in [pid for pid, (_, due) in self._doubtful.items() if now >= due]:
            self._examine(pid, now)
        if not self._forked(now):
            return {}
        listed = set(os.listdir(self._proc))
        gone = {pid: self._tracked.pop(pid) for pid in self._tracked.keys() - listed}
        # Sorted, so that parents come before their children, save where pids went round.
        for pid in sorted((e for e in listed - self._known if e.isdigit()), key=int):
            self._examine(pid, now)
        self._known = listed
        return gone

    def _forked(self, now: float) -> bool:
        """Whether a process may have been made since the last time. The last number of /proc/loadavg is the
        pid given last: 1 us, where listing a hundred processes takes 40, and some nodes have thousands."""
        try:
            last = self._load.read().rsplit(None, 1)[-1]
        except (OSError, IndexError):
            return True
        if last == self._last_pid and now < self._list_due:
            return False
        self._last_pid, self._list_due = last, now + _LIST_PERIOD_S
        return True

    def _examine(self, pid: str, now: float) -> None:
        looks, _ = self._doubtful.pop(pid, (0, 0.0))
        fields = stat_fields(pid, self._root)
        if fields is None or len(fields) < 22 or fields[0] == b"X" or int(fields[6]) & _KERNEL_THREAD:
            return
        if fields[1].decode() in self._tracked or carries_marker(pid, self._run_id, self._root):
            keep = len(self._tracked) < _KEPT
            self._tracked[pid] = _Process(pid, int(fields[19]), self._root, keep=keep)
            if self._pss_due == math.inf:
                self._pss_due = now + _PSS_FIRST_S
        elif looks < len(_LOOK_AGAIN_S):
            self._doubtful[pid] = looks + 1, now + _LOOK_AGAIN_S[looks]

    def _refresh(self, gone: dict[str, _Process]) -> None:
        """Read all, parents first, until a pass has lost none. Then no time is counted twice: a child that
        was read after its parent had not been waited for when its parent was read."""
        for _ in range(_PASSES):
            lost = [p for p in self._tracked.values() if not p.refresh()]
            if not lost:
                break
            for process in lost:
                gone[process.pid] = self._tracked.pop(process.pid)
        for process in gone.values():
            process.close()

    def _settle(self, gone: dict[str, _Process], before: dict[str, tuple[int, tuple[int, ...]]]) -> None:
        """Add to the losses what the parents' growth does not cover. A vanished parent had a parent: who
        reaped it has what it had reaped."""
        due: dict[str, list[int]] = {}
        for process in gone.values():
            heir = process.ppid
            for _ in gone:
                if heir not in gone or heir in self._tracked:
                    break
                heir = gone[heir].ppid
            sums = due.setdefault(heir if heir in self._tracked else "", [0] * 5)
            for i, amount in enumerate((process.cpu, *(process.io or _NO_IO))):
                sums[i] += amount
        for heir, amounts in due.items():
            covered: tuple[int, ...] = (0,) * 5
            if heir:
                parent, (reaped, io) = self._tracked[heir], before.get(heir, (0, _NO_IO))
                covered = (parent.reaped - reaped, *(a - b for a, b in zip(parent.io or io, io, strict=True)))
            left = [max(0, amount - cover) for amount, cover in zip(amounts, covered, strict=True)]
            self._lost_cpu += left[0]
            self._lost_io = [a + b for a, b in zip(self._lost_io, left[1:], strict=True)]

    def _sums(self, now: float) -> list[float]:
        cpu, rss, count, threads = self._lost_cpu, 0, 0, 0
        io_of = [p.io for p in self._tracked.values() if p.io is not None]
        if self._tracked and not any(self._total[1:]):
            self._readable = bool(io_of)
        for p in self._tracked.values():
            cpu += p.cpu
            if p.state != b"Z":  # a zombie has its CPU time still, but no memory
                rss, count, threads = rss + p.rss, count + 1, threads + p.threads
        io = [sum(column) for column in zip(self._lost_io, *io_of, strict=True)]
        # What can step back all the same (a process whose io became unreadable before it was reaped) is held.
        self._total = [max(a, b) for a, b in zip(self._total, (cpu, *io), strict=True)]
        if now >= self._pss_due:
            self._pss = self._measure_pss()
            self._pss_due = now + self._pss_period
        counted = [float(n) for n in self._total[1:]] if self._readable else [math.nan] * 4
        pss = self._pss if count else math.nan
        return [self._total[0] * _TICK, rss * _PAGE, pss, count, threads, *counted]

    def _measure_pss(self) -> float:
        """By, NaN when it cannot be had of every process within the budget."""
        running = [p for p in self._tracked.values() if p.state != b"Z"]
        if sum(p.rss for p in running) * _PSS_PER_PAGE_S > _PSS_BUDGET_S:
            return math.nan
        end = self._clock() + _PSS_BUDGET_S
        total = 0.0
        for p in running:
            try:
                with open(os.path.join(self._proc, p.pid, "smaps_rollup"), "rb", buffering=0) as f:
                    data = f.read()
                at = data.index(b"\nPss:") + 5
                total += int(data[at : data.index(b"kB", at)]) * 1024.0
            except (ProcessLookupError, FileNotFoundError):
                continue  # it has just ended
            except (OSError, ValueError):
                return math.nan
            if self._clock() > end:
                self._pss_period *= 2  # this machine is slower than foreseen: do not try as often
                return math.nan
        return total
