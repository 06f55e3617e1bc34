"""How a run that a scheduler's step records comes to its end: what the daemons decide when nobody tells them to.

The two vigils only decide; the daemons act.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable
from typing import Any

from yprovd.config import RunConfig
from yprovd.errors import YprovError
from yprovd.inquiry import ANSWER_S, PAUSE_S, Inquiry, Patience
from yprovd.processes import ProcessId, boot_id, is_alive, short_name
from yprovd.witness import Witness

#: Of the time between SIGTERM and SIGKILL, as a share and at most in seconds: what is kept for the last words of all
#: nodes, and of one whose collector is silent. More would cost a job that writes its checkpoint then its last samples;
#: the archive can be made later.
_COLLECTOR_SHARE, _NODE_SHARE = (0.2, 1.2), (0.1, 0.6)
#: A collector that is silent for so long is asked about; without anybody to ask it is given up after the second.
LOST_S, GIVEN_UP_S = 10.0, 60.0
#: What the daemon step is called (`yprov.placement`).
STEP_NAME = "yprovd"
#: So long a node that got SIGTERM leaves the questions to the collector.
QUIET_S = 3.0
#: A launcher on another machine (a login node) that is silent for so long is gone.
LAUNCHER_SILENT_S = 30.0
#: How long no process of the job may be seen before it counts as over: between two steps of a script there is none.
IDLE_S = 3.0


def _reserve(grace_s: float, share: float, most_s: float) -> float:
    return min(max(share * grace_s, 0.3), most_s)


class _Vigil:
    """What both daemons of a scheduler's step watch: SIGTERM, which may mean that the job ends or only that somebody
    signalled its steps, and the scheduler, which knows."""

    _share = (0.0, 0.0)

    def __init__(self, config: RunConfig, inquiry: Inquiry | None = None,
                 now: Callable[[], float] = time.monotonic) -> None:
        self.config = config
        self.now = now
        self.inquiry = inquiry or Inquiry(config.job)
        self.term_at: float | None = None
        self.term_wall_ns = 0
        self.witness: Witness | None = None
        self._idle = Patience(now)

    def signalled(self) -> None:
        """SIGTERM came; it comes twice at a time limit."""
        if self.term_at is None:
            self.term_at = self.now()
            self.term_wall_ns = (self.witness and self.witness.signalled_ns) or time.time_ns()

    def _forget_the_signal(self) -> None:
        """The job goes on: somebody signalled its steps, us among them."""
        self.term_at = None
        if self.witness is not None:
            self.witness.signalled_ns = 0

    @property
    def job_ends(self) -> bool:
        """SIGTERM came and the scheduler says why, or there is nobody who could say otherwise."""
        return self.term_at is not None and (self.inquiry.verdict is not None or self.inquiry.silent)

    @property
    def waits_for_reason(self) -> bool:
        """SIGTERM came, and the scheduler has not yet said whether it ends the job."""
        return self.term_at is not None and self.inquiry.answered < self.term_at and not self.inquiry.silent \
            and self.inquiry.verdict is None

    def left_s(self) -> float:
        """Seconds until our share of the grace period begins; infinite while the job is not being ended."""
        if not self.job_ends or self.term_at is None:
            return float("inf")
        return self.term_at + self.config.grace_s - _reserve(self.config.grace_s, *self._share) - self.now()

    def end(self, lost_node: str = "") -> dict[str, Any] | None:
        """The END record for what the scheduler said, None while it has said nothing. It is as old as the signal.
        `lost_node`: one that the scheduler no longer counts among the job's: that is why it puts a job back."""
        if self.inquiry.verdict:
            state, reason = self.inquiry.verdict
            if lost_node and reason == "requeued":
                state, reason = "node_fail", f"node {lost_node} was lost, and the job was requeued"
        elif lost_node:
            state, reason = "node_fail", f"node {lost_node} was lost"
        else:
            return None
        return {"by_scheduler": True, "state": state, "reason": reason,
                "ended_ns": self.term_wall_ns or time.time_ns()}

    def _mind_the_signal(self) -> None:
        if self.term_at is None or self.inquiry.verdict:
            return
        if self.inquiry.answers and self.now() > self.term_at + self.config.grace_s + 5.0:
            self._forget_the_signal()
            return
        self.inquiry.ask()

    def _job_is_over(self, busy: int) -> bool:
        if busy:
            self._idle.reset()
            return False
        # No step follows when the scheduler ends the job.
        return self._idle.passes() >= IDLE_S or self.inquiry.verdict is not None


