"""What this node can measure, what not and why, and whether a run would work here."""

from __future__ import annotations

import os
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil

from yprov.environment import job_environment
from yprovd import __version__
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
    """What a run needs: sockets, and a place for them."""
    return [_check("sockets", _try_sockets), _check("writable", _try_writing)]


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
