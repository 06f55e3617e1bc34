"""Variables of real jobs of 22.05 and 24.11."""

from __future__ import annotations

import pytest

from tests.slurm_metadata.answers import RECORDED, variables
from yprovd.slurm import from_environment


@pytest.mark.parametrize("version", RECORDED)
def test_a_batch_script_of_two_nodes(version: str) -> None:
    facts = from_environment(variables(version, "plain.batch"))
    assert facts.pop("submit_host") == "ctl"
    if version >= "23.02":  # older ones do not say when
        assert facts.pop("start_time") == "2026-11-21T05:32:03+00:00"
        assert facts.pop("expected_end_time") == "2026-11-21T05:42:03+00:00"
    facts.pop("topology", None)  # of one node
    facts.pop("topology_pattern", None)
    assert facts == {
        "name": "slurm", "job_id": "1", "job_name": "lr=0.1 bs=32", "cluster": "yp", "partition": "p",
        "account": "physics", "user": "ada", "uid": 1000, "qos": "normal", "node_list": "n[1-2]", "nodes": ["n1", "n2"],
        "node_count": 2, "tasks": 4, "task_count": 4, "cpus_per_task": 2, "gpus_on_node": 2, "restart_count": 0,
        "work_dir": "/home/ada/work", "submit_dir": "/home/ada/work",
    }


@pytest.mark.parametrize("version", RECORDED)
def test_a_step_knows_its_own_id_and_nodes(version: str) -> None:
    facts = from_environment(variables(version, "plain.step"))
    assert facts["step_id"] == "0"
    assert facts["step_node_list"] == facts["node_list"] == "n[1-2]"


@pytest.mark.parametrize("version", RECORDED)
def test_a_task_of_an_array(version: str) -> None:
    facts = from_environment(variables(version, "array.batch"))
    assert (facts["array_job_id"], facts["array_task_id"], facts["job_id"]) == ("7", "3", "9")
    assert facts["array_task_count"] == 4


@pytest.mark.parametrize("version", RECORDED)
def test_a_heterogeneous_job_has_groups_of_nodes(version: str) -> None:
    facts = from_environment(variables(version, "het.batch"))
    assert facts["het_size"] == 2
    assert facts["het_job_id"] == facts["job_id"] == "10"
    second = {"22.05": ("n[2-3]", ["n2", "n3"]), "24.11": ("n[3-4]", ["n3", "n4"])}[version]
    assert facts["het_groups"] == {0: {"job_id": "10", "node_list": "n1", "nodes": ["n1"]},
                                   1: {"job_id": "11", "node_list": second[0], "nodes": second[1]}}


@pytest.mark.parametrize("version", RECORDED)
def test_a_job_that_was_requeued_counts_its_restarts(version: str) -> None:
    assert from_environment(variables(version, "restarted.batch"))["restart_count"] == 1


def test_outside_of_a_job_nothing_is_known() -> None:
    assert from_environment({"HOME": "/home/ada", "SLURM_CONF": "/etc/slurm/slurm.conf"}) == {}


def test_broken_variables_are_absent_and_do_not_fail() -> None:
    facts = from_environment({"SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "n[1-", "SLURM_RESTART_COUNT": "many",
                              "SLURM_HET_SIZE": "999999999", "SLURM_JOB_QOS": "", "SLURM_NTASKS": "-1",
                              "SLURM_JOB_ACCOUNT": "(null)", "SLURM_JOB_START_TIME": "soon"})
    assert facts == {"name": "slurm", "job_id": "7", "node_list": "n[1-", "restart_count": 0, "het_size": 999999999}
