"""What this node can measure, what not and why, in a table. Whether a run would work here: `yprov.readiness`."""

from __future__ import annotations

import glob
import os
import re
import statistics
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import psutil

from yprov.environment import job_environment
from yprov.readiness import checks
from yprov.seen import Seen
from yprov.watching import OPEN_S, Watch, watch_all
from yprovd import __version__
from yprovd.model import Metric
from yprovd.sensors import SENSORS, Surroundings

#: Where a source shows that it is there, whether it can be read or not. Patterns below the root.
_SIGNS: dict[str, tuple[str, ...]] = {
    "cgroup": ("sys/fs/cgroup/*",),
    "rapl": ("sys/class/powercap/*rapl*:*",),
    "cray": ("sys/cray/pm_counters",),
    "hwmon": ("sys/class/hwmon/hwmon*/device/power1_oem_info", "sys/class/hwmon/hwmon*/power1_oem_info"),
    "slingshot": ("sys/class/cxi/*",),
    "infiniband": ("sys/class/infiniband/*",),
    "lustre": ("proc/fs/lustre", "sys/fs/lustre"),
    "nvidia": ("proc/driver/nvidia/version", "sys/module/nvidia", "dev/nvidiactl"),
    "amd": ("sys/module/amdgpu", "sys/class/kfd/kfd"),
}
#: What a node would need, for absences that have no hint of their own.
_NEEDS = {
    "cgroup": "a job in a control group of its own (Slurm with proctrack/cgroup, a container, systemd-run)",
    **dict.fromkeys(("cpu", "memory", "processes"), "the kernel's /proc"),
    "disk": "a block device", "network": "a network interface",
    "rapl": "a processor with RAPL, not a virtual one, and its driver (intel_rapl_msr)",
    "cray": "a node of an HPE Cray EX or XC", "hwmon": "a power meter of the firmware, its driver (acpi_power_meter)",
    "slingshot": "a Slingshot (CXI) adapter", "infiniband": "an InfiniBand or RoCE adapter with an active port",
    "lustre": "a Lustre file system that is mounted here",
    "nvidia": "an NVIDIA GPU, its driver, and a job that may open it", "amd": "an AMD GPU and its driver (amdgpu)",
}
#: Of the numbers of a source the first of these tells its rate.
_TELLING = ("hw.energy", "hw.power", "hw.power.average")
#: Of a plain look: reads in a row, and seconds that numbers are watched for.
READS, LOOK_S = 5, 0.6
_UUID = re.compile(r"\b((?:GPU|MIG)-[0-9a-f]{8})-[0-9a-f]{4}-[0-9a-f-]+")
#: A number that changes between almost any two looks may do so more often.
_EACH_LOOK = 1.5


@dataclass(frozen=True)
class Source:
    """One line of the table.

    `outcome`: `ok`; `absent`; `unreadable`: it is there, and we cannot read it; `fails`: no read was good; `hangs`: a
    call has not come back. `silent`: metrics that never had a value. `read_us`: median of a few reads in a row.
    `rate_hz`: how often the number `rate_of` changes, None when it changed less than twice; `at_least`: it did so at
    almost every look. `step`: the smallest change of that number, in `step_unit`. `hint`: what would change an absence.
    """

    sensor: str
    outcome: str
    present: bool
    readable: bool
    metrics: int
    silent: list[str]
    devices: list[str]
    read_us: float | None
    rate_of: str
    rate_hz: float | None
    at_least: bool
    step: float | None
    step_unit: str
    failures: int
    reason: str
    hint: str


def surroundings(root: str) -> Surroundings:
    """Those of a daemon that would be started here."""
    environ = dict(os.environ)
    return Surroundings(root, environ.get("YPROV_RUN_ID") or "doctor", environ)


def examine(root: str = "/", table: Mapping[str, str] = SENSORS, open_s: float = OPEN_S) -> list[Source]:
    """Open every sensor, read it a few times and watch its numbers. Blocks for `LOOK_S`, and for as long as drivers
    take to start; a call that hangs is waited for under a deadline."""
    watches, _ = watch_all(surroundings(root), table, reads=READS, burst_s=lambda watch: 1.0, seconds=LOOK_S,
                           stop=threading.Event(), open_s=open_s)
    return [source_of(watch, root) for watch in watches]


