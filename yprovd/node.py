"""The node daemon, one per node: samples the machine, takes the job's events, and hands both to the collector.

A composition root: sensors, sampler, file worker, a Receiver for the processes of the job, a Sender to the collector.
What the collector has not acknowledged is kept, within a bound; when the collector is silent for too long, this daemon
writes the same frames to a spool file of its own in the run's directory. A process of the job gets its
acknowledgement when its frames are on disk, in either place.

As a child of the launcher, its standard input is the lifeline: when that ends, the launcher is gone, and then the job
must not live on. It ends by message (STOP from the collector), drains on SIGTERM, and exits with 0. In a scheduler's
step SIGTERM goes to every process of the job, whose last seconds are worth recording: there `NodeVigil` tells when to
finish by itself.
"""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import sys
import threading
import time
from collections import deque
from pathlib import Path
from typing import Any

from yprovd import devices
from yprovd.clock import SystemClock
from yprovd.config import RunConfig
from yprovd.ending import NodeVigil
from yprovd.node_facts import node_facts
from yprovd.node_files import NodeFiles
from yprovd.node_intake import Intake
from yprovd.node_sensors import NodeSensors
from yprovd.node_uplink import SILENCE_S, Uplink
from yprovd.processes import about_source, end_job, job_processes
from yprovd.rendezvous import endpoint, has_ended, read_keys
from yprovd.secrets import Masker, known_values
from yprovd.tasks import TaskWatch
from yprovd.transport import GOODBYE, QUESTION, REPLY, STOP, Receiver, Sender, ipc, wait_readable
from yprovd.wire import Kind, Packer, new_source

#: Bytes kept for a collector that does not answer (one node at 1 Hz: about a day).
KEEP_LIMIT = 64 << 20
#: How long a job may go on after its launcher was killed: SIGTERM at once, SIGKILL after this.
GRACE_S = 2.0
#: The schema is announced again this often, so that no single damaged frame makes samples unreadable.
ANNOUNCE_S = 60.0
#: The collector hears from us at least this often.
HELLO_S = 1.5
#: A collector that is silent for so long is sought anew; less and less often.
RETRY_S, RETRY_MOST_S = 4.0, 8.0
#: Between two looks for tasks that have begun. That one has ended is known at once.
TASKS_S = 0.5
#: How long a collector that starts at the same time is looked for before the first sample.
MEET_S = 3.0
#: How long the first sample may hold up the start.
FIRST_SAMPLE_MS = 200
#: How long files, the collector and the processes of the job are waited for at the end.
FILES_S, DRAIN_S = 20.0, 5.0


