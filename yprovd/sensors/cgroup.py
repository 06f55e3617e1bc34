"""The job's control group: what the kernel accounts to all of its processes, those that have ended included.

Sources: /proc/self/cgroup and /proc/self/mountinfo (cgroups(7), proc(5)); version 2: cpu.stat,
memory.current, memory.peak (Linux 5.19), memory.stat; version 1: cpuacct.usage, memory.usage_in_bytes,
memory.max_usage_in_bytes, memory.stat. Each controller may live in either version, and in version 1 has a
path of its own.

The daemon is a step of the job, so that its own group is a leaf: the job's is found by climbing, and never
built from ids, because its place depends on Slurm's version and configuration.
"""

from __future__ import annotations

import math
import os
import re
import time
from collections.abc import Callable, Mapping, Sequence

from yprovd.errors import SensorUnavailable
from yprovd.model import Metric
from yprovd.sensors import Surroundings
from yprovd.sensors.files import KeptFile

#: Slurm 26.05 and later name a job's directory by its SLUID: "s" and 13 characters of Crockford's base 32.
_SLUID = re.compile(r"s[0-9A-HJKMNP-TV-Z]{13}", re.IGNORECASE)

#: memory.stat makes the kernel sum over all CPUs of the node, so it is read once a second also at 10 Hz (s).
_STAT_PERIOD_S = 0.9

_CPU = Metric("container.cpu.time", "s", "counter", "CPU time of the job's control group", 1e-3)
_USAGE = Metric("container.memory.usage", "By", "gauge", "Memory of the control group, with page cache", 1024)
_PEAK = Metric("container.memory.peak", "By", "gauge", "Most memory that the control group ever had", 1024)
_ANON = Metric("container.memory.anon", "By", "gauge", "Its anonymous and shared memory", 1024)


