"""The collector, one per run: receives every node's frames, appends them to the run's spool, acknowledges them once
they are on disk, and, when the run has ended, starts the stitch.

It does not look into the frames. As a child of the launcher, its standard input is the lifeline: when that ends without
a word, the launcher was killed; then it records so, waits for the nodes, finishes and makes the archive all the same.
In a scheduler's step it listens on TCP, for every node, and `CollectorVigil` tells when to finish by itself. What it
cannot write (disk full) it does not acknowledge: the nodes keep it and send it again.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from yprovd.clock import SystemClock
from yprovd.closing import ReadyStitch
from yprovd.config import COLLECTOR_FILE, KEY_FILE, SPOOL_DIR, RunConfig
from yprovd.ending import CollectorVigil
from yprovd.errors import SpoolFull
from yprovd.inquiry import ANSWER_S
from yprovd.processes import about_source
from yprovd.rendezvous import addresses, announce, announce_end, has_ended, read_keys
from yprovd.roll import Roll
from yprovd.spool import SpoolWriter
from yprovd.transport import DATA, GOODBYE, QUESTION, REPLY, STOP, Message, Receiver, ipc, wait_readable
from yprovd.wire import Kind, Packer, new_source
from yprovd.witness import Witness

#: Frames are synced to disk at most this often, unless a sender asks for it; the first after a pause at once.
SYNC_S = 0.2
#: How long the nodes are waited for when the run ends (their files, their drain, the job's grace).
FINISH_S = 35.0
#: Within this time after our start every node that is there has been heard (`yprovd.node.HELLO_S`).
HEARD_S = 3.0
#: For so long after the start a stitch is kept ready.
EARLY_STITCH_S = 3.0
#: How long the launcher may take to say goodbye once the nodes have.
LAUNCHER_S = 15.0


class Collector:
    """Everything that the collector holds. `run()` blocks until the run ends and returns the exit status."""

    def __init__(self, run_dir: Path, config: RunConfig | None = None, *, lifeline: int = 0) -> None:
        self.config = config or RunConfig.read(run_dir)
        self.run_dir = run_dir
        self.clock = SystemClock()
        self.packer = Packer(new_source(), self.clock)
        self.lifeline: int | None = None
        self.vigil: CollectorVigil | None = None
        self.looked_at = 0.0
        self.end_written = False
        self.roll = Roll()
        if self.config.nodes:
            self.vigil = CollectorVigil(self.config)
            self.receiver = self._listen()
        else:
            self.lifeline = lifeline
            self.receiver = Receiver(ipc(os.path.join(self.config.runtime_dir, "collector.sock")))
        self.spool = SpoolWriter(run_dir / SPOOL_DIR / f"collector-{os.getpid()}.spool")
        self.launcher: bytes | None = None  # who asked us to finish
        self.unsynced: list[tuple[bytes, int]] = []
        self.synced_at = 0.0
        self.full = False
        self.finish = self.launcher_gone = self.terminated = self.given_up = False
        # For a command that is over in a moment it is loaded from the start; a longer run does not pay for it with
        # memory.
        self.stitch = ReadyStitch(run_dir)
        if self.vigil is None:
            self.stitch.start()
        self.started = time.monotonic()

    def _listen(self) -> Receiver:
        """On every interface, or on the one that was asked for, and say where."""
        interface = self.config.settings.interface
        here = addresses(interface)
        at = "*"
        if interface:  # by its address: of a name ZeroMQ takes the first that it finds, be it of the link only
            here = here[:1]
            at = f"[{here[0]}]" if ":" in here[0] else here[0]
        receiver = Receiver(f"tcp://{at}:0", keys=read_keys(self.run_dir))
        announce(self.run_dir, receiver.port, here)
        return receiver

    def run(self) -> int:
        signal.signal(signal.SIGTERM, self._on_term)
        if self.vigil is not None:
            self.vigil.witness = Witness(self.vigil.launcher_fd)
            self.vigil.witness.start()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
        for signum in (signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGTSTP):
            signal.signal(signum, signal.SIG_IGN)  # meant for the job
        self._write([self.packer.json(Kind.SOURCE, about_source("collector"))])
        while not (self.finish or self.launcher_gone or self.terminated or self.given_up):
            self._turn()
            if self.vigil is not None and time.monotonic() > self.looked_at + 0.5:
                self._look(self.vigil)
            self._keep_stitch_ready()
        if (self.terminated and not self.launcher_gone) or self.given_up:
            self._sync()
            self.spool.close()
            self.stitch.drop()
            return 0  # the launcher is there and starts another one, or has long done so
        return self._finish()

    def _keep_stitch_ready(self) -> None:
        """While the end may be near: in the first seconds of a command, and after SIGTERM, when little time is left."""
        if self.vigil is not None:
            near = self.vigil.term_at is not None
        else:
            near = bool(self.stitch) and time.monotonic() <= self.started + EARLY_STITCH_S
        if near:
            self.stitch.start(urgent=True)
        else:
            self.stitch.drop()

    def _on_term(self, _signum: int, _frame: object) -> None:
        if self.vigil is not None:
            self.vigil.signalled()
        else:
            self.terminated = True

    def _look(self, vigil: CollectorVigil) -> None:
        """In a scheduler's step: whether the end has come, and what the scheduler says about it."""
        self.looked_at = time.monotonic()
        if not vigil.launcher_was_heard and has_ended(self.run_dir):
            _log("the launcher could not reach us, and does without us")
            self.given_up = True
            return
        if vigil.orphaned:
            for node in self.roll.lively():
                self.receiver.control(node, QUESTION, {})
        was_orphaned = vigil.orphaned
        if vigil.look(self.roll.busy()):
            _log("the job is over" if vigil.orphaned else "the time of the job is up")
            self.launcher_gone = True
        if vigil.orphaned and not was_orphaned:
            _log("yprov run is gone; the record goes on until the job's processes have ended")
        self._note_end(vigil)

    def _note_end(self, vigil: CollectorVigil) -> None:
        # A node that is lost is no end of the job by itself: it may have been told to go on without.
        lost = self._lost_node(vigil) if vigil.inquiry.verdict or vigil.orphaned else ""
        end = None if self.end_written else vigil.end(lost)
        if end is not None and self._write([self.packer.json(Kind.END, end)]):
            self.end_written = True
            for node in self.roll.here:  # so that not every node asks
                self.receiver.control(node, QUESTION, {"ends": [end["state"], end["reason"]]})
            _log(f"the scheduler ends the job: {end['state']} ({end['reason']})")
            self._sync()

    def _lost_node(self, vigil: CollectorVigil) -> str:
        """A node that has been silent for long, and is none of the job's any more; "" without one."""
        if self.config.job.get("het_job_id"):
            return ""  # the answer names the nodes of one component
        there = set(vigil.inquiry.facts.get("nodes") or self.config.nodes)
        return min(self.roll.silent_hosts() - there, default="")

    def _turn(self, wait_ms: int = 500) -> None:
        """One round: wait, append what came, sync and acknowledge when it is time."""
        if self.unsynced:
            wait_ms = max(0, int((self.synced_at + SYNC_S - time.monotonic()) * 1000) + 1)
        things: list[Any] = [self.receiver.socket]
        if self.lifeline is not None:
            things.append(self.lifeline)
        elif self.vigil is not None and self.vigil.launcher_fd is not None:
            things.append(self.vigil.launcher_fd)
        ready = wait_readable(*things, timeout_ms=wait_ms)
        if 1 in ready and self.vigil is not None:
            self.vigil.launcher_ended()
            _log("yprov run is gone; the record goes on until the job's processes have ended")
        elif 1 in ready and self.lifeline is not None and not os.read(self.lifeline, 4096):
            self.lifeline = None
            self.launcher_gone = True
        sync = False
        frames: list[bytes] = []
        taken: list[tuple[bytes, int]] = []
        for message in self.receiver.receive():
            if message.peer.startswith(b"\0"):
                continue  # the rest of a connection that was made anew, under a name of ZeroMQ's: it comes again
            self.roll.heard(message.peer)
            if message.kind == DATA:
                self.roll.nodes.add(message.peer)
                frames.extend(message.frames)
                taken.append((message.peer, message.number))
                sync = sync or message.sync
            elif message.kind == GOODBYE:
                self.roll.gone.add(message.peer)
            elif message.kind == QUESTION:
                self._answer(message)
            elif message.kind == REPLY and message.body:
                self.roll.counted(message.peer, int(message.body.get("processes", 0)))
            elif message.kind == STOP:
                self.launcher = message.peer
                self.finish = True
        if frames and self._write(frames):
            self.unsynced += taken
        if self.unsynced and (sync or time.monotonic() - self.synced_at >= SYNC_S):
            self._sync()

    def _answer(self, message: Message) -> None:
        asked = message.body or {}
        if message.peer.startswith(b"node-"):
            self.roll.hello(message.peer, str(asked.get("host", "")))
        elif self.vigil is not None:
            self.vigil.launcher_heard()
        answer: dict[str, Any] = {"role": "collector", "nodes": len(self.roll.nodes)}
        if asked.get("hosts"):
            answer["hosts"] = sorted(self.roll.all_hosts())
            answer["step"] = os.environ.get("SLURM_STEP_ID", "")
        self.receiver.control(message.peer, REPLY, answer)

    def _write(self, frames: list[bytes]) -> bool:
        try:
            self.spool.append(frames)
        except (SpoolFull, OSError) as e:
            if not self.full:
                _log(f"cannot write to {self.spool.path}: {e.strerror}; the nodes keep their data and send it again")
            self.full = True
            return False
        if self.full:
            _log("writing again")
            self.full = False
        return True

    def _sync(self) -> None:
        self.synced_at = time.monotonic()
        try:
            self.spool.sync()
        except OSError as e:
            _log(f"cannot sync {self.spool.path}: {e.strerror}")
            return
        by_peer: dict[bytes, list[int]] = {}
        for peer, number in self.unsynced:
            by_peer.setdefault(peer, []).append(number)
        self.unsynced.clear()
        for peer, numbers in by_peer.items():
            self.receiver.ack(peer, numbers)

    def _finish(self) -> int:
        """Stop the nodes, take their last words, close the spool, make the archive. Returns the stitch's status."""
        self.stitch.start()
        if not self.finish:
            in_time = self.vigil is not None and not self.vigil.orphaned
            reason = "the job's time was up, and yprov run had not ended" if in_time else "yprov run was killed"
            self._write([self.packer.json(Kind.END, {
                "state": "killed", "reason": reason,
                "ended_ns": (self.vigil and self.vigil.orphaned_ns) or self.clock.wall_ns()})])
        while not self.roll.nodes and time.monotonic() < self.started + HEARD_S:
            self._turn()  # we were started again just now: the nodes say hello soon
        for node in self.roll.nodes:
            self.receiver.control(node, STOP)
        asked = time.monotonic()
        deadline = asked + FINISH_S
        if self.vigil is not None:
            deadline = min(deadline, time.monotonic() + max(1.0, self.vigil.left_s() + 2.0))
        while self.roll.awaited(asked) and self.launcher not in self.roll.gone and time.monotonic() < deadline:
            known = set(self.roll.nodes)
            self._turn()
            for node in self.roll.nodes - known:  # it was silent, or started again, when the others were told
                self.receiver.control(node, STOP)
        for node in self.roll.here:
            _log(f"{self.roll.name_of(node)} did not say goodbye")
        if self.vigil is not None:
            self._hear_why(self.vigil)
        self._sync()
        self._let_launcher_finish()
        with contextlib.suppress(OSError):
            self.spool.close()
        self.receiver.close()
        with contextlib.suppress(OSError):
            if self.vigil is None:
                os.unlink(os.path.join(self.config.runtime_dir, "collector.sock"))
            os.rmdir(self.config.runtime_dir)  # the last one out
        missing = len(self.config.nodes) > len(self.roll.all_hosts()) or bool(self.roll.here)
        with contextlib.suppress(OSError):
            if self.vigil is not None and missing:
                announce_end(self.run_dir)
            elif self.vigil is not None:
                for name in (KEY_FILE, COLLECTOR_FILE):
                    (self.run_dir / name).unlink(missing_ok=True)
        # A node that is cut off may still bring a spool of its own: then ours must be there, to be joined with it.
        # So may a launcher on another machine, of which we only know that it was silent.
        away = self.vigil is not None and self.launcher is None and not self.vigil.beside_us
        return self.stitch.make(keep_spool=self.vigil is not None and (missing or away))

    def _hear_why(self, vigil: CollectorVigil) -> None:
        """The command ended of a signal that all got, and so we are here before the scheduler has said what for."""
        deadline = time.monotonic() + min(ANSWER_S, vigil.left_s())
        while vigil.waits_for_reason and time.monotonic() < deadline:
            vigil.inquiry.ask()
            self._turn(wait_ms=20)
        self._note_end(vigil)

    def _let_launcher_finish(self) -> None:
        """Tell it that the nodes are done; its last records, in a spool of its own, are complete at its goodbye."""
        if self.launcher is None:
            return
        self.receiver.control(self.launcher, REPLY, {"role": "collector", "stopped": len(self.roll.gone)})
        deadline = time.monotonic() + LAUNCHER_S
        if self.vigil is not None:
            deadline = min(deadline, time.monotonic() + max(1.0, self.vigil.left_s()))
        while self.launcher not in self.roll.gone and not self._launcher_has_gone() and time.monotonic() < deadline:
            self._turn()
            self.receiver.control(self.launcher, REPLY, {"role": "collector", "stopped": len(self.roll.gone)})

    def _launcher_has_gone(self) -> bool:
        return self.launcher_gone or (self.vigil is not None and self.vigil.orphaned)


def _log(text: str) -> None:
    with contextlib.suppress(OSError, ValueError):  # the log may lie on the very disk that is full
        print(f"{time.strftime('%H:%M:%S')} collector: {text}", file=sys.stderr, flush=True)


def main(run_dir: Path, config: RunConfig | None = None) -> int:
    return Collector(run_dir, config).run()