class NodeDaemon:
    """Everything that one node's daemon holds. `run()` blocks until the run ends."""

    def __init__(self, run_dir: Path, config: RunConfig | None = None, *, lifeline: int = 0) -> None:
        self.config = config or RunConfig.read(run_dir)
        self.run_dir = run_dir
        self.vigil = NodeVigil(self.config) if self.config.nodes else None
        self.lifeline: int | None = None if self.vigil else lifeline
        self.clock = SystemClock()
        self.packer = Packer(new_source(), self.clock)
        self.stopping = False
        self.launcher_gone = False
        # Filled by the threads of the sampler and the file worker, emptied by the loop, which `wake` rouses.
        self.facts: deque[dict[str, Any]] = deque()
        self.wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self.lost_before = 0
        self.looked_at = self.heard = self.retried = 0.0
        self.retry_s = RETRY_S
        self.greeted = 0  # connections on which the collector has been told who we are
        self.name = os.environ.get("SLURMD_NODENAME") or os.uname().nodename  # as the scheduler calls this node

        runtime = self.config.runtime_dir
        self.receiver = Receiver(ipc(os.path.join(runtime, "node.sock")))
        collector: Any = ipc(os.path.join(runtime, "collector.sock"))
        if self.vigil:
            collector = functools.partial(endpoint, run_dir)
        self.sender = Sender(collector, limit=KEEP_LIMIT, identity=b"node-%016x" % self.packer.source,
                             keys=read_keys(run_dir) if self.vigil else None)
        root = self.config.root
        self.sensors = NodeSensors(self.config, dict(os.environ), self.clock, self.packer, self._rouse)
        self.tasks = TaskWatch(root, self.config.run_id)
        self.look_for_tasks_at = 0.0
        self.masker = Masker(known_values(os.environ))
        self.files = NodeFiles(run_dir, self.config, self.packer.source, self.masker, self._on_facts)
        facts = node_facts(root)
        if told := devices.about(os.environ):
            facts["devices"] = told
        self.about = {**about_source("node"), "facts": facts}
        host = str(self.about["host"])
        self.intake = Intake(self.receiver, self.config, host, self.masker, self.files.declare)
        self.uplink = Uplink(run_dir, host, self.sender, self.receiver, _log)

    def _rouse(self) -> None:
        os.eventfd_write(self.wake, 1)

    def _on_facts(self, facts: dict[str, Any]) -> None:
        self.facts.append(facts)
        self._rouse()

    def run(self) -> None:
        for signum in (signal.SIGTERM, signal.SIGINT):
            signal.signal(signum, self._on_term)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
        for signum in (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGTSTP):
            signal.signal(signum, signal.SIG_IGN)  # meant for the job
        if not self.vigil:  # as soon as we are heard, the command starts: it has a sample before it
            self.sensors.start()
            wait_readable(self.wake, timeout_ms=FIRST_SAMPLE_MS)
        self.sender.send(self._announcement(), sync=True)
        if self.vigil:
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            self._meet_collector()
            self.sensors.start()
        announced = time.monotonic()
        while not self.stopping:
            pause_s = 0.2 if self.vigil and self.vigil.term_at else 1.0
            self._turn(timeout_ms=int(min(pause_s, self.sensors.watch()) * 1000) + 1)
            if self.vigil and time.monotonic() > self.looked_at + pause_s:
                self._look(self.vigil)
            if time.monotonic() - announced > ANNOUNCE_S:
                announced = time.monotonic()
                self.sender.send(self._announcement())
        self._finish()

    def _announcement(self) -> list[bytes]:
        return [self.packer.json(Kind.SOURCE, self.about), *self.sensors.schemas()]

    def _on_term(self, _signum: int, _frame: object) -> None:
        if self.vigil:
            self.vigil.signalled()
        else:
            self.stopping = True
        self._rouse()

    def _meet_collector(self) -> None:
        """It starts when we do, on its own node, and the command waits for us: look for it before anything else, less
        and less often. Later, what is not acknowledged makes the sender look again."""
        pause_ms, deadline = 10.0, time.monotonic() + MEET_S
        self.look_for_tasks_at = deadline
        while not (self.sender.connected or self.stopping) and time.monotonic() < deadline:
            self._turn(timeout_ms=int(pause_ms))
            self.sender.reconnect()
            pause_ms = min(pause_ms * 1.3, 500.0)
        self._turn(timeout_ms=0)
        self.look_for_tasks_at = time.monotonic() + TASKS_S

    def _look(self, vigil: NodeVigil) -> None:
        """In a scheduler's step: whether the end has come without anybody telling us."""
        self.looked_at = time.monotonic()
        if self.sender.heard > self.heard:
            self.heard = self.sender.heard
            vigil.collector_heard()
            self.retry_s = RETRY_S
        elif self.looked_at > max(self.heard, self.retried) + self.retry_s:
            # What waits for an acknowledgement is in our own spool by now: nothing else makes the sender try again.
            if has_ended(self.run_dir):
                _log("the collector has ended without us")
                self.stopping = True
            self.retried, self.retry_s = self.looked_at, min(2 * self.retry_s, RETRY_MOST_S)
            self.sender.reconnect()
        if vigil.look(self._job_processes):
            _log("the time of the job is up" if vigil.job_ends else "the job is over, and its collector is lost")
            self.stopping = True

    def _job_processes(self) -> int:
        return sum(1 for _ in job_processes(self.config.run_id))

    def _turn(self, timeout_ms: int) -> bool:
        """One round of the loop: wait, take what came, pass it on. Returns whether anything came."""
        things = [self.wake, self.receiver.socket, self.sender.socket, self.tasks.fileno()]
        if self.lifeline is not None:
            things.append(self.lifeline)
        ready = wait_readable(*things, timeout_ms=timeout_ms)
        if 0 in ready:
            with contextlib.suppress(BlockingIOError):
                os.eventfd_read(self.wake)
        if 4 in ready and self.lifeline is not None and not os.read(self.lifeline, 4096):
            self.lifeline = None
            self.launcher_gone = self.stopping = True
        taken = self.intake.take()
        self.stopping = self.stopping or taken.stop
        frames = taken.frames + self.sensors.frames()
        while self.facts:
            frames.append(self.packer.json(Kind.FACTS, self.facts.popleft()))
        if tasks := self._look_for_tasks():
            frames.append(self.packer.json(Kind.TASK, {"tasks": tasks}))
        for row in self.files.look(self.tasks.processes, self.clock.mono_ns()):
            frames.append(self.packer.json(Kind.FILE, row))
        if self.sender.pushed_out > self.lost_before:
            loss = {"pushed_out": self.sender.pushed_out, "why": "the collector did not answer"}
            self.lost_before = self.sender.pushed_out  # the gap in the numbers counts them; this says why
            frames.append(self.packer.json(Kind.LOSS, loss))
        self.uplink.send(frames, taken.riders, sync=taken.sync)
        if self.sender.connections > self.greeted or time.monotonic() - self.sender.sent > HELLO_S:
            self.greeted = self.sender.connections
            self.sender.control(QUESTION, {"host": self.name})  # so that a collector that was started again knows us
        acknowledged, others = self.uplink.receive()
        for message in others:
            if message.kind == STOP:
                self.stopping = True
            elif message.kind == QUESTION:
                if self.vigil and message.body and "ends" in message.body:
                    self.vigil.told(*message.body["ends"])
                self.sender.control(REPLY, {"processes": self._job_processes()})
        self.uplink.keep_safe()
        return bool(frames or acknowledged or others)

    def _look_for_tasks(self) -> list[dict[str, Any]]:
        now = time.monotonic()
        if now < self.look_for_tasks_at:
            return self.tasks.ended(self.clock.mono_ns())
        self.look_for_tasks_at = now + TASKS_S
        return self.tasks.look(self.clock.mono_ns())

    def _finish(self) -> None:
        """The last sample, the last words of the job's processes, and everything on disk, under deadlines."""
        if self.launcher_gone:
            ended = end_job(self.config.run_id, grace_s=GRACE_S)
            _log(f"the launcher is gone; ended {ended} processes of the job")
        self.sensors.stop()
        self.look_for_tasks_at = 0.0
        self._finish_files()
        deadline = time.monotonic() + DRAIN_S
        while self._turn(timeout_ms=20) and time.monotonic() < deadline:
            pass
        if unheard := self.intake.unheard():
            self.sender.send([self.packer.json(Kind.LOSS, unheard)])
        end = self.vigil.last_word() if self.vigil else None
        if self.launcher_gone:
            end = {"state": "killed", "reason": "yprov run was killed", "ended_ns": self.clock.wall_ns()}
        if end:
            self.sender.send([self.packer.json(Kind.END, end)])
        self.sender.send(self._announcement(), sync=True)
        # A collector that is silent already is not waited for: of the job's last seconds few may be left.
        if self.sender.heard and time.monotonic() > self.sender.heard + 2 * SILENCE_S:
            deadline = 0.0
        while self.sender.waiting and time.monotonic() < deadline and self.sender.oldest_s() < SILENCE_S:
            self._turn(timeout_ms=50)
        self.uplink.keep_safe(now=True)
        self._turn(timeout_ms=0)
        self.uplink.close()
        self.sender.control(GOODBYE)
        self.sender.close(linger_ms=500)
        self.receiver.close()
        self.tasks.close()
        with contextlib.suppress(OSError):
            os.unlink(os.path.join(self.config.runtime_dir, "node.sock"))
            os.rmdir(self.config.runtime_dir)  # the last one out
        if self.vigil:
            step = f"{self.config.job.get('job_id')}.{os.environ.get('SLURM_STEP_ID', '')}"
            self.vigil.end_idle_job(step, self.name)

    def _finish_files(self) -> None:
        """What was declared is looked at; meanwhile frames are passed on, and the collector hears that we are here."""
        self.files.declare_written()
        left_s = min(FILES_S, max(0.2, self.vigil.left_s())) if self.vigil else FILES_S
        closing = threading.Thread(target=self.files.close, args=(left_s,), name="yprov-files-end", daemon=True)
        closing.start()
        while closing.is_alive():
            self._turn(timeout_ms=20)


def _log(text: str) -> None:
    with contextlib.suppress(OSError, ValueError):  # the log may lie on the very disk that is full
        print(f"{time.strftime('%H:%M:%S')} node: {text}", file=sys.stderr, flush=True)


def main(run_dir: Path, config: RunConfig | None = None) -> int:
    NodeDaemon(run_dir, config).run()
    return 0
