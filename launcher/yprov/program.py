"""The command from outside: whether it can be started, in which environment, and what its end means."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
from collections.abc import Sequence
from pathlib import Path

from yprovd.errors import YprovError


class CommandError(YprovError):
    """The command cannot be started; `status` is what a shell would return."""

    def __init__(self, message: str, status: int, *, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.status = status


def find_program(argv: Sequence[str]) -> None:
    """Raises YprovError with the status of a shell (127, 126) for a command that cannot be started."""
    program = argv[0]
    if shutil.which(program):
        return
    if os.sep in program and os.path.exists(program):
        kind = "is a directory" if os.path.isdir(program) else "is not executable"
        raise CommandError(f"`{program}` {kind}", 126, hint="" if os.path.isdir(program) else f"chmod +x {program}")
    raise CommandError(f"`{program}` was not found", 127,
                       hint="quote a shell command: yprov run -- bash -c '...'" if " " in program else "")


def given_environment() -> dict[str, str]:
    """Our environment as we were given it: Python sets LC_CTYPE for itself where there is no locale (PEP 538)."""
    environ = dict(os.environ)
    with contextlib.suppress(OSError):
        given = b"\0" + Path("/proc/self/environ").read_bytes()
        if b"\0LC_CTYPE=" not in given:
            environ.pop("LC_CTYPE", None)
    return environ


def state_of(exit_code: int, signum: int, asked_to_stop: object, *, of_tasks: bool = False) -> tuple[str, str]:
    """(state, reason) of an ended command. Killed: by SIGKILL, ours or anybody's (the out-of-memory killer's).
    Cancelled: it was sent a signal through us and did not end with 0. Else its exit status decides; with `of_tasks` one
    of 128 + N tells that signal N ended the command's tasks."""
    reason = f"signal {signal.Signals(signum).name}" if signum else f"exit status {exit_code}"
    if of_tasks and not signum and exit_code - 128 in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL):
        signum = exit_code - 128
        reason += f": {signal.Signals(signum).name} ended its tasks"
    if exit_code == 0:
        return "completed", reason
    if asked_to_stop or signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        return "cancelled", reason
    return ("killed" if signum == signal.SIGKILL else "failed"), reason