def source_of(watch: Watch, root: str) -> Source:
    """What was seen of it, as a line of the table."""
    outcome = watch.outcome
    opened = watch.sensor is not None
    present = opened or any(glob.glob(os.path.join(glob.escape(root), sign)) for sign in _SIGNS.get(watch.name, ()))
    if outcome == "absent" and present:
        outcome = "unreadable"
    told = _telling(watch.seen)
    rate = 1 / told.update_s if told is not None and told.update_s > 0 else None
    hint = watch.hint
    if outcome == "hangs":
        hint = f"yprov run --disable {watch.name} -- COMMAND   leaves it out"
    elif not opened and not hint and watch.name in _NEEDS:
        hint = f"it needs {_NEEDS[watch.name]}"
    return Source(
        sensor=watch.name, outcome=outcome, present=present, readable=outcome == "ok", metrics=len(watch.metrics),
        silent=[_called(s.metric) for s in watch.seen if s.reads and s.reads == s.absent],
        devices=list(dict.fromkeys(f"{m.device.cls}/{m.device.id}" for m in watch.metrics if m.device)),
        read_us=round(1e6 * statistics.median(watch.burst_s), 1) if watch.burst_s else None,
        rate_of=told.metric.name if told is not None else "",
        rate_hz=None if rate is None else _short(rate),
        at_least=told is not None and rate is not None and told.update_s < _EACH_LOOK * told.looked_s,
        step=None if told is None or not told.changes else _short(told.step),
        step_unit=told.metric.unit if told is not None else "",
        failures=watch.failures, reason="" if outcome == "ok" and not watch.failures else watch.why(), hint=hint)


def _called(metric: Metric) -> str:
    return metric.name if metric.device is None else f"{metric.device.cls}/{metric.device.id} {metric.name}"


def _telling(seen: Sequence[Seen]) -> Seen | None:
    """The number that tells how often a source has news: energy, else power, else what changes most; of several
    devices the one that changes most."""
    for name in _TELLING:
        if found := [s for s in seen if s.metric.name == name]:
            return max(found, key=lambda s: s.changes)
    return max((s for s in seen if s.metric.kind != "time"), key=lambda s: s.changes, default=None)


def _short(value: float) -> float:
    """Six digits: a difference of two floats has noise behind them."""
    return float(f"{value:.6g}")


def host() -> dict[str, Any]:
    """The node and the interpreter."""
    job = job_environment(os.environ)
    memory = psutil.virtual_memory()
    return {
        "host": os.uname().nodename, "kernel": f"{os.uname().sysname} {os.uname().release}",
        "logical_cpus": psutil.cpu_count(), "physical_cpus": psutil.cpu_count(logical=False),
        "memory_bytes": memory.total, "python": sys.version.split()[0], "yprov": __version__, "launcher": job.launcher,
    }


def report(sources: list[Source]) -> dict[str, Any]:
    return {"host": host(), "sources": [asdict(s) for s in sources], "checks": checks()}


def lines(doc: dict[str, Any]) -> list[str]:
    """The report as a table."""
    h = doc["host"]
    out = [f"{h['host']}: {h['kernel']}, {h['logical_cpus']} CPUs, {h['memory_bytes'] / 2**30:.1f} GiB, "
           f"Python {h['python']}, yprov {h['yprov']}", "",
           f"{'SOURCE':<11}{'PRESENT':<8}{'READABLE':<9}{'METRICS':>7}{'READ':>10}{'RATE':>10}  {'STEP':<13}"]
    for s in doc["sources"]:
        readable = {"ok": "yes", "absent": "-", "unreadable": "no"}.get(s["outcome"], s["outcome"])
        head = f"{s['sensor']:<11}{'yes' if s['present'] else 'no':<8}{readable:<9}"
        if s["outcome"] == "ok":
            figures = f"{s['metrics']:>7}{_time(s['read_us']):>10}{_rate(s):>10}  {_step(s):<13}"
            out.append(f"{head}{figures}{brief(_few(s['devices'], 4))}".rstrip())
        else:
            out.append(f"{head}{s['reason']}")
        names = list(dict.fromkeys(name.rpartition(" ")[2] for name in s["silent"]))
        notes = [f"{len(s['silent'])} of them had no value: {_few(names, 4)}"] if names else []
        if s["outcome"] == "ok" and s["failures"]:
            notes.append(f"{s['failures']} reads failed: {s['reason']}")
        if s["hint"]:
            notes.append(f"hint: {s['hint']}")
        out += [f"{'':<11}{note}" for note in notes]
    out.append("")
    for c in doc["checks"]:
        out.append(f"{c['check']:<11}{'ok' if c['ok'] else 'FAILED':<9}{c['detail']}")
        if not c["ok"]:
            out.append(f"{'':<20}hint: {c['hint']}")
    return out


def _time(us: float | None) -> str:
    if us is None:
        return "-"
    return f"{us:.0f} us" if us < 1e4 else f"{us / 1e3:.0f} ms" if us < 1e6 else f"{us / 1e6:.1f} s"


def _rate(s: dict[str, Any]) -> str:
    if s["rate_hz"] is None:
        return "-"
    return f"{'>' if s['at_least'] else ''}{s['rate_hz']:.2g} Hz" if s["rate_hz"] < 10 else \
        f"{'>' if s['at_least'] else ''}{s['rate_hz']:.0f} Hz"


def _step(s: dict[str, Any]) -> str:
    return "-" if s["step"] is None else f"{s['step']:.3g} {s['step_unit']}"


def brief(text: str) -> str:
    """UUIDs of GPUs by their first part, for people."""
    return _UUID.sub(r"\1", text)


def _few(words: list[str], most: int) -> str:
    return ", ".join(words[:most]) + (f" and {len(words) - most} more" if len(words) > most else "")
