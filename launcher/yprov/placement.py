"""How one daemon is placed on each node of an allocation: a table with a line for each scheduler.

A line says whether we are inside of an allocation of its kind, which nodes that has, and by which commands a process is
started on each, the best way first. Sources: srun(1) and measurements with Slurm 22.05 and 24.11 (why each flag is
there is said beside it); pbsdsh(1B) and pbs_tmrsh of OpenPBS; flux-exec(1); IBM's reference of blaunch.
"""

from __future__ import annotations

import contextlib
import shlex
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from yprovd import slurm
from yprovd.config import Settings, nearest
from yprovd.errors import YprovError

#: The step in which `salloc` runs its shell is no step of the user's (SLURM_INTERACTIVE_STEP of slurm.h).
_INTERACTIVE = ("4294967290", "interactive")
_ASK_S = 2.0


class Way(NamedTuple):
    """One way to start a program on every node: the commands in front of it, one for each group of nodes."""

    name: str
    commands: tuple[tuple[str, ...], ...]


class Placement(NamedTuple):
    """`nodes`: as the scheduler calls them, the collector's first; ("*",) where they are not known. `job`: the key of
    the job. `grace_s`: what lies between the scheduler's SIGTERM and its SIGKILL."""

    scheduler: str
    nodes: tuple[str, ...]
    job: dict[str, str | int]
    grace_s: float
    ways: tuple[Way, ...]


def find(settings: Settings, environ: Mapping[str, str], command: Sequence[str]) -> Placement | None:
    """Where the daemons of this run go; None for this machine only. Raises YprovError for a scheduler that is not
    there though it was asked for."""
    if settings.scheduler == "none":
        return None
    if settings.scheduler != "auto" and settings.scheduler not in SCHEDULERS:
        raise YprovError(f"unknown scheduler `{settings.scheduler}`",
                         hint=nearest(settings.scheduler, SCHEDULERS) or f"known: auto, none, {', '.join(SCHEDULERS)}")
    found = None
    for name, look in SCHEDULERS.items():
        if settings.scheduler in ("auto", name):
            found = look(environ, command)
            if found is not None:
                break
    if settings.launch_with:
        words = tuple(shlex.split(settings.launch_with))
        if not words or shutil.which(words[0]) is None:
            raise YprovError(f"`launch_with` names a program that was not found: `{settings.launch_with}`",
                             hint="launch_with: mpirun -npernode 1")
        base = found or Placement("", ("*",), {}, 10.0, ())
        return base._replace(ways=(Way(settings.launch_with, (words,)),))
    if found is None and settings.scheduler != "auto":
        raise YprovError(f"this is not inside of an allocation of `{settings.scheduler}`",
                         hint="yprov run --scheduler none -- COMMAND   records this machine only")
    return found


def _slurm(environ: Mapping[str, str], command: Sequence[str]) -> Placement | None:
    srun = shutil.which("srun")
    facts = slurm.from_environment(environ)
    if srun is None or not facts.get("job_id") or not facts.get("nodes"):
        return None
    step = environ.get("SLURM_STEP_ID", "")
    if step and step not in _INTERACTIVE and Path(command[0]).name != "srun":
        return None  # a task of the user's own step: what it starts runs here, and so do we
    groups = facts.get("het_groups") or {}
    parts: list[tuple[list[str], list[str]]] = []  # (options, nodes)
    for index in sorted(groups, key=int):
        parts.append(([f"--het-group={index}"], list(groups[index]["nodes"])))
    parts = parts or [([], list(facts["nodes"]))]
    # In a het job the leader's id names all groups.
    job_id = str(facts.get("het_job_id") or facts["job_id"])
    ways = []
    sharing = [("--overlap", ["--overlap", "--cpus-per-task=1", "--mem=0"])]
    gpus = environ.get("SLURM_GPUS_ON_NODE", "")
    if gpus.isdecimal() and int(gpus) > 0:  # asked for, or the step sees one task's share
        sharing.insert(0, ("--overlap", [*sharing[0][1], f"--gres=gpu:{gpus}"]))
    version, grace_s = _about_slurm()
    if version >= (23, 11):
        sharing.insert(0, ("--external-launcher", ["--external-launcher"]))
    for name, options in sharing:
        commands = []
        for group, nodes in parts:
            commands.append((
                srun, f"--jobid={job_id}", *group, *options,
                # All three, or an inherited number of tasks wins.
                f"--nodes={len(nodes)}", f"--ntasks={len(nodes)}", "--ntasks-per-node=1",
                # One daemon's end must not end the others, whatever the site's defaults are.
                "--no-kill", "--kill-on-bad-exit=0", "--wait=0",
                "--mpi=none", "--cpu-bind=none", "--input=none", "--chdir=/", "--label", "--job-name=yprovd",
            ))
        ways.append(Way(f"srun {name}" + (f" {options[-1]}" if len(options) > 3 else ""), tuple(commands)))
    job: dict[str, str | int] = {"scheduler": "slurm", "job_id": str(facts["job_id"]),
                                 "attempt": int(facts.get("restart_count", 0))}
    for key in ("cluster", "array_job_id", "array_task_id", "het_job_id"):
        if facts.get(key):
            job[key] = str(facts[key])
    return Placement("slurm", tuple(n for _options, nodes in parts for n in nodes), job, grace_s, tuple(ways))


