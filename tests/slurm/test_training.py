"""A real training, PyTorch DDP over 4 nodes with 2 ranks each: one record of all of it."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

from tests.running import attribute, document
from tests.slurm.cluster import Cluster
from yprovd.stitch.validate import validate_run

ROOT = Path(__file__).resolve().parents[2]
#: Where `make torch-env` installs PyTorch and the client.
TORCH = Path(os.environ.get("YPROV_TORCH_PYTHON", ROOT / ".venv-torch/bin/python"))
NODES, RANKS, EPOCHS = 4, 8, 4

pytestmark = pytest.mark.torch


@pytest.fixture(scope="module")
def run(slurm: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not TORCH.exists():
        reason = f"no PyTorch in {TORCH} (make torch-env)"
        (pytest.fail if os.environ.get("YPROV_REQUIRE_TORCH") else pytest.skip)(reason)
    if slurm.rootfs is not None:
        pytest.skip("the cluster's own root file system has no Python that PyTorch was installed for")
    work = tmp_path_factory.mktemp("ddp")
    script = (
        "#!/bin/bash\nexport OMP_NUM_THREADS=1 GLOO_SOCKET_IFNAME=eth0\n"
        f"exec {sys.executable} -m yprov.cli run --experiment ddp -- "
        f"srun {TORCH} {ROOT}/examples/ddp.py --epochs {EPOCHS}\n")
    job = slurm.sbatch(script, f"-N{NODES}", f"--ntasks-per-node={RANKS // NODES}", "--job-name=digits",
                       "--comment=a real one", cwd=work)
    assert slurm.wait(job, timeout=180) == "COMPLETED", slurm.tails()
    (run_dir,) = (work / "yprov-runs").iterdir()
    return run_dir


def test_the_record_is_one_valid_document(run: Path) -> None:
    assert validate_run(run) == []
    activities = document(run)["activity"]
    assert attribute(activities["run"], "state") == "completed"
    assert {"ctx/training", "ctx/validation", *(f"ctx/training/epoch/{k}" for k in range(EPOCHS))} <= set(activities)


def test_every_rank_is_in_it_with_its_node(run: Path) -> None:
    (step,) = [a for i, a in document(run)["activity"].items() if i.startswith("step/")]
    assert (attribute(step, "rankCount"), attribute(step, "nodeCount"), attribute(step, "worldSize")) == (
        RANKS, NODES, RANKS)
    tasks = xr.open_zarr(run / "series.zarr", group="tasks", consolidated=False).to_dataframe()
    assert sorted(tasks["rank"]) == list(range(RANKS))
    assert set(tasks.groupby("host").size()) == {RANKS // NODES}


def test_the_loss_of_every_rank_falls(run: Path) -> None:
    table = xr.open_zarr(run / "series.zarr", group="metrics/training", consolidated=False).to_dataframe()
    assert sorted(set(table["rank"])) == list(range(RANKS))
    by_epoch = table.groupby(["rank", "epoch"])["loss"].mean().unstack()
    assert list(by_epoch.columns) == list(range(EPOCHS))
    assert (by_epoch[EPOCHS - 1] < 0.5 * by_epoch[0]).all()
    validation = xr.open_zarr(run / "series.zarr", group="metrics/validation", consolidated=False).to_dataframe()
    assert set(validation["rank"]) == {0}
    assert validation["accuracy"].iloc[-1] > 0.85


def test_all_nodes_are_measured_on_one_time_axis(run: Path) -> None:
    host = xr.open_zarr(run / "series.zarr", group="host", consolidated=False)
    assert dict(host.sizes)["node"] == NODES
    working = (host["process_count"] >= RANKS // NODES).all("node").values
    first, last = np.flatnonzero(working)[[0, -1]]
    assert last - first >= 2
    assert not np.isnan(host["memory_usage"].values[:, first:last + 1]).any()
    assert working[first:last + 1].all()


def test_slurm_s_facts_are_right(run: Path, slurm: Cluster) -> None:
    entity: dict[str, Any] = document(run)["entity"]
    job = entity["job"]
    (shown,) = slurm.jobs(attribute(job, "jobId"))
    assert attribute(job, "jobName") == "digits"
    assert attribute(job, "comment") == "a real one"
    assert attribute(job, "nodeList") == shown["NodeList"]
    assert attribute(job, "partition") == shown["Partition"]
    assert (run / "source/batch-script.sh").read_text().startswith("#!/bin/bash\nexport OMP_NUM_THREADS=1")
