"""Which rank a process is, whoever started it."""

from __future__ import annotations

import pytest

from yprov.environment import JobEnvironment, job_environment

TORCHRUN = {"RANK": "3", "WORLD_SIZE": "8", "LOCAL_RANK": "1"}
SLURM = {"SLURM_PROCID": "5", "SLURM_NTASKS": "16", "SLURM_LOCALID": "2"}


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, ("local", None, None, None)),
        (TORCHRUN, ("torchrun", 3, 8, 1)),
        (SLURM, ("slurm", 5, 16, 2)),
        ({"OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_LOCAL_RANK": "0"},
         ("openmpi", 1, 2, 0)),
        ({"PMI_RANK": "1", "PMI_SIZE": "2", "PMI_LOCAL_RANK": "0"}, ("pmi", 1, 2, 0)),
        ({"PMIX_RANK": "7"}, ("pmix", 7, None, None)),
        (SLURM | TORCHRUN, ("torchrun", 3, 8, 1)),  # torchrun inside of an srun step
        ({"RANK": "0"}, ("torchrun", 0, None, None)),
        (SLURM | {"RANK": ""}, ("slurm", 5, 16, 2)),
        (SLURM | {"RANK": "general"}, ("slurm", 5, 16, 2)),  # a variable of that name can mean anything
        ({"RANK": "-1"}, ("local", None, None, None)),
        ({"WORLD_SIZE": "8"}, ("local", None, None, None)),
    ],
)
def test_the_rank_is_what_the_innermost_launcher_said(
    environ: dict[str, str], expected: tuple[str, int | None, int | None, int | None]
) -> None:
    assert job_environment(environ) == JobEnvironment(*expected)


def test_digits_that_int_does_not_take_are_no_rank() -> None:
    assert job_environment({"RANK": "²"}).rank is None
    assert job_environment({"RANK": "٣"}).rank == 3
