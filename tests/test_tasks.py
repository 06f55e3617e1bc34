"""Which processes are the tasks of a run, when they began, and when they ended."""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.running import environment, eventually
from yprovd import tasks
from yprovd.processes import MARKER
from yprovd.ranks import ranges
from yprovd.tasks import AGAIN_NS, OPENED_NS, TaskWatch, program_of

RUN = "0b7c1a52"
S = 1_000_000_000
#: Variables that this test suite may itself have been started with.
PLACE = ("SLURM_", "OMPI_", "PMI", "PALS_", "FLUX_", "JSM_", "RANK", "LOCAL_RANK", "WORLD_SIZE", "MV2_")


def slurm(rank: int, step: int = 0, size: int = 2, **more: str) -> dict[str, str]:
    return {"SLURM_JOB_ID": "7", "SLURM_STEP_ID": str(step), "SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank),
            "SLURM_STEP_NUM_TASKS": str(size), **more}


def torchrun(rank: int) -> dict[str, str]:
    return {"RANK": str(rank), "WORLD_SIZE": "4", "LOCAL_RANK": str(rank)}


class Proc:
    """A directory that looks like /proc."""

    def __init__(self, root: Path) -> None:
        self.root = root
        (root / "proc/sys").mkdir(parents=True)
        (root / "proc/cpuinfo").touch()
        self.start(1, 0, run=None)

    def start(
        self, pid: int, parent: int = 1, environ: Mapping[str, str] | None = None, *, run: str | None = RUN,
        argv: str = "python train.py", started: int = 0, state: str = "S", cpus: str = "0-3",
    ) -> None:
        folder = self.root / "proc" / str(pid)
        folder.mkdir(exist_ok=True)
        variables = {"HOME": "/root", **({} if run is None else {MARKER: run}), **(environ or {})}
        fields = [state, str(parent), *["0"] * 17, str(started or pid), "0"]
        (folder / "stat").write_text(f"{pid} (a )b) {' '.join(fields)}\n")
        (folder / "environ").write_bytes("".join(f"{k}={v}\0" for k, v in variables.items()).encode())
        (folder / "cmdline").write_bytes(argv.replace(" ", "\0").encode() + b"\0")
        (folder / "status").write_text(f"Name:\tx\nCpus_allowed:\tf\nCpus_allowed_list:\t{cpus}\nMems_allowed:\t1\n")

    def end(self, pid: int) -> None:
        shutil.rmtree(self.root / "proc" / str(pid))


@pytest.fixture
def proc(tmp_path: Path) -> Proc:
    return Proc(tmp_path)


@pytest.fixture
def watch(proc: Proc) -> Iterator[TaskWatch]:
    watch = TaskWatch(str(proc.root), RUN)
    yield watch
    watch.close()


def found(rows: list[dict[str, Any]]) -> list[tuple[int, str, str, int]]:
    return sorted((r["pid"], r["step"], r["launcher"], r["rank"]) for r in rows if r["e"] == "begin")


def ended(rows: list[dict[str, Any]]) -> list[str]:
    return sorted(r["id"] for r in rows if r["e"] == "end")


# a directory


def test_a_task_is_described_by_what_stands_in_proc(proc: Proc, watch: TaskWatch) -> None:
    devices = {"CUDA_VISIBLE_DEVICES": "0,1", "SLURM_STEP_GPUS": "4,5"}
    proc.start(100, 1, slurm(1, step=3, size=8, **devices), argv="/usr/bin/python3.11 -u /home/ada/train.py --lr 1")
    (row,) = watch.look(9 * S)
    assert row.pop("started_ns") <= 9 * S
    assert row == {
        "e": "begin", "t": 9 * S, "id": "100-100", "pid": 100, "start": 100, "step": "7.3", "launcher": "slurm",
        "rank": 1, "local_rank": 1, "world_size": 8, "cpus": "0-3", "devices": devices,
        "program": "python3.11 train.py",
    }


def test_children_of_a_task_are_no_tasks(proc: Proc, watch: TaskWatch) -> None:
    proc.start(100, 1, slurm(0), argv="bash job.sh")
    proc.start(101, 100, slurm(0))
    proc.start(102, 101, slurm(0))  # a data loader's worker
    proc.start(110, 1, slurm(1))
    assert found(watch.look(0)) == [(100, "7.0", "slurm", 0), (110, "7.0", "slurm", 1)]
    assert watch.look(2 * S) == []


def test_processes_of_other_runs_and_daemons_without_the_mark_are_no_tasks(proc: Proc, watch: TaskWatch) -> None:
    proc.start(100, 1, slurm(0), run="another")
    proc.start(101, 1, slurm(0), run=None)
    proc.start(102, 1, {}, argv="python no_rank.py")
    proc.start(103, 1, {"SLURM_JOB_ID": "7", "SLURM_PROCID": "0"}, argv="srun python train.py")  # in the batch script
    proc.start(104, 1, slurm(0), state="Z")
    assert watch.look(0) == []


