"""Slurm's answers, recorded and documented, as facts: the same whichever command and version gave them."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.slurm_metadata.answers import DOCUMENTED, FIXTURES, RECORDED, Facts, one, read
from yprovd import slurm


def files() -> list[tuple[str, str]]:
    return sorted((path.parent.name, path.name) for path in FIXTURES.glob("*/*")
                  if path.name.endswith((".json", "job.txt", ".sacct.txt")))


def all_values(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return [v for one in value.values() for v in all_values(one)]
    return [v for one in value for v in all_values(one)] if isinstance(value, list) else [value]


@pytest.mark.parametrize(("version", "name"), files())
def test_every_answer_gives_jobs_and_never_a_word_for_nothing(version: str, name: str) -> None:
    jobs = read(version, name)
    assert jobs
    for facts in jobs:
        assert facts["name"] == "slurm"
        assert facts["job_id"].isdecimal()
        assert facts["state"] == facts["state"].upper()
        assert not [v for v in all_values(facts) if v in (None, "", "(null)", "N/A", "Unknown", "None", {}, [])], facts
        assert json.loads(json.dumps(facts)) == facts
        for key, value in facts.items():
            if key.endswith("_time"):
                assert value[19:] == ("+01:00" if name == "running.zone.job.txt" else "+00:00"), (key, value)


@pytest.mark.parametrize(("version", "name"), [f for f in files() if f[1] in (
    "running.job.txt", "running.squeue.json", "running.scontrol.json")])
def test_a_running_job(version: str, name: str) -> None:
    facts = one(version, name, "1")
    submitted = {"22.05": "2026-11-21T05:27:18+00:00", "24.11": "2026-11-21T05:32:03+00:00"}[version]
    expected = {
        "job_name": "lr=0.1 bs=32", "user": "ada", "uid": 1000, "account": "physics", "partition": "p", "qos": "normal",
        "state": "RUNNING", "restart_count": 0, "requeue": True, "node_list": "n[1-2]", "nodes": ["n1", "n2"],
        "node_count": 2, "batch_host": "n1", "cpu_count": 8, "task_count": 4, "time_limit_s": 600,
        "allocated_tres": {"cpu": "8", "mem": "800M", "node": "2", "billing": "8"},
        "gres_by_node": {"n1": "gpu:h100:2(IDX:0-1)", "n2": "gpu:h100:2(IDX:0-1)"},
        "submit_time": submitted, "eligible_time": submitted, "comment": 'x = y, Command=no "q"',
        "work_dir": "/home/ada/work",
    }
    assert facts | expected == facts
    assert facts["command"].startswith("/home/ada/work/stubborn.sh")
    started = {"22.05": "27:19", "24.11": "32:03"}[version]
    assert facts["start_time"] == f"2026-11-21T05:{started}+00:00"
    assert "end_time" not in facts
    assert facts["expected_end_time"] == f"2026-11-21T05:{int(started[:2]) + 10}{started[2:]}+00:00"
    assert "exit_code" not in facts  # 0:0 before it is known
    if name.endswith("txt") or version != "22.05":  # its JSON has %j, and no path for stderr
        assert facts["stdout_path"] == facts["stderr_path"] == "/home/ada/work/out-1.txt"
        assert facts["cpus_per_task"] == 2


def test_arguments_of_the_command_stay_with_it() -> None:
    assert one("22.05", "running.job.txt", "1")["command"] == "/home/ada/work/stubborn.sh a=b two words"


@pytest.mark.parametrize("version", RECORDED)
def test_local_time_and_time_with_a_zone_are_the_same_moment(
    version: str, time_zone: Callable[[str], None]
) -> None:
    start = one(version, "running.job.txt", "1")["start_time"]
    time_zone("Europe/Rome")
    rome = one(version, "running.rome.job.txt", "1")["start_time"]
    assert rome == f"{start[:11]}{int(start[11:13]) + 1:02}{start[13:19]}+01:00"
    time_zone("America/New_York")
    assert one(version, "running.zone.job.txt", "1")["start_time"] == rome


@pytest.mark.parametrize("version", RECORDED)
def test_line_ends_in_a_comment_neither_break_nor_forge_a_fact(version: str) -> None:
    facts = one(version, "lines.job.txt", "6")
    assert facts["comment"] == "first line\nJobState=FAKE second"
    assert facts["state"] == "COMPLETED"
    assert facts["stdout_path"] == "/home/ada/work/out-6.txt"


def test_a_job_name_may_hold_anything() -> None:
    text = (FIXTURES / "24.11" / "running.job.txt").read_text()
    name = "a JobState=FAKE\n   JobState=FAKE Reason=x\n   end"
    (facts,) = slurm.parse_show_job(text.replace("JobName=lr=0.1 bs=32", f"JobName={name}"))
    assert facts["job_name"] == name
    assert (facts["state"], facts["user"]) == ("RUNNING", "ada")
    assert "state_reason" not in facts


@pytest.mark.parametrize("name", ["array.job.txt", "array.squeue.json", "array.sacct.txt", "array.sacct.json"])
@pytest.mark.parametrize("version", RECORDED)
def test_tasks_of_an_array(version: str, name: str) -> None:
    jobs = {f["job_id"]: f for f in read(version, name) if f.get("array_job_id") == "7"}
    assert {i: f.get("array_task_id") for i, f in jobs.items()} == {"7": None, "8": "1", "9": "3"}
    assert jobs["7"]["state"] == "PENDING"
    assert "nodes" not in jobs["7"]


@pytest.mark.parametrize("name", ["het.job.txt", "het.squeue.json", "het.sacct.txt", "het.sacct.json"])
@pytest.mark.parametrize("version", RECORDED)
def test_parts_of_a_heterogeneous_job(version: str, name: str) -> None:
    found = [(f["job_id"], f["het_offset"], f["nodes"], f["job_name"]) for f in read(version, name)
             if f.get("het_job_id") == "10"]
    second = {"22.05": ["n2", "n3"], "24.11": ["n3", "n4"]}[version]
    assert found == [("10", 0, ["n1"], "mixed"), ("11", 1, second, "mixed")]


@pytest.mark.parametrize("version", RECORDED)
def test_a_waiting_job_has_asked_for_resources_and_has_none(version: str) -> None:
    facts = one(version, "pending.job.txt", "13")
    assert facts["state"] == "PENDING"
    assert facts["state_reason"] == "Dependency"
    assert facts["dependency"] == "afterok:12(unfulfilled)"
    assert facts["requested_tres"]["cpu"] == "1"
    assert not {"allocated_tres", "nodes", "start_time", "end_time", "node_count"} & set(facts)


@pytest.mark.parametrize("version", RECORDED)
def test_times_of_suspension_and_preemption(version: str) -> None:
    assert one(version, "suspended.job.txt", "1")["suspend_time"].startswith("2026-11-21T05:")
    facts = one(version, "preempted_cancel.job.txt", "16")
    assert facts["preempt_time"] == facts["end_time"]


@pytest.mark.parametrize("kind", ["txt", "json"])
@pytest.mark.parametrize("version", RECORDED)
def test_accounting_has_the_steps(version: str, kind: str) -> None:
    facts = one(version, f"cancelled.sacct.{kind}", "1")
    assert facts["state"] == "CANCELLED"
    assert facts["elapsed_s"] == 2
    assert facts["time_limit_s"] == 600
    assert facts["allocated_tres"] == {"cpu": "8", "mem": "800M", "node": "2", "billing": "8"}
    batch, step = facts["steps"]
    assert (batch["step_id"], batch["name"], batch["task_count"]) == ("1.batch", "batch", 1)
    assert {**step, "max_rss_bytes": 0, "start_time": "", "end_time": ""} == {
        "step_id": "1.0", "name": "bash", "state": "CANCELLED", "exit_code": 0, "exit_signal": 9, "node_list": "n[1-2]",
        "task_count": 4, "max_rss_bytes": 0, "start_time": "", "end_time": ""}
    assert 1 << 20 < step["max_rss_bytes"] < 1 << 24
    # No plugin measures: 0 J is no energy.
    assert "consumed_energy_j" not in facts
    assert "consumed_energy_j" not in step


@pytest.mark.parametrize("version", RECORDED)
def test_text_and_json_of_accounting_agree(version: str) -> None:
    compared = 0
    for path in (FIXTURES / version).glob("*.sacct.json"):
        by_json, by_text = ({(f["job_id"], f["submit_time"]): f for f in read(version, name)}
                            for name in (path.name, path.with_suffix(".txt").name))
        for key in by_json.keys() & by_text.keys():
            theirs, ours = by_json[key], by_text[key]
            for fact in (theirs.keys() & ours.keys()) - {"other", "steps", "elapsed_s"}:
                assert theirs[fact] == ours[fact], (path, fact)
            for a, b in zip(theirs.get("steps", []), ours.get("steps", []), strict=True):
                assert a == {k: v for k, v in b.items() if k in a}, path
            compared += 1
    assert compared > 8


def test_energy_that_a_plugin_measured_is_told() -> None:
    text = (FIXTURES / "24.11" / "cancelled.sacct.txt").read_text().replace("12924K|0|", "12924K|4200|")
    (facts,) = slurm.parse_sacct_text(text)
    assert facts["steps"][0]["consumed_energy_j"] == 4200


def test_accounting_text_by_another_delimiter_and_with_line_ends() -> None:
    rows = [("JobID", "JobIDRaw", "JobName", "Comment", "State"), ("7", "7", "a|b", "one\ntwo\n\nthree", "FAILED"),
            ("7.0", "7.0", "python", "", "FAILED")]
    (facts,) = slurm.parse_sacct_text("".join("\x1f".join(row) + "\n" for row in rows))
    assert (facts["job_name"], facts["comment"]) == ("a|b", "one\ntwo\n\nthree")
    assert [s["step_id"] for s in facts["steps"]] == ["7.0"]


EXPECTED = {
    "23.02": {"state": "FAILED", "state_reason": "NonZeroExitCode", "exit_code": 7, "derived_exit_code": 0},
    "23.11": {"state": "OUT_OF_MEMORY", "state_reason": "OutOfMemory", "exit_code": 0, "exit_signal": 125},
    "24.05": {"state": "TIMEOUT", "state_flags": ["COMPLETING"], "state_reason": "TimeLimit"},
    "25.05": {"state": "NODE_FAIL", "state_reason": "NodeDown", "restart_count": 1, "failed_node": "gpu02"},
    "25.11": {"state": "COMPLETED", "state_flags": ["COMPLETING"]},
    "26.05": {"state": "PREEMPTED", "exit_code": 0, "exit_signal": 15, "preempt_time": "2026-07-01T10:10:00+00:00"},
}
COMMON = {
    "job_id": "4712", "job_name": "train", "user": "ada", "account": "physics", "partition": "batch", "qos": "debug",
    "reservation": "school", "node_list": "gpu[01-02]", "nodes": ["gpu01", "gpu02"], "node_count": 2, "cpu_count": 56,
    "submit_time": "2026-07-01T09:59:00+00:00", "eligible_time": "2026-07-01T10:00:00+00:00",
    "start_time": "2026-07-01T10:01:00+00:00", "end_time": "2026-07-01T10:11:00+00:00", "time_limit_s": 600,
    "comment": "a = b", "work_dir": "/home/ada", "features": "h100",
}
SHOWN = COMMON | {
    "uid": 1000, "requeue": True, "batch_host": "gpu01", "task_count": 8, "cpus_per_task": 7,
    "requested_tres": {"cpu": "56", "mem": "64G", "node": "2", "billing": "56", "gres/gpu": "8"},
    "gres_by_node": {"gpu01": "gpu:h100:4(IDX:0-3)", "gpu02": "gpu:h100:4(IDX:0-3)"},
    "dependency": "afterok:4711(fulfilled)", "command": "/home/ada/train.sbatch --lr 0.1",
}


@pytest.mark.parametrize("version", DOCUMENTED)
def test_json_of_versions_that_are_documented(version: str) -> None:
    facts = one(version, "job.json", "4712")
    assert facts | SHOWN | EXPECTED[version] == facts
    assert facts["version"].startswith(version)
    number = "4712" if version >= "25.05" else "%j"
    assert facts["stdout_path"] == f"/home/ada/logs/train-{number}.out"


@pytest.mark.parametrize("version", DOCUMENTED)
def test_text_of_versions_that_are_documented(version: str) -> None:
    facts = one(version, "job.txt", "4712")
    expected = {k: v for k, v in EXPECTED[version].items() if k != "preempt_time"}
    if expected.pop("state_flags", None):
        expected["state"] = "COMPLETING"  # text does not tell more
    assert facts | SHOWN | expected == facts
    assert facts["stdout_path"] == "/home/ada/logs/train-4712.out"


@pytest.mark.parametrize("version", DOCUMENTED)
def test_accounting_of_versions_that_are_documented(version: str) -> None:
    facts = one(version, "job.sacct.json", "4712")
    assert facts | COMMON == facts
    assert facts["state"] == EXPECTED[version]["state"]
    assert facts["elapsed_s"] == 600
    assert facts["consumed_energy_j"] == 1300000
    assert facts["allocated_tres"] == {"cpu": "56", "mem": "65536M", "node": "2", "billing": "56", "gres/gpu": "8"}
    (step,) = facts["steps"]
    assert (step["step_id"], step["max_rss_bytes"], step["consumed_energy_j"]) == ("4712.0", 1 << 35, 1234567)


@pytest.mark.parametrize("document", [
    {}, {"jobs": None}, {"jobs": [{}], "meta": None},
    {"jobs": [{"job_id": 7, "job_state": None, "nodes": "n[1-", "time_limit": "UNLIMITED", "steps": None,
               "exit_code": {"return_code": None}}]},
])
def test_unexpected_documents_do_not_fail(document: Facts) -> None:
    assert all(f["name"] == "slurm" for f in slurm.parse_job_json(document) + slurm.parse_sacct_json(document))


@pytest.mark.parametrize("text", ["", "\n", "slurm_load_jobs error: Invalid job id specified\n", "JobID|State\n",
                                  "JobId=7 JobName=x", "JobId=7\n   =\n   JobState= Reason\n  UserId=x(y)"])
def test_unexpected_text_does_not_fail(text: str) -> None:
    assert all(f["name"] == "slurm" for f in slurm.parse_show_job(text) + slurm.parse_sacct_text(text))


@pytest.mark.parametrize("version", RECORDED)
def test_the_controllers_configuration(version: str) -> None:
    found = slurm.parse_config((FIXTURES / version / "config.txt").read_text())
    topology = found.pop("topology_plugin", None)
    assert topology == ("default" if version == "24.11" else None)
    assert found == {"version": {"22.05": "22.05.8", "24.11": "24.11.5"}[version], "cluster": "yp", "kill_wait_s": 5,
                     "minjobage_s": 300, "accounting": True}


@pytest.mark.parametrize("value", ["(null)", "accounting_storage/none"])
def test_a_cluster_without_accounting(value: str) -> None:
    assert slurm.parse_config(f"AccountingStorageType   = {value}\n")["accounting"] is False


def test_a_plugin_that_measures_energy_is_named() -> None:
    assert slurm.parse_config("AcctGatherEnergyType = acct_gather_energy/rapl\n")["energy_plugin"] == "rapl"


_lines = st.lists(st.sampled_from(
    [*(FIXTURES / "24.11" / "array.job.txt").read_text().splitlines(), "", "   =", "     Nodes=n[1- GRES=", "JobId=",
     *(FIXTURES / "24.11" / "failed.sacct.txt").read_text().splitlines()]) | st.text(max_size=40), max_size=40)


@given(lines=_lines)
def test_no_text_makes_the_parsers_fail(lines: list[str]) -> None:
    text = "\n".join(lines)
    assert all(f["name"] == "slurm" for f in slurm.parse_show_job(text) + slurm.parse_sacct_text(text))
    slurm.parse_config(text)


_keys = st.sampled_from(sorted({
    "jobs", "meta", "slurm", "set", "infinite", "number", "return_code", "signal", "id", "count", "type", "step",
    *one("24.11", "running.squeue.json", "1"), *json.loads(
        (FIXTURES / "24.11" / "failed.sacct.json").read_text())["jobs"][0], "job_state", "exit_code", "gres_detail"}))
_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_keys, inner, max_size=6), max_leaves=20)


@given(jobs=st.lists(st.dictionaries(_keys, _json, max_size=12) | _json, max_size=3), meta=_json)
def test_no_document_makes_the_parsers_fail(jobs: list[Any], meta: Any) -> None:
    document = {"jobs": jobs, "meta": meta}
    assert all(f["name"] == "slurm" for f in slurm.parse_job_json(document) + slurm.parse_sacct_json(document))
