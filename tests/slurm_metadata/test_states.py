"""How a job ends, in our words: of real jobs of 22.05 and 24.11, and of each word of Slurm's."""

from __future__ import annotations

from typing import Any

import pytest

from tests.slurm_metadata.answers import DOCUMENTED, RECORDED, one
from yprovd.slurm import ending, final

#: Taken in the grace period: (job, what text tells, what JSON of 24.11 tells).
IN_THE_GRACE_PERIOD = {
    "cancelling": ("1", ("cancelled", "cancelled"), ("cancelled", "cancelled")),
    "timing_out": ("2", ("timeout", "time limit"), ("timeout", "time limit")),
    "requeueing": ("14", ("cancelled", "requeued"), ("cancelled", "requeued")),
    "preempting_cancel": ("16", ("cancelled", "preempted"), ("cancelled", "preempted")),
    "preempting_requeue": ("15", ("cancelled", "requeued"), ("cancelled", "preempted")),
    "node_failing": ("18", ("node_fail", "node failure"), ("node_fail", "node failure")),
}


@pytest.mark.parametrize("version", RECORDED)
@pytest.mark.parametrize("name", IN_THE_GRACE_PERIOD)
def test_between_sigterm_and_sigkill_text_tells_why(name: str, version: str) -> None:
    job, told, _by_json = IN_THE_GRACE_PERIOD[name]
    facts = one(version, f"{name}.job.txt", job)
    assert facts["state"] == "COMPLETING"
    assert ending(facts, 0) == told
    assert final(facts) is None


@pytest.mark.parametrize("name", IN_THE_GRACE_PERIOD)
def test_between_sigterm_and_sigkill_json_tells_why(name: str) -> None:
    job, _by_text, told = IN_THE_GRACE_PERIOD[name]
    facts = one("24.11", f"{name}.squeue.json", job)
    assert facts["state_flags"] == ["COMPLETING"]
    assert ending(facts, 0) == told
    assert final(facts) is None


@pytest.mark.parametrize("version", RECORDED)
@pytest.mark.parametrize(("name", "job", "end", "code"), [
    ("completed", "3", ("completed", ""), 0),
    ("failed", "4", ("failed", "exit code 7"), 7),
    ("segv", "5", ("failed", "signal 11"), 139),
    ("cancelled", "1", ("cancelled", "cancelled"), None),
    ("cancelled_pending", "13", ("cancelled", "cancelled"), None),
    ("timeout", "2", ("timeout", "time limit"), None),
    ("preempted_cancel", "16", ("cancelled", "preempted"), None),
    ("node_fail", "18", ("node_fail", "node failure"), None),
])
def test_the_end_of_a_job(version: str, name: str, job: str, end: tuple[str, str], code: int | None) -> None:
    for kind in ("job.txt", "sacct.txt"):
        facts = one(version, f"{name}.{kind}", job)
        assert ending(facts, 0) == end
        assert final(facts) == (*end, code)


@pytest.mark.parametrize("version", RECORDED)
@pytest.mark.parametrize(("name", "job"), [("running", "1"), ("suspended", "1"), ("pending", "13"), ("array", "7"),
                                           ("array.task", "9"), ("het", "11")])
def test_a_job_that_goes_on_or_waits_is_not_ending(version: str, name: str, job: str) -> None:
    facts = one(version, f"{name}.job.txt", job)
    assert ending(facts, 0) is None
    assert final(facts) is None


@pytest.mark.parametrize("version", RECORDED)
@pytest.mark.parametrize("name", ["requeueing", "requeued", "restarted"])
def test_a_requeued_job_has_ended_for_the_attempt_before(version: str, name: str) -> None:
    facts = one(version, f"{name}.job.txt", "14")
    assert facts["restart_count"] == 1
    assert ending(facts, 0) == ("cancelled", "requeued")


@pytest.mark.parametrize("version", RECORDED)
def test_a_requeued_job_goes_on_for_the_attempt_after(version: str) -> None:
    assert ending(one(version, "restarted.job.txt", "14"), 1) is None
    assert ending(one(version, "requeued.job.txt", "14"), 1) is None


@pytest.mark.parametrize("version", RECORDED)
def test_a_lost_node_requeues_the_job(version: str) -> None:
    assert ending(one(version, "node_failing_requeue.job.txt", "19"), 0) == ("cancelled", "requeued")