def _about_slurm() -> tuple[tuple[int, int], float]:
    """Its version, and the time between SIGTERM and SIGKILL; what every version has and Slurm's default where the
    controller does not answer soon."""
    version, grace_s = (0, 0), 30.0
    try:
        about = slurm.controller(timeout_s=_ASK_S)
        grace_s = float(about.get("kill_wait_s", grace_s))
        major, minor = str(about["version"]).split(".")[:2]
        version = int(major), int(minor)
    except (YprovError, KeyError, ValueError):
        with contextlib.suppress(YprovError):
            version = slurm.version(timeout_s=_ASK_S)
    return version, grace_s


def _unique(words: Sequence[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(words))


def _pbs(environ: Mapping[str, str], _command: Sequence[str]) -> Placement | None:
    """OpenPBS, PBS Professional and TORQUE: the node file has a line for each process."""
    if not environ.get("PBS_JOBID") or not environ.get("PBS_NODEFILE"):
        return None
    try:
        nodes = _unique(Path(environ["PBS_NODEFILE"]).read_text(encoding="utf-8").split())
    except OSError:
        return None
    if not nodes:
        return None
    ways = []
    if remote := shutil.which("pbs_tmrsh"):
        ways.append(Way("pbs_tmrsh", tuple((remote, node) for node in nodes)))
    if pbsdsh := shutil.which("pbsdsh"):
        ways.append(Way("pbsdsh", ((pbsdsh, "-u", "--"),)))
    job: dict[str, str | int] = {"scheduler": "pbs", "job_id": environ["PBS_JOBID"], "attempt": 0}
    return Placement("pbs", nodes, job, 10.0, tuple(ways)) if ways else None


def _flux(environ: Mapping[str, str], _command: Sequence[str]) -> Placement | None:
    """Flux: one broker on each node of the instance; `flux exec` runs beside its jobs and takes no resources."""
    flux = shutil.which("flux")
    if flux is None or not environ.get("FLUX_URI"):
        return None
    job: dict[str, str | int] = {"scheduler": "flux", "job_id": environ.get("FLUX_ENCLOSING_ID", environ["FLUX_URI"]),
                                 "attempt": 0}
    return Placement("flux", _names(environ.get("FLUX_HOSTLIST", "")), job, 5.0,
                     (Way("flux exec", ((flux, "exec", "--rank=all"),)),))


def _names(text: str) -> tuple[str, ...]:
    """A host list as Slurm and Flux write it, ("*",) where there is none."""
    return tuple(slurm.expand(text)) if text else ("*",)


def _lsf(environ: Mapping[str, str], _command: Sequence[str]) -> Placement | None:
    """LSF: `LSB_MCPU_HOSTS` is `host slots host slots ...`."""
    blaunch = shutil.which("blaunch")
    words = environ.get("LSB_MCPU_HOSTS", "").split()
    if blaunch is None or not environ.get("LSB_JOBID") or not words:
        return None
    nodes = _unique(words[::2])
    job: dict[str, str | int] = {"scheduler": "lsf", "job_id": environ["LSB_JOBID"], "attempt": 0}
    return Placement("lsf", nodes, job, 10.0, (Way("blaunch", ((blaunch, "-z", " ".join(nodes)),)),))


#: scheduler: who looks whether we are in an allocation of it
SCHEDULERS: dict[str, Callable[[Mapping[str, str], Sequence[str]], Placement | None]] = {
    "slurm": _slurm, "pbs": _pbs, "flux": _flux, "lsf": _lsf,
}
#: Variables of a job that change what the scheduler's command does, or hide devices; the step sets its own.
DROPPED = ("SLURM_", "SBATCH_", "SRUN_", "PMI", "CUDA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES",
           "GPU_DEVICE_ORDINAL", "OMPI_", "PRTE_", "PALS_")
KEPT = ("SLURM_CONF", "SLURM_CONF_SERVER")


def environment(environ: Mapping[str, str], scheduler: str) -> dict[str, str]:
    """The environment in which a way's command is run. Only Slurm's is cleaned: `mpirun` needs what the others set."""
    if scheduler != "slurm":
        return dict(environ)
    return {k: v for k, v in environ.items() if k in KEPT or not k.startswith(DROPPED)}
