"""What a run inside of a scheduler's allocation has beyond one on a machine: the job's facts and its script, the run of
the attempt before, and signals that the scheduler has already sent to the user's steps.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from yprov.runs import all_runs
from yprovd import slurm
from yprovd.config import RunConfig
from yprovd.errors import YprovError
from yprovd.processes import stat_fields
from yprovd.secrets import Masker, masked

#: How long the scheduler may take to tell about the job; in the background, beside the command.
ASK_S = 20.0
#: How long a signal may be held back to ask what it is for.
REASON_S = 2.0
_BATCH_SCRIPT, _JOB_TEXT = "batch-script.sh", "slurm-job.txt"


def facts_of(job: Mapping[str, Any], source: Path, masker: Masker | None = None) -> dict[str, Any]:
    """What the scheduler tells about the job, with copies of its script and its own words in `source`, without
    secrets. Blocks up to `ASK_S`; never raises."""
    masker = masker or Masker()
    if job.get("scheduler") != "slurm":
        return {"name": job.get("scheduler", ""), **{k: v for k, v in job.items() if k != "scheduler"}}
    facts = slurm.describe(str(job["job_id"]), os.environ, timeout_s=ASK_S)
    missing: dict[str, str] = dict(facts.get("missing") or {})
    facts["missing"] = missing
    stored: dict[str, Any] = {}
    raw = facts.pop("raw", "")
    facts = masked_facts(facts, masker)
    try:
        source.mkdir(exist_ok=True)
        if raw:
            (source / _JOB_TEXT).write_text(masker.text(_masked_lines(raw)), encoding="utf-8")
            stored["job"] = _stored(source / _JOB_TEXT)
        if reason := slurm.batch_script(str(job["job_id"]), source / _BATCH_SCRIPT, timeout_s=ASK_S):
            missing["batch_script"] = reason
        else:
            script = (source / _BATCH_SCRIPT).read_bytes()
            kept = masker.data(script)
            (source / _BATCH_SCRIPT).write_bytes(kept)
            stored["batch_script"] = _stored(source / _BATCH_SCRIPT) | ({"masked": True} if kept is not script else {})
    except OSError as e:
        missing["batch_script"] = str(e.strerror)
    if not missing:
        del facts["missing"]
    return {**facts, "stored": stored}


def masked_facts(facts: Mapping[str, Any], masker: Masker | None = None) -> dict[str, Any]:
    """Of a job, without what looks like a secret: its command line holds what its script was called with; its comment
    may hold anything."""
    out = dict(facts)
    if out.get("command"):
        out["command"] = _masked(out["command"])
    if isinstance(out.get("other"), dict):
        out["other"] = {k: _masked(v) if k == "SubmitLine" else v for k, v in out["other"].items()}
    return dict((masker or Masker()).document(out))


def _masked(command: Any) -> str:
    """As in `run.json`."""
    return " ".join(masked(str(command).split(" ")))


def _masked_lines(text: str) -> str:
    """Slurm's own text of a job."""
    out = []
    for line in text.split("\n"):
        head, sign, rest = line.partition("=")
        out.append(f"{head}={_masked(rest)}" if sign and head.strip() in ("Command", "SubmitLine") else line)
    return "\n".join(out)


def told_by_environment(environ: Mapping[str, str]) -> dict[str, Any]:
    """What the variables tell of a job that is not asked about: in a task of the user's own step, of which there are
    many, and where Slurm's commands are not, as in a container. Empty outside of a job."""
    facts = slurm.from_environment(environ)
    if facts:
        facts.pop("tasks", None)
        reason = "`srun` is not in PATH" if shutil.which("srun") is None else "Slurm was not asked"
        facts["missing"] = {"job": f"{reason}: this is what its variables tell"}
    return facts


def _stored(path: Path) -> dict[str, Any]:
    data = path.read_bytes()
    return {"path": f"{path.parent.name}/{path.name}", "sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}


def previous_attempt(run_dir: Path, job: Mapping[str, Any]) -> dict[str, str] | None:
    """The last run of the same job before it was requeued, among those beside ours."""
    attempt = int(job.get("attempt", 0))
    if attempt == 0:
        return None
    for other in reversed(all_runs(run_dir.parent)):
        if other == run_dir:
            continue
        try:
            config = RunConfig.read(other)
        except YprovError:
            continue
        if _key(config.job) == _key(job) and int(config.job.get("attempt", 0)) < attempt:
            return {"run_id": config.run_id, "directory": other.name}
    return None


def _key(job: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(str(job.get(k, "")) for k in ("scheduler", "cluster", "job_id"))


def is_plain_child(environ: Mapping[str, str]) -> bool:
    """Whether we are a plain child of Slurm's batch shell, which dies of the SIGTERM that ends the job, and we with it;
    not when the script traps that signal (SIGTERM is caught by the shell, /proc/<pid>/status)."""
    batch = environ.get("SLURM_TASK_PID", "")
    if not batch.isdecimal() or environ.get("SLURM_STEP_ID") or os.getppid() != int(batch):
        return False
    try:
        status = Path(f"/proc/{batch}/status").read_text(encoding="ascii", errors="replace")
        caught = int(next(line.split()[1] for line in status.splitlines() if line.startswith("SigCgt")), 16)
    except (OSError, ValueError, StopIteration, IndexError):
        return True
    return not caught & 1 << (15 - 1)


def job_is_ending(job: Mapping[str, Any]) -> bool:
    """Whether the scheduler itself is ending the job now, so that it has signalled every step. Blocks up to
    `REASON_S`; False when it does not answer."""
    if job.get("scheduler") != "slurm":
        return False
    deadline = time.monotonic() + REASON_S
    while (left := deadline - time.monotonic()) > 0:
        try:
            return slurm.ending(slurm.show_job(str(job["job_id"]), timeout_s=left), int(job["attempt"])) is not None
        except YprovError:
            return False
    return False


def without_srun(group: int) -> list[int]:
    """The members of a process group that are not `srun`: to that, a signal that ends it means SIGKILL for its tasks,
    which the scheduler has just asked to end in their own time."""
    return [pid for pid in _members(group) if _name(pid) != "srun"]


def _members(group: int) -> list[int]:
    out = []
    for entry in os.listdir("/proc"):
        fields = stat_fields(entry) if entry.isdigit() else None
        if fields is not None and int(fields[2]) == group and fields[0] not in (b"Z", b"X"):
            out.append(int(entry))
    return out


def _name(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""


def receivers(job: Mapping[str, Any], group: int, tell: Callable[[], None]) -> list[int] | None:
    """Who in the command's process group gets a signal that asks it to end: None for everybody. When the scheduler ends
    the job, `tell` is called."""
    if not job_is_ending(job):
        return None
    tell()
    return without_srun(group)
