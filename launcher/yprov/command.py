"""The wrapped command: started as the shell would have, its signals forwarded; its output goes through
`yprov.channels`, and stdin is its own, untouched.

Signals that we get are forwarded, each once. At a terminal the command stays in our process group, so that the
kernel's Ctrl-C and Ctrl-Z reach it directly, and those are not forwarded again; elsewhere it gets a group of its own,
so that a signal to our group reaches it through us and only once. Nothing of it outlives a killed launcher: the kernel
sends it SIGTERM (PR_SET_PDEATHSIG), and the node daemon ends its descendants.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence

from yprov.channels import Channel

FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGQUIT)
#: Those of them that ask a program to end.
TO_END = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
_WATCHED = {*FORWARDED, signal.SIGCHLD, signal.SIGWINCH}
_SI_KERNEL = 128  # siginfo si_code: sent by the kernel, to a terminal's whole foreground group
_PR_SET_PDEATHSIG = 1
#: A second Ctrl-C counts as such when it comes this soon, and not as an echo of the first.
SECOND_S = (0.05, 5.0)
_libc = ctypes.CDLL(None, use_errno=True)


class Signals:
    """All signals to this process, taken by one thread from before the first other thread is made.

    Until a command runs they are only noted (`interrupted`); then they are forwarded. `on_child` is called for each
    SIGCHLD, `on_second` for the second Ctrl-C, both from the thread.
    """

    def __init__(self, on_child: Callable[[], None]) -> None:
        # What is ignored (nohup, a shell's `&`) stays so: for us, and for the command, which inherits it.
        self.watched = {s for s in _WATCHED if s == signal.SIGCHLD or signal.getsignal(s) != signal.SIG_IGN}
        self.before = signal.pthread_sigmask(signal.SIG_BLOCK, self.watched)
        self.interrupted: int = 0      # the last signal that asks to stop
        self.forwarded: list[int] = []
        self.on_child = on_child
        self.on_second: Callable[[], None] = lambda: None
        # Given the command's process group: those of it that get a signal which asks to end, None for all.
        self.choose: Callable[[int], list[int] | None] = lambda group: None
        self.on_resize: Callable[[], None] = lambda: None
        self._pid = 0
        self._own_group = False
        self._last: dict[int, float] = {}
        threading.Thread(target=self._run, name="yprov-signals", daemon=True).start()

    def forward_to(self, pid: int, *, own_group: bool) -> None:
        """From now on. A signal that came before is forwarded at once."""
        self._own_group = own_group
        self._pid = pid
        if self.interrupted:
            self._send(self.interrupted)

    def stop_forwarding(self) -> None:
        self._pid = 0
        self.on_second = lambda: None

    def _send(self, signum: int) -> None:
        """To the command; what asks it to end, to its whole group, as a terminal and timeout(1) do."""
        pid = self._pid  # read once: the other thread sets it to 0, which would be our own group
        if not pid:
            return
        self.forwarded.append(signum)
        chosen = self.choose(pid) if signum in TO_END else None
        for one in chosen or []:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(one, signum)
        if chosen is not None:
            return
        with contextlib.suppress(ProcessLookupError, PermissionError):
            if self._own_group and signum in TO_END:
                os.killpg(pid, signum)
            else:
                os.kill(pid, signum)

    def _run(self) -> None:
        while True:
            info = signal.sigwaitinfo(self.watched)
            signum = info.si_signo
            if signum == signal.SIGCHLD:
                self.on_child()
                continue
            if signum == signal.SIGWINCH:
                self.on_resize()
                continue
            now = time.monotonic()
            since = now - self._last.get(signum, -1e9)
            if since < SECOND_S[0]:
                continue  # `timeout` sends each signal to the process and to its group
            self._last[signum] = now
            if signum in TO_END:
                self.interrupted = signum
            if signum == signal.SIGINT and since < SECOND_S[1]:
                self.on_second()
            elif self._pid:
                if info.si_code == _SI_KERNEL and not self._own_group:
                    self.forwarded.append(signum)  # the kernel has sent it to the whole group
                else:
                    self._send(signum)


def at_terminal() -> bool:
    """Whether we are the foreground group of a terminal."""
    try:
        with open("/dev/tty", "rb", buffering=0) as tty:
            return os.tcgetpgrp(tty.fileno()) == os.getpgrp()
    except OSError:
        return False


def start(
    argv: Sequence[str], env: Mapping[str, str], channels: Sequence[tuple[Channel, tuple[int, ...]]],
    signals: Signals,
) -> subprocess.Popen[bytes]:
    """Start the command. Raises OSError as execvp does."""
    streams: dict[int, int] = {fd: channel.inner for channel, fds in channels for fd in fds}
    own_group = not at_terminal()
    parent = os.getpid()

    def prepare() -> None:  # in the child, before exec
        if own_group:
            os.setpgid(0, 0)
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:
            os._exit(143)
        signal.pthread_sigmask(signal.SIG_SETMASK, signals.before)

    child = subprocess.Popen(
        list(argv), env=dict(env), stdout=streams.get(1), stderr=streams.get(2), preexec_fn=prepare,
        close_fds=False)  # what it is given, it gets (`<(...)`, make's job server); ours close themselves at exec
    for channel, _fds in channels:
        os.close(channel.inner)
    signals.forward_to(child.pid, own_group=own_group)
    return child


def has_ended(pid: int) -> bool:
    """Whether the child has ended; it is left to be reaped, so that its last counters can still be read."""
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def exit_of(pid: int) -> tuple[int, int]:
    """(exit status as a shell gives it, signal or 0) of a child that has ended, without reaping it."""
    ended = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    assert ended is not None
    if ended.si_code == os.CLD_EXITED:
        return ended.si_status, 0
    return 128 + ended.si_status, ended.si_status


def _own_peak_kib() -> int:
    """Of this program: getrusage(2) would tell that of the one which started us, too."""
    try:
        with open("/proc/self/status", encoding="ascii", errors="replace") as f:
            return next(int(line.split()[1]) for line in f if line.startswith("VmHWM:"))
    except (OSError, StopIteration, ValueError, IndexError):
        return 0


def reap(pid: int) -> dict[str, float]:
    """Resources used by the command and the children that it waited for (getrusage(2)). The kernel starts the peak of a
    process at that of the one which started it, us: a figure no greater than ours is none of the command's."""
    _, _, usage = os.wait4(pid, 0)
    used = {"user_s": usage.ru_utime, "system_s": usage.ru_stime}
    if usage.ru_maxrss > _own_peak_kib():
        used["max_rss_bytes"] = usage.ru_maxrss * 1024
    return used
