"""Where a process stands in its job: rank, world size, local rank. One table, one line per launcher.

Sources: torchrun's documented variables; Open MPI (`OMPI_COMM_WORLD_*`); PMI and PMIx as set by MPICH, Cray PALS and
others; Slurm's srun(1), OUTPUT ENVIRONMENT VARIABLES. The first line whose rank is set counts: a training that
torchrun started inside an srun step has the rank that torchrun gave it.
"""

from __future__ import annotations

from collections import namedtuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

#: launcher: (rank, world size, local rank)
LAUNCHERS = {
    "torchrun": ("RANK", "WORLD_SIZE", "LOCAL_RANK"),
    "openmpi": ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK"),
    "pmi": ("PMI_RANK", "PMI_SIZE", "PMI_LOCAL_RANK"),
    "pmix": ("PMIX_RANK", "PMIX_SIZE", "PMIX_LOCAL_RANK"),
    "slurm": ("SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID"),
}

JobEnvironment = namedtuple("JobEnvironment", "launcher rank world_size local_rank")


def job_environment(environ: Mapping[str, str]) -> JobEnvironment:
    """Read the table. Without any of the launchers: ("local", None, None, None)."""
    for launcher, names in LAUNCHERS.items():
        rank, world_size, local_rank = (_number(environ.get(name)) for name in names)
        if rank is not None:
            return JobEnvironment(launcher, rank, world_size, local_rank)
    return JobEnvironment("local", None, None, None)


def _number(text: str | None) -> int | None:
    return int(text) if text is not None and text.isdecimal() else None
