"""Where daemons are placed: in which allocation we are, its nodes, and the ways to start a process on each."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from yprov import placement
from yprov.placement import environment, find
from yprovd.config import Settings
from yprovd.errors import YprovError

Programs = Callable[..., None]

SLURM = {"SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "n[1-3]", "SLURM_CLUSTER_NAME": "c", "SLURM_JOB_NUM_NODES": "3"}


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Programs:
    """`programs(name="script body")`: these are in PATH, beside the usual ones for scripts, and no scheduler's."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}")

    def make(**bodies: str) -> None:
        for name, body in bodies.items():
            path = folder / name
            path.write_text(f"#!/bin/sh\n{body}\n")
            path.chmod(0o755)

    return make


def config(version: str = "22.05.8", kill_wait: int = 30) -> str:
    return f"echo 'KillWait = {kill_wait} sec'; echo 'SLURM_VERSION = {version}'; echo 'ClusterName = c'"


def test_outside_of_an_allocation_there_is_no_placement(programs: Programs) -> None:
    programs(srun="", scontrol=config())
    assert find(Settings(), {}, ["python"]) is None


def test_slurm_gives_nodes_key_and_grace(programs: Programs) -> None:
    programs(srun="", scontrol=config(kill_wait=60))
    found = find(Settings(), {**SLURM, "SLURM_RESTART_COUNT": "2"}, ["srun", "x"])
    assert found is not None
    assert (found.scheduler, found.nodes, found.grace_s) == ("slurm", ("n1", "n2", "n3"), 60.0)
    assert found.job == {"scheduler": "slurm", "job_id": "7", "attempt": 2, "cluster": "c"}


def test_the_ways_of_an_old_slurm_and_of_a_new_one(programs: Programs) -> None:
    programs(srun="", scontrol=config("22.05.8"))
    gpus = {**SLURM, "SLURM_GPUS_ON_NODE": "8"}
    old = find(Settings(), gpus, ["srun"])
    assert old is not None
    assert [way.name for way in old.ways] == [
        "srun --overlap --gres=gpu:8", "srun --overlap", "srun --overlap --gres=none"]
    programs(scontrol=config("24.11.5"))
    new = find(Settings(), gpus, ["srun"])
    assert new is not None
    assert [way.name for way in new.ways] == [
        "srun --external-launcher", "srun --overlap --gres=gpu:8", "srun --overlap", "srun --overlap --gres=none"]
    (command,) = new.ways[0].commands
    assert {"--nodes=3", "--ntasks=3", "--ntasks-per-node=1", "--no-kill", "--kill-on-bad-exit=0", "--wait=0",
            "--jobid=7", "--input=none", "--mpi=none"} <= set(command)
    assert not {"--overlap", "--mem=0", "--gres=gpu:8"} & set(command)