@pytest.mark.parametrize(("version", "end"), list(zip(DOCUMENTED, [
    ("failed", "exit code 7"), ("failed", "out of memory"), ("timeout", "time limit"), ("node_fail", "node failure"),
    ("completed", ""), ("cancelled", "preempted"),
], strict=True)))
def test_json_of_versions_that_are_documented(version: str, end: tuple[str, str]) -> None:
    facts = one(version, "job.json", "4712")
    assert ending(facts, facts["restart_count"]) == end
    assert (final(facts) is None) == ("state_flags" in facts)


@pytest.mark.parametrize(("state", "end"), [
    ("TIMEOUT", "timeout"), ("DEADLINE", "timeout"), ("CANCELLED", "cancelled"), ("PREEMPTED", "cancelled"),
    ("REVOKED", "cancelled"), ("NODE_FAIL", "node_fail"), ("BOOT_FAIL", "node_fail"), ("RECONFIG_FAIL", "node_fail"),
    ("OUT_OF_MEMORY", "failed"), ("LAUNCH_FAILED", "failed"), ("FAILED", "failed"), ("COMPLETED", "completed"),
    ("REQUEUED", "cancelled"),
])
def test_every_state_of_an_ended_job_has_a_word_of_ours(state: str, end: str) -> None:
    by_ending, by_final = ending({"state": state}, 0), final({"state": state})
    assert by_ending is not None
    assert by_final is not None
    assert by_ending[0] == by_final[0] == end
    assert bool(by_final[1]) == (state != "COMPLETED")


@pytest.mark.parametrize("state", ["RUNNING", "PENDING", "SUSPENDED", "CONFIGURING", "RESIZING", "STOPPED", "SIGNALING",
                                   "POWER_UP_NODE", "STAGE_OUT", "", "A_STATE_TO_COME"])
def test_no_other_state_is_an_end(state: str) -> None:
    assert ending({"state": state}, 0) is None
    assert ending({}, 0) is None
    assert final({"state": state}) is None


@pytest.mark.parametrize(("reason", "end"), [
    ("TimeLimit", "timeout"), ("DeadLine", "timeout"), ("InactiveLimit", "timeout"), ("NodeDown", "node_fail"),
    ("SystemFailure", "node_fail"), ("NonZeroExitCode", "failed"), ("OutOfMemory", "failed"),
    ("JobLaunchFailure", "failed"), ("RaisedSignal:11(Segmentation_fault)", "failed"), ("Prolog", "cancelled"),
    (None, "cancelled"),
])
def test_the_reason_tells_why_a_job_is_completing(reason: str | None, end: str) -> None:
    facts: dict[str, Any] = {"state": "COMPLETING"} | ({"state_reason": reason} if reason else {})
    told = ending(facts, 0)
    assert told is not None
    assert told[0] == end
    assert told[1]


@pytest.mark.parametrize("flag", ["REQUEUED", "REQUEUE_HOLD", "SPECIAL_EXIT"])
def test_a_job_that_is_held_for_another_attempt_has_ended_for_this_one(flag: str) -> None:
    assert ending({"state": "PENDING", "state_flags": [flag]}, 0) == ("cancelled", "requeued")


@pytest.mark.parametrize(("facts", "expected"), [
    ({"state": "FAILED", "exit_code": 0, "exit_signal": 9}, ("failed", "signal 9", 137)),
    ({"state": "FAILED"}, ("failed", "non-zero exit code", None)),
    ({"state": "FAILED", "exit_code": 0, "exit_signal": 125}, ("failed", "Slurm's code 0:125", None)),
    ({"state": "OUT_OF_MEMORY", "exit_code": 0, "exit_signal": 125}, ("failed", "out of memory", None)),
    ({"state": "OUT_OF_MEMORY", "exit_code": 1}, ("failed", "out of memory", 1)),
    ({"state": "CANCELLED", "exit_code": 3}, ("cancelled", "cancelled", 3)),  # its script went on after the signal
    ({"state": "CANCELLED", "exit_code": 0, "exit_signal": 9}, ("cancelled", "cancelled", None)),
])
def test_exit_codes(facts: dict[str, Any], expected: tuple[str, str, int | None]) -> None:
    assert final(facts) == expected
