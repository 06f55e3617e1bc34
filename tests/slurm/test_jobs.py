"""What is recorded of a job is what Slurm says of it, and the daemons see what the job has."""

from __future__ import annotations

import json
import re
import shutil
import stat
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from tests.running import YPROV as WORDS
from tests.running import attribute, document
from tests.slurm.cluster import CTL, Cluster
from tests.slurm.conftest import ROOTFS
from tests.slurm.test_allocations import LOOK, OWN, YPROV, hosts, only, runs_of, submit

#: In a task: what this node's daemons are given, and where the collector is.
DAEMONS = """
import json, os, sys
found = {}
for pid in os.listdir("/proc"):
    try:
        name = open(f"/proc/{pid}/comm").read().strip()
        if name.startswith("yprov-"):
            environ = open(f"/proc/{pid}/environ").read()
            found[name] = dict(line.split("=", 1) for line in environ.split("\\0") if "=" in line)
    except OSError:
        pass
with open(f"daemons-{os.uname().nodename}.json", "w") as f:
    json.dump(found, f)
"""
#: GPUs of two nodes that are not alike.
UNEVEN = {"-N2 -n5 --gpus-per-task=2": ["0,1,2,3,4,5,6,7", "0,1"], "-N2 --gpus=5": ["0,1,2,3", "0"]}
#: attribute: field of `scontrol show job`
FIELDS = {
    "jobId": "JobId", "jobName": "JobName", "account": "Account", "partition": "Partition", "nodeList": "NodeList",
    "nodeCount": "NumNodes", "batchHost": "BatchHost", "allocatedTres": "TRES", "submitTime": "SubmitTime",
    "eligibleTime": "EligibleTime", "jobStartTime": "StartTime", "timeLimitSeconds": "TimeLimit",
    "comment": "Comment", "taskCount": "NumTasks", "cpusPerTask": "CPUs/Task", "workDir": "WorkDir",
    "attempt": "Restarts", "features": "Features",
}


def local(time: str) -> str:
    return datetime.fromisoformat(time).astimezone(UTC).isoformat()


def recorded(name: str, value: Any) -> str:
    if name == "timeLimitSeconds":
        minutes, seconds = divmod(int(value), 60)
        return f"{minutes // 60:02}:{minutes % 60:02}:{seconds:02}"
    return ",".join(sorted(str(value).split(","))) if name == "allocatedTres" else str(value)


def shown(name: str, value: str) -> str:
    if name.endswith("Time"):
        return local(value)
    return ",".join(sorted(value.split(","))) if name == "allocatedTres" else value


def job_of(run_dir: Path) -> dict[str, Any]:
    job: dict[str, Any] = document(run_dir)["entity"]["job"]
    return job


def test_every_fact_is_what_scontrol_shows(slurm: Cluster, tmp_path: Path) -> None:
    script = ("#!/bin/bash\n# Gr\xfc\xdfe in Latin-1\nscontrol -o -d show job $SLURM_JOB_ID\n"
              f"exec {YPROV} run --name facts -- sleep 1\n").encode("latin-1")
    (tmp_path / "job.sh").write_bytes(script)
    before = slurm.sbatch("true", cwd=tmp_path)
    job = slurm.exec(CTL, ["sbatch", "--parsable", "-N2", "-n3", "-c2", "--gres=gpu:2", "--time=5", "-J", "a b=c",
                           "--comment=one = two", "-A", "theirs", f"--dependency=afterany:{before}",
                           "--output=job.out", "job.sh"], cwd=tmp_path, check=True).stdout.strip()
    assert slurm.wait(job) == "COMPLETED"
    said = slurm.jobs(job)[0]
    said.setdefault("TRES", said.get("AllocTRES", ""))  # from 23.02 on it has two names
    run_dir = only(tmp_path)
    facts = job_of(run_dir)
    assert facts["prov:label"] == f"slurm job {job}"
    for name, field in FIELDS.items():
        value = attribute(facts, name)
        if said[field] == "(null)":
            assert value is None
        else:
            assert recorded(name, value) == shown(name, said[field]), name
    assert (attribute(facts, "jobUser"), attribute(facts, "cluster")) == (said["UserId"].partition("(")[0], "yp")
    assert attribute(facts, "dependency") == f"afterany:{before}"
    on_nodes = re.findall(r"Nodes=(\S+) CPU_IDs=\S+ Mem=\S+ GRES=(\S+)", (tmp_path / "job.out").read_text())
    gres = [line.partition(": ")[2] for line in attribute(facts, "gresByNode").splitlines()]
    assert set(gres) == {gres for _nodes, gres in on_nodes}
    assert attribute(facts, "absences") is None
    assert attribute(facts, "jobEndTime") is None  # not known yet; Slurm shows when its time is up
    kept = run_dir / "source" / "batch-script.sh"
    assert kept.read_bytes() == script
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    told = slurm.exec(CTL, [*WORDS, "show", str(run_dir)]).stdout
    assert f"slurm {job} (a b=c), 2 nodes" in told


