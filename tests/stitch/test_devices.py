"""Which ranks had which GPUs: real environments, and what holds for any."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.stitch.builders import NodeSpool, RunSpool, gauge
from yprovd.devices import Found, about, of_job
from yprovd.model import Device
from yprovd.stitch.devices import TaskDevices, owners_of, process_devices, process_owners_of, task_devices
from yprovd.stitch.record import Record
from yprovd.wire import Kind

BUSES = ["c1", "c6", "c9", "ce", "d1", "d6", "d9", "de"]
#: rocm-smi's order to the rank that `--gpu-bind=closest` gives a GCD on Frontier
CLOSEST = [4, 5, 2, 3, 6, 7, 0, 1]


def nvidia(number: int, index: int | None = None, name: str = "H100", **more: Any) -> Device:
    """A GPU of the node, whose index is another one where a cgroup hides some."""
    uuid = f"GPU-{number:08x}-d72c-4106-c12f-20bd9faed9f{number}"
    return Device("gpu", uuid, name, {"vendor": "nvidia", "index": number if index is None else index, "uuid": uuid,
                                      **more})


def gcd(number: int) -> Device:
    return Device("gpu", f"0000:{BUSES[number]}:00.0", "MI250X", {
        "vendor": "amd", "index": number, "socket": f"oam-0000:{BUSES[number & ~1]}:00.0"})


def oam(number: int) -> Device:
    members = [f"0000:{bus}:00.0" for bus in BUSES[2 * number:2 * number + 2]]
    return Device("socket", f"oam-{members[0]}", "MI250X", {"members": ",".join(members), "meter": "gpu"})


def all_of(numbers: Iterable[int]) -> list[Device]:
    return [nvidia(n) for n in numbers]


def hidden(*numbers: int) -> list[Device]:
    return [nvidia(n, at) for at, n in enumerate(numbers)]


def given(numbers: str, count: int, cuda: str | None = None, **more: str) -> dict[str, str]:
    """A task's environment, as Slurm 22.05 and 24.11 set it."""
    seen = {} if cuda is None else {"CUDA_VISIBLE_DEVICES": cuda}
    return {"SLURM_STEP_GPUS": numbers, "SLURM_GPUS_ON_NODE": str(count), **seen, **more}


@pytest.fixture
def run(tmp_path: Path) -> RunSpool:
    (tmp_path / "spool").mkdir()
    spool = RunSpool(tmp_path / "spool")
    spool.begin()
    return spool


def node(
    run: RunSpool, devices: Sequence[Device], told: Mapping[str, str] | None = None, host: str = "n1"
) -> NodeSpool:
    metrics = [gauge("system.cpu.utilization"), *(gauge("hw.power", "W", 1.0, device) for device in devices)]
    daemon = run.node(host, metrics, facts={} if told is None else {"devices": dict(told)})
    daemon.sample(0.0, [0.0] * len(metrics))
    return daemon


def task(
    node: NodeSpool, rank: int, environ: Mapping[str, str], *, local: int | None = None, step: str = "7.0",
    launcher: str = "slurm", begin: float = 1.0, end: float | None = None,
) -> None:
    pid = 1000 * int(begin) + 100 * len(launcher) + rank
    node.json(begin, Kind.TASK, {"tasks": [{
        "e": "begin", "t": node.mono(begin), "id": f"{pid}-1", "pid": pid, "start": 1, "step": step,
        "launcher": launcher, "rank": rank, "local_rank": rank if local is None else local, "world_size": 8,
        "cpus": "0", "devices": dict(environ), "program": "python train.py"}]})
    if end is not None:
        node.json(end, Kind.TASK, {"tasks": [{"e": "end", "t": node.mono(end), "id": f"{pid}-1"}]})


def process(run: RunSpool, rank: int, launcher: str) -> None:
    """A rank of no step that uses the client."""
    said = run.process("n1", rank=rank, pid=30 + rank, at=2.0)
    said.json(2.0, Kind.SOURCE, {"role": "process", "host": "n1", "boot_id": "boot-n1", "pid": 30 + rank, "start": 1,
                                 "rank": rank, "local_rank": rank, "step": "", "launcher": launcher})