def test_a_controller_that_hangs_delays_nobody_for_long(programs: Programs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(placement, "_ASK_S", 0.2)
    programs(srun="echo slurm 24.11.5", scontrol="exec /bin/sleep 60")
    found = find(Settings(), SLURM, ["srun"])
    assert found is not None
    assert found.grace_s == 30.0
    assert found.ways[0].name == "srun --external-launcher"


def test_without_scontrol_the_version_is_srun_s(programs: Programs) -> None:
    programs(srun="echo slurm 24.11.5")
    found = find(Settings(), SLURM, ["srun"])
    assert found is not None
    assert found.ways[0].name == "srun --external-launcher"


def test_a_het_job_has_one_command_for_each_group(programs: Programs) -> None:
    programs(srun="", scontrol=config())
    found = find(Settings(), {
        **SLURM, "SLURM_JOB_ID": "4", "SLURM_HET_SIZE": "2",
        "SLURM_JOB_ID_HET_GROUP_0": "4", "SLURM_JOB_NODELIST_HET_GROUP_0": "n[1-2]",
        "SLURM_JOB_ID_HET_GROUP_1": "5", "SLURM_JOB_NODELIST_HET_GROUP_1": "g1"}, ["srun"])
    assert found is not None
    assert found.nodes == ("n1", "n2", "g1")
    first, second = found.ways[0].commands
    assert {"--het-group=0", "--nodes=2", "--jobid=4"} <= set(first)
    assert {"--het-group=1", "--nodes=1", "--jobid=4"} <= set(second)


def test_a_task_of_the_user_s_own_step_is_recorded_where_it_is(programs: Programs) -> None:
    programs(srun="", scontrol=config())
    step = {**SLURM, "SLURM_STEP_ID": "0", "SLURM_PROCID": "1"}
    assert find(Settings(), step, ["python", "x.py"]) is None
    assert find(Settings(), step, ["/usr/bin/srun", "x"]) is not None
    assert find(Settings(), {**SLURM, "SLURM_STEP_ID": "4294967290"}, ["python"]) is not None  # salloc's shell


def test_the_step_gets_neither_the_job_s_settings_nor_its_devices() -> None:
    cleaned = environment({
        "SLURM_NTASKS": "8", "SBATCH_X": "1", "PMI_RANK": "0", "CUDA_VISIBLE_DEVICES": "0", "SLURM_CONF": "/c",
        "HOME": "/h"}, "slurm")
    assert cleaned == {"SLURM_CONF": "/c", "HOME": "/h"}


def test_pbs_flux_and_lsf_are_lines_of_the_table(programs: Programs, tmp_path: Path) -> None:
    nodes = tmp_path / "nodes"
    nodes.write_text("a.x\na.x\nb.x\n")
    programs(pbs_tmrsh="", pbsdsh="", flux="", blaunch="")
    bin_ = tmp_path / "bin"
    pbs = find(Settings(), {"PBS_JOBID": "1.s", "PBS_NODEFILE": str(nodes)}, ["x"])
    assert pbs is not None
    assert (pbs.nodes, pbs.ways[0].commands) == (
        ("a.x", "b.x"), ((f"{bin_}/pbs_tmrsh", "a.x"), (f"{bin_}/pbs_tmrsh", "b.x")))
    flux = find(Settings(), {"FLUX_URI": "local:///x"}, ["x"])
    assert flux is not None
    assert (flux.nodes, flux.ways[0].name) == (("*",), "flux exec")
    lsf = find(Settings(), {"LSB_JOBID": "3", "LSB_MCPU_HOSTS": "h1 4 h2 4"}, ["x"])
    assert lsf is not None
    assert (lsf.nodes, lsf.ways[0].commands) == (("h1", "h2"), ((f"{bin_}/blaunch", "-n", "-z", "h1 h2"),))


def test_only_the_first_group_s_gpus_are_known_and_so_a_het_job_asks_for_none(programs: Programs) -> None:
    programs(srun="", scontrol=config())
    found = find(Settings(), {
        **SLURM, "SLURM_GPUS_ON_NODE": "8", "SLURM_HET_SIZE": "2",
        "SLURM_JOB_ID_HET_GROUP_0": "7", "SLURM_JOB_NODELIST_HET_GROUP_0": "n[1-2]",
        "SLURM_JOB_ID_HET_GROUP_1": "8", "SLURM_JOB_NODELIST_HET_GROUP_1": "c1"}, ["srun"])
    assert found is not None
    assert [way.name for way in found.ways] == ["srun --overlap", "srun --overlap --gres=none"]


@pytest.mark.parametrize(("asked", "gres", "first"), [
    ("SLURM_GPUS_PER_TASK", "Nodes=n[1-3] CPU_IDs=0 Mem=1 GRES=gpu:h100:4(IDX:0-3)", "srun --overlap --gres=gpu:4"),
    ("SLURM_GPUS", "Nodes=n1 CPU_IDs=0 Mem=1 GRES=gpu:a:2(IDX:0,3),gpu:b:1(IDX:4)\n     "
                   "Nodes=n[2-3] CPU_IDs=0 Mem=1 GRES=gpu:1(IDX:0)", "srun --overlap --gres=gpu:3"),
    ("SLURM_GPUS", "Nodes=n[1-3] CPU_IDs=0 Mem=1 GRES=", "srun --overlap"),
    ("SLURM_GPUS_PER_NODE", "Nodes=n[1-3] CPU_IDs=0 Mem=1 GRES=gpu:4(IDX:0-3)", "srun --overlap"),  # all, unasked
])
def test_where_salloc_was_called_the_controller_is_asked_for_the_gpus_of_a_node(
    programs: Programs, asked: str, gres: str, first: str
) -> None:
    programs(srun="", scontrol=f"[ $2 = config ] && {{ {config()}; exit; }}\n"
                               f"echo 'JobId=7 JobName=x\n   NodeList=n[1-3]\n     {gres}'")
    found = find(Settings(), {**SLURM, asked: "1"}, ["srun"])
    assert found is not None
    assert found.ways[0].name == first


def test_the_task_of_an_array_is_keyed_by_both_ids(programs: Programs) -> None:
    programs(srun="", scontrol=config())
    found = find(Settings(), {**SLURM, "SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "3"}, ["srun"])
    assert found is not None
    assert (found.job["array_job_id"], found.job["array_task_id"]) == ("7", "3")


def test_without_slurm_s_commands_as_in_a_container_only_the_nodes_are_known(programs: Programs) -> None:
    programs(true="")
    found = find(Settings(), SLURM, ["python"])
    assert found is not None
    assert (found.nodes, found.ways) == (("n1", "n2", "n3"), (("srun", (("srun",),)),))  # that cannot be started
    assert find(Settings(), {**SLURM, "SLURM_JOB_NODELIST": "n1"}, ["python"]) is None  # nothing is missing


def test_pbs_starts_by_the_line_of_the_node_file_and_hands_on_what_python_needs(
    programs: Programs, tmp_path: Path
) -> None:
    nodes = tmp_path / "nodes"
    nodes.write_text("a\na\nb\nb\na\n")
    programs(pbsdsh="")
    found = find(Settings(), {"PBS_JOBID": "1.s", "PBS_NODEFILE": str(nodes), "LD_LIBRARY_PATH": "/opt/python/lib"},
                 ["x"])
    assert found is not None
    ((name, commands),) = found.ways
    env = ("/usr/bin/env", "LD_LIBRARY_PATH=/opt/python/lib")
    pbsdsh = f"{tmp_path}/bin/pbsdsh"
    assert (name, commands) == ("pbsdsh", ((pbsdsh, "-n", "0", "--", *env), (pbsdsh, "-n", "2", "--", *env)))


@pytest.mark.parametrize("content", [None, "", b"\xff\xfe"])
def test_a_node_file_that_cannot_be_read_is_no_allocation(
    programs: Programs, tmp_path: Path, content: str | bytes | None
) -> None:
    programs(pbsdsh="")
    nodes = tmp_path / "nodes"
    if content is not None:
        nodes.write_bytes(content.encode() if isinstance(content, str) else content)
    assert find(Settings(), {"PBS_JOBID": "1", "PBS_NODEFILE": str(nodes)}, ["x"]) is None


@pytest.mark.parametrize(("body", "nodes", "ranks"), [
    ('[ "$2" = hostlist ] && echo "f[1-3]"', ("f1", "f2", "f3"), "all"),
    ('[ "$2" = hostlist ] && echo "f1,f1,f2,f2"', ("f1", "f2"), "0,2"),  # two brokers on each
    ("exit 1", ("*",), "all"),
    ("echo 'no[list'", ("*",), "all"),
    ("exec /bin/sleep 60", ("*",), "all"),
])
def test_flux_is_asked_for_its_nodes(
    programs: Programs, monkeypatch: pytest.MonkeyPatch, body: str, nodes: tuple[str, ...], ranks: str
) -> None:
    monkeypatch.setattr(placement, "_ASK_S", 0.5)
    programs(flux=body)
    found = find(Settings(), {"FLUX_URI": "local:///x", "FLUX_ENCLOSING_ID": "f9"}, ["x"])
    assert found is not None
    assert (found.nodes, found.job["job_id"]) == (nodes, "f9")
    assert found.ways[0].commands[0][1:] == ("exec", "--noinput", f"--rank={ranks}")


def test_a_task_of_flux_is_recorded_where_it_is(programs: Programs) -> None:
    programs(flux="")
    assert find(Settings(), {"FLUX_URI": "local:///run/flux/local", "FLUX_JOB_ID": "f1"}, ["x"]) is None


def test_lsf_s_launch_node_on_coral_is_left_out_and_arrays_have_both_ids(programs: Programs) -> None:
    programs(blaunch="")
    environ = {"LSB_JOBID": "3", "LSB_JOBINDEX": "2", "LSB_MCPU_HOSTS": "batch1 1 a01 42 a02 42"}
    found = find(Settings(), {**environ, "CSM_ALLOCATION_ID": "77"}, ["x"])
    assert found is not None
    assert found.nodes == ("a01", "a02")
    assert (found.job["array_job_id"], found.job["array_task_id"]) == ("3", "2")
    elsewhere = find(Settings(), environ, ["x"])
    assert elsewhere is not None
    assert elsewhere.nodes == ("batch1", "a01", "a02")


def test_a_command_of_one_s_own_finds_the_allocation_and_takes_nothing_of_it() -> None:
    given = {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "8", "HOME": "/h"}
    assert environment(given, "") == {**given, "SLURM_OVERLAP": "1"}
    assert environment({"PBS_JOBID": "1"}, "pbs") == {"PBS_JOBID": "1"}


def test_a_command_of_one_s_own_places_the_daemons(programs: Programs) -> None:
    programs(mpirun="", srun="", scontrol=config())
    anywhere = find(Settings(launch_with="mpirun -npernode 1"), {}, ["x"])
    assert anywhere is not None
    assert (anywhere.nodes, anywhere.ways[0].commands) == (("*",), (("mpirun", "-npernode", "1"),))
    in_slurm = find(Settings(launch_with="mpirun -npernode 1"), SLURM, ["x"])
    assert in_slurm is not None
    assert (in_slurm.scheduler, in_slurm.job["scheduler"]) == ("", "slurm")
    assert (in_slurm.nodes, [w.name for w in in_slurm.ways]) == (("n1", "n2", "n3"), ["mpirun -npernode 1"])


@pytest.mark.parametrize(("settings", "words"), [
    (Settings(scheduler="slrum"), ("unknown scheduler `slrum`", "did you mean `slurm`?")),
    (Settings(scheduler="pbs"), ("not inside of an allocation of `pbs`", "--scheduler none")),
    (Settings(launch_with="mpirun 'x"), ("not a command", "launch_with:")),
])
def test_what_cannot_be_is_an_error_with_a_hint(programs: Programs, settings: Settings, words: tuple[str, str]) -> None:
    with pytest.raises(YprovError) as e:
        find(settings, {}, ["x"])
    assert words[0] in str(e.value)
    assert words[1] in e.value.hint


def test_none_means_this_machine(programs: Programs) -> None:
    programs(srun="", scontrol=config())
    assert find(Settings(scheduler="none"), SLURM, ["srun"]) is None
