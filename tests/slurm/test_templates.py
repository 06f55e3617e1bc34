"""Each template, submitted by `yprov submit` to a real Slurm. Stand-ins only for modules and the container."""

from __future__ import annotations

import json
import os
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.running import YPROV, environment, eventually, only_run, state
from tests.slurm.cluster import CTL, Cluster
from tests.test_templates import STAND_INS, TRAINING, WORDS
from yprov.templating import load, names

SHOW = [sys.executable, "-c", "import json, sys; print('words', json.dumps(sys.argv[1:]))"]
COVERED = {"single_node", "multi_node_ddp", "frontier_ddp", "array_sweep", "requeue_checkpoint", "apptainer", "refresh"}


class User:
    """Somebody with a directory of their own on the cluster."""

    def __init__(self, slurm: Cluster, home: Path) -> None:
        self.slurm, self.home = slurm, home
        bin_dir = home / "bin"
        bin_dir.mkdir()
        texts = {"module": STAND_INS["module"], "apptainer": STAND_INS["apptainer"],
                 "yprov": f'exec {" ".join(YPROV)} "$@"'}
        for name, text in texts.items():
            (bin_dir / name).write_text(f"#!/bin/bash\n{text}\n")
            (bin_dir / name).chmod(0o755)
        self.environ = environment(PATH=f"{bin_dir}:{os.environ['PATH']}", USER="someone")

    def submit(self, *arguments: str) -> str:
        done = self.slurm.exec(CTL, [*YPROV, "submit", *arguments], cwd=self.home, env=self.environ)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def completes(self, job: str, timeout: float = 60) -> str:
        """Its output, when it has ended well."""
        ended = self.slurm.wait(job, timeout)
        output = "".join(path.read_text() for path in sorted(self.home.glob(f"*-{job}*.out")))
        assert ended == "COMPLETED", output
        assert {record["ExitCode"] for record in self.slurm.jobs(job)} == {"0:0"}
        return output


@pytest.fixture
def user(slurm: Cluster, tmp_path: Path) -> User:
    return User(slurm, tmp_path)


def ours(output: str) -> list[str]:
    return [line for line in output.splitlines() if not line.startswith(("yprov:", "srun: "))]


def test_no_template_is_forgotten() -> None:
    assert set(names()) == COVERED


def test_single_node(user: User) -> None:
    job = user.submit("single_node", "--set", "mem=500", "--", *SHOW, *WORDS)
    assert ours(user.completes(job)) == ["words " + json.dumps(WORDS)]
    assert f"-train-{job}-" in only_run(user.home).name
    assert state(only_run(user.home)) == "completed"


