"""Slurm's commands: each a process of its own, without input, and killed with what it started at its deadline."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from yprovd.errors import YprovError
from yprovd.slurm.documents import parse_job_json, parse_sacct_json
from yprovd.slurm.environment import from_environment
from yprovd.slurm.texts import ACCOUNTING_FIELDS, parse_config, parse_sacct_text, parse_show_job
from yprovd.slurm.values import Facts

if TYPE_CHECKING:
    import subprocess
    from pathlib import Path

#: Seconds; a controller that is down keeps `scontrol` for much longer.
DEADLINE_S = 5.0
#: Users' settings of the output of these commands. `SLURM_TIME_FORMAT` is set to a time that carries its zone.
_SETTINGS = ("SCONTROL_", "SQUEUE_", "SACCT_", "SCANCEL_")
#: A killed process is waited for, no longer.
_REAP_S = 0.5
_TIME_FORMAT = "%Y-%m-%dT%H:%M:%S%z"
#: Stands in no name (ASCII's unit separator).
_DELIMITER = "\x1f"


class SlurmUnavailable(YprovError):
    """Slurm did not answer, or does not know. `reason` is the sentence."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def run(argv: Sequence[str], *, timeout_s: float = DEADLINE_S) -> str:
    """The command's standard output. Raises SlurmUnavailable."""
    return _output(argv, timeout_s).decode(errors="replace")


def _output(argv: Sequence[str], timeout_s: float) -> bytes:
    import subprocess

    if timeout_s <= 0:
        raise SlurmUnavailable(f"no time was left to ask `{argv[0]}`")
    environ = {k: v for k, v in os.environ.items()
               if not k.startswith(_SETTINGS) and k not in ("SLURM_CLUSTERS", "SLURM_BITSTR_LEN", "LANGUAGE")}
    environ |= {"LC_ALL": "C", "SLURM_TIME_FORMAT": _TIME_FORMAT}
    try:
        process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                   env=environ, start_new_session=True)
    except OSError as e:
        where = "is not in PATH" if isinstance(e, FileNotFoundError) else f"cannot be run: {e.strerror}"
        raise SlurmUnavailable(f"`{argv[0]}` {where}") from None
    try:
        out, err = process.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired:
        raise SlurmUnavailable(f"`{argv[0]}` did not answer within {timeout_s:.3g} s") from None
    finally:
        _end(process)
    if process.returncode:
        lines = err.decode(errors="replace").strip().splitlines()
        said = lines[-1].removeprefix(f"{argv[0]}: ") if lines else f"ended with {process.returncode}"
        raise SlurmUnavailable(f"`{argv[0]}`: {said}")
    return out


def _end(process: subprocess.Popen[bytes]) -> None:
    from subprocess import TimeoutExpired

    try:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(timeout=_REAP_S)
    except (ProcessLookupError, PermissionError, TimeoutExpired):
        pass  # it hangs in the kernel (a dead file system): it is left to it
    for pipe in (process.stdout, process.stderr):
        if pipe is not None:
            pipe.close()


def version(*, timeout_s: float = DEADLINE_S) -> tuple[int, int]:
    """Of the installed commands, as (22, 5). Asks no daemon. Raises SlurmUnavailable."""
    return _version(run(["srun", "--version"], timeout_s=timeout_s))


def _version(text: str) -> tuple[int, int]:
    numbers = text.split()[-1].split(".") if text.split() else []
    if len(numbers) < 2 or not all(n.isdecimal() for n in numbers[:2]):
        raise SlurmUnavailable(f"`srun --version` says `{text.strip()[:80]}`")
    return int(numbers[0]), int(numbers[1])


def controller(*, timeout_s: float = DEADLINE_S) -> Facts:
    """{version, cluster, kill_wait_s, minjobage_s, accounting, energy_plugin}. Raises SlurmUnavailable."""
    return parse_config(run(["scontrol", "show", "config"], timeout_s=timeout_s))


def show_job(job_id: str, *, timeout_s: float = DEADLINE_S) -> Facts:
    """The facts of a job that the controller still knows (until MinJobAge after its end, by default 300 s), and `raw`,
    its text. Of an array's or a het job's id, that one job. Raises SlurmUnavailable."""
    deadline = time.monotonic() + timeout_s
    text = run(["scontrol", "show", "job", "-dd", str(job_id)], timeout_s=timeout_s)
    facts = _pick(parse_show_job(text), str(job_id))
    if facts is None:
        raise SlurmUnavailable(f"`scontrol` tells nothing of job {job_id}")
    if facts.get("state") == "COMPLETING":
        facts |= _state_behind(str(job_id), deadline - time.monotonic())
    return {**facts, "raw": text}


def _state_behind(job_id: str, timeout_s: float) -> Facts:
    """The state of a job whose text says COMPLETING, where this version's JSON tells it."""
    import json

    try:
        document = json.loads(run(["scontrol", "show", "job", job_id, "--json"], timeout_s=timeout_s))
    except (SlurmUnavailable, ValueError):  # 22.05: unrecognized option
        return {}
    found = _pick(parse_job_json(document), job_id) or {}
    return {k: found[k] for k in ("state", "state_flags", "preempt_time") if k in found}


