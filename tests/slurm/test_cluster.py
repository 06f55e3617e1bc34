"""The cluster of the tests is one: what the other tests here stand on."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.running import eventually
from tests.slurm.cluster import CGROUPS, Cluster, fields, letters, why_no_cgroup
from tests.slurm.configuration import CTL

# A child that outlives its parent, and says so.
ORPHAN = """
(setsid sleep 1000 & echo $! > orphan) &
wait
touch started
srun sleep 1000
"""


def test_every_node_is_a_machine_of_its_own(slurm: Cluster, tmp_path: Path) -> None:
    shown = "echo $(hostname) $(cat /proc/sys/kernel/random/boot_id) $(readlink /proc/self/ns/net) $(hostname -i)"
    done = slurm.exec(CTL, ["srun", "-N4", "bash", "-c", shown], cwd=tmp_path, check=True)
    rows = [line.split() for line in done.stdout.splitlines()]
    assert sorted(row[0] for row in rows) == sorted(slurm.nodes)
    assert all(len({row[column] for row in rows}) == 4 for column in range(4)), rows


def test_local_disks_are_local_and_the_tests_directory_is_common(slurm: Cluster, tmp_path: Path) -> None:
    first, second = slurm.nodes[:2]
    for place in ("/tmp", "/var/tmp", "/dev/shm", "/run"):
        slurm.exec(first, ["touch", f"{place}/only-{first}"], check=True)
        assert slurm.exec(first, ["test", "-e", f"{place}/only-{first}"]).returncode == 0
        assert slurm.exec(second, ["test", "-e", f"{place}/only-{first}"]).returncode == 1
        assert not os.path.exists(f"{place}/only-{first}")
    slurm.exec(first, ["touch", "common"], cwd=tmp_path, check=True)
    assert slurm.exec(second, ["ls"], cwd=tmp_path).stdout == "common\n"


def test_a_job_has_this_interpreter_and_our_modules(slurm: Cluster, tmp_path: Path) -> None:
    job = slurm.sbatch([sys.executable, "-c", "import yprov, yprovd; print('imported')"], cwd=tmp_path)
    assert slurm.wait(job) == "COMPLETED"
    assert (tmp_path / f"slurm-{job}.out").read_text() == "imported\n"


def test_a_job_gets_its_gpus_and_no_others(slurm: Cluster, tmp_path: Path) -> None:
    look = f"import glob, os\nfor g in sorted(glob.glob('{slurm.directory}/dev/gpu*')):\n" \
           " try: open(g)\n except OSError as e: print(e.errno)\nprint(os.environ['CUDA_VISIBLE_DEVICES'])"
    done = slurm.exec(CTL, ["srun", "--gres=gpu:2", sys.executable, "-c", look], cwd=tmp_path, check=True)
    *opened, listed = done.stdout.split()
    assert listed == "0,1"
    if slurm.settings.cgroup:
        assert opened == ["6"] * 2 + ["1"] * 6, "ENXIO (no driver) for ours, EPERM for the others"


def test_tasks_can_be_bound_to_cores(make_cluster: Callable[..., Cluster], tmp_path: Path) -> None:
    cores = sorted(os.sched_getaffinity(0))[:2]
    if why_no_cgroup() or len(cores) < 2:
        pytest.skip(f"needs cgroups and 2 cores: {why_no_cgroup()}, {len(cores)}")
    cluster = make_cluster(nodes=1, cpus=2, bind_cores=True)
    show = "import os; print(*os.sched_getaffinity(0))"
    done = cluster.exec(CTL, ["srun", "-n2", "-c1", sys.executable, "-c", show], cwd=tmp_path, check=True)
    assert sorted(done.stdout.split()) == [str(core) for core in cores]


def test_scancel_kills_a_child_whose_parent_is_gone(slurm: Cluster, tmp_path: Path) -> None:
    if slurm.no_cgroup:
        pytest.skip(f"needs process tracking by cgroup: {slurm.no_cgroup}")
    job = slurm.sbatch(ORPHAN, "-N2", cwd=tmp_path)
    eventually(lambda: (tmp_path / "started").exists())
    mark = f"SLURM_JOB_ID={job}\0"
    assert [p for p in slurm.processes(mark) if "sleep 1000" in p.command]
    slurm.scancel(job)
    assert slurm.wait(job) == "CANCELLED"
    eventually(lambda: not [p for p in slurm.processes(mark) if "sleep" in p.command])


def test_requeue_runs_the_same_job_again(slurm: Cluster, tmp_path: Path) -> None:
    job = slurm.sbatch("echo again $SLURM_RESTART_COUNT\n[ $SLURM_RESTART_COUNT ] || sleep 1000",
                       "--open-mode=append", cwd=tmp_path)
    assert slurm.wait(job, states=["RUNNING"]) == "RUNNING"
    output = tmp_path / f"slurm-{job}.out"
    eventually(lambda: output.exists() and output.read_text())
    slurm.exec(CTL, ["scontrol", "requeue", str(job)], check=True)
    slurm.wait(job, states=["PENDING"])
    slurm.start_now(job)
    assert slurm.wait(job) == "COMPLETED"
    lines = [line for line in output.read_text().splitlines() if line.startswith("again")]
    assert lines == ["again", "again 1"]


def test_an_urgent_job_preempts(slurm: Cluster, tmp_path: Path) -> None:
    low = slurm.sbatch("sleep 1000", "-N4", "--exclusive", cwd=tmp_path)
    slurm.wait(low, states=["RUNNING"])
    high = slurm.sbatch("true", "-N4", "-p", "urgent", cwd=tmp_path)
    assert slurm.wait(high) == "COMPLETED"
    assert slurm.jobs(low)[0]["Restarts"] == "1"


def test_arrays_and_heterogeneous_jobs(slurm: Cluster, tmp_path: Path) -> None:
    array = slurm.sbatch("echo $SLURM_ARRAY_TASK_ID", "--array=1-3", "--output=%A_%a.out", cwd=tmp_path)
    het = slurm.sbatch("#!/bin/bash\n#SBATCH -N1\n#SBATCH hetjob\n#SBATCH -N2\n"
                       "srun --het-group=0,1 hostname", cwd=tmp_path)
    assert slurm.wait(array) == "COMPLETED"
    assert sorted(p.read_text() for p in tmp_path.glob(f"{array}_*.out")) == ["1\n", "2\n", "3\n"]
    assert slurm.wait(het) == "COMPLETED"
    assert len(set((tmp_path / f"slurm-{het}.out").read_text().split())) == 3


def test_a_signal_reaches_the_command_itself(slurm: Cluster, tmp_path: Path) -> None:
    process = slurm.popen(slurm.nodes[0], ["sleep", "1000"], cwd=tmp_path)
    slurm.signal(process, signal.SIGTERM)
    process.wait(10)
    assert not [p for p in slurm.processes("sleep") if p.host == slurm.nodes[0]]


def test_power_loss_and_power_on(make_cluster: Callable[..., Cluster], tmp_path: Path) -> None:
    cluster = make_cluster(nodes=2)
    first, second = cluster.nodes
    job = cluster.sbatch("srun --no-kill sleep 1000", "-N2", "--no-kill", cwd=tmp_path)
    eventually(lambda: [p for p in cluster.processes("sleep 1000") if p.host == second] or cluster.processes("sleep"))
    cluster.crash(second)
    assert not cluster.is_on(second)
    assert not cluster.cgroups([second])
    assert cluster.exec(first, ["ping", "-c1", "-W1", second]).returncode
    cluster.scancel(job)
    cluster.boot(second)
    done = cluster.exec(CTL, ["srun", "-w", second, "hostname"], cwd=tmp_path, check=True)
    assert done.stdout == f"{second}\n"


def test_a_network_is_cut_and_heals(make_cluster: Callable[..., Cluster], tmp_path: Path) -> None:
    cluster = make_cluster(nodes=1)
    node = cluster.nodes[0]
    reach = ["bash", "-c", f"exec 3<>/dev/tcp/{node}/6818"]
    assert cluster.exec(CTL, reach).returncode == 0
    cluster.link(node, "down")
    assert cluster.exec(CTL, ["timeout", "0.3", *reach]).returncode == 124
    cluster.link(node, "up")
    eventually(lambda: cluster.exec(CTL, ["timeout", "1", *reach]).returncode == 0)


def test_daemons_stop_and_start_while_a_job_runs(make_cluster: Callable[..., Cluster], tmp_path: Path) -> None:
    cluster = make_cluster(nodes=1)
    job = cluster.sbatch("until [ -e go ]; do sleep 0.05; done", cwd=tmp_path)
    cluster.wait(job, states=["RUNNING"])
    cluster.slurmctld("stop")
    cluster.slurmd(cluster.nodes[0], "kill")
    assert cluster.exec(CTL, ["squeue"]).returncode
    (tmp_path / "go").touch()
    cluster.slurmd(cluster.nodes[0], "start")
    cluster.slurmctld("start")
    assert cluster.wait(job) == "COMPLETED"


def test_two_clusters_live_side_by_side_and_leave_nothing(make_cluster: Callable[..., Cluster], tmp_path: Path) -> None:
    one, two = make_cluster(nodes=1), make_cluster(nodes=1)
    assert one.nodes != two.nodes
    jobs = [(c, c.sbatch("setsid sleep 1000 &\nsleep 1000", cwd=tmp_path)) for c in (one, two)]
    for cluster, job in jobs:
        cluster.wait(job, states=["RUNNING"])
    mounts, links = Path("/proc/mounts").read_text(), sorted(os.listdir("/sys/class/net"))
    one.down()
    assert not (one.directory / "run").exists()
    assert not (one.directory / "munge").exists()
    assert two.state(jobs[1][1]) == "RUNNING"
    two.down()
    for cluster in (one, two):
        assert not [entry for entry in os.listdir("/proc") if entry.isdigit() and _about(entry, cluster.directory)]
        assert not list(CGROUPS.glob(f"*/slurm_{cluster.nodes[0]}"))
    assert Path("/proc/mounts").read_text() == mounts
    assert sorted(os.listdir("/sys/class/net")) == links


def _about(pid: str, directory: Path) -> bool:
    try:
        return any(bytes(directory) in Path("/proc", pid, name).read_bytes() for name in ("cmdline", "environ"))
    except OSError:
        return False


@pytest.mark.parametrize(("number", "text"), [(0, "a"), (25, "z"), (26, "ba"), (18011, "baqt")])
def test_numbers_as_letters(number: int, text: str) -> None:
    assert letters(number) == text


def test_fields_of_scontrol() -> None:
    line = "JobId=4 JobName=a b Comment=x=1 Power= NtasksPerN:B:S:C=0:0:*:* TRES=cpu=2,mem=1G"
    assert fields(line) == {"JobId": "4", "JobName": "a b", "Comment": "x=1", "Power": "",
                            "NtasksPerN:B:S:C": "0:0:*:*", "TRES": "cpu=2,mem=1G"}
