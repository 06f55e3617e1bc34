"""`yprov stitch --refresh-slurm`: what only the scheduler knows, and only after the job's end, goes into the archive.

Accounting is asked first; where there is none (no slurmdbd), the controller, which forgets a job some minutes after its
end (`MinJobAge`).
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol

from yprov.allocation import masked_facts
from yprovd.clock import SystemClock
from yprovd.config import PROV_FILE, SPOOL_DIR, RunConfig
from yprovd.errors import YprovError
from yprovd.processes import about_source
from yprovd.spool import SpoolWriter, spool_files
from yprovd.stitch import stitch
from yprovd.wire import Kind, Packer, new_source

ASK_S = 30.0


class Scheduler(Protocol):
    """What is asked of `yprovd.slurm`."""

    def accounting(self, job_id: str, *, timeout_s: float, attempt: int | None) -> dict[str, Any]: ...
    def show_job(self, job_id: str, *, timeout_s: float) -> dict[str, Any]: ...
    def final(self, facts: Mapping[str, Any]) -> tuple[str, str, int | None] | None: ...


@dataclass(frozen=True)
class Refreshed:
    """`state`, `reason`: of the run now; `job_id`, `job_state`: what Slurm calls the job's end."""

    state: str
    reason: str
    job_id: str
    job_state: str


def refresh(
    run_dir: Path, slurm: Scheduler, *, keep_spool: bool | None = None,
    progress: Callable[[str], None] = lambda stage: None,
) -> Refreshed:
    """Ask, and make the archive anew, or patch it where its spool is gone. Blocks for at most `ASK_S` per question and
    as long as a stitch takes. Raises YprovError when the run had no job of Slurm's, the job still goes on, or Slurm
    cannot tell."""
    config = RunConfig.read(run_dir)
    job_id = _job_id(run_dir, config)
    progress("asking Slurm")
    attempt = int(config.job.get("attempt", 0))
    facts = masked_facts(_ask(slurm, job_id, attempt))
    if int(facts.get("restart_count") or 0) > attempt:  # the controller tells of the last one, queued when ours ended
        end = {"state": "cancelled", "reason": "the job was requeued", "ended_ns": _ns(facts.get("submit_time"))}
        facts = {"name": "slurm", "job_id": job_id, "state": "REQUEUED"}
    else:
        verdict = slurm.final(facts)
        if verdict is None:
            raise YprovError(f"job {job_id} has not ended: {facts.get('state', 'its state is unknown')}",
                             hint=f"again when it has: yprov stitch --refresh-slurm {run_dir}")
        end = {"state": verdict[0], "reason": verdict[1], "ended_ns": _ns(facts.get("end_time"))}
    state, reason = _record(run_dir, facts, {"by_scheduler": True, **end}, keep_spool, progress)
    return Refreshed(state, reason, job_id, str(facts.get("state") or end["state"]))


def _job_id(run_dir: Path, config: RunConfig) -> str:
    scheduler, job_id = config.job.get("scheduler"), config.job.get("job_id")
    if not job_id:  # the daemons were not placed by it, and yet it was there
        from yprov.runs import plain, view

        job = plain(view(run_dir).records["entity"].get("job", {}))
        scheduler, job_id = job.get("scheduler"), job.get("jobId")
    if not job_id:
        raise YprovError(f"`{run_dir}` did not run in a job of Slurm's", hint=f"yprov stitch {run_dir}")
    if scheduler != "slurm":
        raise YprovError(f"`{run_dir}` ran in a job of `{scheduler}`, not of Slurm's",
                         hint=f"yprov stitch {run_dir}")
    return str(job_id)


def _ask(slurm: Scheduler, job_id: str, attempt: int) -> dict[str, Any]:
    """Accounting's facts of this attempt; the controller's of the last one where there are none, or not the end yet."""
    accounted: dict[str, Any] = {}
    no_accounting = "it does not know the end yet"
    try:
        accounted = slurm.accounting(job_id, timeout_s=ASK_S, attempt=attempt)
        if slurm.final(accounted) is not None:
            return accounted
    except YprovError as e:
        no_accounting = str(e)
    try:
        shown = slurm.show_job(job_id, timeout_s=ASK_S)
    except YprovError as e:
        if accounted:
            return accounted
        raise YprovError(
            f"Slurm does not say what became of job {job_id}: {e}; and of accounting: {no_accounting}",
            hint="is this a machine of its cluster? without slurmdbd Slurm forgets a job minutes after its end "
                 "(MinJobAge): let a dependent job ask in time, see yprov template show refresh",
        ) from None
    return {k: v for k, v in shown.items() if k != "raw"}


def _record(
    run_dir: Path, facts: Mapping[str, Any], end: Mapping[str, Any], keep_spool: bool | None,
    progress: Callable[[str], None],
) -> tuple[str, str]:
    """Into the spool, for a spool is the truth; else into the archive."""
    if spool_files(run_dir / SPOOL_DIR):
        try:
            _append(run_dir / SPOOL_DIR, facts, end)
        except OSError as e:
            raise YprovError(f"cannot write to `{run_dir / SPOOL_DIR}`: {e.strerror or e}") from None
        done = stitch(run_dir, keep_spool=keep_spool, progress=progress)
        if done.made:
            return done.state, done.reason  # else another stitch was at work, and the spool went away under us
    if not (run_dir / PROV_FILE).is_file():
        raise YprovError(f"there is nothing to refresh in `{run_dir}`: it has neither a spool nor an archive",
                         hint="was the run ever started? see its logs/")
    from yprovd.stitch.refresh import patch_archive

    progress("refreshing the archive")
    return patch_archive(run_dir, facts, end)


def _append(folder: Path, facts: Mapping[str, Any], end: Mapping[str, Any]) -> None:
    """A spool file of its own, by a source whose role says that it spoke after the run. Complete under its name."""
    packer = Packer(new_source(), SystemClock())
    name = f"scheduler-{time.time_ns()}-{os.getpid()}"
    partial = folder / f".{name}.tmp"
    try:
        writer = SpoolWriter(partial)
        with contextlib.closing(writer):
            writer.append([packer.json(Kind.SOURCE, about_source("scheduler")),
                           packer.json(Kind.RUN, {"scheduler": dict(facts)}), packer.json(Kind.END, dict(end))])
        newest = max(path.stat().st_mtime_ns for path in spool_files(folder))
        os.utime(partial, ns=(newest, newest))  # or the run seems to be going on, seen from another host
        os.rename(partial, folder / f"{name}.spool")
    finally:
        partial.unlink(missing_ok=True)


def _ns(text: Any) -> int | None:
    try:
        return round(datetime.fromisoformat(text).timestamp()) * 1_000_000_000
    except (TypeError, ValueError):
        return None