def test_the_last_task_of_an_array_has_the_array_s_own_id_and_is_one_of_four(slurm: Cluster, tmp_path: Path) -> None:
    submit(slurm, f"{YPROV} run --dir runs --experiment sweep -- sleep 1", "--array=4-7", "-N1", cwd=tmp_path)
    runs = list((tmp_path / "runs").iterdir())
    jobs = {str(attribute(job_of(run_dir), "arrayTaskId")): run_dir for run_dir in runs}
    (array,) = {attribute(job_of(run_dir), "arrayJobId") for run_dir in runs}
    assert sorted(jobs) == ["4", "5", "6", "7"]
    assert attribute(job_of(jobs["7"]), "jobId") == array
    assert all(len(hosts(run_dir)) == 1 for run_dir in runs)
    told = slurm.exec(CTL, [*WORDS, "show", str(jobs["7"])]).stdout
    assert f"slurm {array} (sbatch), task 7 of array {array}, 1 node" in told


@pytest.mark.parametrize(("options", "gpus"), [
    ("-N2 --gres=gpu:8", ["0,1,2,3,4,5,6,7"] * 2),
    ("-N2 -n8 --ntasks-per-node=4 --gpus-per-task=1", ["0,1,2,3"] * 2),
    *((options, None) for options in UNEVEN),  # before 23.11 Slurm cannot give them all to one step
    ("-N1 --gres=gpu:3", ["0,1,2"]),
])
def test_the_daemons_see_the_job_s_gpus_or_it_is_said(
    slurm: Cluster, tmp_path: Path, options: str, gpus: list[str] | None
) -> None:
    (tmp_path / "daemons.py").write_text(DAEMONS)
    nodes = options[2]
    look = f"srun -N{nodes} -n{nodes} --ntasks-per-node=1 --gres=none {sys.executable} daemons.py"
    output = submit(slurm, f"{YPROV} run -- {look}", *options.split(), cwd=tmp_path)
    found = {path.stem[8:]: json.loads(path.read_text()) for path in tmp_path.glob("daemons-*.json")}
    assert len(found) == int(nodes)
    assert sorted(found) == hosts(only(tmp_path))
    sees = [about["yprov-node"].get("CUDA_VISIBLE_DEVICES") for _, about in sorted(found.items())]
    if "in another way" not in output:  # from 23.11 on always
        assert sees == (gpus or UNEVEN[options])
    else:
        assert gpus is None
        assert "warning: the daemons were placed in another way: srun --overlap --gres=gpu:" in output
        assert "in another way" in json.dumps(document(only(tmp_path)))


def test_salloc_s_launcher_is_outside_and_the_collector_on_the_first_node(slurm: Cluster, tmp_path: Path) -> None:
    (tmp_path / "daemons.py").write_text(DAEMONS)
    command = ["srun", "-N2", "-n2", "--gres=none", sys.executable, "daemons.py"]
    done = slurm.exec(CTL, ["salloc", "-N2", "-n4", "--ntasks-per-node=2", "--gpus-per-task=2", *WORDS, "run", "--",
                            *command], cwd=tmp_path, timeout=60)
    assert done.returncode == 0, done.stderr
    found = {path.stem[8:]: json.loads(path.read_text()) for path in tmp_path.glob("daemons-*.json")}
    first, second = sorted(found)
    assert (sorted(found[first]), sorted(found[second])) == (["yprov-collect", "yprov-node"], ["yprov-node"])
    # salloc does not tell how many GPUs a node has.
    assert [about["yprov-node"]["CUDA_VISIBLE_DEVICES"] for about in found.values()] == ["0,1,2,3"] * 2
    run = json.loads((only(tmp_path) / "run.json").read_text())
    assert (run["launcher"]["host"], run["nodes"]) == ("ctl", [first, second])


def test_a_run_in_a_task_starts_no_step_and_says_that_slurm_was_not_asked(slurm: Cluster, tmp_path: Path) -> None:
    output = submit(slurm, f"srun {YPROV} run -- sleep 1\nsrun -N1 -n1 env | grep SLURM_STEP_ID", "-N2", "-n2",
                    cwd=tmp_path)
    assert "SLURM_STEP_ID=1" in output  # there was one before it, and no other
    for run_dir in runs_of(tmp_path):
        job = job_of(run_dir)
        assert "Slurm was not asked" in attribute(job, "absences")
        assert (attribute(job, "nodeCount"), attribute(job, "taskCount")) == (2, 2)


@pytest.mark.parametrize("nodes", [1, 2])
def test_without_any_command_of_slurm_as_in_a_container(slurm: Cluster, tmp_path: Path, nodes: int) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "sleep").symlink_to("/usr/bin/sleep")
    output = submit(slurm, f"PATH=$PWD/bin\n{YPROV} run -- sleep 1", f"-N{nodes}", "-J", "boxed", cwd=tmp_path)
    run_dir = only(tmp_path)
    job = job_of(run_dir)
    assert (attribute(job, "jobName"), attribute(job, "nodeCount")) == ("boxed", nodes)
    assert "is not in PATH" in attribute(job, "absences")
    assert len(hosts(run_dir)) == 1
    assert ("only this node is recorded" in output) == (nodes > 1)