def numbers(record: Record, devices: Sequence[Device]) -> list[list[int]]:
    """Of each task, its devices as positions in the list."""
    ids = [d.id for d in devices]
    return [[ids.index(name) for name in had.ids] for had in task_devices(record)]


def how(record: Record) -> set[str]:
    return {had.how for had in task_devices(record)}


# real environments


@pytest.mark.parametrize(("devices", "told", "environs", "expected"), [
    pytest.param(all_of(range(4)), given("0,1,2,3", 4, "0,1,2,3"),
                 [given(str(n), 4, str(n)) for n in range(4)], [[0], [1], [2], [3]], id="a GPU per task"),
    pytest.param(all_of(range(4, 8)), given("4,5,6,7", 4, "4,5,6,7"),
                 [given(f"{n},{n + 1}", 4, f"{n},{n + 1}") for n in (4, 6)], [[0, 1], [2, 3]],
                 id="two GPUs per task, with another job on the node"),
    pytest.param(hidden(4, 5, 6, 7), given("4,5,6,7", 4, "0,1,2,3"),
                 [given("4,5,6,7", 4, str(n)) for n in (3, 1, 0, 2)], [[3], [1], [0], [2]],
                 id="a script chooses among those in the cgroup"),
    pytest.param(all_of(range(4, 8)), given("4,5,6,7", 4, "4,5,6,7"),
                 [given("4,5,6,7", 4, str(n)) for n in (7, 5)], [[3], [1]], id="and among those of the node"),
    pytest.param(hidden(2, 3), given("2,3", 2, "0,1"), [given("3", 1, "0")], [[1]], id="a step with one of two"),
    pytest.param(all_of(range(4, 8)), None, [given("6", 1, "6")], [[2]],
                 id="a step of a part of the job's, and what the daemon was told is not known"),
    pytest.param([nvidia(7, 2), nvidia(4, 0), nvidia(5, 1)], given("4,5,7", 3, "0,1,2"), [given("5,7", 2, "0,1")],
                 [[2, 0]], id="devices are recorded in any order"),
    pytest.param(all_of(range(2)), {}, [{"CUDA_VISIBLE_DEVICES": "1"}, {"CUDA_VISIBLE_DEVICES": "0"}], [[1], [0]],
                 id="mpirun on a workstation"),
    pytest.param(all_of(range(2)), {}, [{"CUDA_VISIBLE_DEVICES": ""}, {"CUDA_VISIBLE_DEVICES": "-1"}], [[], []],
                 id="hidden from a rank"),
    pytest.param(all_of(range(8)), {}, [{"CUDA_VISIBLE_DEVICES": nvidia(6).id},
                                        {"CUDA_VISIBLE_DEVICES": "GPU-00000002"}], [[6], [2]], id="UUIDs"),
    pytest.param(hidden(3), given("3", 1, "0"), [given("3", 1, "0")] * 2, [[0], [0]], id="two share one"),
    pytest.param([gcd(i) for i in range(8)], given("0-7", 8, ROCR_VISIBLE_DEVICES="0,1,2,3,4,5,6,7"),
                 [given(str(n), 8, ROCR_VISIBLE_DEVICES=str(n)) for n in CLOSEST], [[n] for n in CLOSEST],
                 id="Frontier, closest"),
    pytest.param([gcd(i) for i in range(8)], None,
                 [given(str(n), 8, ROCR_VISIBLE_DEVICES=str(n)) for n in CLOSEST], [[n] for n in CLOSEST],
                 id="Frontier, what the daemon was told is not known"),
    pytest.param([gcd(i) for i in range(4, 8)], given("4-7", 4, ROCR_VISIBLE_DEVICES="0,1,2,3"),
                 [given("4,5,6,7", 4, ROCR_VISIBLE_DEVICES="2,3", HIP_VISIBLE_DEVICES=str(n)) for n in range(2)],
                 [[2], [3]], id="HIP within ROCr, in a cgroup that sysfs does not show"),
    pytest.param([gcd(i) for i in range(2)], given("0,1", 2, ROCR_VISIBLE_DEVICES="0,1"), [{}], [[]],
                 id="a step that was given none"),
])
def test_the_environment_says_which_devices_a_rank_had(
    run: RunSpool, devices: list[Device], told: dict[str, str] | None, environs: list[dict[str, str]],
    expected: list[list[int]],
) -> None:
    daemon = node(run, devices, told)
    for rank, environ in enumerate(environs):
        task(daemon, rank, environ)
    record = run.record()
    assert numbers(record, devices) == expected
    assert how(record) == {"environment"}


