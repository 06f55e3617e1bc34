"""Slurm's words about a job's end as ours. Pure.

While Slurm ends a job (between SIGTERM and SIGKILL, and until its nodes are clean) the text of `scontrol` says
`COMPLETING` in the place of the state, in all versions; the reason tells a time limit, a lost node and a failed script.
JSON tells state and flag apart, from 23.11 on.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from yprovd.slurm.values import ENDED

#: Slurm's state: (our state, reason).
_STATES = {
    "COMPLETED": ("completed", ""), "FAILED": ("failed", ""), "TIMEOUT": ("timeout", "time limit"),
    "DEADLINE": ("timeout", "deadline"), "CANCELLED": ("cancelled", "cancelled"),
    "PREEMPTED": ("cancelled", "preempted"), "REVOKED": ("cancelled", "revoked"),
    "REQUEUED": ("cancelled", "requeued"), "NODE_FAIL": ("node_fail", "node failure"),
    "BOOT_FAIL": ("node_fail", "boot failure"), "RECONFIG_FAIL": ("node_fail", "reconfiguration failed"),
    "OUT_OF_MEMORY": ("failed", "out of memory"), "LAUNCH_FAILED": ("failed", "launch failed"),
}
#: What the reason of a job that is COMPLETING tells (slurm_protocol_defs.c, job_state_reason_string).
_REASONS = {
    "TimeLimit": _STATES["TIMEOUT"], "DeadLine": _STATES["DEADLINE"], "NodeDown": _STATES["NODE_FAIL"],
    "SystemFailure": ("node_fail", "system failure"), "NonZeroExitCode": ("failed", "non-zero exit code"),
    "OutOfMemory": _STATES["OUT_OF_MEMORY"], "JobLaunchFailure": ("failed", "launch failure or signal"),
    "InactiveLimit": ("timeout", "inactive limit"),
}
#: Flags of a job that will run again.
_AGAIN = {"REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "SPECIAL_EXIT"}


def ending(facts: Mapping[str, Any], attempt: int = 0) -> tuple[str, str] | None:
    """(our state, reason) of a job that Slurm ends now or has ended; None while it runs, waits or is suspended.

    `attempt` is the restart count of the run that asks: a job with a higher one was requeued, whatever it does now.
    The text of `scontrol` does not tell a cancelled job from one whose script has just ended well: both are COMPLETING
    without a reason, and told as cancelled (who asks has lost its launcher).
    """
    state, flags = str(facts.get("state", "")), set(facts.get("state_flags", ()))
    if int(facts.get("restart_count") or 0) > attempt or _AGAIN & {state, *flags}:
        # Slurm forgets the time of preemption when the job waits again.
        return "cancelled", "preempted" if facts.get("preempt_time") and _leaving(state, flags) else "requeued"
    if state in _STATES:
        word, reason = _STATES[state]
        return word, _failure(facts) if state == "FAILED" else reason
    if not _leaving(state, flags):
        return None
    if facts.get("preempt_time"):
        return _STATES["PREEMPTED"]
    why = str(facts.get("state_reason", ""))
    if why.startswith("RaisedSignal"):
        return "failed", _failure(facts)
    return _REASONS.get(why, _STATES["CANCELLED"])


def final(facts: Mapping[str, Any]) -> tuple[str, str, int | None] | None:
    """(our state, reason, exit code) of a job that has ended for good, else None. The exit code is that of the batch
    script, 128 + N for signal N, None where Slurm's own kill hides it. Of accounting's facts a requeued attempt is
    one that has ended."""
    state = str(facts.get("state", ""))
    if state not in ENDED or state not in _STATES or "COMPLETING" in facts.get("state_flags", ()):
        return None
    word, reason = _STATES[state]
    code, signal = facts.get("exit_code"), facts.get("exit_signal")
    if word not in ("completed", "failed"):
        # 0 where it was killed; 1 is Slurm's own for a lost node.
        return word, reason, None if word == "node_fail" else code or None
    if signal and int(signal) > 64:  # 0:125 is Slurm's mark for a job out of memory
        return word, reason or f"Slurm's code 0:{signal}", code or None
    return word, reason or ("" if word == "completed" else _failure(facts)), 128 + signal if signal else code


def _leaving(state: str, flags: set[str]) -> bool:
    return "COMPLETING" in {state, *flags}


def _failure(facts: Mapping[str, Any]) -> str:
    """Why a failed job failed, as far as it is known."""
    if facts.get("exit_signal"):
        return f"signal {facts['exit_signal']}"
    if facts.get("exit_code"):
        return f"exit code {facts['exit_code']}"
    return str(facts.get("state_reason") or "non-zero exit code")
