"""What this node can measure, what not and why, and whether a run would work here, on which nodes."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil

from yprov.environment import job_environment
from yprov.placement import Placement, find
from yprovd import __version__
from yprovd.config import Settings
from yprovd.errors import YprovError
from yprovd.sensors import SENSORS, Surroundings, open_all


@dataclass(frozen=True)
class Source:
    """One sensor of the table. `read_us`: median of a few reads."""

    sensor: str
    present: bool
    metrics: int
    devices: list[str]
    read_us: float | None
    reason: str
    hint: str


def examine(root: str = "/", reads: int = 5) -> list[Source]:
    """Open every sensor and read it a few times. Blocks for that long (milliseconds)."""
    environ = dict(os.environ)
    sensors, absences = open_all(Surroundings(root, environ.get("YPROV_RUN_ID") or "doctor", environ))
    found = {}
    for sensor in sensors:
        times = []
        failure = ""
        for _ in range(reads):
            began = time.perf_counter()
            try:
                sensor.read()
            except Exception as e:  # noqa: BLE001  whatever it is, it is what the user asked for
                failure = f"{type(e).__name__}: {e}"
            times.append((time.perf_counter() - began) * 1e6)
        devices = list(dict.fromkeys(f"{m.device.cls}/{m.device.id}" for m in sensor.metrics if m.device))
        found[sensor.name] = Source(sensor.name, not failure, len(sensor.metrics), devices,
                                    sorted(times)[reads // 2], failure, "")
        sensor.close()
    for a in absences:
        found[a.sensor] = Source(a.sensor, False, 0, [], None, a.reason, a.hint)
    return [found[name] for name in SENSORS if name in found]


def host() -> dict[str, Any]:
    """The node and the interpreter."""
    job = job_environment(os.environ)
    memory = psutil.virtual_memory()
    return {
        "host": os.uname().nodename, "kernel": f"{os.uname().sysname} {os.uname().release}",
        "logical_cpus": psutil.cpu_count(), "physical_cpus": psutil.cpu_count(logical=False),
        "memory_bytes": memory.total, "python": sys.version.split()[0], "yprov": __version__, "launcher": job.launcher,
    }


def checks() -> list[dict[str, Any]]:
    """What a run needs: sockets, a place for its directory, and a way to the nodes of the job."""
    return [_check("sockets", _try_sockets), _check("writable", _try_writing), _check_daemons()]


#: Variables that only a job of this kind has.
_JOBS = {"slurm": "SLURM_JOB_ID", "pbs": "PBS_JOBID", "flux": "FLUX_ENCLOSING_ID", "lsf": "LSB_JOBID"}


def _check_daemons() -> dict[str, Any]:
    """Where daemons would be started from here, and how; with the fields `scheduler`, `nodes`, `ways` (the best first)
    and `encrypted`. Asks the scheduler, for a few seconds at most, and starts nothing."""
    out: dict[str, Any] = {"check": "daemons", "ok": True, "detail": "on this node only: this is no scheduler's job",
                           "hint": "", "scheduler": "", "nodes": [], "ways": [], "encrypted": _encrypts()}
    try:
        placement = find(Settings(), os.environ, ("",))
    except YprovError as e:
        return {**out, "ok": False, "detail": str(e), "hint": e.hint}
    if placement is not None and any(shutil.which(way.commands[0][0]) for way in placement.ways):
        return out | _of_job(placement, out["encrypted"])
    kind = next((name for name, variable in _JOBS.items() if os.environ.get(variable)), "")
    if kind:
        out["detail"] = f"on this node only: no daemon can be started on others from here, in a job of {kind}"
        out["hint"] = "run it in the batch script; or: yprov run --launch-with 'mpirun -npernode 1 --bind-to none'"
        out["ok"] = bool(os.environ.get("SLURM_STEP_ID") or os.environ.get("FLUX_JOB_ID"))  # in a task that is meant
    return out


def _of_job(placement: Placement, encrypted: bool) -> dict[str, Any]:
    names = [node for node in placement.nodes if node != "*"]
    count = f"{len(names)} node{'s' * (len(names) != 1)}" if names else "the nodes"
    more = f" and {len(names) - 4} more" if len(names) > 4 else ""
    ways = list(dict.fromkeys(way.name for way in placement.ways))
    detail = (f"on {count} of {placement.scheduler} job {placement.job.get('job_id', '')}"
              f"{': ' if names else ''}{', '.join(names[:4])}{more}; by {', else by '.join(ways)}")
    hint = ""
    if not encrypted:
        detail += "; not: this ZeroMQ cannot encrypt"
        hint = "pip install --force-reinstall pyzmq   the wheel can"
    return {"ok": encrypted, "detail": detail, "hint": hint, "scheduler": placement.scheduler, "nodes": names,
            "ways": ways}


def _encrypts() -> bool:
    try:
        from yprovd.transport import new_keys

        new_keys()
    except (YprovError, ImportError):
        return False
    return True


def _check(name: str, attempt: Any) -> dict[str, Any]:
    try:
        return {"check": name, "ok": True, "detail": attempt(), "hint": ""}
    except Exception as e:  # noqa: BLE001  a check says what is wrong, whatever it is
        hint = "pip install pyzmq" if isinstance(e, ImportError) else "set TMPDIR to a directory that you may write to"
        return {"check": name, "ok": False, "detail": f"{type(e).__name__}: {e}", "hint": hint}


def _try_sockets() -> str:
    from yprovd.transport import QUESTION, REPLY, Receiver, Sender, ipc

    with tempfile.TemporaryDirectory(prefix="yprov-doctor-") as folder:
        endpoint = ipc(os.path.join(folder, "s"))
        receiver = Receiver(endpoint)
        sender = Sender(endpoint, limit=1, identity=b"doctor")
        try:
            began = time.perf_counter()
            sender.control(QUESTION, {})
            while time.perf_counter() - began < 2.0:
                for message in receiver.receive():
                    receiver.control(message.peer, REPLY, {})
                if sender.receive(5)[1]:
                    return f"a message and its answer over ipc took {(time.perf_counter() - began) * 1e3:.1f} ms"
        finally:
            sender.close()
            receiver.close()
    raise TimeoutError("no answer over ipc in 2 s")


def _try_writing() -> str:
    here = Path("yprov-runs") if Path("yprov-runs").is_dir() else Path()
    with tempfile.TemporaryFile(dir=here):
        return f"runs go to {here.absolute() / ('' if here.name else 'yprov-runs')}"


def report(sources: list[Source]) -> dict[str, Any]:
    return {"host": host(), "sources": [asdict(s) for s in sources], "checks": checks()}


def lines(doc: dict[str, Any]) -> list[str]:
    """The report as a table."""
    h = doc["host"]
    out = [f"{h['host']}: {h['kernel']}, {h['logical_cpus']} CPUs, {h['memory_bytes'] / 2**30:.1f} GiB, "
           f"Python {h['python']}, yprov {h['yprov']}", "", f"{'SOURCE':<11}{'STATE':<9}{'METRICS':>7} {'READ':>9}  "]
    for s in doc["sources"]:
        if s["present"]:
            more = len(s["devices"]) - 6
            devices = ", ".join(s["devices"][:6]) + (f" and {more} more" if more > 0 else "")
            out.append(f"{s['sensor']:<11}{'ok':<9}{s['metrics']:>7} {s['read_us']:>6.0f} us  {devices}".rstrip())
        else:
            out.append(f"{s['sensor']:<11}{'absent':<9}{'':>7} {'':>9}  {s['reason']}")
            if s["hint"]:
                out.append(f"{'':<38}hint: {s['hint']}")
    out.append("")
    for c in doc["checks"]:
        out.append(f"{c['check']:<11}{'ok' if c['ok'] else 'FAILED':<9}{c['detail']}")
        if not c["ok"]:
            out.append(f"{'':<20}hint: {c['hint']}")
    return out
