"""Which rank a process is, whoever started it, and what it says of its place."""

from __future__ import annotations

import os

import pytest

from yprov.environment import JobEnvironment, job_environment, place_of
from yprovd.ranks import DEVICES, LAUNCHERS, devices_of, ranges, step_of

TORCHRUN = {"RANK": "3", "WORLD_SIZE": "8", "LOCAL_RANK": "1"}
SLURM = {"SLURM_PROCID": "5", "SLURM_NTASKS": "16", "SLURM_LOCALID": "2"}
STEP = SLURM | {"SLURM_JOB_ID": "7", "SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "8"}
OPENMPI = {"OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_LOCAL_RANK": "0"}


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, ("local", None, None, None)),
        (TORCHRUN, ("torchrun", 3, 8, 1)),
        (SLURM, ("slurm", 5, 16, 2)),
        (OPENMPI, ("openmpi", 1, 2, 0)),
        ({"MV2_COMM_WORLD_RANK": "1", "MV2_COMM_WORLD_SIZE": "2", "MV2_COMM_WORLD_LOCAL_RANK": "0"},
         ("mvapich", 1, 2, 0)),
        ({"FLUX_TASK_RANK": "5", "FLUX_JOB_SIZE": "8", "FLUX_TASK_LOCAL_ID": "1"}, ("flux", 5, 8, 1)),
        ({"PALS_RANKID": "13", "PALS_LOCAL_RANKID": "1", "PMI_RANK": "13", "PMI_SIZE": "24", "PMI_LOCAL_RANK": "1"},
         ("pals", 13, 24, 1)),
        ({"JSM_NAMESPACE_RANK": "3", "JSM_NAMESPACE_SIZE": "4", "JSM_NAMESPACE_LOCAL_RANK": "1", "PMIX_RANK": "3"},
         ("jsrun", 3, 4, 1)),
        ({"PMI_RANK": "1", "PMI_SIZE": "2", "PMI_LOCAL_RANK": "0"}, ("pmi", 1, 2, 0)),  # Cray
        ({"PMI_RANK": "1", "PMI_SIZE": "2", "MPI_LOCALRANKID": "1"}, ("pmi", 1, 2, 1)),  # MPICH, Intel MPI
        ({"PMIX_RANK": "7"}, ("pmix", 7, None, None)),
        (STEP, ("slurm", 5, 8, 2)),
        (STEP | {"PMI_RANK": "5", "PMI_SIZE": "8"}, ("pmi", 5, 8, None)),  # srun --mpi=pmi2
        (SLURM | TORCHRUN, ("torchrun", 3, 8, 1)),  # torchrun inside of an srun step
        (STEP | OPENMPI | {"SLURM_PROCID": "0"}, ("openmpi", 1, 2, 0)),  # mpirun's ranks all have SLURM_PROCID=0
        ({"RANK": "0"}, ("torchrun", 0, None, None)),
        (SLURM | {"RANK": ""}, ("slurm", 5, 16, 2)),
        (SLURM | {"RANK": "general"}, ("slurm", 5, 16, 2)),  # a variable of that name can mean anything
        ({"RANK": "-1"}, ("local", None, None, None)),
        ({"WORLD_SIZE": "8"}, ("local", None, None, None)),
        ({"PBS_NODENUM": "0", "PBS_TASKNUM": "1", "PBS_VNODENUM": "0"}, ("local", None, None, None)),
    ],
)
def test_the_rank_is_what_the_innermost_launcher_said(
    environ: dict[str, str], expected: tuple[str, int | None, int | None, int | None]
) -> None:
    assert job_environment(environ) == JobEnvironment(*expected)


def test_digits_that_int_does_not_take_are_no_rank() -> None:
    assert job_environment({"RANK": "²"}).rank is None
    assert job_environment({"RANK": "٣"}).rank == 3


def test_a_batch_script_is_no_task_of_its_job() -> None:
    batch = SLURM | {"SLURM_JOB_ID": "7", "SLURM_PROCID": "0"}  # as sbatch sets it
    assert job_environment(batch).rank is None
    assert job_environment(batch | {"SLURM_STEP_ID": "4294967290"}).rank is None  # salloc's interactive step
    assert job_environment(batch | OPENMPI).rank == 1  # mpirun on the batch node


@pytest.mark.parametrize(
    ("environ", "step"),
    [
        ({"SLURM_JOB_ID": "7", "SLURM_STEP_ID": "0"}, "7.0"),
        ({"SLURM_JOB_ID": "7", "SLURM_STEP_ID": "12"}, "7.12"),
        ({"SLURM_JOB_ID": "7"}, ""),
        ({"SLURM_STEP_ID": "0"}, ""),
        ({"SLURM_JOB_ID": "7", "SLURM_STEP_ID": "batch"}, ""),
        ({"SLURM_JOB_ID": "7", "SLURM_STEP_ID": "4294967291"}, ""),  # the batch script's
        ({}, ""),
    ],
)
def test_a_step_is_job_and_number(environ: dict[str, str], step: str) -> None:
    assert step_of(environ) == step


def test_devices_are_what_is_set_also_when_that_is_none() -> None:
    environ = {"CUDA_VISIBLE_DEVICES": "", "SLURM_STEP_GPUS": "0,1", "HOME": "/root"}
    assert devices_of(environ) == {"CUDA_VISIBLE_DEVICES": "", "SLURM_STEP_GPUS": "0,1"}
    assert devices_of(dict.fromkeys(DEVICES, "3")) == dict.fromkeys(DEVICES, "3")


@pytest.mark.parametrize(
    ("numbers", "text"), [([], ""), ([3], "3"), ([3, 1, 2, 2], "1-3"), ([0, 1, 4, 6, 7, 8], "0-1,4,6-8")]
)
def test_ranges_are_as_the_kernel_lists_cpus(numbers: list[int], text: str) -> None:
    assert ranges(numbers) == text


def test_a_client_says_where_it_stands() -> None:
    place = place_of(STEP | {"CUDA_VISIBLE_DEVICES": "2"})
    assert place == {
        "rank": 5, "world_size": 8, "local_rank": 2, "launcher": "slurm", "step": "7.0",
        "cpus": ranges(os.sched_getaffinity(0)), "devices": {"CUDA_VISIBLE_DEVICES": "2"},
    }


def test_every_line_of_the_table_names_three_things() -> None:
    for names in LAUNCHERS.values():
        assert len(names) == 3
        assert all(isinstance(alternatives, tuple) and alternatives for alternatives in names)
