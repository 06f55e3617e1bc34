"""`yprov run --` in every kind of allocation: the user's step is what it would have been, and the record is whole."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import xarray as xr

from tests.running import attribute, document
from tests.slurm.cluster import Cluster
from yprovd.stitch.validate import validate_run

YPROV = f"{sys.executable} -m yprov.cli"
#: What a task finds: its variables, its processors, the devices that it may open.
LOOK = """
import glob, json, os, sys
def may(path):
    try:
        os.close(os.open(path, os.O_RDWR))
    except OSError as e:
        return e.strerror
    return "yes"
found = {"environ": dict(os.environ), "cpus": sorted(os.sched_getaffinity(0)), "cwd": os.getcwd(),
         "devices": {os.path.basename(p): may(p) for p in sorted(glob.glob(sys.argv[2] + "/gpu*"))}}
with open(f"{sys.argv[1]}-{os.environ['SLURM_PROCID']}.json", "w") as f:
    json.dump(found, f)
"""
#: These differ between any two steps.
OWN = re.compile(r"SLURM_(STEP_ID|STEPID|STEP_LAUNCHER_PORT|SRUN_COMM_PORT|LAUNCH_NODE_IPADDR|TASK_PID)$|YPROV_|_$")


def submit(cluster: Cluster, body: str, *options: str, cwd: Path, timeout: float = 60) -> str:
    out = cwd / "job.out"
    job = cluster.sbatch(f"#!/bin/bash\n{body}\n", f"--output={out}", *options, cwd=cwd)
    state = cluster.wait(job, timeout=timeout)
    text = out.read_text()
    assert state == "COMPLETED", text
    return text


def runs_of(cwd: Path) -> list[Path]:
    return sorted(p for p in (cwd / "yprov-runs").iterdir())


def only(cwd: Path) -> Path:
    (run_dir,) = runs_of(cwd)
    assert validate_run(run_dir) == []
    return run_dir


def hosts(run_dir: Path) -> list[str]:
    nodes = xr.open_zarr(run_dir / "series.zarr", group="nodes", consolidated=False)
    return sorted(str(name) for name in nodes["hostname"].values)


@pytest.mark.parametrize("options", [
    "-N2 -n8", "-N2 -n3", "-N2 -n2 -c4", "-N2 -n2 --mem=500", "-N2 -n2 --exclusive", "-N2 -n4 --gpus-per-task=1",
    "-N2 -n4 --gpus-per-task=2", "-N2 --gpus=4 --ntasks-per-gpu=1", "-N2 --gres=gpu:8 -n4 --mem-per-cpu=100",
])
def test_the_user_s_step_gets_what_it_would_have_had(slurm: Cluster, tmp_path: Path, options: str) -> None:
    (tmp_path / "look.py").write_text(LOOK)
    look = f"srun {{}} {sys.executable} look.py"
    inner = " --exact" if "-n3" in options else ""
    words = f"{slurm.directory}/dev"
    submit(slurm, f"{look.format(inner)} alone {words}\n{YPROV} run -- {look.format(inner)} ours {words}",
           *options.split(), cwd=tmp_path)
    alone = sorted(tmp_path.glob("alone-*.json"))
    ours = sorted(tmp_path.glob("ours-*.json"))
    assert len(alone) == len(ours) > 0
    for without, with_us in zip(alone, ours, strict=True):
        before, after = json.loads(without.read_text()), json.loads(with_us.read_text())
        for found in (before, after):
            found["environ"] = {k: v for k, v in found["environ"].items() if not OWN.match(k)}
        assert after == before
    # Once Slurm says it of itself, also without us, between two steps in quick succession; a step that waits for ours
    # says it again and again.
    assert (tmp_path / "job.out").read_text().count("temporarily disabled") <= 1
    assert len(hosts(only(tmp_path))) == 2


def test_the_processors_are_the_same(make_cluster: Callable[..., Cluster], tmp_path: Path) -> None:
    cluster = make_cluster(nodes=2, cpus=2, bind_cores=True)
    (tmp_path / "look.py").write_text(LOOK)
    look = f"srun --cpu-bind=cores {sys.executable} look.py"
    submit(cluster, f"{look} alone x\n{YPROV} run -- {look} ours x", "-N2", "-n4", cwd=tmp_path)
    masks = [[json.loads(p.read_text())["cpus"] for p in sorted(tmp_path.glob(f"{who}-*.json"))]
             for who in ("alone", "ours")]
    assert masks[0] == masks[1]
    assert len(masks[0]) == 4


def test_the_tasks_of_an_array_are_runs_of_one_experiment(slurm: Cluster, tmp_path: Path) -> None:
    submit(slurm, f"{YPROV} run --experiment sweep -- srun -N1 sleep 1", "--array=0-3", "-N1", cwd=tmp_path)
    slurm.wait_idle()
    found = [document(run_dir) for run_dir in runs_of(tmp_path)]
    jobs = [d["entity"]["job"] for d in found]
    assert {attribute(j, "arrayTaskId") for j in jobs} == {"0", "1", "2", "3"}
    assert len({attribute(j, "arrayJobId") for j in jobs}) == 1
    assert len({attribute(j, "jobId") for j in jobs}) == 4
    assert {attribute(d["activity"]["run"], "state") for d in found} == {"completed"}
    assert all(validate_run(run_dir) == [] for run_dir in runs_of(tmp_path))


def test_a_het_job_is_recorded_on_the_nodes_of_all_its_components(slurm: Cluster, tmp_path: Path) -> None:
    out = submit(slurm, f"#SBATCH -N2 -n2\n#SBATCH hetjob\n#SBATCH -N1 -n1\n"
                        f"{YPROV} run -- srun sh -c 'sleep 2; hostname' : sh -c 'sleep 2; hostname'", cwd=tmp_path)
    expected = sorted(line for line in out.splitlines() if line in slurm.nodes)
    assert len(expected) == 3
    run_dir = only(tmp_path)
    assert hosts(run_dir) == expected
    assert attribute(document(run_dir)["entity"]["job"], "jobId")


def test_salloc_from_a_host_outside_of_the_allocation(slurm: Cluster, tmp_path: Path) -> None:
    command = ["run", "--", "srun", "sh", "-c", "sleep 1; hostname"]
    done = slurm.exec("ctl", ["salloc", "-N2", "-n4", *YPROV.split(), *command], cwd=tmp_path, timeout=60)
    assert done.returncode == 0, done.stderr
    run_dir = only(tmp_path)
    assert hosts(run_dir) == sorted(set(done.stdout.split()))
    assert attribute(document(run_dir)["activity"]["run"], "state") == "completed"


def test_a_run_in_a_task_of_the_user_s_step_records_that_task(slurm: Cluster, tmp_path: Path) -> None:
    submit(slurm, f"srun {YPROV} run -- sleep 1", "-N2", "-n2", cwd=tmp_path)
    assert len(runs_of(tmp_path)) == 2
    assert sorted(host for run_dir in runs_of(tmp_path) for host in hosts(run_dir)) != []
    assert all(len(hosts(run_dir)) == 1 and validate_run(run_dir) == [] for run_dir in runs_of(tmp_path))


def test_two_runs_at_once_in_one_job(slurm: Cluster, tmp_path: Path) -> None:
    one = f"{YPROV} run -- srun -N1 -n1 --exact --mem=100 sleep 1"
    submit(slurm, f"{one} & {one} & wait", "-N2", "-n2", cwd=tmp_path)
    assert len(runs_of(tmp_path)) == 2
    for run_dir in runs_of(tmp_path):
        assert (validate_run(run_dir), len(hosts(run_dir))) == ([], 2)


def test_each_srun_of_a_script_is_a_step_with_its_own_ranks(slurm: Cluster, tmp_path: Path) -> None:
    (tmp_path / "programs").write_text("0 sleep 2\n1-2 sh -c 'sleep 2'\n")
    (tmp_path / "pipeline.sh").write_text("srun -n4 sleep 2\nsrun -n3 --multi-prog programs\n")
    submit(slurm, f"{YPROV} run -- bash pipeline.sh", "-N2", "-n4", cwd=tmp_path)
    steps: list[Any] = [a for i, a in sorted(document(only(tmp_path))["activity"].items()) if i.startswith("step/")]
    assert [attribute(s, "rankCount") for s in steps] == [4, 3]
    assert attribute(steps[0], "endTime") <= attribute(steps[1], "startTime")
    assert "sleep" in attribute(steps[1], "programs")
    assert "sh" in attribute(steps[1], "programs")


def test_without_scontrol_the_environment_tells_and_the_rest_has_a_reason(slurm: Cluster, tmp_path: Path) -> None:
    bin_ = tmp_path / "bin"
    bin_.mkdir()
    for name in ("srun", "sh", "sleep"):
        (bin_ / name).symlink_to(f"/usr/bin/{name}")
    submit(slurm, f"PATH={bin_}\n{YPROV} run -- srun sleep 1", "-N2", "-n2", cwd=tmp_path)
    run_dir = only(tmp_path)
    job = document(run_dir)["entity"]["job"]
    assert attribute(job, "jobId")
    assert "scontrol" in json.dumps(job)
    assert len(hosts(run_dir)) == 2
