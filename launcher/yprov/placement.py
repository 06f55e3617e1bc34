"""How one daemon is placed on each node of an allocation: a table with a line for each scheduler.

A line says whether we are inside of an allocation of its kind, which nodes that has, and by which commands a process is
started on each, the best way first. Sources: srun(1) and measurements with Slurm 22.05 and 24.11 (why each flag is
there is said beside it); pbsdsh.c and pbs_tmrsh.c of OpenPBS, pbsdsh.c of TORQUE; flux-exec(1), flux-environment(7);
IBM's reference of blaunch and of LSF's variables. Only Slurm's was tried on a real cluster.
"""

from __future__ import annotations

import contextlib
import re
import shlex
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from yprovd import slurm
from yprovd.config import Settings, nearest
from yprovd.errors import YprovError

#: The step in which `salloc` runs its shell is no step of the user's (SLURM_INTERACTIVE_STEP of slurm.h).
_INTERACTIVE = ("4294967290", "interactive")
_ASK_S = 2.0
#: `gpu:h100:6(IDX:0-5)`, `gpu:2(IDX:0-1)`
_GPUS = re.compile(r"\bgpu(?::[^:,(]+)?:(\d+)")
_EXAMPLE = "launch_with: mpirun -npernode 1 --bind-to none"


class Way(NamedTuple):
    """One way to start a program on every node: the commands in front of it, one for each group of nodes."""

    name: str
    commands: tuple[tuple[str, ...], ...]


class Placement(NamedTuple):
    """`scheduler`: whose commands the ways are, "" for the user's own. `nodes`: as the scheduler calls them, the
    collector's first; ("*",) where they are not known. `job`: the key of the job. `grace_s`: what lies between the
    scheduler's SIGTERM and its SIGKILL."""

    scheduler: str
    nodes: tuple[str, ...]
    job: dict[str, str | int]
    grace_s: float
    ways: tuple[Way, ...]


def check(settings: Settings) -> None:
    """Raises YprovError for a scheduler that is none."""
    if settings.scheduler not in ("auto", "none", *SCHEDULERS):
        raise YprovError(f"unknown scheduler `{settings.scheduler}`",
                         hint=nearest(settings.scheduler, SCHEDULERS) or f"known: auto, none, {', '.join(SCHEDULERS)}")


def find(settings: Settings, environ: Mapping[str, str], command: Sequence[str]) -> Placement | None:
    """Where the daemons of this run go; None for this machine only. Raises YprovError for a scheduler that is not
    there though it was asked for."""
    check(settings)
    if settings.scheduler == "none":
        return None
    found = None
    for name, look in SCHEDULERS.items():
        if settings.scheduler in ("auto", name):
            found = look(environ, command)
            if found is not None:
                break
    if settings.launch_with:
        # Not looked for here: what cannot be started costs the other nodes' record, and not the job.
        base = found or Placement("", ("*",), {}, 10.0, ())
        return base._replace(scheduler="", ways=(Way(settings.launch_with, (_words(settings.launch_with),)),))
    if found is None and settings.scheduler != "auto":
        raise YprovError(f"this is not inside of an allocation of `{settings.scheduler}`",
                         hint="yprov run --scheduler none -- COMMAND   records this machine only")
    return found


def _words(text: str) -> tuple[str, ...]:
    try:
        words = shlex.split(text)
    except ValueError as e:
        raise YprovError(f"`launch_with` is not a command: {e}: `{text}`", hint=_EXAMPLE) from None
    if not words:
        raise YprovError("`launch_with` is empty", hint=_EXAMPLE)
    return tuple(words)