def test_the_workers_of_torchrun_in_a_step_are_tasks_below_a_task(proc: Proc, watch: TaskWatch) -> None:
    proc.start(100, 1, slurm(0, size=1), argv="python /opt/bin/torchrun train.py")
    for rank in range(4):
        proc.start(200 + rank, 100, slurm(0, size=1) | torchrun(rank))
        proc.start(300 + rank, 200 + rank, slurm(0, size=1) | torchrun(rank))
    assert found(watch.look(0)) == [
        (100, "7.0", "slurm", 0), *((200 + rank, "7.0", "torchrun", rank) for rank in range(4))]


def test_a_worker_that_torchrun_starts_again_is_a_new_task(proc: Proc, watch: TaskWatch) -> None:
    proc.start(100, 1, {}, argv="torchrun train.py")
    proc.start(200, 100, torchrun(0))
    watch.look(0)
    proc.end(200)
    proc.start(201, 100, torchrun(0))
    rows = watch.look(S)
    assert (ended(rows), found(rows)) == (["200-200"], [(201, "", "torchrun", 0)])


def test_two_mpiruns_at_once_have_ranks_of_the_same_numbers(proc: Proc, watch: TaskWatch) -> None:
    for mpirun in (100, 110):
        proc.start(mpirun, 1, {}, argv="mpirun a.out")
        for rank in (0, 1):
            proc.start(mpirun + 1 + rank, mpirun, {"OMPI_COMM_WORLD_RANK": str(rank)})
    assert [row[0] for row in found(watch.look(0))] == [101, 102, 111, 112]


@pytest.mark.parametrize(("environ", "launch"), [
    ({"OMPI_COMM_WORLD_RANK": "0", "PMIX_NAMESPACE": "3434"}, "3434"),
    (torchrun(0) | {"TORCHELASTIC_RUN_ID": "0a-1b"}, "0a-1b"),
    (torchrun(0) | {"TORCHELASTIC_RUN_ID": "none"}, None),
    ({"PMI_RANK": "0"}, None),
])
def test_a_launch_is_called_as_its_launcher_calls_it(
    proc: Proc, watch: TaskWatch, environ: dict[str, str], launch: str | None
) -> None:
    proc.start(100, 1, environ)
    (row,) = watch.look(0)
    assert row.get("launch") == launch


def test_a_daemonised_child_of_a_task_is_no_second_task(proc: Proc, watch: TaskWatch) -> None:
    proc.start(100, 1, slurm(0))
    assert len(watch.look(0)) == 1
    proc.start(500, 1, slurm(0), argv="tensorboard")  # its parent has gone
    assert watch.look(S) == []
    proc.end(100)
    proc.start(501, 1, slurm(0), argv="tensorboard")
    assert ended(rows := watch.look(5 * S)) == ["100-100"]
    assert found(rows) == []


def test_of_a_task_and_its_orphan_found_together_the_older_is_the_task(proc: Proc, watch: TaskWatch) -> None:
    proc.start(100, 1, slurm(0), started=2000)
    proc.start(50, 1, slurm(0), started=2001)
    assert [row[0] for row in found(watch.look(0))] == [100]


