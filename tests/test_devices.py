"""Which GPUs of a node are the job's: real environments, and what holds for any."""

from __future__ import annotations

import random

import pytest

from yprovd.devices import Choice, Found, about, numbers, of_job, visible

UUIDS = [f"GPU-{i:08x}-d72c-4106-c12f-20bd9faed9f{i}" for i in range(8)]
MIG = [f"MIG-{i:08x}-0b5d-5b0e-9e5a-7d0c3a0f1b2{i}" for i in range(7)]
#: NVML on a node where nothing is hidden; on this one N of /dev/nvidiaN is no index.
NODE = [Found(i, UUIDS[i], f"0000:{0x10 + i:02x}:00.0", (i + 4) % 8) for i in range(8)]
GCDS = [Found(i, f"{0x8f1c2d3e4a5b6c00 + i:016x}", f"0000:{bus}:00.0", 128 + i)
        for i, bus in enumerate(["c1", "c6", "c9", "ce", "d1", "d6", "d9", "de"])]
JOB = {"SLURM_JOB_ID": "7"}
STEP = {**JOB, "SLURM_STEP_ID": "0", "SLURM_JOB_NUM_NODES": "2"}


def hidden(*seen: int) -> list[Found]:
    """What NVML shows where the device cgroup leaves these."""
    return [NODE[i]._replace(index=at) for at, i in enumerate(seen)]


def partitioned(gpu: int, *parts: str) -> list[Found]:
    return [f._replace(parts=parts) if f.index == gpu else f for f in NODE]


def whole(*mine: int, reason: str = "", shared: bool = False) -> Choice:
    return Choice(mine, ((),) * len(mine), (shared,) * len(mine), reason)