def test_each_kind_of_step_gets_what_it_would_have_had(slurm: Cluster, tmp_path: Path) -> None:
    """Options of `srun` itself; the command's own environment too."""
    (tmp_path / "look.py").write_text(LOOK)
    kinds = {
        "exact": "-n2 --exact", "exclusive": "-n4 --exclusive", "wide": "-N2 -n2 -c2", "memory": "-N1 -n1 --mem=200",
        "bound": "-n4 --gpus-per-task=1 --gpu-bind=single:1", "closest": "-n2 --gpus=2 --gpu-bind=closest",
        "shared": "--ntasks-per-gpu=2 --gpus=2 -n4", "none": "-n2 --gres=none", "overlap": "-n4 --overlap",
        "layout": "-n4 --distribution=cyclic --cpu-bind=none", "relative": "-N1 -n1 --relative=1",
    }
    look = f"{sys.executable} look.py"
    steps = "\n".join(f"srun {options} {look} $1-{kind} {slurm.directory}/dev || touch $1-{kind}-failed"
                      for kind, options in kinds.items())
    (tmp_path / "steps.sh").write_text(f"env -0 > $1.env\n{steps}\n")
    output = submit(slurm, f"bash steps.sh alone\n{YPROV} run -- bash steps.sh ours", "-N2", "-n4", "--exclusive",
                    "--gres=gpu:4", "--mem=8000", cwd=tmp_path, timeout=60)
    # A step that the daemons' step hindered would wait for its end for ever.
    assert not list(tmp_path.glob("*-failed")), output
    assert _variables(tmp_path / "ours.env") == _variables(tmp_path / "alone.env")
    for kind in kinds:
        before, after = (_found(tmp_path, f"{who}-{kind}") for who in ("alone", "ours"))
        assert len(before) > 0
        assert after == before, kind


def _variables(path: Path) -> dict[str, str]:
    lines = (line.split("=", 1) for line in path.read_text().split("\0") if "=" in line)
    return {k: v for k, v in lines if not OWN.match(k)}


def _found(folder: Path, name: str) -> list[Any]:
    found = [json.loads(path.read_text()) for path in sorted(folder.glob(f"{name}-*.json"))]
    for one in found:
        one["environ"] = {k: v for k, v in one["environ"].items() if not OWN.match(k)}
    return found


def test_accounting_tells_the_end_afterwards(make_cluster: Callable[..., Cluster], tmp_path: Path) -> None:
    if ROOTFS is None and not (shutil.which("mariadbd") and shutil.which("slurmdbd")):
        pytest.skip("no slurmdbd or no mariadb-server here")
    if ROOTFS and not (ROOTFS / "usr/bin/mariadb-install-db").exists():
        pytest.skip(f"no mariadb-server in {ROOTFS}")
    cluster = make_cluster(nodes=2, dbd=True)
    job = cluster.sbatch(f"#!/bin/bash\n{YPROV} run -- srun sleep 1\nexit 7\n", "-N2", "--output=job.out", cwd=tmp_path)
    assert cluster.wait(job) == "FAILED"
    (run_dir,) = runs_of(tmp_path)
    assert attribute(job_of(run_dir), "jobState") == "RUNNING"
    done = cluster.exec(CTL, [*WORDS, "stitch", "--refresh-slurm", str(run_dir)], cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    only(tmp_path)
    facts = job_of(run_dir)
    assert (attribute(facts, "jobState"), attribute(facts, "jobExitCode")) == ("FAILED", 7)
    accounted = {s["name"]: s for s in json.loads(attribute(facts, "slurmSteps"))}
    assert {"batch", "sleep", "yprovd"} <= set(accounted)
    assert {accounted[name]["state"] for name in ("sleep", "yprovd")} == {"COMPLETED"}
    assert attribute(facts, "elapsedSeconds") >= 1
    assert local(cluster.jobs(job)[0]["EndTime"]) == attribute(facts, "jobEndTime")
    assert "failed" in next(line for line in cluster.exec(CTL, [*WORDS, "show", str(run_dir)]).stdout.splitlines()
                            if line.strip().startswith("job"))


def test_the_shell_that_salloc_opens_on_the_first_node_is_no_task(
    make_cluster: Callable[..., Cluster], tmp_path: Path
) -> None:
    """LaunchParameters=use_interactive_step: it runs in a step, but not in one of the user's."""
    cluster = make_cluster(nodes=2, extra_conf="LaunchParameters=use_interactive_step\n"
                                               'InteractiveStepOptions="--interactive --preserve-env /bin/bash"\n')
    done = cluster.exec(CTL, ["salloc", "-N2", "-n2"], input=f"hostname\n{YPROV} run -- srun sleep 1\n", cwd=tmp_path,
                        timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == cluster.nodes[:1]
    assert hosts(only(tmp_path)) == cluster.nodes