SHARE = "bound to a share of its step's devices, which are numbered from 0 in each task"


@pytest.mark.parametrize(("devices", "told", "environs", "reason"), [
    pytest.param(hidden(4, 5, 6, 7), given("4,5,6,7", 4, "0,1,2,3"), [given("4", 4, "0")] * 4, SHARE,
                 id="--gpus-per-task in a cgroup"),
    pytest.param(hidden(0, 1, 2, 3), given("0,1,2,3", 4, "0,1,2,3"), [given("0", 4, "0")] * 2, SHARE,
                 id="the node's first GPUs: a list of a cgroup, or not"),
    pytest.param(hidden(0, 1, 2, 3), given("0,1,2,3", 4, "0,1,2,3"), [given("0,1", 4, "0,1")], SHARE,
                 id="a rank alone"),
    pytest.param(hidden(0, 1), {}, [given("4", 1, "0")], "which devices Slurm calls `4` is not known",
                 id="a part of the job's, and nothing says what the daemon was told"),
    pytest.param(hidden(1, 2, 3), given("1,2,3", 3), [given("1,2,3", 3, "1")],
                 "`1` may be numbers of the node, or of what the process could open", id="the second, or number 1"),
    pytest.param(all_of([1]), {}, [{"CUDA_VISIBLE_DEVICES": "0"}], "`0` names a device that was not recorded",
                 id="a program chose another than the job's"),
    pytest.param(all_of([1]), {}, [{"CUDA_VISIBLE_DEVICES": "GPU-f"}], "no recorded device is called `GPU-f`",
                 id="another job's UUID"),
])
def test_what_is_not_said_is_not_known(
    run: RunSpool, devices: list[Device], told: dict[str, str], environs: list[dict[str, str]], reason: str
) -> None:
    daemon = node(run, devices, told)
    for rank, environ in enumerate(environs):
        task(daemon, rank, environ)
    record = run.record()
    assert task_devices(record) == [TaskDevices((), "", reason)] * len(environs)
    assert owners_of(record) == {}


def test_the_device_files_that_it_held_open_show_which_share_a_rank_had(run: RunSpool) -> None:
    devices = [nvidia(n, n - 4, minor=n) for n in (4, 5, 6, 7)]
    daemon = node(run, devices)
    for rank in range(4):
        task(daemon, rank, given("4", 4, "0"))  # in a cgroup all tasks are told the same
    for rank, files in enumerate((["nvidia7"], ["nvidia6"], ["nvidia4", "nvidia5", "nvidia6", "nvidia7"], ["nvidia9"])):
        daemon.json(6.0, Kind.TASK, {"tasks": [
            {"e": "opened", "t": daemon.mono(6.0), "id": f"{1500 + rank}-1", "files": files}]})
    record = run.record()
    assert [found.ids for found in task_devices(record)] == [(devices[3].id,), (devices[2].id,), (), ()]
    assert [found.how for found in task_devices(record)] == ["opened", "opened", "", ""]
    assert owners_of(record) == {(0, devices[3].id): (0,), (0, devices[2].id): (1,)}


def test_a_neighbour_shows_whether_a_list_is_renumbered(run: RunSpool) -> None:
    """0 of four is the first of the node, or of a cgroup; that another has 3 of 3 rules the cgroup out, on whichever
    node."""
    devices = all_of(range(4))
    first, second = (node(run, devices, given("0,1,2,3", 4, "0,1,2,3"), host) for host in ("n1", "n2"))
    task(first, 0, given("0", 4, "0"))
    task(second, 1, given("3", 4, "3"), local=0)
    assert numbers(run.record(), devices) == [[0], [3]]


def test_lists_that_contradict_each_other_show_nothing(run: RunSpool) -> None:
    daemon = node(run, hidden(4, 5, 6), given("4,5,6", 3))
    task(daemon, 0, given("4,5,6", 3, "4,5,6"))
    task(daemon, 1, given("5", 3, "0"))
    had = task_devices(run.record())
    assert len(had[0].ids) == 3
    assert had[1] == TaskDevices((), "", SHARE)