class CgroupSensor:
    """Leaves out what cannot be read. With SLURM_JOB_ID in the environment it is the job's group, else the
    own one.

    The root group is no job's: what it counts is the whole machine, and it is passed over.
    """

    name = "cgroup"

    def __init__(self, where: Surroundings, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._anon, self._anon_due = math.nan, -math.inf
        reasons: list[str] = []
        cpu, cpu_v2 = _directory(where, "cpuacct", reasons)
        memory, v2 = _directory(where, "memory", reasons)
        self._keys = (b"anon ", b"shmem ") if v2 else (b"total_rss ", b"total_shmem ")
        candidates: tuple[tuple[Metric, str, str, Callable[[KeptFile], float]], ...] = (
            (_CPU, cpu, "cpu.stat", _usec) if cpu_v2 else (_CPU, cpu, "cpuacct.usage", _nsec),
            (_USAGE, memory, "memory.current" if v2 else "memory.usage_in_bytes", _whole),
            (_PEAK, memory, "memory.peak" if v2 else "memory.max_usage_in_bytes", _whole),
            (_ANON, memory, "memory.stat", self._read_anon),
        )
        self._files: list[tuple[KeptFile, Callable[[KeptFile], float]]] = []
        metrics = []
        for metric, directory, name, read in candidates:
            file = KeptFile(os.path.join(directory, name))
            if directory and not math.isnan(_attempt(file, read)):
                self._files.append((file, read))
                metrics.append(metric)
            else:
                file.close()
                if directory:
                    reasons.append(f"{file.path} cannot be read")
        if not metrics:
            raise SensorUnavailable("; ".join(dict.fromkeys(reasons)))
        self.metrics = tuple(metrics)

    def read(self) -> Sequence[float]:
        return [_attempt(file, read) for file, read in self._files]

    def close(self) -> None:
        for file, _ in self._files:
            file.close()

    def _read_anon(self, file: KeptFile) -> float:
        """Anonymous and shared memory, from at most a second ago. Kernels that do not tell the second have
        none."""
        now = self._clock()
        if now >= self._anon_due:
            self._anon = math.nan  # should the read fail
            data = b"\n" + file.read()
            private, shared = self._keys
            self._anon = _value(data, private) + (_value(data, shared) if shared in data else 0)
            self._anon_due = now + _STAT_PERIOD_S
        return self._anon


def _attempt(file: KeptFile, read: Callable[[KeptFile], float]) -> float:
    try:
        return read(file)
    except (OSError, ValueError):
        return math.nan


def _whole(file: KeptFile) -> float:
    return float(file.read())


def _nsec(file: KeptFile) -> float:
    return int(file.read()) / 1e9


def _usec(file: KeptFile) -> float:
    return _value(b"\n" + file.read(), b"usage_usec ") / 1e6


def _value(data: bytes, key: bytes) -> int:
    at = data.index(b"\n" + key) + 1 + len(key)
    return int(data[at : data.index(b"\n", at)])


def _directory(where: Surroundings, controller: str, reasons: list[str]) -> tuple[str, bool]:
    """The job's directory for this controller and whether it is version 2, or "" and one reason more."""
    try:
        paths = _own_groups(os.path.join(where.root, "proc/self/cgroup"))
    except OSError as e:
        reasons.append(f"no control groups: {e}")
        return "", False
    mounts = _mounts(where.root)
    v2 = controller not in paths or controller not in mounts
    key = "" if v2 else controller
    if key not in paths or key not in mounts:
        reasons.append(f"the controller {controller} is not mounted")
        return "", v2
    root, point = mounts[key]
    top = os.path.join(where.root, point.lstrip("/"))
    below = _below(root, paths[key], top)
    job = _climb(below, where.environ)
    if job is None:
        reasons.append(f"no directory of job {where.environ['SLURM_JOB_ID']} above {paths[key]}: "
                       "Slurm does not keep jobs in control groups here")
        return "", v2
    directory = os.path.join(top, job) if job else top
    if not os.path.isdir(directory):
        reasons.append(f"the controller {controller} is not mounted at {top}")
        return "", v2
    # Only the root of a hierarchy has the first file (v1), and only it lacks the second (v2). A container
    # with a namespace also sees the path "/", but what is mounted there is its own group.
    if not os.path.exists(os.path.join(directory, "cgroup.events")) if v2 else \
            os.path.exists(os.path.join(directory, "release_agent")):
        reasons.append("this process is in the root cgroup: its numbers are those of the whole machine")
        return "", v2
    return directory, v2


def _own_groups(path: str) -> dict[str, str]:
    """Path by controller, "" for version 2. Lines are `id:controllers:path`."""
    groups = {}
    with open(path, encoding="utf-8", errors="surrogateescape") as f:
        for line in f:
            _, controllers, group = line.rstrip("\n").split(":", 2)
            groups.update(dict.fromkeys(controllers.split(","), group))
    return groups


def _mounts(root: str) -> dict[str, tuple[str, str]]:
    """By controller, "" for version 2: which directory of the hierarchy is mounted, and where."""
    mounts: dict[str, tuple[str, str]] = {}
    try:
        with open(os.path.join(root, "proc/self/mountinfo"), encoding="utf-8", errors="surrogateescape") as f:
            for line in f:
                mount, _, rest = line.partition(" - ")
                kind, *_, options = rest.split()
                if kind in ("cgroup", "cgroup2"):
                    at = mount.split()
                    for key in options.split(",") if kind == "cgroup" else ("",):
                        mounts.setdefault(key, (_unescape(at[3]), _unescape(at[4])))
    except OSError:
        base = "/sys/fs/cgroup"
        mounts = {name: ("/", f"{base}/{name}") for name in ("cpuacct", "memory")}
        mounts[""] = ("/", base)
    return mounts


def _unescape(path: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda m: chr(int(m[1], 8)), path)


def _below(root: str, group: str, top: str) -> str:
    """The group's path below the mount, "" where the mount does not show it (a container without a cgroup
    namespace, or a namespace entered from outside, with `..`): what is mounted then is the container's own
    group."""
    within = group == root or group.startswith(root.rstrip("/") + "/")
    relative = os.path.relpath(group, root) if within else ""
    shown = relative not in ("", ".") and ".." not in relative.split("/")
    return relative if shown and os.path.isdir(os.path.join(top, relative)) else ""


def _climb(below: str, environ: Mapping[str, str]) -> str | None:
    """From the own group up to the job's. Without Slurm the own one; None when there is a job but no group of
    it."""
    job = environ.get("SLURM_JOB_ID")
    parts = below.split("/")
    if not job or not below:
        return below
    while parts:
        if parts[-1] == f"job_{job}" or _SLUID.fullmatch(parts[-1]):
            return "/".join(parts)
        parts.pop()
    return None