class CollectorVigil(_Vigil):
    """Whether the collector has to finish though the launcher has not asked for it."""

    _share = _COLLECTOR_SHARE

    def __init__(self, config: RunConfig, inquiry: Inquiry | None = None,
                 now: Callable[[], float] = time.monotonic) -> None:
        super().__init__(config, inquiry, now)
        self.orphaned = False
        self.orphaned_ns = 0  # since when (wall clock)
        self.launcher_was_heard = False
        self._silence = Patience(self.now)
        at = config.launcher
        self.beside_us = at.get("host") == os.uname().nodename and at.get("boot_id") == boot_id()
        self.launcher_fd: int | None = None  # readable once it has ended; None where the kernel cannot tell
        with contextlib.suppress(OSError):
            if self.beside_us:
                self.launcher_fd = os.pidfd_open(int(at.get("pid", 0)))

    def launcher_ended(self) -> None:
        """Noted at once: what the scheduler does next may be a consequence."""
        if self.launcher_fd is not None:
            os.close(self.launcher_fd)
            self.launcher_fd = None
        if not self.orphaned:
            self.orphaned = True
            self.orphaned_ns = (self.witness and self.witness.launcher_ended_ns) or time.time_ns()

    def launcher_heard(self) -> None:
        self.launcher_was_heard = True
        self._silence.reset()
        if not self.beside_us:  # it was only silent: stopped, or cut off
            self.orphaned, self.orphaned_ns = False, 0

    def look(self, busy: int | None) -> bool:
        """About once a second; `busy`: processes of the job on all nodes, None while it is not known. True: finish."""
        self._mind_the_signal()
        if not self.orphaned and self._launcher_gone():
            self.launcher_ended()
        if self.left_s() <= 0:
            return True
        if not self.orphaned:
            return False
        self.inquiry.ask()  # the reason, for the record
        return busy is not None and self._job_is_over(busy)

    def _launcher_gone(self) -> bool:
        if self.beside_us:
            pid = int(self.config.launcher.get("pid", 0))
            return not is_alive(ProcessId(pid, int(self.config.launcher.get("start", 0))))
        return self._silence.passes() > LAUNCHER_SILENT_S


class NodeVigil(_Vigil):
    """Whether a node daemon has to finish though the collector has not asked for it: because the time is up, or because
    the collector's node is lost."""

    _share = _NODE_SHARE

    def __init__(self, config: RunConfig, inquiry: Inquiry | None = None,
                 now: Callable[[], float] = time.monotonic) -> None:
        # Where the collector is lost, thousands of nodes ask the same: fifty in a second, no more.
        pause_s = max(PAUSE_S, len(config.nodes) / 50)
        super().__init__(config, inquiry or Inquiry(config.job, pause_s), now)
        self._silence = Patience(self.now)
        self.node_lost = False

    def collector_heard(self) -> None:
        self._silence.reset()

    def told(self, state: str, reason: str) -> None:
        """The collector has asked the scheduler, for all nodes: the job is being ended."""
        self.inquiry.verdict = (state, reason)

    def _mind_the_signal(self) -> None:
        if self._silence.waited_s >= QUIET_S:
            super()._mind_the_signal()
        elif self.term_at is not None and self.now() > self.term_at + self.config.grace_s + 5.0:
            self._forget_the_signal()

    def look(self, busy: Callable[[], int]) -> bool:
        """About once a second; `busy` counts this node's processes of the job. True: finish."""
        silent_s = self._silence.passes()
        self._mind_the_signal()
        if self.left_s() <= 0:
            return True
        if silent_s < LOST_S:
            return False
        self.inquiry.ask()
        nodes = self.inquiry.facts.get("nodes")
        if nodes is not None and self.config.nodes[0] not in nodes:
            self.node_lost = True
        given_up = self.inquiry.silent and silent_s > GIVEN_UP_S
        if self.node_lost or self.inquiry.verdict or given_up:
            return self._job_is_over(busy())
        return False

    def last_word(self) -> dict[str, Any] | None:
        """What there is to record about the end of the job."""
        return self.end(self.config.nodes[0] if self.node_lost else "")

    def _script_lost(self) -> bool:
        """Whether what started us ran on the lost node, and not on another machine, where somebody may wait for us."""
        return short_name(str(self.config.launcher.get("host", ""))) == short_name(self.config.nodes[0])

    def end_idle_job(self, own_step: str, name: str) -> None:
        """The batch node is lost, and with it the script: the allocation would idle until its time limit. The first
        node that is left ends it, once no step but ours runs. Blocks until then, or until we are ended with it."""
        nodes = self.inquiry.facts.get("nodes") or [name]
        if not self.node_lost or self.inquiry.verdict or nodes[0] != name or not self._script_lost():
            return
        from yprovd import slurm

        job_id = str(self.config.job["job_id"])
        failures = 0
        while failures < 5:
            try:
                steps = slurm.active_steps(job_id, timeout_s=ANSWER_S)
                # `batch` and `extern` are none; two runs of one job must not wait for each other's daemons.
                if not any(s.rpartition(".")[2].isdigit() and s != own_step and name != STEP_NAME
                           for s, name in steps.items()):
                    slurm.cancel(job_id, timeout_s=ANSWER_S)
                    return
            except YprovError:
                failures += 1
            time.sleep(1.0)
