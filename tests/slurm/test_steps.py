"""Whatever starts the ranks of a job, each launch of it is an activity of the record with its own ranks and places."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import xarray as xr

from tests.running import attribute, document
from tests.slurm.cluster import Cluster
from tests.slurm.conftest import ROOTFS
from tests.slurm.test_allocations import YPROV, only
from tests.slurm.test_training import ROOT, TORCH

#: A rank says who it is, in a file of its own.
RANK = """
import json, os, sys, time
about = {"host": os.uname().nodename, "pid": os.getpid(), "cpus": len(os.sched_getaffinity(0)),
         "gpus": os.environ.get("CUDA_VISIBLE_DEVICES"), "program": sys.argv[1]}
name = os.environ.get("OMPI_COMM_WORLD_RANK") or os.environ["SLURM_PROCID"]
time.sleep(1.3)
with open(f"{sys.argv[1]}-{name}.json", "w") as f:
    json.dump({**about, "rank": int(name), "ended": time.time()}, f)
"""
HET = f"#SBATCH -N2 -n2\n#SBATCH hetjob\n#SBATCH -N1 -n2\n{YPROV} run -- bash steps.sh"
MPI = "mpirun --allow-run-as-root"
#: Neither is seen from another Debian.
MPIRUN = shutil.which("mpirun") is not None and ROOTFS is None
TORCHRUN = TORCH.exists() and ROOTFS is None


def scripts() -> dict[str, tuple[str, str]]:
    """name: (batch script, what it wraps)."""
    rank = f"{sys.executable} rank.py"
    made = {
        "het": (HET, f"srun {rank} a : {rank} b\nsrun --het-group=1 {rank} c\n"),
        "gpus": (f"#SBATCH -N2 -n4 --gpus-per-task=1 --ntasks-per-node=2\n{YPROV} run -- bash steps.sh",
                 f"srun {rank} a\n(srun -n2 -N2 --exact --mem=100 {rank} b & srun -n2 -N2 --exact --mem=100 {rank} c; "
                 "wait)\n"),
        "mpi": (f"#SBATCH -N2 -n4\n{YPROV} run -- bash steps.sh",
                f"{MPI} -n 3 -npernode 2 {rank} a\n{MPI} -n 2 --host $(hostname):2 {rank} b\n"),
        "torchrun": (f"#SBATCH -N2 -n2 --mem-per-cpu=3000\nexport OMP_NUM_THREADS=1 GLOO_SOCKET_IFNAME=eth0\n"
                     f"exec {YPROV} run -- srun {TORCH.parent}/torchrun --nnodes=2 --nproc-per-node=1 "
                     f"--rdzv-backend=c10d --rdzv-endpoint=$(hostname):29400 {ROOT}/examples/ddp.py --epochs 1", ""),
    }
    if not MPIRUN:
        del made["mpi"]
    if not TORCHRUN:
        del made["torchrun"]
    return made


@pytest.fixture(scope="module")
def ran(slurm: Cluster, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Where each script ran, all of them beside each other."""
    base = tmp_path_factory.mktemp("steps")
    jobs = {}
    for name, (batch, wrapped) in scripts().items():
        folder = base / name
        folder.mkdir()
        (folder / "rank.py").write_text(RANK)
        (folder / "steps.sh").write_text(wrapped)
        jobs[name] = slurm.sbatch(f"#!/bin/bash\n{batch}\n", "--output=job.out", cwd=folder)
    for name, job in jobs.items():
        assert slurm.wait(job, timeout=90) == "COMPLETED", (base / name / "job.out").read_text()
    return {name: base / name for name in jobs}


def said(folder: Path, program: str) -> list[dict[str, Any]]:
    found = [json.loads(path.read_text()) for path in folder.glob(f"{program}-*.json")]
    return sorted(found, key=lambda about: int(about["rank"]))


def tasks(folder: Path) -> list[dict[str, Any]]:
    table = xr.open_zarr(only(folder) / "series.zarr", group="tasks", consolidated=False).to_dataframe()
    return [dict(row) for _, row in table.iterrows()]


def steps(folder: Path) -> list[dict[str, Any]]:
    found = [a for i, a in document(only(folder))["activity"].items() if i.startswith("step/")]
    return sorted(found, key=lambda step: str(attribute(step, "startTime")))


def test_both_parts_of_a_het_step_are_one_step(ran: dict[str, Path]) -> None:
    first, second = steps(ran["het"])
    a, b, c = (said(ran["het"], program) for program in "abc")
    assert [about["rank"] for about in a + b] == [0, 1, 2, 3]
    assert (attribute(first, "rankCount"), attribute(first, "worldSize"), attribute(first, "nodeCount")) == (4, 4, 3)
    assert attribute(first, "stepId").endswith(".2")  # the daemons have one for each part of the job
    assert (attribute(second, "rankCount"), attribute(second, "nodeList")) == (2, c[0]["host"])
    placed = {(t["rank"], t["host"], t["pid"]) for t in tasks(ran["het"])}
    assert placed == {(about["rank"], about["host"], about["pid"]) for about in a + b + c}


def test_a_task_s_processors_and_devices_are_those_that_it_had(ran: dict[str, Path]) -> None:
    found = {(t["host"], t["pid"]): t for t in tasks(ran["gpus"])}
    for about in said(ran["gpus"], "a"):
        task = found[about["host"], about["pid"]]
        assert (task["rank"], task["local_rank"]) == (about["rank"], about["rank"] % 2)
        assert f'"CUDA_VISIBLE_DEVICES": "{about["gpus"]}"' in task["devices"]
        assert len([part for part in task["cpus"].split("-") if part]) in (1, 2)
    assert "1 device per rank" in attribute(steps(ran["gpus"])[0], "layout")


def test_steps_at_one_time_on_one_node_are_said_to_share_it(ran: dict[str, Path]) -> None:
    alone, *both = steps(ran["gpus"])
    assert attribute(alone, "shared") is None
    assert [attribute(step, "shared") for step in both] == [True, True]
    assert attribute(alone, "endTime") <= attribute(both[0], "startTime")


@pytest.mark.skipif(not MPIRUN, reason="no mpirun")
def test_each_mpirun_is_a_step_with_the_ranks_of_all_its_nodes(ran: dict[str, Path]) -> None:
    """It starts those of its own node itself, and in no step of Slurm's."""
    first, second = steps(ran["mpi"])
    assert [(attribute(s, "launcher"), attribute(s, "rankCount"), attribute(s, "worldSize"), attribute(s, "nodeCount"))
            for s in (first, second)] == [("openmpi", 3, 3, 2), ("openmpi", 2, 2, 1)]
    placed = {(t["rank"], t["host"], t["pid"]) for t in tasks(ran["mpi"]) if t["launcher"] == "openmpi"}
    assert placed == {(about["rank"], about["host"], about["pid"]) for program in "ab"
                      for about in said(ran["mpi"], program)}


@pytest.mark.torch
@pytest.mark.skipif(not TORCHRUN, reason="no PyTorch (make torch-env)")
def test_the_ranks_of_torchrun_in_a_step_are_its_workers(ran: dict[str, Path]) -> None:
    (step,) = steps(ran["torchrun"])
    assert (attribute(step, "launcher"), attribute(step, "rankCount"), attribute(step, "worldSize")) == (
        "torchrun", 2, 2)
    assert "ddp.py" in attribute(step, "programs")
    logged = xr.open_zarr(only(ran["torchrun"]) / "series.zarr", group="metrics/training", consolidated=False)
    assert set(logged["rank"].values.tolist()) == {0, 1}