def _slurm(environ: Mapping[str, str], command: Sequence[str]) -> Placement | None:
    facts = slurm.from_environment(environ)
    if not facts.get("job_id") or not facts.get("nodes"):
        return None
    step = environ.get("SLURM_STEP_ID", "")
    if step and step not in _INTERACTIVE and Path(command[0]).name != "srun":
        return None  # a task of the user's own step: what it starts runs here, and so do we
    groups = facts.get("het_groups") or {}
    parts: list[tuple[list[str], list[str]]] = []  # (options, nodes)
    for index in sorted(groups, key=int):
        parts.append(([f"--het-group={index}"], list(groups[index]["nodes"])))
    parts = parts or [([], list(facts["nodes"]))]
    job: dict[str, str | int] = {"scheduler": "slurm", "job_id": str(facts["job_id"]),
                                 "attempt": int(facts.get("restart_count", 0))}
    for key in ("cluster", "array_job_id", "array_task_id", "het_job_id"):
        if facts.get(key):
            job[key] = str(facts[key])
    names = tuple(n for _options, nodes in parts for n in nodes)
    srun = shutil.which("srun")
    if srun is None:  # as in a container: of several nodes the others are dark, and that is to be said
        return Placement("slurm", names, job, 30.0, (Way("srun", (("srun",),)),)) if len(names) > 1 else None
    # In a het job the leader's id names all groups.
    job_id = str(facts.get("het_job_id") or facts["job_id"])
    ways = []
    share = ["--overlap", "--cpus-per-task=1", "--mem=0"]
    # Without any GPU where Slurm cannot give the step its share: of the nodes' GPUs that are not alike, say.
    sharing = [("--overlap", share), ("--overlap", [*share, "--gres=none"])]
    # Asked for, or the step sees one task's share. Of a het job the number is that of the first group only, and the
    # others may have none.
    if len(parts) == 1 and (gpus := _gpus_of_a_node(environ, job_id)):
        sharing.insert(0, ("--overlap", [*share, f"--gres=gpu:{gpus}"]))
    version, grace_s = _about_slurm()
    if version >= (23, 11):
        # Slurm ends such a step with the first of its nodes that fails, whatever --no-kill says (measured, 24.11): not
        # the first choice for a command that is to outlive one.
        at = len(sharing) if _outlives_nodes(environ, command) else 0
        sharing.insert(at, ("--external-launcher", ["--external-launcher"]))
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
    return Placement("slurm", names, job, grace_s, tuple(ways))


def _outlives_nodes(environ: Mapping[str, str], command: Sequence[str]) -> bool:
    """Whether the user's step was told to go on without a node that fails, as far as we can see."""
    return bool({"--no-kill", "-k"}.intersection(command)) or "SLURM_NO_KILL" in environ


def without_lost(nodes: Sequence[str], environ: Mapping[str, str]) -> tuple[Way, ...]:
    """How daemons are started in a Slurm job that goes on with these nodes, after others of it were lost. None for a
    het job: its groups have lists of their own."""
    if "SLURM_HET_SIZE" in environ:
        return ()
    placement = _slurm({**environ, "SLURM_JOB_NODELIST": ",".join(nodes), "SLURM_NO_KILL": "1"}, ("srun",))
    return placement.ways if placement else ()


def _gpus_of_a_node(environ: Mapping[str, str], job_id: str) -> int:
    """How many GPUs of a node the job has, the most where they differ; 0 where it is not known, or does not matter."""
    told = environ.get("SLURM_GPUS_ON_NODE", "")  # not where `salloc` was called
    if told.isdecimal():
        return int(told)
    if not any(name in environ for name in ("SLURM_GPUS", "SLURM_GPUS_PER_TASK", "SLURM_NTASKS_PER_GPU")):
        return 0
    try:
        gres = slurm.show_job(job_id, timeout_s=_ASK_S).get("gres_by_node") or {}
    except YprovError:
        return 0
    counts = [sum(map(int, _GPUS.findall(str(text)))) for text in gres.values()]
    return max(counts, default=0)


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
    """OpenPBS, PBS Professional and TORQUE: the node file has a line for each place of a process, and a place has the
    number of its line. Its commands give the task the environment of the job, and not ours: a Python that needs
    LD_LIBRARY_PATH would not start."""
    if not environ.get("PBS_JOBID") or not environ.get("PBS_NODEFILE"):
        return None
    try:
        places = Path(environ["PBS_NODEFILE"]).read_text(encoding="utf-8").split()
    except (OSError, UnicodeDecodeError):
        return None
    nodes = _unique(places)
    if not nodes:
        return None
    given = tuple(f"{name}={environ[name]}" for name in _CARRIED if environ.get(name))
    carried = ("/usr/bin/env", *given) if given else ()
    ways = []
    if remote := shutil.which("pbs_tmrsh"):
        ways.append(Way("pbs_tmrsh", tuple((remote, node, *carried) for node in nodes)))
    if pbsdsh := shutil.which("pbsdsh"):
        # TORQUE's `-u`, one for each host, is not known to OpenPBS; `-n` is known to both.
        ways.append(Way("pbsdsh", tuple((pbsdsh, "-n", str(places.index(node)), "--", *carried) for node in nodes)))
    job: dict[str, str | int] = {"scheduler": "pbs", "job_id": environ["PBS_JOBID"], "attempt": 0}
    return Placement("pbs", nodes, job, 10.0, tuple(ways)) if ways else None