def test_jsrun_numbers_the_devices_of_each_resource_set_from_0(run: RunSpool) -> None:
    daemon = node(run, hidden(*range(6)), {})
    for rank in range(6):
        task(daemon, rank, {"CUDA_VISIBLE_DEVICES": "0"}, step="", launcher="jsrun")
    assert {(had.ids, had.how) for had in task_devices(run.record())} == {((), "")}


# ranks that see the same


@pytest.mark.parametrize("environ", [
    {}, {"CUDA_VISIBLE_DEVICES": "0,1,2,3,4,5,6,7"}, given("0-7", 8, "0,1,2,3,4,5,6,7"),
])
def test_torchruns_workers_are_assumed_to_have_one_each(run: RunSpool, environ: dict[str, str]) -> None:
    devices = all_of(range(8))
    daemon = node(run, devices, environ)
    for rank in range(8):
        task(daemon, 8 + rank, environ, local=rank, launcher="torchrun")
    record = run.record()
    assert numbers(record, devices) == [[n] for n in range(8)]
    assert how(record) == {"assumed"}
    assert task_devices(record)[2].reason == "local rank 2 of 8 that see the same 8 devices"


def test_one_each_is_counted_in_the_order_of_the_list(run: RunSpool) -> None:
    daemon = node(run, all_of(range(4)), {})
    for rank in range(2):
        task(daemon, rank, {"CUDA_VISIBLE_DEVICES": "3,1"}, step="", launcher="openmpi")
    assert numbers(run.record(), all_of(range(4))) == [[3], [1]]


def test_a_rank_that_sees_several_alone_has_them_all(run: RunSpool) -> None:
    daemon = node(run, all_of(range(4)), given("0-3", 4, "0,1,2,3"))
    task(daemon, 0, given("0-3", 4, "0,1,2,3"))
    record = run.record()
    assert numbers(record, all_of(range(4))) == [[0, 1, 2, 3]]
    assert how(record) == {"environment"}


@pytest.mark.parametrize("local", [[0, 1, 2, 3, 4], [0, 0], [0, 7]])
def test_local_ranks_that_do_not_fit_assume_nothing(run: RunSpool, local: list[int]) -> None:
    """More ranks than devices; two launchers beside each other, whose ranks begin at 0; a hole."""
    daemon = node(run, all_of(range(4)), {})
    for rank, place in enumerate(local):
        task(daemon, rank, {}, local=place, step="", launcher="torchrun")
    assert task_devices(run.record()) == [TaskDevices(
        (), "", f"{len(local)} ranks see the same 4 devices, and their local ranks do not fit")] * len(local)


def test_launches_after_each_other_are_looked_at_by_themselves(run: RunSpool) -> None:
    devices = all_of(range(2))
    daemon = node(run, devices, {})
    for rank in range(2):
        task(daemon, rank, {}, step="", launcher="torchrun", begin=1.0, end=3.0)
    task(daemon, 0, {}, step="", launcher="torchrun", begin=4.0)
    record = run.record()
    assert numbers(record, devices) == [[0], [1], [0, 1]]
    assert owners_of(record) == {(0, devices[0].id): (0, 2), (0, devices[1].id): (2, 1)}


def test_an_agent_has_not_what_its_workers_have(run: RunSpool) -> None:
    devices = all_of(range(2))
    daemon = node(run, devices, given("0,1", 2, "0,1"))
    task(daemon, 0, given("0,1", 2, "0,1"), begin=1.0, end=9.0)
    for rank in range(2):
        task(daemon, rank, given("0,1", 2, "0,1"), launcher="torchrun", begin=2.0)
    task(daemon, 0, given("0,1", 2, "0,1"), step="7.1", begin=3.0)
    record = run.record()
    assert numbers(record, devices) == [[], [0], [1], [0, 1]]
    assert task_devices(record)[0] == TaskDevices((), "", "the ranks that it started have them")


def test_launchers_after_each_other_are_no_agents(run: RunSpool) -> None:
    devices = all_of(range(2))
    daemon = node(run, devices, {})
    task(daemon, 0, {}, step="", launcher="openmpi", begin=1.0, end=2.0)
    task(daemon, 0, {}, step="", launcher="torchrun", begin=3.0)
    assert numbers(run.record(), devices) == [[0, 1], [0, 1]]


