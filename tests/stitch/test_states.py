"""Which word a run's end gets, when the launcher, the collector and the scheduler each have said one, or none."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from tests.stitch.builders import RunSpool, ns
from yprovd.model import STATES
from yprovd.stitch.record import Record
from yprovd.stitch.states import final_state

EARLY = ("timeout", "cancelled", "node_fail")


def record_of(
    folder: Path, own: tuple[str, float] | None, theirs: tuple[str, float] | None, *, later: bool = False
) -> Record:
    """`own`: state and time of our own word, by the collector when it is `killed`; `theirs`: the scheduler's, as a
    daemon heard it, or (`later`) as somebody was told who asked an hour later."""
    run = RunSpool(folder)
    run.begin(0.0)
    if own is not None and own[0] == "killed":
        run.killed(own[1])
    elif own is not None:
        code = {"completed": 0, "failed": 3, "cancelled": 143}[own[0]]
        run.finish(own[1], state=own[0], exit_code=code)
    if theirs is not None:
        if later:
            run.scheduler_said(theirs[1], theirs[0], "why", role="scheduler", asked=3600.0)
        else:
            run.scheduler_said(theirs[1], theirs[0], "why")
    return run.record()


@pytest.mark.parametrize(("own", "theirs", "expected"), [
    # nothing of a scheduler
    (None, None, "incomplete"),
    (("killed", 10.0), None, "killed"),
    (("completed", 10.0), None, "completed"),
    (("failed", 10.0), None, "failed"),
    # the command had ended well before its job was ended
    (("completed", 10.0), ("timeout", 10.5), "completed"),
    (("completed", 10.0), ("cancelled", 11.0), "completed"),
    # it took its SIGTERM well and left with 0
    (("completed", 12.0), ("timeout", 10.0), "timeout"),
    (("completed", 12.0), ("cancelled", 10.0), "cancelled"),
    # it died of what ended the job, before a daemon could ask, or after
    (("failed", 10.0), ("timeout", 10.3), "timeout"),
    (("failed", 12.0), ("node_fail", 10.0), "node_fail"),
    (("cancelled", 10.2), ("timeout", 10.0), "timeout"),
    (("killed", 15.0), ("cancelled", 10.0), "cancelled"),
    (("killed", 15.0), ("node_fail", 300.0), "node_fail"),
    # a scancel ends script and steps at once, the launcher perhaps a moment before us; a script that ends after its
    # launcher was killed takes Slurm a second
    (("killed", 9.98), ("cancelled", 10.0), "cancelled"),
    (("killed", 9.0), ("cancelled", 10.0), "killed"),
    (None, ("node_fail", 300.0), "node_fail"),
    # the script ended, which looks like a scancel for a moment
    (("failed", 10.0), ("cancelled", 25.0), "failed"),
    # the job ended in another way than early: the run's own word stands
    (("failed", 10.0), ("failed", 11.0), "failed"),
    (("failed", 10.0), ("completed", 11.0), "failed"),
    (("killed", 10.0), ("completed", 11.0), "killed"),
    (("killed", 10.0), ("failed", 11.0), "killed"),
    # nobody of ours saw the end
    (None, ("failed", 11.0), "failed"),
    (None, ("completed", 11.0), "incomplete"),
])
def test_state_of_a_run(
    tmp_path: Path, own: tuple[str, float] | None, theirs: tuple[str, float] | None, expected: str
) -> None:
    assert final_state(record_of(tmp_path, own, theirs))[0] == expected


@pytest.mark.parametrize(("own", "theirs", "expected"), [
    # the batch script went on after the run; what became of it is none of the run's
    (("failed", 10.0), ("cancelled", 500.0), "failed"),
    (("completed", 10.0), ("timeout", 500.0), "completed"),
    (("killed", 10.0), ("timeout", 500.0), "killed"),
    # accounting tells whole seconds
    (("failed", 10.9), ("timeout", 10.0), "timeout"),
    (("failed", 10.0), ("timeout", 11.0), "timeout"),
    (("completed", 10.7), ("cancelled", 10.0), "completed"),
    (("completed", 15.0), ("timeout", 10.0), "timeout"),
    # there is nothing of our own
    (None, ("timeout", 500.0), "timeout"),
    (("killed", 10.0), ("node_fail", 310.0), "node_fail"),
])
def test_state_of_a_run_when_the_scheduler_is_asked_afterwards(
    tmp_path: Path, own: tuple[str, float] | None, theirs: tuple[str, float] | None, expected: str
) -> None:
    record = record_of(tmp_path, own, theirs, later=True)
    assert final_state(record)[0] == expected
    assert record.last_ns <= ns(10.0 if own is None else own[1])  # an hour later is no part of the run


def test_the_launchers_exit_code_is_kept_beside_the_schedulers_word(tmp_path: Path) -> None:
    run = RunSpool(tmp_path)
    run.begin(0.0)
    run.scheduler_said(9.0, "timeout", "time limit")
    run.finish(10.0, state="completed", exit_code=0)
    record = run.record()
    assert final_state(record) == ("timeout", "time limit")
    assert record.end is not None
    assert (record.end["state"], record.end["exit_code"]) == ("completed", 0)
    assert record.scheduler_end is not None
    assert record.scheduler_end["state"] == "timeout"


@pytest.mark.parametrize("reason", ["preempted", "requeued"])
def test_preemption_and_requeue_are_reasons_of_a_cancelled_run(tmp_path: Path, reason: str) -> None:
    run = RunSpool(tmp_path)
    run.begin(0.0)
    run.scheduler_said(9.0, "cancelled", reason)
    run.finish(9.5, state="failed", reason="exit status 143", exit_code=143)
    assert final_state(run.record()) == ("cancelled", reason)


def test_what_was_heard_during_the_run_counts_more_than_what_is_told_afterwards(tmp_path: Path) -> None:
    """A daemon ends the allocation of a job whose batch node is dead: accounting then says `cancelled`."""
    run = RunSpool(tmp_path)
    run.begin(0.0)
    run.scheduler_said(20.0, "node_fail", "node n1 was lost")
    run.scheduler_said(22.0, "cancelled", "by the user")
    run.scheduler_said(22.0, "cancelled", "by the user", role="scheduler", asked=3600.0)
    assert final_state(run.record()) == ("node_fail", "node n1 was lost")


@pytest.mark.parametrize(("later", "expected"), [("completed", "failed"), ("failed", "failed"),
                                                 ("cancelled", "cancelled"), ("timeout", "cancelled")])
def test_accounting_takes_a_cancellation_back_that_was_none(tmp_path: Path, later: str, expected: str) -> None:
    run = RunSpool(tmp_path)
    run.begin(0.0)
    run.finish(9.5, state="failed", exit_code=3)
    run.scheduler_said(10.0, "cancelled")
    run.scheduler_said(10.0, later, role="scheduler", asked=3600.0)
    assert final_state(run.record())[0] == expected


def test_every_mix_of_words_gives_a_known_state_and_only_the_scheduler_says_timeout(tmp_path: Path) -> None:
    times = (9.0, 10.0, 11.0)
    words = [None, *itertools.product(("completed", "failed", "cancelled", "killed"), [10.0])]
    theirs = [None, *itertools.product((*EARLY, "failed", "completed", "nonsense"), times)]
    for i, (own, said, later) in enumerate(itertools.product(words, theirs, (False, True))):
        folder = tmp_path / str(i)
        folder.mkdir()
        state, reason = final_state(record_of(folder, own, said, later=later))
        assert state in STATES
        heard = said[0] if said else None
        assert state in {own[0] if own else "incomplete", heard}
        if state in EARLY and (own is None or state != own[0]):
            assert (state, reason) == (heard, "why")
        if said is None or said[0] == "nonsense":
            assert state == (own[0] if own else "incomplete")
        if own and own[0] == "completed" and (said is None or said[1] >= own[1]):
            assert state == "completed"