def test_multi_node_ddp(user: User) -> None:
    show = ('echo "$RANK $LOCAL_RANK $WORLD_SIZE $(hostname) $MASTER_ADDR $MASTER_PORT '
            '$CUDA_VISIBLE_DEVICES $OMP_NUM_THREADS"')
    job = user.submit("multi_node_ddp", "--set=nodes=4", "--set=ntasks-per-node=2", "--set=gpus-per-node=2",
                      "--set=cpus-per-task=3", "--", "bash", "-c", show)
    port = str(20000 + int(job) % 10000)
    rows = sorted((line.split() for line in ours(user.completes(job))), key=lambda row: int(row[0]))
    nodes = user.slurm.nodes
    assert rows == [[str(r), str(r % 2), "8", nodes[r // 2], nodes[0], port, "0,1", "3"] for r in range(8)]
    assert state(only_run(user.home)) == "completed"


def test_frontier_ddp(make_cluster: Callable[..., Cluster], tmp_path: Path) -> None:
    """8 GCDs and 64 cores per node, whole nodes as there (with their GPUs); the NVMe is a directory of the node.

    Which GPU is closest this Slurm does not know: each rank sees all eight.
    """
    slurm = make_cluster(nodes=2, cpus=64, memory=64000, gpus=8, gpu_env="amd_gpu_env",
                         extra_conf="PartitionName=batch Nodes=ALL OverSubscribe=EXCLUSIVE\n")
    user = User(slurm, tmp_path)
    (tmp_path / "env/bin").mkdir(parents=True)
    (tmp_path / "env/bin/activate").write_text("export PATH=/var/tmp/env/bin:$PATH\n")
    (tmp_path / "env/bin/conda-unpack").write_text("#!/bin/sh\necho unpacked $(hostname)\n")
    (tmp_path / "env/bin/conda-unpack").chmod(0o755)
    with tarfile.open(tmp_path / "env.tar.gz", "w:gz") as tar:
        tar.add(tmp_path / "env/bin", "bin")
    show = ('test -d "$MIOPEN_USER_DB_PATH"; echo "rank $RANK $LOCAL_RANK $WORLD_SIZE $(hostname) $MASTER_ADDR '
            '$(command -v conda-unpack) $ROCR_VISIBLE_DEVICES"')
    job = user.submit("frontier_ddp", "--set=env_tar=env.tar.gz", "--set=nvme=/var/tmp", "--set=fabric=eth0",
                      "--set=constraint=", "--set=account=abc123", "--", "bash", "-ec", show)
    output = ours(user.completes(job))
    assert sorted(line for line in output if line.startswith("unpacked")) == [f"unpacked {n}" for n in slurm.nodes]
    rows = sorted((line.split()[1:] for line in output if line.startswith("rank")), key=lambda row: int(row[0]))
    unpack = "/var/tmp/env/bin/conda-unpack"
    assert [row[:-1] for row in rows] == [
        [str(r), "0", "16", slurm.nodes[r // 8], slurm.nodes[0], unpack] for r in range(16)]
    assert all(row[-1].startswith("0,1,2,") for row in rows)
    assert state(only_run(tmp_path)) == "completed"


def test_array_sweep(user: User) -> None:
    (user.home / "params.txt").write_text("--lr 1\n--lr 2 'c d'\n--lr 3\n")
    job = user.submit("array_sweep", "--set", "array=1-3", "--", *SHOW, "a b")
    output = [json.loads(line.removeprefix("words ")) for line in ours(user.completes(job, 90))]
    assert output == [["a b", "--lr", "1"], ["a b", "--lr", "2", "c d"], ["a b", "--lr", "3"]]
    runs = sorted((user.home / "yprov-runs").iterdir(), key=lambda run: run.name.split("-sweep-")[1])
    assert [run.name.split("-sweep-")[1].split("-")[0] for run in runs] == [f"{job}_{task}" for task in (1, 2, 3)]
    settings = [json.loads((run / "run.json").read_text())["settings"] for run in runs]
    assert {s["experiment"] for s in settings} == {f"sweep-{job}"}
    assert {state(run) for run in runs} == {"completed"}


@pytest.mark.parametrize("how", ["asked", pytest.param("at the time limit", marks=pytest.mark.slow)])
def test_requeue_checkpoint(user: User, how: str) -> None:
    job = user.submit("requeue_checkpoint", *["--set=time=1", "--set=signal=B:USR1@40"] * (how != "asked"), "--",
                      sys.executable, "-c", TRAINING)
    eventually((user.home / "training").exists, 30, "the training has begun")
    if how == "asked":
        user.slurm.exec(CTL, ["scancel", "--batch", "--signal=USR1", job], check=True)
    user.slurm.wait(job, 60, ["PENDING"])
    assert (user.home / "checkpoint").read_text() == "step 5"
    first = only_run(user.home)
    assert (first / "prov.json").exists(), "the record was complete before the job went back"
    # Slurm holds it until the nodes have forgotten the first attempt; `start_now` would be refused there.
    assert ours(user.completes(job))[-1] == "resumed at step 5"
    assert user.slurm.jobs(job)[0]["Restarts"] == "1"
    second, = set((user.home / "yprov-runs").iterdir()) - {first}
    assert state(second) == "completed"


def test_a_cancelled_job_is_not_requeued_and_its_record_says_so(user: User) -> None:
    job = user.submit("requeue_checkpoint", "--", "bash", "-c", "touch training; exec sleep 600")
    eventually((user.home / "training").exists, 30, "the training has begun")
    user.slurm.scancel(job)
    assert user.slurm.wait(job) == "CANCELLED"
    assert state(only_run(user.home)) == "cancelled"


def test_apptainer(user: User) -> None:
    (user.home / "my image.sif").write_text("")
    job = user.submit("apptainer", "--set=image=my image.sif", "--set=gpu=--rocm", "--", *SHOW, *WORDS)
    assert ours(user.completes(job)) == ["words " + json.dumps(WORDS)]
    called = (user.home / "apptainer.words").read_text()
    assert called.startswith(f"exec --rocm --bind {user.home} my image.sif {sys.executable}")
    assert state(only_run(user.home)) == "completed"


def test_refresh(user: User) -> None:
    """The line that multi_node_ddp offers: the job submits it itself; it waits for that one, which fails."""
    offered = load("multi_node_ddp").text.replace("#yprov submit refresh", "yprov submit refresh")
    (user.home / "mine.sbatch").write_text(offered)
    job = user.submit("./mine.sbatch", "--set=gpus-per-node=", "--set=ntasks-per-node=1", "--set=cpus-per-task=1", "--",
                      "bash", "-c", "exit 7")
    user.slurm.wait(job)
    after = next(line for line in (user.home / f"ddp-{job}.out").read_text().splitlines() if line.isdigit())
    user.slurm.wait(after)
    output = (user.home / f"refresh-{after}.out").read_text()
    if "No such option" in output:
        pytest.skip("`yprov stitch --refresh-slurm` is not there")
    assert user.slurm.state(after) == "COMPLETED", output
    assert user.slurm.state(job) == "FAILED"
    assert state(only_run(user.home)) == "failed"


def test_a_value_reaches_slurm_as_it_is_from_the_script_alone(user: User) -> None:
    value = "a \"b\" 'c' #d \\ e, f=g"
    done = user.slurm.exec(CTL, [*YPROV, "template", "write", "single_node", "--set", f"comment={value}",
                                 "--set", "nodes=2", "--set=ntasks="], cwd=user.home, env=user.environ)
    assert done.returncode == 0, done.stderr
    job = user.slurm.exec(CTL, ["sbatch", "--parsable", "--hold", "single_node.sbatch", "true"], cwd=user.home,
                          env=user.environ, check=True).stdout.strip()
    shown = user.slurm.exec(CTL, ["squeue", "-h", "-j", job, "-o", "%D|%k"]).stdout
    assert shown == f"2|{value}\n"


def test_what_slurm_refuses_is_said(user: User) -> None:
    done = user.slurm.exec(CTL, [*YPROV, "submit", "single_node", "--set", "partition=nowhere", "--", "true"],
                           cwd=user.home, env=user.environ)
    assert (done.returncode, done.stdout) == (1, "")
    assert "error: sbatch refused the job: invalid partition specified: nowhere" in done.stderr