# devices of other kinds


def test_instances_of_a_gpu_are_its_own(run: RunSpool) -> None:
    devices = [nvidia(0), nvidia(1, mig="MIG-aa,MIG-bb", shared=True)]
    daemon = node(run, devices, given("5,6", 2, "MIG-aa,MIG-bb"))
    task(daemon, 0, given("5", 2, "MIG-aa"))
    task(daemon, 1, given("6", 2, "MIG-bb"))
    task(daemon, 2, given("5,6", 2, "MIG-aa,MIG-bb"))
    task(daemon, 3, given("0", 2, "MIG-cc"))
    record = run.record()
    assert numbers(record, devices) == [[1], [1], [1], []]
    assert task_devices(record)[3].how == ""
    assert owners_of(record) == {(0, devices[1].id): (0, 1, 2)}


def test_a_socket_has_the_tasks_of_both_members(run: RunSpool) -> None:
    daemon = node(run, [*(gcd(i) for i in range(8)), *(oam(i) for i in range(4))],
                  given("0-7", 8, ROCR_VISIBLE_DEVICES="0,1,2,3,4,5,6,7"))
    for rank, n in enumerate(CLOSEST):
        task(daemon, rank, given(str(n), 8, ROCR_VISIBLE_DEVICES=str(n)))
    owners = owners_of(run.record())
    assert len(owners) == 12
    assert owners[0, oam(0).id] == (6, 7)
    assert owners[0, oam(2).id] == (0, 1)
    assert owners[0, gcd(5).id] == (1,)