def test_a_process_between_fork_and_exec_is_looked_at_again(proc: Proc, watch: TaskWatch) -> None:
    proc.start(90, 1, {}, run=None, argv="slurmstepd")
    proc.start(100, 90, {}, run=None, argv="slurmstepd")
    proc.start(200, 1, slurm(0), argv="torchrun train.py")
    proc.start(201, 200, slurm(0), argv="torchrun train.py")
    assert [row[0] for row in found(watch.look(0))] == [200]
    proc.start(100, 90, slurm(1))
    proc.start(201, 200, slurm(0) | torchrun(0))
    assert watch.look(AGAIN_NS[0] // 2) == []
    assert found(watch.look(AGAIN_NS[0])) == [(100, "7.0", "slurm", 1), (201, "7.0", "torchrun", 0)]
    assert watch.look(3 * sum(AGAIN_NS)) == []


def test_a_process_that_is_long_between_fork_and_exec_is_looked_at_once_more(proc: Proc, watch: TaskWatch) -> None:
    proc.start(100, 1, {}, run=None, argv="slurmstepd")
    assert watch.look(0) == watch.look(AGAIN_NS[0]) == []
    proc.start(100, 1, slurm(1))
    assert watch.look(AGAIN_NS[0] + AGAIN_NS[1] // 2) == []
    assert found(watch.look(sum(AGAIN_NS))) == [(100, "7.0", "slurm", 1)]


def test_a_parent_that_has_just_become_a_task_is_read_anew(proc: Proc, watch: TaskWatch) -> None:
    proc.start(100, 1, {}, argv="mpirun")
    proc.start(101, 100, {}, argv="mpirun")
    assert watch.look(0) == []
    rank = {"OMPI_COMM_WORLD_RANK": "0"}
    proc.start(101, 100, rank)
    proc.start(102, 101, rank)
    assert found(watch.look(S // 4)) == []  # the child is none
    assert [row[0] for row in found(watch.look(S))] == [101]


def test_an_end_says_when_the_task_was_last_there(proc: Proc, watch: TaskWatch) -> None:
    proc.start(100, 1, slurm(0))
    proc.start(101, 1, slurm(1))
    watch.look(1 * S)
    watch.look(2 * S)
    proc.end(100)
    assert watch.look(3 * S) == [{"e": "end", "t": 3 * S, "id": "100-100", "seen": 2 * S}]
    assert watch.look(4 * S) == []


def test_nothing_that_was_seen_is_read_again(proc: Proc, watch: TaskWatch, monkeypatch: pytest.MonkeyPatch) -> None:
    for pid in range(100, 140):
        proc.start(pid, 1, slurm(pid - 100) if pid < 104 else {}, run=RUN if pid < 120 else None)
    for t in (0, 2 * S, 4 * S):
        watch.look(t)

    def no_more(*_args: Any, **_kwargs: Any) -> Any:
        raise AssertionError("a file is opened")

    monkeypatch.setattr(tasks, "open", no_more, raising=False)
    monkeypatch.setattr(tasks, "stat_fields", no_more)
    assert watch.look(6 * S) == []


def test_the_device_files_that_a_rank_holds_open_are_told_once_it_has_some(proc: Proc, watch: TaskWatch) -> None:
    proc.start(100, 1, slurm(0, CUDA_VISIBLE_DEVICES="0"), argv="bash train.sh")
    proc.start(101, 100, slurm(0, CUDA_VISIBLE_DEVICES="0"))
    proc.start(110, 1, slurm(1))  # nothing says that it may use any
    watch.look(0)
    assert watch.look(OPENED_NS[0]) == []  # none yet
    for pid, files in ((101, ["/dev/nvidiactl", "/dev/nvidia-uvm", "/dev/nvidia6", "/dev/dri/renderD130", "/x/nvidia7",
                              "socket:[1]"]), (110, ["/dev/nvidia5"])):
        (proc.root / f"proc/{pid}/fd").mkdir()
        for number, file in enumerate(files):
            os.symlink(file, proc.root / f"proc/{pid}/fd/{number}")
    assert watch.look(OPENED_NS[1] - 1) == []
    assert watch.look(OPENED_NS[1]) == [
        {"e": "opened", "t": OPENED_NS[1], "id": "100-100", "files": ["nvidia6", "renderD130"]}]
    assert watch.look(2 * OPENED_NS[-1]) == []


def test_a_rank_that_opens_no_device_is_not_looked_at_for_ever(
    proc: Proc, watch: TaskWatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    proc.start(100, 1, slurm(0, ROCR_VISIBLE_DEVICES="0"))
    for t in (0, *OPENED_NS):
        watch.look(t)
    (proc.root / "proc/100/fd").mkdir()
    os.symlink("/dev/dri/renderD128", proc.root / "proc/100/fd/3")
    assert watch.look(10 * OPENED_NS[-1]) == []


def test_what_is_remembered_is_bounded(proc: Proc, watch: TaskWatch, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks, "MOST", 3)
    for rank in range(5):
        proc.start(100 + rank, 1, slurm(rank))
    assert len(found(watch.look(0))) == 3
    for rank in range(5):
        proc.end(100 + rank)
    for rank in range(5):
        proc.start(200 + rank, 1, slurm(rank, step=1))
    rows = watch.look(S)
    assert (len(ended(rows)), len(found(rows))) == (3, 3)


def test_a_proc_that_cannot_be_read_is_no_error(tmp_path: Path) -> None:
    watch = TaskWatch(str(tmp_path / "nowhere"), RUN)
    assert watch.look(0) == []
    watch.close()


def test_an_environment_that_is_not_utf8_is_read(proc: Proc, watch: TaskWatch) -> None:
    proc.start(100, 1, slurm(0))
    path = proc.root / "proc/100/environ"
    path.write_bytes(b"NAME=\xff\xfe\0no equals sign\0" + path.read_bytes() + b"CUDA_VISIBLE_DEVICES=\xff\0")
    (row,) = watch.look(0)
    assert row["devices"] == {"CUDA_VISIBLE_DEVICES": "\udcff"}


@pytest.mark.parametrize(
    ("argv", "program"),
    [
        ("/opt/a.out 4 5", "a.out"),
        ("python train.py", "python train.py"),
        ("/usr/bin/python3.11 -u -X dev -W error /a/train.py --x", "python3.11 train.py"),
        ("python -m torch.distributed.run train.py", "python -m torch.distributed.run"),
        ("python -c print(1)", "python"),
        ("python", "python"),
        ("-bash", "bash"),
        ("bash -o pipefail /a/run.sh x", "bash run.sh"),
        ("bash -c ls", "bash"),
        ("apptainer exec image.sif python train.py", "apptainer"),
        ("pythonista x", "pythonista"),
        ("", ""),
    ],
)
def test_a_program_is_named_without_folders_and_arguments(argv: str, program: str) -> None:
    assert program_of([word.encode() for word in argv.split(" ")] + [b""]) == program


# this machine


@contextlib.contextmanager
def child(run_id: str, *argv: str, **variables: str) -> Iterator[subprocess.Popen[str]]:
    """A program of the run with such an environment, once it has begun."""
    environ = {k: v for k, v in environment().items() if not k.startswith(PLACE)}
    with subprocess.Popen(argv, env=environ | {MARKER: run_id} | variables, stdout=subprocess.PIPE, text=True) as p:
        try:
            assert p.stdout is not None
            assert p.stdout.readline() == "ready\n"
            yield p
        finally:
            p.kill()


WAITING = "import signal; print('ready', flush=True); signal.pause()"
FORKING = """
import os, signal
children = []
for _ in range(3):
    pid = os.fork()
    if not pid:
        signal.pause()
    children.append(pid)
signal.signal(signal.SIGTERM, lambda *_: [os.kill(pid, signal.SIGKILL) for pid in children] and os._exit(0))
print("ready", flush=True)
signal.pause()
"""


@pytest.fixture
def live() -> Iterator[tuple[TaskWatch, str]]:
    run_id = f"test-{uuid.uuid4().hex}"
    watch = TaskWatch("/", run_id)
    yield watch, run_id
    watch.close()


def test_a_live_task_is_found_with_its_start_and_its_cpus(live: tuple[TaskWatch, str]) -> None:
    watch, run_id = live
    before = time.monotonic_ns()
    with child(run_id, sys.executable, "-S", "-c", WAITING, **slurm(1)) as process:
        (row,) = watch.look(time.monotonic_ns())
        assert (row["pid"], row["rank"], row["step"]) == (process.pid, 1, "7.0")
        assert row["cpus"] == ranges(os.sched_getaffinity(0))
        assert before - 2 * S // os.sysconf("SC_CLK_TCK") <= row["started_ns"] <= row["t"]
        assert watch.look(time.monotonic_ns()) == []


def test_the_end_of_a_live_task_is_told_when_it_happens(live: tuple[TaskWatch, str]) -> None:
    watch, run_id = live
    with child(run_id, sys.executable, "-S", "-c", WAITING, **slurm(0)) as process:
        (begun,) = watch.look(time.monotonic_ns())
        assert watch.ended(time.monotonic_ns()) == []
        process.kill()
        assert select.select([watch.fileno()], [], [], 10)[0]  # also while nobody has waited for it
        assert watch.ended(42) == [{"e": "end", "t": 42, "id": begun["id"]}]
    assert watch.look(time.monotonic_ns() + 2 * S) == []
    assert not select.select([watch.fileno()], [], [], 0)[0]


def test_live_forks_of_a_task_are_no_tasks(live: tuple[TaskWatch, str]) -> None:
    watch, run_id = live
    with child(run_id, sys.executable, "-S", "-c", FORKING, **slurm(0)) as process:
        rows = watch.look(time.monotonic_ns()) + watch.look(time.monotonic_ns() + 2 * S)
        assert [r["pid"] for r in rows] == [process.pid]
        process.send_signal(signal.SIGTERM)
        process.wait(10)
    assert ended(eventually(lambda: watch.look(time.monotonic_ns()), what="the end")) == [rows[0]["id"]]


def test_where_the_kernel_does_not_tell_looking_does(
    live: tuple[TaskWatch, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    watch, run_id = live
    monkeypatch.setattr(tasks, "MOST_FDS", 0)
    with child(run_id, sys.executable, "-S", "-c", WAITING, **slurm(0)) as process:
        (begun,) = watch.look(1 * S)
        process.kill()
        process.wait(10)
        (row,) = watch.look(2 * S)
    assert row == {"e": "end", "t": 2 * S, "id": begun["id"], "seen": 1 * S}


def test_closing_leaves_no_descriptor() -> None:
    run_id = f"test-{uuid.uuid4().hex}"
    before = len(os.listdir("/proc/self/fd"))
    with child(run_id, sys.executable, "-S", "-c", WAITING, **slurm(0)):
        watch = TaskWatch("/", run_id)
        assert len(watch.look(0)) == 1
        watch.close()
    assert len(os.listdir("/proc/self/fd")) == before
