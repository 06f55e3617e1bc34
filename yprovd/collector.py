"""The collector, one per run: receives every node's frames, appends them to the run's spool, acknowledges them once
they are on disk, and, when the run has ended, starts the stitch.

It does not look into the frames. Its standard input is the lifeline: when that ends without a word, the launcher was
killed; then it records so, waits for the nodes, finishes and makes the archive all the same. What it cannot write
(disk full) it does not acknowledge: the nodes keep it and send it again.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from yprovd.clock import SystemClock
from yprovd.config import SPOOL_DIR, RunConfig
from yprovd.errors import SpoolFull
from yprovd.processes import about_source
from yprovd.spool import SpoolWriter
from yprovd.transport import DATA, GOODBYE, QUESTION, REPLY, STOP, Receiver, ipc, wait_readable
from yprovd.wire import Kind, Packer, new_source

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

    def __init__(self, run_dir: Path, *, lifeline: int = 0) -> None:
        self.config = RunConfig.read(run_dir)
        self.run_dir = run_dir
        self.lifeline: int | None = lifeline
        self.clock = SystemClock()
        self.packer = Packer(new_source(), self.clock)
        self.receiver = Receiver(ipc(os.path.join(self.config.runtime_dir, "collector.sock")))
        self.spool = SpoolWriter(run_dir / SPOOL_DIR / f"collector-{os.getpid()}.spool")
        self.nodes: set[bytes] = set()      # who sent data
        self.gone: set[bytes] = set()       # and said goodbye
        self.launcher: bytes | None = None  # who asked us to finish
        self.unsynced: list[tuple[bytes, int]] = []
        self.synced_at = 0.0
        self.full = False
        self.finish = self.launcher_gone = self.terminated = False
        # A stitch needs a third of a second to load numpy and zarr. For a command that is over in a moment it is loaded
        # from the start; a longer run does not pay for it with memory.
        self.stitch: subprocess.Popen[bytes] | None = _start_stitch(run_dir)
        self.started = time.monotonic()

    def run(self) -> int:
        signal.signal(signal.SIGTERM, self._on_term)
        for signum in (signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
            signal.signal(signum, signal.SIG_IGN)  # meant for the job
        self._write([self.packer.json(Kind.SOURCE, about_source("collector"))])
        while not (self.finish or self.launcher_gone or self.terminated):
            self._turn()
            if self.stitch is not None and time.monotonic() > self.started + EARLY_STITCH_S:
                self._drop_stitch()
        if self.terminated and not self.launcher_gone:
            self._sync()
            self.spool.close()
            self._drop_stitch()
            return 0  # the launcher is there and starts another one
        return self._finish()

    def _drop_stitch(self) -> None:
        if self.stitch is not None:
            self.stitch.kill()
            self.stitch.wait()
            self.stitch = None

    def _on_term(self, _signum: int, _frame: object) -> None:
        self.terminated = True

    def _turn(self) -> None:
        """One round: wait, append what came, sync and acknowledge when it is time."""
        wait_ms = 500
        if self.unsynced:
            wait_ms = max(0, int((self.synced_at + SYNC_S - time.monotonic()) * 1000) + 1)
        things: list[Any] = [self.receiver.socket]
        if self.lifeline is not None:
            things.append(self.lifeline)
        ready = wait_readable(*things, timeout_ms=wait_ms)
        if 1 in ready and self.lifeline is not None and not os.read(self.lifeline, 4096):
            self.lifeline = None
            self.launcher_gone = True
        sync = False
        frames: list[bytes] = []
        taken: list[tuple[bytes, int]] = []
        for message in self.receiver.receive():
            if message.kind == DATA:
                self.nodes.add(message.peer)
                frames.extend(message.frames)
                taken.append((message.peer, message.number))
                sync = sync or message.sync
            elif message.kind == GOODBYE:
                self.gone.add(message.peer)  # also the launcher
            elif message.kind == QUESTION:
                if message.peer.startswith(b"node-"):
                    self.nodes.add(message.peer)
                self.receiver.control(message.peer, REPLY, {"role": "collector", "nodes": len(self.nodes)})
            elif message.kind == STOP:
                self.launcher = message.peer
                self.finish = True
        if frames and self._write(frames):
            self.unsynced += taken
        if self.unsynced and (sync or time.monotonic() - self.synced_at >= SYNC_S):
            self._sync()

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
        stitch = self.stitch or _start_stitch(self.run_dir)
        if not self.finish:
            self._write([self.packer.json(Kind.END, {
                "state": "killed", "reason": "yprov run was killed", "ended_ns": self.clock.wall_ns()})])
        while not self.nodes and time.monotonic() < self.started + HEARD_S:
            self._turn()  # we were started again just now: the nodes say hello soon
        for node in self.nodes:
            self.receiver.control(node, STOP)
        deadline = time.monotonic() + FINISH_S
        while self.nodes - self.gone and self.launcher not in self.gone and time.monotonic() < deadline:
            known = set(self.nodes)
            self._turn()
            for node in self.nodes - known:  # it was silent, or started again, when the others were told
                self.receiver.control(node, STOP)
        for node in self.nodes - self.gone:
            _log(f"{node.decode(errors='replace')} did not say goodbye")
        self._sync()
        self._let_launcher_finish()
        with contextlib.suppress(OSError):
            self.spool.close()
        self.receiver.close()
        with contextlib.suppress(OSError):
            os.unlink(os.path.join(self.config.runtime_dir, "collector.sock"))
            os.rmdir(self.config.runtime_dir)  # the last one out
        assert stitch.stdin is not None
        with contextlib.suppress(BrokenPipeError), stitch.stdin:
            stitch.stdin.write(b"go\n")
        return stitch.wait()

    def _let_launcher_finish(self) -> None:
        """Tell it that the nodes are done; its last records, in a spool of its own, are complete at its goodbye."""
        if self.launcher is None:
            return
        self.receiver.control(self.launcher, REPLY, {"role": "collector", "stopped": len(self.gone)})
        deadline = time.monotonic() + LAUNCHER_S
        while self.launcher not in self.gone and not self.launcher_gone and time.monotonic() < deadline:
            self._turn()
            self.receiver.control(self.launcher, REPLY, {"role": "collector", "stopped": len(self.gone)})


def _start_stitch(run_dir: Path) -> subprocess.Popen[bytes]:
    """Start the stitch's interpreter now, so that it loads numpy and zarr while the nodes drain; it begins when it is
    told to. If we die first, its standard input ends without a word, and it ends."""
    environ = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    stitch = subprocess.Popen([sys.executable, "-P", "-m", "yprovd.stitch", "--when-told", str(run_dir)],
                              stdin=subprocess.PIPE, env=environ, start_new_session=True)
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, stitch.pid, 5)  # the job comes first
    return stitch


def _log(text: str) -> None:
    with contextlib.suppress(OSError, ValueError):  # the log may lie on the very disk that is full
        print(f"{time.strftime('%H:%M:%S')} collector: {text}", file=sys.stderr, flush=True)


def main(run_dir: Path) -> int:
    return Collector(run_dir).run()
