"""What the daemons of a scheduler's step decide by themselves, with a clock and a scheduler that the test moves."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import time
from typing import Any

import pytest

from tests.running import eventually
from yprovd.config import RunConfig, Settings
from yprovd.ending import GIVEN_UP_S, IDLE_S, LOST_S, CollectorVigil, NodeVigil
from yprovd.inquiry import Inquiry, Patience
from yprovd.processes import boot_id, process_id
from yprovd.witness import Witness

CANCELLED, TIMEOUT, REQUEUED = ("cancelled", "cancelled"), ("timeout", "time limit"), ("cancelled", "requeued")


class Scheduler(Inquiry):
    """Answers at once what the test has it say."""

    def __init__(self) -> None:
        super().__init__({"scheduler": "slurm", "job_id": "7"})
        self.says: tuple[str, str] | None = None
        self.nodes = ["n1", "n2"]
        self.away = False
        self.asked = 0
        self.time = 0.0

    def ask(self) -> None:
        self.asked += 1
        if self.away:
            self.failed = "it did not answer"
            return
        self.failed, self.verdict, self.facts = "", self.says, {"nodes": self.nodes}
        self.answers, self.answered = self.answers + 1, self.time


class World:
    """A time that passes when it is told to."""

    def __init__(self, *, grace_s: float = 30.0, launcher: dict[str, Any] | None = None) -> None:
        me = process_id(os.getpid())
        assert me is not None
        here = {"host": os.uname().nodename, "boot_id": boot_id(), "pid": me.pid, "start": me.start}
        self.config = RunConfig("id", "run", 0, (), "/", "/x", Settings(), nodes=("n1", "n2"), grace_s=grace_s,
                                job={"scheduler": "slurm", "job_id": "7"}, launcher=launcher or here)
        self.scheduler = Scheduler()
        self.t = 1000.0
        self.collector = CollectorVigil(self.config, self.scheduler, self.now)
        self.node = NodeVigil(self.config, self.scheduler, self.now)

    def now(self) -> float:
        return self.t

    def passes(self, seconds: float) -> None:
        self.t += seconds
        self.scheduler.time = self.t

    def finishes_after(self, look: Any, at_most: float = 120.0) -> float | None:
        """Seconds until `look()` says so, asked every half second."""
        began = self.t
        while self.t - began <= at_most:
            if look():
                return self.t - began
            self.passes(0.5)
        return None


GONE = {"host": os.uname().nodename, "boot_id": boot_id(), "pid": 1 << 22, "start": 1}


def test_while_the_launcher_is_there_nothing_is_decided() -> None:
    world = World()
    assert world.finishes_after(lambda: world.collector.look(None)) is None
    assert not world.collector.orphaned
    assert world.scheduler.asked == 0


@pytest.mark.parametrize(("grace_s", "left_s"), [(5.0, 1.0), (30.0, 1.2), (300.0, 1.2)])
def test_the_job_has_nearly_all_of_its_grace(grace_s: float, left_s: float) -> None:
    world = World(grace_s=grace_s)
    world.scheduler.says = TIMEOUT
    world.collector.signalled()
    assert world.finishes_after(lambda: world.collector.look(None), 400) == pytest.approx(grace_s - left_s, abs=0.5)
    assert world.collector.end() is not None
    world = World(grace_s=grace_s)
    world.scheduler.says = TIMEOUT
    world.node.signalled()
    alone = world.finishes_after(lambda: world.node.look(lambda: 1), 400)
    assert alone is not None
    assert grace_s - 1.2 < alone < grace_s


def test_a_second_sigterm_changes_nothing() -> None:
    world = World(grace_s=10)
    world.scheduler.says = CANCELLED
    world.collector.signalled()
    world.passes(5)
    world.collector.signalled()
    assert world.finishes_after(lambda: world.collector.look(None)) == pytest.approx(3.8, abs=0.5)


def test_sigterm_to_the_steps_of_a_job_that_goes_on_ends_nothing() -> None:
    world = World(grace_s=5)
    for vigil in (world.collector, world.node):
        vigil.signalled()
    assert world.finishes_after(lambda: world.collector.look(None) or world.node.look(lambda: 3)) is None
    assert world.collector.term_at is None, "forgotten"
    assert world.collector.end() is None


def test_without_an_answer_sigterm_is_taken_for_the_end() -> None:
    world = World(grace_s=5)
    world.scheduler.away = True
    world.collector.signalled()
    assert world.finishes_after(lambda: world.collector.look(None)) == pytest.approx(4.0, abs=0.5)
    assert world.collector.end() is None, "nobody has said why"


def test_the_reason_is_waited_for_only_after_sigterm_and_only_until_the_first_answer() -> None:
    world = World()
    assert not world.collector.waits_for_reason
    world.collector.signalled()
    assert world.collector.waits_for_reason
    world.passes(1)
    world.scheduler.ask()
    assert not world.collector.waits_for_reason


def test_the_launchers_death_is_known_at_once_and_noted_once() -> None:
    launcher = subprocess.Popen(["sleep", "60"])
    found = process_id(launcher.pid)
    assert found is not None
    world = World(launcher={"host": os.uname().nodename, "boot_id": boot_id(), "pid": found.pid, "start": found.start})
    vigil = world.collector
    assert vigil.launcher_fd is not None
    assert not select.select([vigil.launcher_fd], [], [], 0)[0]
    launcher.kill()
    assert select.select([vigil.launcher_fd], [], [], 20)[0]
    launcher.wait()
    vigil.launcher_ended()
    when = vigil.orphaned_ns
    vigil.launcher_ended()
    assert (vigil.orphaned, vigil.orphaned_ns, vigil.launcher_fd) == (True, when, None)


def test_what_happened_is_timed_though_the_collector_waits_for_its_disk() -> None:
    launcher = subprocess.Popen(["sleep", "60"])
    found = process_id(launcher.pid)
    assert found is not None
    world = World(launcher={"host": os.uname().nodename, "boot_id": boot_id(), "pid": found.pid, "start": found.start})
    vigil = world.collector
    vigil.witness = Witness(vigil.launcher_fd)
    before = signal.signal(signal.SIGTERM, lambda _number, _frame: None)
    try:
        vigil.witness.start()
        launcher.kill()
        launcher.wait()
        eventually(lambda: vigil.witness and vigil.witness.launcher_ended_ns)
        os.kill(os.getpid(), signal.SIGTERM)
        eventually(lambda: vigil.witness and vigil.witness.signalled_ns)
        both = time.time_ns()
        vigil.signalled()
        vigil.launcher_ended()
        assert vigil.orphaned_ns < vigil.term_wall_ns <= both
        first = vigil.term_wall_ns
        os.kill(os.getpid(), signal.SIGTERM)
        vigil.signalled()
        assert vigil.term_wall_ns == first
        world.scheduler.says = None
        world.finishes_after(lambda: vigil.look(1), 60)
        assert vigil.term_at is None, "the job goes on"
        os.kill(os.getpid(), signal.SIGTERM)
        eventually(lambda: vigil.witness and vigil.witness.signalled_ns)
        vigil.signalled()
        assert vigil.term_wall_ns > both
    finally:
        vigil.witness.stop()
        signal.signal(signal.SIGTERM, before)


def test_a_dead_launcher_ends_the_run_once_the_job_has_no_process() -> None:
    world = World(launcher=GONE)
    assert world.finishes_after(lambda: world.collector.look(None), 60) is None, "the nodes have not said"
    assert world.collector.orphaned
    assert world.finishes_after(lambda: world.collector.look(2), 60) is None
    idle = world.finishes_after(lambda: world.collector.look(0))
    assert idle == pytest.approx(IDLE_S, abs=1.0)


def test_no_step_is_waited_for_when_the_scheduler_ends_the_job() -> None:
    world = World(launcher=GONE)
    world.scheduler.says = CANCELLED
    world.collector.signalled()
    assert world.finishes_after(lambda: world.collector.look(0)) == 0.0


def test_a_launcher_on_another_machine_is_gone_when_it_is_silent() -> None:
    world = World(launcher={"host": "login", "boot_id": "other", "pid": 1, "start": 1})
    for _ in range(100):
        world.collector.launcher_heard()
        world.passes(0.9)
        assert not world.collector.look(None)
    assert not world.collector.orphaned
    world.finishes_after(lambda: world.collector.look(None), 60)
    assert world.collector.orphaned


def test_a_node_that_hears_its_collector_asks_nobody() -> None:
    world = World()
    for _ in range(100):
        world.node.collector_heard()
        world.passes(1)
        assert not world.node.look(lambda: 0)
    assert world.scheduler.asked == 0


def test_a_cut_network_is_not_a_lost_node() -> None:
    world = World()
    assert world.finishes_after(lambda: world.node.look(lambda: 0), 600) is None
    assert not world.node.node_lost


def test_the_collectors_node_is_lost_and_the_others_finish_when_their_tasks_have_ended() -> None:
    world = World()
    world.scheduler.nodes = ["n2"]
    assert world.finishes_after(lambda: world.node.look(lambda: 1), 60) is None
    assert world.node.node_lost
    assert world.finishes_after(lambda: world.node.look(lambda: 0)) == pytest.approx(IDLE_S, abs=1.0)
    end = world.node.last_word()
    assert end is not None
    assert (end["state"], end["reason"]) == ("node_fail", "node n1 was lost")


def test_a_requeue_because_of_a_lost_node_is_a_node_failure() -> None:
    world = World()
    world.scheduler.nodes = ["n2"]
    world.finishes_after(lambda: world.node.look(lambda: 1), LOST_S + 5)
    world.scheduler.says = REQUEUED
    world.node.signalled()
    world.node.look(lambda: 1)
    end = world.node.last_word()
    assert end is not None
    assert end["state"] == "node_fail"
    assert "requeued" in end["reason"]


def test_nobody_answers_at_all_and_after_a_minute_a_node_finishes() -> None:
    world = World()
    world.scheduler.away = True
    alone = world.finishes_after(lambda: world.node.look(lambda: 0))
    assert alone is not None
    assert GIVEN_UP_S <= alone < GIVEN_UP_S + 2 * IDLE_S


def test_a_suspended_job_has_not_been_silent() -> None:
    world = World()
    patience = Patience(world.now)
    world.passes(1)
    patience.passes()
    world.passes(3600)
    assert patience.passes() < 3


@pytest.mark.parametrize(("host", "cancelled"), [("n1", True), ("n1.cluster.org", True), ("login", False)])
def test_an_idle_job_is_ended_only_when_its_script_is_lost(
    monkeypatch: pytest.MonkeyPatch, host: str, cancelled: bool
) -> None:
    from yprovd import slurm

    done: list[str] = []
    monkeypatch.setattr(slurm, "active_steps", lambda job, timeout_s: dict.fromkeys(["7.0", "7.batch", "7.extern"], ""))
    monkeypatch.setattr(slurm, "cancel", lambda job, timeout_s: done.append(job))
    world = World(launcher={"host": host, "boot_id": "x", "pid": 1, "start": 1})
    world.scheduler.nodes = ["n2"]
    world.finishes_after(lambda: world.node.look(lambda: 0), 60)
    world.node.end_idle_job("7.0", "n2")
    assert done == (["7"] if cancelled else [])


def test_a_launcher_on_another_machine_that_was_only_silent_is_back() -> None:
    world = World(launcher={"host": "login", "boot_id": "b", "pid": 1, "start": 1})
    assert world.finishes_after(lambda: world.collector.look(1), 60) is None
    assert world.collector.orphaned
    world.collector.launcher_heard()
    assert not world.collector.orphaned
    assert world.finishes_after(lambda: world.collector.look(0), 20) is None