def test_unlike_gpus_may_be_in_another_order(run: RunSpool) -> None:
    """CUDA counts the fastest first."""
    devices = [nvidia(0, name="T400"), nvidia(1, name="RTX 6000")]
    daemon = node(run, devices, {})
    task(daemon, 0, {"CUDA_VISIBLE_DEVICES": "0"}, step="", launcher="openmpi")
    task(daemon, 1, {"CUDA_VISIBLE_DEVICES": "0", "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}, step="", launcher="openmpi")
    assert [had.how for had in task_devices(run.record())] == ["assumed", "environment"]


def test_gpus_of_two_vendors(run: RunSpool) -> None:
    daemon = node(run, [nvidia(0), gcd(0)], {})
    task(daemon, 0, {"CUDA_VISIBLE_DEVICES": "0", "ROCR_VISIBLE_DEVICES": "-1"}, step="", launcher="openmpi")
    task(daemon, 1, given("1", 1, "0"))
    had = task_devices(run.record())
    assert had[0].ids == (nvidia(0).id,)
    assert had[1].how == ""


@pytest.mark.parametrize(("devices", "expected"), [
    ([], TaskDevices((), "environment", "no GPU of its node was recorded")),
    (None, TaskDevices((), "", "no daemon ran on its node")),
])
def test_a_node_without_gpus_or_daemon(run: RunSpool, devices: list[Device] | None, expected: TaskDevices) -> None:
    if devices is not None:
        node(run, devices)
    run.process("n1", rank=0)
    assert task_devices(run.record()) == [expected]


# processes that use the client


def test_a_process_has_the_devices_of_its_task(run: RunSpool) -> None:
    devices = all_of(range(2))
    daemon = node(run, devices, {})
    for rank in range(2):
        task(daemon, rank, {}, step="", launcher="torchrun")
    process(run, 1, "torchrun")
    record = run.record()
    assert record.tasks[1].process == 0
    assert process_devices(record) == [task_devices(record)[1]]
    assert process_owners_of(record) == {(0, devices[1].id): (0,)}


def test_what_a_process_says_of_itself_is_later_than_what_its_task_was_started_with(run: RunSpool) -> None:
    devices = all_of(range(2))
    daemon = node(run, devices, {})
    for rank in range(2):
        task(daemon, rank, {}, step="", launcher="openmpi")
    process(run, 1, "openmpi")
    record = run.record()
    record.processes[0].attributes["devices"] = {"CUDA_VISIBLE_DEVICES": "0"}
    assert numbers(record, devices) == [[0, 1], [0]]
    assert process_owners_of(record) == {(0, devices[0].id): (0,)}


def test_a_program_without_ranks(run: RunSpool) -> None:
    """`yprov run -- python train.py` on a laptop; a process of which we know no environment has what we do not know."""
    devices = all_of(range(2))
    node(run, devices, {})
    for pid in (20, 21):
        run.process("n1", pid=pid)
    record = run.record()
    record.processes[0].attributes["devices"] = {}
    assert record.tasks == []
    assert process_devices(record) == [TaskDevices(tuple(d.id for d in devices), "environment"),
                                       TaskDevices((), "", "its environment was not announced")]
    assert process_owners_of(record) == {(0, d.id): (0,) for d in devices}


# what holds for any


def test_what_is_said_of_slurms_ranks_is_true(tmp_path: Path) -> None:
    """Slurm gives a job some of a node's GPUs and each task some of these, with or without a cgroup, bound or not, as
    measured. What we say by the environment is what each could use; of those that are not bound, we say it of all."""
    dice = random.Random(6)
    for trial in range(150):
        of_the_job = sorted(dice.sample(range(8), dice.randint(1, 8)))
        constrained, bound = dice.random() < 0.5, dice.random() < 0.5
        step = sorted(dice.sample(of_the_job, dice.randint(1, len(of_the_job))))
        truth = [sorted(dice.sample(step, dice.randint(1, len(step)))) if bound else step for _ in range(3)]

        def environ(mine: list[int], of_step: list[int], constrained: bool = constrained) -> dict[str, str]:
            if not constrained:
                return given(listed(mine), len(of_step), listed(mine))
            return given(listed(of_step[:len(mine)]), len(of_step), listed(range(len(mine))))

        folder = tmp_path / str(trial)
        folder.mkdir()
        run = RunSpool(folder)
        run.begin()
        told = environ(of_the_job, of_the_job)
        devices = recorded(told, hidden(*of_the_job) if constrained else all_of(range(8)))
        daemon = node(run, devices, about(told))
        for rank, mine in enumerate(truth):
            task(daemon, rank, environ(mine, step))
        record = run.record()
        ids = [[nvidia(n).id for n in mine] for mine in truth]
        for had, true in zip(task_devices(record), ids, strict=True):
            if had.how == "environment":
                assert list(had.ids) == true
            elif had.how == "assumed":
                assert set(had.ids) < set(true)
            else:
                assert had.ids == ()
                assert had.reason == SHARE or "local ranks do not fit" in had.reason
        if not bound and len(step) >= 3:
            assert all(had.ids for had in task_devices(record))
        assert {name for _n, name in owners_of(record)} <= {nvidia(n).id for n in of_the_job}


def listed(numbers: Iterable[int]) -> str:
    return ",".join(map(str, numbers))


def recorded(environ: dict[str, str], devices: list[Device]) -> list[Device]:
    """Those that the daemon chooses."""
    found = [Found(int(str(d.attributes["index"])), d.id) for d in devices]
    return [devices[at] for at in of_job({"SLURM_JOB_ID": "7", **environ}, "nvidia", found).mine]


def test_nonsense_in_a_record_is_no_error(tmp_path: Path) -> None:
    dice = random.Random(7)
    words = ["0", "7", "-1", "", "x", "0-3", "NoDevFiles", nvidia(1).id, "GPU-", "MIG-", "0,0", "1,9,0"]
    names = [*given("", 0), "CUDA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER"]
    for trial in range(150):
        folder = tmp_path / str(trial)
        folder.mkdir()
        run = RunSpool(folder)
        run.begin()
        odd = Device("gpu", "odd", "", {"index": dice.choice(["0", None, -3]), "uuid": None, "mig": 7})
        devices = dice.sample([*all_of(range(4)), *(gcd(i) for i in range(2)), odd, oam(0)], 4)
        daemon = node(run, devices, {n: dice.choice(words) for n in names[:2]})
        for rank in range(3):
            environ = {n: dice.choice(words) for n in dice.sample(names, 3)}
            task(daemon, rank, environ, launcher=dice.choice(["slurm", "torchrun", "nothing"]))
        record = run.record()
        ids = {d.id for d in devices}
        assert len(task_devices(record)) == 3
        for had in task_devices(record):
            assert set(had.ids) <= ids
            assert had.ids or had.reason or had.how == "environment"
        assert {name for _n, name in owners_of(record)} <= ids