@pytest.mark.parametrize(("environ", "vendor", "found", "expected"), [
    pytest.param({}, "nvidia", NODE[:1], whole(0, reason="no scheduler, and no variable that limits"), id="a laptop"),
    pytest.param({"CUDA_VISIBLE_DEVICES": "1"}, "nvidia", NODE[:2], whole(1, reason="CUDA_VISIBLE_DEVICES=1"),
                 id="the second of a workstation's two"),
    pytest.param({**JOB, "SLURM_JOB_GPUS": "4,5", "CUDA_VISIBLE_DEVICES": "4,5", "SLURM_GPUS_ON_NODE": "2"}, "nvidia",
                 NODE, whole(4, 5, reason="SLURM_JOB_GPUS=4,5"), id="a batch script, with other jobs on the node"),
    pytest.param({**JOB, "SLURM_JOB_GPUS": "4,5", "CUDA_VISIBLE_DEVICES": "0,1", "SLURM_GPUS_ON_NODE": "2"}, "nvidia",
                 hidden(4, 5), whole(0, 1, reason="SLURM_JOB_GPUS=4,5"), id="the same, in a device cgroup"),
    pytest.param({**STEP, "SLURM_STEP_GPUS": "4-5,7", "SLURM_GPUS_ON_NODE": "3", "CUDA_VISIBLE_DEVICES": "0,1,2"},
                 "nvidia", hidden(4, 5, 7), whole(0, 1, 2, reason="SLURM_STEP_GPUS=4-5,7"), id="our step, in a cgroup"),
    pytest.param({**STEP, "SLURM_STEP_GPUS": "2,3", "SLURM_JOB_GPUS": "0,1,2,3", "CUDA_VISIBLE_DEVICES": "2,3"},
                 "nvidia", NODE, whole(2, 3, reason="SLURM_STEP_GPUS=2,3"), id="one of two steps beside each other"),
    pytest.param({**STEP, "SLURM_JOB_GPUS": "0,1,2,3,4,5", "SLURM_GPUS_ON_NODE": "2", "CUDA_VISIBLE_DEVICES": "0,1"},
                 "nvidia", NODE, whole(0, 1, reason="CUDA_VISIBLE_DEVICES=0,1"),
                 id="the batch script's list on a node that has fewer"),
    pytest.param({**STEP, "SLURM_JOB_GPUS": "4,5"}, "amd", GCDS,
                 whole(*range(8), shared=True, reason="no variable says which are the job's: others may use them"),
                 id="a step that was given none has the batch script's list"),
    pytest.param({**STEP, "SLURM_JOB_GPUS": "4,5", "SLURM_GPUS_ON_NODE": "2"}, "amd", GCDS,
                 whole(4, 5, reason="SLURM_JOB_GPUS=4,5"), id="a step that has the whole job's"),
    pytest.param({**STEP, "SLURM_STEP_GPUS": "0,1,2,3,4,5,6,7", "ROCR_VISIBLE_DEVICES": "0,1,2,3,4,5,6,7"}, "amd",
                 GCDS, whole(*range(8), reason="SLURM_STEP_GPUS=0,1,2,3,4,5,6,7"), id="Frontier"),
    pytest.param({**STEP, "SLURM_STEP_GPUS": "4,5", "ROCR_VISIBLE_DEVICES": "0,1", "SLURM_GPUS_ON_NODE": "2"}, "amd",
                 GCDS, whole(4, 5, reason="SLURM_STEP_GPUS=4,5"), id="a cgroup does not hide AMD's in sysfs"),
    pytest.param({**STEP, "SLURM_STEP_GPUS": "4", "SLURM_JOB_NUM_NODES": "1", "SLURM_JOB_GPUS": "4,5,6,7",
                  "SLURM_GPUS_ON_NODE": "4", "ROCR_VISIBLE_DEVICES": "0"}, "amd", GCDS,
                 whole(4, 5, 6, 7, reason="SLURM_JOB_GPUS=4,5,6,7"), id="a share in a cgroup is not what it says"),
    pytest.param({**STEP, "SLURM_STEP_GPUS": "6", "SLURM_GPUS_ON_NODE": "4", "ROCR_VISIBLE_DEVICES": "6"}, "amd", GCDS,
                 whole(6, reason="SLURM_STEP_GPUS=6"), id="a task's share where nothing is renumbered"),
    pytest.param({**STEP, "SLURM_STEP_GPUS": "0", "SLURM_GPUS_ON_NODE": "4", "CUDA_VISIBLE_DEVICES": "0"}, "nvidia",
                 NODE, whole(0, reason="SLURM_STEP_GPUS=0"), id="NVML sees others' devices: nothing is renumbered"),
    pytest.param({**STEP, "SLURM_JOB_NUM_NODES": "1", "SLURM_JOB_GPUS": "4,5"}, "amd", GCDS,
                 whole(4, 5, reason="SLURM_JOB_GPUS=4,5"), id="a job of one node has one list"),
    pytest.param({**STEP, "SLURM_STEP_GPUS": "0,1,2,3", "SLURM_GPUS_ON_NODE": "4"}, "nvidia", NODE[:3],
                 whole(0, 1, 2, reason="SLURM_STEP_GPUS=0,1,2,3, of which 3 can be seen"), id="one is lost"),
    pytest.param({**STEP, "SLURM_STEP_GPUS": "0,1", "CUDA_VISIBLE_DEVICES": f"{UUIDS[5]},{UUIDS[6]}"}, "nvidia", NODE,
                 whole(5, 6, reason=f"CUDA_VISIBLE_DEVICES={UUIDS[5]},{UUIDS[6]}"),
                 id="UUIDs know better than numbers of another order"),
    pytest.param({**STEP, "SLURM_STEP_GPUS": "8,9"}, "nvidia", [f._replace(minor=f.index + 6) for f in NODE],
                 whole(2, 3, reason="SLURM_STEP_GPUS=8,9"), id="numbers that are no index are of /dev/nvidiaN"),
    pytest.param({**JOB, "SLURM_JOB_GPUS": "NoDevFiles", "CUDA_VISIBLE_DEVICES": "NoDevFiles"}, "nvidia", NODE,
                 whole(reason="SLURM_JOB_GPUS=NoDevFiles"), id="a job without GPUs on a node that has some"),
    pytest.param({**JOB, "CUDA_VISIBLE_DEVICES": "NoDevFiles"}, "nvidia", NODE,
                 whole(reason="CUDA_VISIBLE_DEVICES=NoDevFiles"), id="the same, by older versions"),
    pytest.param({**JOB, "SLURM_GPUS_ON_NODE": "8"}, "nvidia", NODE,
                 whole(*range(8), reason="SLURM_GPUS_ON_NODE=8, which is all that can be seen"), id="the number only"),
    pytest.param({**JOB, "SLURM_GPUS_ON_NODE": "2"}, "nvidia", NODE,
                 whole(*range(8), shared=True, reason="no variable says which are the job's: others may use them"),
                 id="the number only, and more of them"),
    pytest.param({"PBS_JOBID": "3.pbs", "CUDA_VISIBLE_DEVICES": f"{UUIDS[2]},{UUIDS[7]}"}, "nvidia", NODE,
                 whole(2, 7, reason=f"CUDA_VISIBLE_DEVICES={UUIDS[2]},{UUIDS[7]}"), id="PBS writes UUIDs"),
    pytest.param({"LSB_JOBID": "9", "CUDA_VISIBLE_DEVICES": "4,6"}, "nvidia", hidden(4, 6),
                 whole(0, 1, reason="CUDA_VISIBLE_DEVICES=4,6"), id="numbers of the node inside of a cgroup"),
    pytest.param({**JOB, "SLURM_JOB_GPUS": "3", "SLURM_SHARDS_ON_NODE": "2"}, "nvidia", NODE,
                 whole(3, shared=True, reason="SLURM_JOB_GPUS=3"), id="shards of a GPU"),
    pytest.param({"ROCR_VISIBLE_DEVICES": "4,5,6,7", "HIP_VISIBLE_DEVICES": "1,2"}, "amd", GCDS,
                 whole(5, 6, reason="HIP_VISIBLE_DEVICES=1,2 within ROCR_VISIBLE_DEVICES=4,5,6,7"), id="HIP in ROCr"),
    pytest.param({"ROCR_VISIBLE_DEVICES": "0,GPU-8F1C2D3E4A5B6C03"}, "amd", GCDS,
                 whole(0, 3, reason="ROCR_VISIBLE_DEVICES=0,GPU-8F1C2D3E4A5B6C03"), id="ROCr takes both in one list"),
    pytest.param({"ROCR_VISIBLE_DEVICES": "2,3", "CUDA_VISIBLE_DEVICES": "2,3", "GPU_DEVICE_ORDINAL": "2,3"}, "amd",
                 GCDS, whole(2, 3, reason="ROCR_VISIBLE_DEVICES=2,3"), id="Slurm may set all of them to the same"),
    pytest.param({"GPU_DEVICE_ORDINAL": "1"}, "amd", GCDS, whole(1, reason="GPU_DEVICE_ORDINAL=1"), id="OpenCL's"),
    pytest.param({"ROCR_VISIBLE_DEVICES": "1"}, "nvidia", NODE[:1],
                 whole(0, reason="no scheduler, and no variable that limits"), id="the other vendor's variable"),
])
def test_real_environments(environ: dict[str, str], vendor: str, found: list[Found], expected: Choice) -> None:
    assert of_job(environ, vendor, found) == expected


