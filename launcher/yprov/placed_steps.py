"""The scheduler's commands that hold the daemon step, one for each group of nodes: started, heard, ended.

They are never signalled while they have tasks that live: to `srun`, SIGTERM means SIGKILL for its tasks.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from yprov.daemons import clean_environment
from yprov.placement import Way, environment

LOG = "daemons.log"
#: `srun` has its helper by then, or has none.
HELPER_S = 5.0


class Steps:
    """Those of the way that was tried last. `started`: when that was, on the monotonic clock."""

    def __init__(self, run_dir: Path, scheduler: str) -> None:
        self.started = 0.0
        self._run_dir = run_dir
        self._log = run_dir / "logs" / LOG
        self._log_from = 0
        self._scheduler = scheduler
        self._commands: list[subprocess.Popen[bytes]] = []
        self._helpers_ended = False

    def __bool__(self) -> bool:
        """Whether there are any, also such as have ended."""
        return bool(self._commands)

    def start(self, way: Way, first: Sequence[str]) -> None:
        """`first`: the collector's node, where that is not the first any more. Raises OSError."""
        self._commands = []
        self._helpers_ended = False
        self.started = time.monotonic()
        environ = environment(clean_environment(), self._scheduler)
        with open(self._log, "ab") as log:
            self._log_from = log.tell()
            for command in way.commands:
                self._commands.append(subprocess.Popen(
                    [*command, sys.executable, "-P", "-m", "yprovd", "step", str(self._run_dir), *first],
                    stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environ, cwd="/", start_new_session=True,
                    preexec_fn=_hear_of_children))

    def forget(self) -> None:
        self._commands = []

    @property
    def ended(self) -> bool:
        """All of them."""
        return all(command.poll() is not None for command in self._commands)

    def wait(self, timeout_s: float) -> bool:
        """For all of them, `timeout_s` in all; each is looked at once at least. Returns whether they have ended."""
        deadline = time.monotonic() + timeout_s
        for command in self._commands:
            with contextlib.suppress(subprocess.TimeoutExpired):
                command.wait(max(0.0, deadline - time.monotonic()))
        return self.ended

    def kill(self) -> None:
        """For commands without tasks: they still wait for the scheduler, or for the tasks of a lost node."""
        for command in self._commands:
            if command.poll() is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(command.pid, signal.SIGKILL)
                command.wait()

    def let_live(self) -> None:
        """`srun` has a helper process that kills the step when `srun` itself is killed, as it is with the batch shell:
        the daemons would lose the time between SIGTERM and SIGKILL. Without the helper the step goes on."""
        if self._helpers_ended or self._scheduler != "slurm":
            return
        self._helpers_ended = time.monotonic() > self.started + HELPER_S
        for command in self._commands:
            for pid in _children(command.pid):
                with contextlib.suppress(OSError):
                    if Path(f"/proc/{pid}/comm").read_text(encoding="ascii", errors="replace").strip() == "srun":
                        os.kill(pid, signal.SIGKILL)
                        self._helpers_ended = True

    def last_words(self) -> str:
        """Why this way was refused, when they have ended: what the scheduler's command said last."""
        lines, told = self._said()
        return (told or lines or [f"it ended with status {self._commands[0].returncode}"])[0][:300]

    def complaint(self) -> str:
        """What they have said of an error so far; "" for nothing."""
        _lines, told = self._said()
        return told[0][:300] if told else ""

    def _said(self) -> tuple[list[str], list[str]]:
        """All lines, and those of errors."""
        text = self._log.read_bytes()[self._log_from:].decode("utf-8", "replace")
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        return lines, [line for line in lines if "error" in line.lower()]


def _hear_of_children() -> None:
    """The launcher blocks its signals, and a command inherits that. Without SIGCHLD a shell, as which sites wrap their
    `mpirun`, would wait for its children for ever. The others stay blocked: they are meant for the job."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD})


def _children(pid: int) -> list[int]:
    """Of a process with one thread that forks; empty where the kernel does not tell."""
    try:
        return [int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()]
    except (OSError, ValueError):
        return []
