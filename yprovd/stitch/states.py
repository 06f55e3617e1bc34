"""How a run ended: one word of `yprovd.model.STATES` and a sentence that says why.

Two may have spoken: we ourselves (the launcher of the command, else a daemon of the launcher's death) and the scheduler
of its job. A job that is being ended takes the command with it, so its word says why the command ended as it did; but
a job goes on after a run, and what becomes of it then is none of the run's.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from yprovd.model import STATES
from yprovd.stitch.record import Record
from yprovd.stitch.said import ENDED_EARLY

#: In accounting the end of a job is told in whole seconds.
_SECOND = 1_000_000_000


def final_state(record: Record) -> tuple[str, str]:
    """(state, reason). A spool without any end is `incomplete`, whatever else it says."""
    return decide(record.end, record.scheduler_end)


def state_attributes(record: Record) -> dict[str, str]:
    """The state for prov.json; where the scheduler's word decided, also our own."""
    return attributes_of(final_state(record), own_word(record.end))


def attributes_of(state: tuple[str, str], own: tuple[str, str]) -> dict[str, str]:
    told = {"yp:state": state[0], "yp:stateReason": state[1]}
    if state != own:
        told |= {"yp:stateFrom": "scheduler", "yp:commandState": own[0], "yp:commandStateReason": own[1]}
    return told


def decide(own: Mapping[str, Any] | None, theirs: Mapping[str, Any] | None) -> tuple[str, str]:
    """(state, reason) from the two words as in `Record`."""
    state, reason = own_word(own)
    if theirs is None or theirs.get("state") not in STATES:
        return state, reason
    said, sentence = str(theirs["state"]), str(theirs.get("reason") or "")
    if sentence in ("", said):
        sentence = "the job failed" if said == "failed" else "the scheduler ended the job"
    if state == "incomplete":  # nobody of ours saw the end; and that a job went well says little of one command in it
        return (said, sentence) if said != "completed" else (state, reason)
    if said in ENDED_EARLY and not _ended_before(own or {}, theirs, state):
        return said, sentence
    return state, reason


def own_word(end: Mapping[str, Any] | None) -> tuple[str, str]:
    """(state, reason) without a scheduler."""
    if end is None:
        return "incomplete", "no end was recorded: stitched from what was left"
    state = end.get("state")
    if state not in STATES:
        return "incomplete", f"the end was recorded with an unknown state `{state}`"
    return state, str(end.get("reason") or "")


def _ended_before(own: Mapping[str, Any], theirs: Mapping[str, Any], state: str) -> bool:
    """Whether the command had ended when the scheduler began to end the job. A daemon that asks does so because the job
    is being ended, and there are daemons only as long as there is a run: what it was told is why the command ended,
    unless the command was through with exit status 0 by then."""
    ours, its = own.get("ended_ns"), theirs.get("ended_ns")
    if not isinstance(ours, int) or not isinstance(its, int):
        return state == "completed"  # nothing says that exit status 0 came of being ended
    if state == "completed":
        return ours <= its + (_SECOND if theirs.get("asked_later") else 0)
    if state == "killed" and theirs["state"] == "node_fail":
        return False  # the launcher was on that node; the scheduler finds out minutes later
    if theirs.get("asked_later"):
        return ours < its - 2 * _SECOND
    if state == "killed":
        # The launcher died, and its script with it: Slurm ends the job's steps a second later. Of one that is cancelled
        # both are ended within 20 ms, in any order.
        return theirs["state"] == "cancelled" and ours < its - _SECOND // 2
    # A job whose script has ended looks cancelled for a moment.
    return theirs["state"] == "cancelled" and ours < its - 10 * _SECOND