@pytest.mark.parametrize("listed", ["", "-1", "NoDevFiles", "none", "9", "1,1", f"{UUIDS[0]},{UUIDS[0]}"])
def test_lists_that_hide_every_device(listed: str) -> None:
    choice = of_job({"CUDA_VISIBLE_DEVICES": listed}, "nvidia", NODE)
    assert choice == whole(reason=f"CUDA_VISIBLE_DEVICES={listed}")


@pytest.mark.parametrize(("listed", "seen"), [
    ("2,1", [2, 1]), ("0,2,-1,1", [0, 2]), ("0,9,1", [0]), (" 3 , 4 ", [3, 4]), ("1x,2", [1, 2]), ("5-7", [5]),
    ("GPU-00000003", [3]), ("GPU-0000000", []), ("GPU-00000001,GPU-00000000", [1, 0]), ("GPU-00000004,GPU-f,2", [4]),
])
def test_a_list_is_read_as_cuda_does(listed: str, seen: list[int]) -> None:
    """In its order; an entry that names no device, or several, ends it."""
    found = visible({"CUDA_VISIBLE_DEVICES": listed}, "nvidia", NODE)
    assert found is not None
    assert [pick.at for pick in found.picks] == seen


@pytest.mark.parametrize(("listed", "scheduler", "parts", "shared"), [
    pytest.param(MIG[1], JOB, (MIG[1],), True, id="others may have the rest"),
    pytest.param(MIG[1], {}, (MIG[1],), True, id="others can be seen"),
    pytest.param(",".join(MIG[:3]), {}, tuple(MIG[:3]), False, id="all of them, without a scheduler"),
    pytest.param(",".join(MIG[:3]), JOB, tuple(MIG[:3]), True, id="a cgroup hides the instances of others"),
    pytest.param(MIG[2][:12], JOB, (MIG[2],), True, id="abbreviated"),
    pytest.param(f"MIG-{UUIDS[3]}/7/0", JOB, (f"MIG-{UUIDS[3]}/7/0",), True, id="as drivers before 470 call it"),
    pytest.param("3", JOB, (), True, id="which instance is not said"),
])
def test_instances_of_a_gpu(listed: str, scheduler: dict[str, str], parts: tuple[str, ...], shared: bool) -> None:
    found = partitioned(3, *MIG[:3])
    choice = of_job({**scheduler, "CUDA_VISIBLE_DEVICES": listed}, "nvidia", found)
    assert choice == Choice((3,), (parts,), (shared,), f"CUDA_VISIBLE_DEVICES={listed}")


