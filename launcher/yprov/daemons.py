"""The daemons of a run on this machine: started, called by name, started again when one dies, told to finish.

Each daemon's standard input is its lifeline: the other end lives in this process only, so that the kernel tells it
when we are gone, however that happens.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

ROLES = ("collect", "node")
#: A daemon that dies this often is broken and not unlucky.
RESTARTS = 5
#: What a daemon gets of our environment: not the job's Python settings that change what a module is.
_DROPPED = (
    "PYTHONWARNINGS", "PYTHONSTARTUP", "PYTHONINSPECT", "PYTHONVERBOSE", "PYTHONPROFILEIMPORTTIME", "PYTHONDEVMODE",
    "PYTHONASYNCIODEBUG", "PYTHONOPTIMIZE", "PYTHONTRACEMALLOC", "LD_PRELOAD", "YPROV_RUN_ID", "YPROV_RUN_DIR",
    "YPROV_ENDPOINT",
)


def clean_environment() -> dict[str, str]:
    """Our environment for programs of our own."""
    return {k: v for k, v in os.environ.items() if k not in _DROPPED}


class Daemons:
    """The collector and this node's daemon. For one thread."""

    #: As those of a placement have them: ways that were refused, and nodes that did not answer.
    fallbacks: Sequence[str] = ()
    dark: Sequence[str] = ()

    def __init__(self, run_dir: Path, runtime_dir: Path) -> None:
        self.run_dir = run_dir
        self.runtime_dir = runtime_dir
        self.starts = dict.fromkeys(ROLES, 0)
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._sender: Any = None
        self._stopped = False

    def start(self) -> None:
        for role in ROLES:
            self._start(role)

    def _start(self, role: str) -> None:
        self.starts[role] += 1
        with open(self.run_dir / "logs" / f"{role}.log", "ab") as log:
            self._running[role] = subprocess.Popen(
                [sys.executable, "-P", "-m", "yprovd", role, str(self.run_dir)],
                stdin=subprocess.PIPE, stdout=log, stderr=log, env=clean_environment(), cwd="/", start_new_session=True)

    def about(self) -> dict[str, Any]:
        """For the run's record."""
        return {"placed_by": "this node"}

    def roll_call(self, timeout_s: float, interrupted: Callable[[], bool], say: Callable[[str], None]) -> bool:
        """Wait until the collector has heard this node. False when it has not in time. `say`: for what takes long."""
        try:
            from yprovd.transport import QUESTION, Sender, ipc
        except ImportError:
            return False  # no ZeroMQ, here or there: the daemons' logs say so

        self._sender = Sender(ipc(str(self.runtime_dir / "collector.sock")), limit=1 << 20,
                              identity=b"launcher-%d" % os.getpid())
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline and not interrupted():
            self._sender.control(QUESTION, {})
            _, answers = self._sender.receive(10)
            if any(a.body and a.body.get("nodes") for a in answers):
                return True
            if len(self._running) < len(ROLES) or any(d.poll() is not None for d in self._running.values()):
                return False
            time.sleep(0.002)
        return False

    def say_hello(self) -> None:
        """Nothing to do: their standard input tells them that we are here."""

    def look_after(self) -> list[str]:
        """Start again what has died. Returns what there is to say about it, a sentence each."""
        said = []
        for role, daemon in list(self._running.items()):
            status = daemon.poll()
            if status is None:
                continue
            self._drop(role)
            if self.starts[role] <= RESTARTS:
                try:
                    self._start(role)
                except OSError as e:
                    said.append(f"the {_NAMES[role]} ended ({_how(status)}) and cannot be started again: {e.strerror}")
                else:
                    said.append(f"the {_NAMES[role]} ended ({_how(status)}) and was started again")
            else:
                said.append(f"the {_NAMES[role]} ended ({_how(status)}) again and again, and is left alone")
        return said

    def _drop(self, role: str) -> None:
        daemon = self._running.pop(role)
        if daemon.stdin is not None:
            with contextlib.suppress(OSError):
                daemon.stdin.close()

    def finish(self, timeout_s: float) -> bool:
        """Ask the collector to stop the nodes; wait until they have taken their last samples. Without a collector the
        node is told directly. Returns whether all ended in order."""
        deadline = time.monotonic() + timeout_s
        if self._finish_by_collector(deadline):
            self._stopped = True
            return True
        node = self._running.get("node")
        if node is None or node.poll() is not None:
            return False
        from yprovd.transport import STOP, Sender, ipc

        direct = Sender(ipc(str(self.runtime_dir / "node.sock")), limit=1, identity=b"launcher")
        direct.control(STOP)
        direct.close(linger_ms=500)
        with contextlib.suppress(subprocess.TimeoutExpired):
            node.wait(max(0.0, deadline - time.monotonic()))
        return False

    def _finish_by_collector(self, deadline: float) -> bool:
        from yprovd.transport import STOP

        collector, node = self._running.get("collect"), self._running.get("node")
        asked, node_there = 0.0, time.monotonic()
        while self._sender is not None and collector is not None and time.monotonic() < deadline:
            if time.monotonic() > asked + 1.0:
                self._sender.control(STOP)
                asked = time.monotonic()
            _, answers = self._sender.receive(50)
            if any(a.body and "stopped" in a.body for a in answers):
                return True
            if collector.poll() is not None:
                return False
            if node is not None and node.poll() is None:
                node_there = time.monotonic()
            elif time.monotonic() > node_there + 1.0:
                return False  # it died without a goodbye: the collector must not wait for one
        return False

    def goodbye(self) -> None:
        """To the collector, which waits for it before it reads the spool: our own records are complete."""
        if self._sender is not None:
            from yprovd.transport import GOODBYE

            self._sender.control(GOODBYE)

    def archive_made(self, wait_s: float) -> int | None:
        """The status of the stitch that the collector runs, after at most `wait_s`; None while it is at work, 1 when
        there is no collector to run it."""
        collector = self._running.get("collect")
        if collector is None:
            return 1
        try:
            return collector.wait(wait_s)
        except subprocess.TimeoutExpired:
            return None

    def job_ends(self) -> None:
        """A scheduler ends the job: it ends us, too."""

    def close(self) -> None:
        """End what is left and take the runtime directory away. After `finish` nothing is left but a daemon that did
        not listen; its data are in the spool. Its lifeline is cut last: that would mean that the job must end."""
        for role, daemon in list(self._running.items()):
            try:
                daemon.wait(2.0 if self._stopped else 0.1)
            except subprocess.TimeoutExpired:
                daemon.terminate()  # it drains
                try:
                    daemon.wait(5.0)
                except subprocess.TimeoutExpired:
                    daemon.kill()
                    daemon.wait()
            self._drop(role)
        if self._sender is not None:
            self._sender.close()
        shutil.rmtree(self.runtime_dir, ignore_errors=True)

    def let_go(self) -> None:
        """Leave at once: the daemons see that we are gone, finish and make the archive by themselves."""
        for role in list(self._running):
            self._drop(role)


_NAMES = {"collect": "collector", "node": "node daemon"}


def _how(status: int) -> str:
    return f"signal {-status}" if status < 0 else f"status {status}"