def accounting(job_id: str, *, timeout_s: float = DEADLINE_S, attempt: int | None = None) -> Facts:
    """What `sacct` knows of a job, with its steps; of a requeued job the attempt with this restart count, or the last.
    Text first: it has the same fields in all versions, and tells more truth than the JSON. Raises SlurmUnavailable."""
    deadline = time.monotonic() + timeout_s
    job_id = str(job_id)
    try:
        valid = set(run(["sacct", "--helpformat"], timeout_s=timeout_s).split())
        fields = [f for f in ACCOUNTING_FIELDS if f in valid]
        found = parse_sacct_text(run(["sacct", "--duplicates", "--jobs", job_id, "--parsable2",
                                      f"--delimiter={_DELIMITER}", f"--format={','.join(fields)}"],
                                     timeout_s=deadline - time.monotonic()))
    except SlurmUnavailable as e:
        if "storage is disabled" in e.reason:
            raise SlurmUnavailable("this cluster keeps no accounting (no slurmdbd)") from None
        found = _accounting_json(job_id, deadline - time.monotonic(), e)
    mine = [f for f in found if _is(f, job_id)]
    if attempt is not None:
        counted = [f for f in mine if f.get("restart_count") == attempt]
        # Without a count (before 23.11) they come in the order in which they ran.
        mine = counted or (mine[attempt:attempt + 1] if all("restart_count" not in f for f in mine) else [])
    if not mine:
        raise SlurmUnavailable(f"`sacct` does not know job {job_id}" + (f", attempt {attempt}" if attempt else ""))
    return {"restart_count": len(mine) - 1 if attempt is None else attempt, **mine[-1]}


def _accounting_json(job_id: str, timeout_s: float, why: SlurmUnavailable) -> list[Facts]:
    import json

    if timeout_s <= 0:
        raise why
    try:
        return parse_sacct_json(json.loads(run(["sacct", "--duplicates", "--jobs", job_id, "--json"],
                                               timeout_s=timeout_s)))
    except (SlurmUnavailable, ValueError):
        raise why from None


def batch_script(job_id: str, target: Path, *, timeout_s: float = DEADLINE_S) -> str:
    """Write the job's batch script, with mode 0600. Returns the reason why it could not be had (a job of `salloc` or
    `srun` has none, others' is not shown), or nothing."""
    try:
        script = _output(["scontrol", "write", "batch_script", str(job_id), "-"], timeout_s)
        if not script:  # it ends with 0 all the same
            return f"Slurm shows no batch script of job {job_id}"
        beside = target.with_name(f".{target.name}.part")
        with open(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as f:
            f.write(script)
        os.replace(beside, target)
    except SlurmUnavailable as e:
        return e.reason
    except OSError as e:
        return f"cannot write `{target}`: {e.strerror}"
    return ""


def active_steps(job_id: str, *, timeout_s: float = DEADLINE_S) -> dict[str, str]:
    """Ids of the job's steps that run, as `7.0`, `7.batch`, `7.extern`, and their names. Raises SlurmUnavailable."""
    text = run(["squeue", "--steps", "--noheader", "--format=%i %j", f"--jobs={job_id}"], timeout_s=timeout_s)
    return {id: name for id, _, name in (line.strip().partition(" ") for line in text.splitlines()) if id}


def cancel(job_or_step: str, *, timeout_s: float = DEADLINE_S) -> None:
    """End a job (SIGTERM, then SIGKILL after KillWait), or a step (SIGKILL at once). Raises SlurmUnavailable."""
    run(["scancel", str(job_or_step)], timeout_s=timeout_s)


def describe(job_id: str = "", environ: Mapping[str, str] | None = None, *, timeout_s: float = DEADLINE_S) -> Facts:
    """All that is known of a job while it runs, and `missing` ({what: reason}). `environ` is that of a process in the
    job. Never raises, and takes no longer than `timeout_s` in all."""
    deadline = time.monotonic() + timeout_s
    facts = from_environment(environ or {})
    job_id = str(job_id or facts.get("job_id", ""))
    missing: dict[str, Any] = {}
    if facts.get("job_id") not in (None, job_id):
        facts = {}  # somebody else's variables
    if not job_id:
        return {"missing": {"job": "not inside of a Slurm job"}}
    facts |= {"name": "slurm", "job_id": job_id}
    attempt = facts.get("restart_count")
    try:
        facts |= show_job(job_id, timeout_s=timeout_s)
    except SlurmUnavailable as e:
        missing["job"] = e.reason
    facts.pop("tasks", None)
    if attempt is not None:
        facts["restart_count"] = attempt  # the job may be on its way to the next
    try:
        major, minor = version(timeout_s=deadline - time.monotonic())
        facts["version"] = f"{major}.{minor:02}"
    except SlurmUnavailable as e:
        missing["version"] = e.reason
    return facts | ({"missing": missing} if missing else {})


def _pick(found: Sequence[Facts], job_id: str) -> Facts | None:
    """The job of this id; an array's pending tasks have the array's own, and stand behind the task that has it."""
    mine = [f for f in found if _is(f, job_id)]
    return next((f for f in mine if f.get("nodes")), mine[0] if mine else None)


def _is(facts: Facts, job_id: str) -> bool:
    return job_id in (facts.get("job_id"), f"{facts.get('array_job_id')}_{facts.get('array_task_id')}",
                      f"{facts.get('het_job_id')}+{facts.get('het_offset')}")