def test_slurm_numbers_instances_and_not_gpus() -> None:
    found = partitioned(3, *MIG[:3])
    choice = of_job({**STEP, "SLURM_STEP_GPUS": "5", "CUDA_VISIBLE_DEVICES": MIG[2]}, "nvidia", found)
    assert choice == Choice((3,), ((MIG[2],),), (True,), f"CUDA_VISIBLE_DEVICES={MIG[2]}")


def test_instances_of_two_gpus() -> None:
    found = [NODE[0]._replace(parts=(MIG[0],)), NODE[1]._replace(parts=(MIG[1], MIG[2]))]
    choice = of_job({"CUDA_VISIBLE_DEVICES": f"{MIG[2]},{MIG[0]}"}, "nvidia", found)
    assert choice[:3] == ((0, 1), ((MIG[0],), (MIG[2],)), (False, True))


def test_jobs_beside_each_other_have_different_devices() -> None:
    first, second = (of_job({**JOB, "SLURM_JOB_GPUS": listed}, "nvidia", NODE) for listed in ("0-3", "4,5"))
    assert first.mine == (0, 1, 2, 3)
    assert second.mine == (4, 5)
    assert not any(first.shared + second.shared)


@pytest.mark.parametrize(("text", "expected"), [
    ("0", (0,)), ("0-3,6", (0, 1, 2, 3, 6)), ("7,2", (2, 7)), ("0 1  5", (0, 1, 5)), ("0, 1", (0, 1)), ("", None),
    ("NoDevFiles", ()), ("3-1", ()), ("a", None), ("0-", None), ("1,", None), ("0-99999", None), ("MIG-1", None),
])
def test_lists_as_slurm_writes_them(text: str, expected: tuple[int, ...] | None) -> None:
    assert numbers(text) == expected


def test_what_a_daemon_was_told_is_for_the_record() -> None:
    assert about({"SLURM_JOB_GPUS": "4,5", "CUDA_VISIBLE_DEVICES": "0,1", "HOME": "/root", **JOB}) \
        == {"SLURM_STEP_GPUS": "4,5", "CUDA_VISIBLE_DEVICES": "0,1"}
    assert about({"HOME": "/root"}) == {}


def test_a_choice_is_made_of_the_found_ones_whatever_the_variables_say() -> None:
    """Positions grow, and each has its parts and its mark; what is found last may be first by index."""
    dice = random.Random(4)
    words = ["0", "1", "7", "-1", "9", "", " ", "0-3", "NoDevFiles", "x", UUIDS[0], UUIDS[6][:9], MIG[0], MIG[1][:6],
             f"MIG-{UUIDS[2]}/1/0", "GPU-", "MIG-", "99999999999999999999"]
    names = ["SLURM_STEP_GPUS", "SLURM_JOB_GPUS", "CUDA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "SLURM_STEP_ID",
             "HIP_VISIBLE_DEVICES", "GPU_DEVICE_ORDINAL", "SLURM_GPUS_ON_NODE", "SLURM_JOB_ID", "SLURM_JOB_NUM_NODES"]
    for _ in range(5000):
        environ = {name: ",".join(dice.choices(words, k=dice.randint(1, 4))) for name in dice.sample(names, 4)}
        found = dice.sample(partitioned(dice.randrange(8), *MIG[:2]), dice.randint(0, 8))
        choice = of_job(environ, dice.choice(["nvidia", "amd", "intel"]), found)
        assert list(choice.mine) == sorted(set(choice.mine))
        assert set(choice.mine) <= set(range(len(found)))
        assert len(choice.mine) == len(choice.parts) == len(choice.shared)
        assert choice.reason


def test_what_slurm_gave_is_found_with_and_without_a_cgroup() -> None:
    """Any set of a node's GPUs: by their numbers where all can be seen, and all that can be seen where the others are
    hidden; the same devices."""
    dice = random.Random(5)
    for _ in range(500):
        given = sorted(dice.sample(range(8), dice.randint(1, 8)))
        step = {**STEP, "SLURM_STEP_GPUS": ",".join(map(str, given)), "SLURM_GPUS_ON_NODE": str(len(given))}
        seen = dice.sample(NODE, 8)
        open_ = of_job({**step, "CUDA_VISIBLE_DEVICES": step["SLURM_STEP_GPUS"]}, "nvidia", seen)
        renumbered = ",".join(map(str, range(len(given))))
        closed = of_job({**step, "CUDA_VISIBLE_DEVICES": renumbered}, "nvidia", hidden(*given))
        assert {seen[at].uuid for at in open_.mine} == {UUIDS[i] for i in given}
        assert closed.mine == tuple(range(len(given)))
