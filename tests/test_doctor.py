"""`yprov doctor` says where the daemons of a run would be started from here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.running import yprov
from tests.standins import StandIns
from yprov import doctor

SLURM = {"SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "n[1-6]", "SLURM_JOB_NUM_NODES": "6"}
PROGRAMS = {"srun": "echo slurm 22.05.8", "scontrol": "exit 1"}


def daemons(tmp_path: Path, **environ: str) -> tuple[int, dict[str, Any], str]:
    made = StandIns(tmp_path / "bin")
    made.add(**PROGRAMS)
    done = yprov("doctor", "--json", cwd=tmp_path, env=made.environment(**environ))
    (found,) = [c for c in json.loads(done.stdout)["checks"] if c["check"] == "daemons"]
    text = yprov("doctor", cwd=tmp_path, env=made.environment(**environ)).stdout
    return done.returncode, found, text


def test_in_a_job_it_tells_the_nodes_and_the_ways(tmp_path: Path) -> None:
    status, found, text = daemons(tmp_path, **SLURM, SLURM_GPUS_ON_NODE="4")
    assert status == 0
    assert (found["ok"], found["scheduler"], found["encrypted"]) == (True, "slurm", True)
    assert found["nodes"] == ["n1", "n2", "n3", "n4", "n5", "n6"]
    assert found["ways"] == ["srun --overlap --gres=gpu:4", "srun --overlap", "srun --overlap --gres=none"]
    assert "on 6 nodes of slurm job 7: n1, n2, n3, n4 and 2 more; by srun --overlap --gres=gpu:4, else by" in text


@pytest.mark.parametrize(("environ", "detail"), [
    ({}, "no scheduler's job"), ({**SLURM, "SLURM_STEP_ID": "0"}, "in a job of slurm")])
def test_elsewhere_it_is_this_node_only(tmp_path: Path, environ: dict[str, str], detail: str) -> None:
    status, found, _ = daemons(tmp_path, **environ)
    assert (status, found["ok"], found["nodes"]) == (0, True, [])
    assert detail in found["detail"]


def test_a_container_without_slurm_s_commands_is_a_failure(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    for name, value in SLURM.items():
        monkeypatch.setenv(name, value)
    found = doctor._check_daemons()
    assert (found["ok"], found["ways"]) == (False, [])
    assert "in a job of slurm" in found["detail"]


def test_a_job_whose_commands_are_not_there_is_a_failure_with_a_hint(tmp_path: Path) -> None:
    status, found, text = daemons(tmp_path, PBS_JOBID="1.s", PBS_NODEFILE="/nowhere")
    assert (status, found["ok"]) == (1, False)
    assert "--launch-with" in found["hint"]
    assert found["hint"] in text
