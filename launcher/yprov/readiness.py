"""Whether a run would work here, and on which nodes."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

from yprov.placement import Placement, find
from yprovd.config import Settings
from yprovd.errors import YprovError


def checks() -> list[dict[str, Any]]:
    """What a run needs: sockets, a place for its directory, and a way to the nodes of the job."""
    return [_check("sockets", _try_sockets), _check("writable", _try_writing), check_daemons()]


#: Variables that only a job of this kind has.
_JOBS = {"slurm": "SLURM_JOB_ID", "pbs": "PBS_JOBID", "flux": "FLUX_ENCLOSING_ID", "lsf": "LSB_JOBID"}


def check_daemons() -> dict[str, Any]:
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
