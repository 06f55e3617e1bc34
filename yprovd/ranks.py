"""Where a process stands in its job: rank, step, CPUs, devices. One table, one line per launcher.

Sources: torchrun's documented variables; Open MPI (`OMPI_COMM_WORLD_*`); MVAPICH (`MV2_COMM_WORLD_*`); flux-shell's
task environment; HPE's PALS (`PALS_*`, its `PMI_SIZE` is the world); IBM's jsrun (`JSM_NAMESPACE_*`); PMIx; PMI as set
by MPICH's and Intel's Hydra (whose local rank is `MPI_LOCALRANKID`) and by Cray; Slurm's srun(1), OUTPUT ENVIRONMENT
VARIABLES. PBS has no line: its ranks are started by one of these, and `PBS_NODENUM` stands in the batch script too.
"""

from __future__ import annotations

from collections import namedtuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

#: launcher: (rank, world size, local rank); of several names the first that is set counts. The first line whose rank
#: is set counts: a training that torchrun started inside an srun step has the rank that torchrun gave it.
LAUNCHERS = {
    "torchrun": (("RANK",), ("WORLD_SIZE",), ("LOCAL_RANK",)),
    "openmpi": (("OMPI_COMM_WORLD_RANK",), ("OMPI_COMM_WORLD_SIZE",), ("OMPI_COMM_WORLD_LOCAL_RANK",)),
    "mvapich": (("MV2_COMM_WORLD_RANK",), ("MV2_COMM_WORLD_SIZE",), ("MV2_COMM_WORLD_LOCAL_RANK",)),
    "flux": (("FLUX_TASK_RANK",), ("FLUX_JOB_SIZE",), ("FLUX_TASK_LOCAL_ID",)),
    "pals": (("PALS_RANKID",), ("PMI_SIZE",), ("PALS_LOCAL_RANKID",)),
    "jsrun": (("JSM_NAMESPACE_RANK",), ("JSM_NAMESPACE_SIZE",), ("JSM_NAMESPACE_LOCAL_RANK",)),
    "pmi": (("PMI_RANK",), ("PMI_SIZE",), ("PMI_LOCAL_RANK", "MPI_LOCALRANKID")),
    "pmix": (("PMIX_RANK",), ("PMIX_SIZE",), ("PMIX_LOCAL_RANK",)),
    "slurm": (("SLURM_PROCID",), ("SLURM_STEP_NUM_TASKS", "SLURM_NTASKS"), ("SLURM_LOCALID",)),
}
#: launcher: what names one launch of it, as several may run at once. `none` is torchrun's for want of a name.
LAUNCHES = {"torchrun": "TORCHELASTIC_RUN_ID", "openmpi": "PMIX_NAMESPACE", "flux": "FLUX_JOB_ID",
            "pals": "PALS_APID", "pmix": "PMIX_NAMESPACE"}
#: Variables that list the accelerators that a process may use.
DEVICES = ("CUDA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "GPU_DEVICE_ORDINAL",
           "ZE_AFFINITY_MASK", "SLURM_STEP_GPUS")
#: Those without which the lists cannot be read: how many GPUs the step has (a task's list that is shorter is its share,
#: see `yprovd.devices`), and in which order CUDA counts.
ABOUT_DEVICES = ("SLURM_GPUS_ON_NODE", "CUDA_DEVICE_ORDER")
#: Slurm's step ids from here on are none that a user started: batch script, interactive shell, external processes.
_NO_STEP = 0xFFFFFFF0

JobEnvironment = namedtuple("JobEnvironment", "launcher rank world_size local_rank")


def job_environment(environ: Mapping[str, str]) -> JobEnvironment:
    """Read the table. Without any of the launchers: ("local", None, None, None). A batch script is no task of its job,
    although Slurm tells it SLURM_PROCID=0."""
    for launcher, names in LAUNCHERS.items():
        rank, world_size, local_rank = (_first(environ, alternatives) for alternatives in names)
        if launcher == "slurm" and "SLURM_JOB_ID" in environ and not step_of(environ):
            continue
        if rank is not None:
            return JobEnvironment(launcher, rank, world_size, local_rank)
    return JobEnvironment("local", None, None, None)


def launch_of(environ: Mapping[str, str], launcher: str) -> str:
    """What names the launch on all its nodes; "" where the launcher gives no name."""
    name = environ.get(LAUNCHES.get(launcher, ""), "")
    return "" if name == "none" else name


def step_of(environ: Mapping[str, str]) -> str:
    """Slurm's step as `<job>.<step>`, which is what `sacct` calls it; "" outside of one."""
    job, step = environ.get("SLURM_JOB_ID", ""), _number(environ.get("SLURM_STEP_ID"))
    return f"{job}.{step}" if job and step is not None and step < _NO_STEP else ""


def devices_of(environ: Mapping[str, str]) -> dict[str, str]:
    """What the environment says of accelerators; an index means a device of the node only together with the others."""
    return {name: environ[name] for name in (*DEVICES, *ABOUT_DEVICES) if name in environ}


def ranges(numbers: Iterable[int]) -> str:
    """Numbers as the kernel lists CPUs: `0-3,8`."""
    out: list[list[int]] = []
    for n in sorted(set(numbers)):
        if out and out[-1][1] == n - 1:
            out[-1][1] = n
        else:
            out.append([n, n])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in out)


def _first(environ: Mapping[str, str], names: tuple[str, ...]) -> int | None:
    return next((n for name in names if (n := _number(environ.get(name))) is not None), None)


def _number(text: str | None) -> int | None:
    return int(text) if text is not None and text.isdecimal() else None