def _flux(environ: Mapping[str, str], _command: Sequence[str]) -> Placement | None:
    """Flux: one broker on each node of the instance; `flux exec` runs beside its jobs and takes no resources. A task
    (FLUX_JOB_ID) of an instance that may be the whole system's is no place from which to start anything on all of it;
    the script of `flux batch` has no such variable."""
    flux = shutil.which("flux")
    if flux is None or not environ.get("FLUX_URI") or environ.get("FLUX_JOB_ID"):
        return None
    # In the order of the brokers' ranks; more than one on a node only where an instance is tried out.
    hosts: list[str] = []
    with contextlib.suppress(YprovError):  # not a list of hosts
        hosts = slurm.expand(_flux_attribute(flux, "hostlist"))
    nodes = _unique(hosts)
    ranks = "all" if len(nodes) == len(hosts) else ",".join(str(hosts.index(node)) for node in nodes)
    job_id = environ.get("FLUX_ENCLOSING_ID") or _flux_attribute(flux, "jobid") or environ["FLUX_URI"]
    job: dict[str, str | int] = {"scheduler": "flux", "job_id": job_id, "attempt": 0}
    return Placement("flux", nodes or ("*",), job, 5.0,
                     (Way("flux exec", ((flux, "exec", "--noinput", f"--rank={ranks}"),)),))


def _flux_attribute(flux: str, name: str) -> str:
    """An attribute of the broker (flux-getattr(1)); "" where it has none, or does not answer."""
    try:
        done = subprocess.run([flux, "getattr", name], stdin=subprocess.DEVNULL, capture_output=True, text=True,
                              timeout=_ASK_S, check=False)
    except (OSError, subprocess.TimeoutExpired, UnicodeDecodeError):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def _lsf(environ: Mapping[str, str], _command: Sequence[str]) -> Placement | None:
    """LSF: `LSB_MCPU_HOSTS` is `host slots host slots ...`. On IBM's CORAL machines (CSM) the first one is the launch
    node, which runs the batch script and no ranks."""
    blaunch = shutil.which("blaunch")
    words = environ.get("LSB_MCPU_HOSTS", "").split()
    if blaunch is None or not environ.get("LSB_JOBID") or not words:
        return None
    nodes = _unique(words[::2])
    if environ.get("CSM_ALLOCATION_ID") and len(nodes) > 1:
        nodes = nodes[1:]
    job: dict[str, str | int] = {"scheduler": "lsf", "job_id": environ["LSB_JOBID"], "attempt": 0}
    if environ.get("LSB_JOBINDEX", "0") != "0":  # the tasks of an array share the job's id
        job |= {"array_job_id": environ["LSB_JOBID"], "array_task_id": environ["LSB_JOBINDEX"]}
    return Placement("lsf", nodes, job, 10.0, (Way("blaunch", ((blaunch, "-n", "-z", " ".join(nodes)),)),))


#: scheduler: who looks whether we are in an allocation of it
SCHEDULERS: dict[str, Callable[[Mapping[str, str], Sequence[str]], Placement | None]] = {
    "slurm": _slurm, "pbs": _pbs, "flux": _flux, "lsf": _lsf,
}
#: Variables of a job that change what the scheduler's command does, or hide devices; the step sets its own.
DROPPED = ("SLURM_", "SBATCH_", "SRUN_", "PMI", "CUDA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES",
           "GPU_DEVICE_ORDINAL", "OMPI_", "PRTE_", "PALS_")
KEPT = ("SLURM_CONF", "SLURM_CONF_SERVER")
#: What our interpreter may need to start.
_CARRIED = ("LD_LIBRARY_PATH", "PYTHONPATH", "PYTHONHOME")


def environment(environ: Mapping[str, str], scheduler: str) -> dict[str, str]:
    """The environment in which a way's command is run. Only that of Slurm's own is cleaned: `mpirun` finds the
    allocation by the variables that the scheduler sets. What it starts by `srun` must not take the job's resources."""
    if scheduler != "slurm":
        return {**environ, "SLURM_OVERLAP": "1"} if environ.get("SLURM_JOB_ID") else dict(environ)
    return {k: v for k, v in environ.items() if k in KEPT or not k.startswith(DROPPED)}
