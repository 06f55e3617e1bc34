"""The command's output: passed through as it comes, and kept in a log.

stdout and stderr go through one channel each, a pipe, or a pseudo-terminal where ours is a terminal; where both are the
same file (`2>&1`, a terminal) they share one channel, so that their order is kept. What is read is written on at once
and appended to a log. Where nobody reads any more, the command learns it as it would have. A disk that is full costs
lines, and no job: `srun` would end all its tasks for a closed pipe, and goes on for a full disk; the log is kept on,
and `Channel.error` tells of it.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import selectors
import signal
import stat
import struct
import termios
from collections.abc import Iterable, Sequence
from pathlib import Path

_BLOCK = 1 << 16
#: Bytes of output kept in each log; more is passed through and not kept.
LOG_LIMIT = 256 << 20


class Channel:
    """What the command writes, on its way: `source` is ours to read, `inner` the command's to write."""

    def __init__(self, target: int, log: Path) -> None:
        self.target: int | None = target
        self.terminal = os.isatty(target)
        self.source, self.inner = _terminal_like(target) if self.terminal else os.pipe()
        os.set_blocking(self.source, False)
        self.log: int | None = None
        with contextlib.suppress(OSError):  # the disk is full: the command must not notice
            self.log = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self.log_kept = 0
        self.log_lost = 0
        self.error = ""  # why our own output could not be written
        self.lost = 0    # bytes of it
        self.reader = target if _is_pipe(target) else None  # to be watched: see `goes_on`

    def pump(self) -> bool:
        """Pass on what is there. Returns whether more may come: False at the end, or when nobody reads any more."""
        try:
            data = os.read(self.source, _BLOCK)
        except BlockingIOError:
            return True
        except OSError as e:
            if e.errno != errno.EIO:  # EIO: the last writer of a pseudo-terminal has gone
                raise
            data = b""
        if not data:
            return False
        self._keep(data)
        if self.target is None:
            return True
        error, left = _write_all(self.target, data)
        if error == 0:
            return True
        if error == errno.EPIPE:
            return False  # nobody reads: the command is to learn it as it would have
        self.error = os.strerror(error)
        self.lost += left
        return not _never_has_room(self.target)  # on a disk there may be some again

    def goes_on(self, fd: int) -> bool:
        """What is to be done when there is something about `fd`, its source or its reader. Returns what `pump` does."""
        if fd == self.source:
            return self.pump()
        for _ in range(16):  # the reader has gone; what was written before that is kept
            try:
                data = os.read(self.source, _BLOCK)
            except OSError:
                break
            if not data:
                break
            self._keep(data)
        return False

    def watch(self, waiting: selectors.BaseSelector) -> None:
        for fd in self._watched():
            waiting.register(fd, selectors.EVENT_READ, self)

    def hang_up(self, waiting: selectors.BaseSelector) -> None:
        """Nothing is read any more: so the command, too, learns that nobody does."""
        for fd in self._watched():
            waiting.unregister(fd)
        os.close(self.source)
        self.source = -1

    def _watched(self) -> list[int]:
        return [self.source] if self.reader is None else [self.source, self.reader]

    def drain(self) -> bool:
        """Everything that is there now. Returns whether a writer is left."""
        poller = selectors.DefaultSelector()
        with poller:
            poller.register(self.source, selectors.EVENT_READ)
            while poller.select(0):
                if not self.pump():
                    return False
        return True

    def _keep(self, data: bytes) -> None:
        if self.log is not None and self.log_lost == 0 and self.log_kept < LOG_LIMIT:
            try:
                self.log_kept += os.write(self.log, data)
                return
            except OSError:
                pass  # the disk is full
        self.log_lost += len(data)

    def resize(self) -> None:
        if self.terminal and self.target is not None:
            with contextlib.suppress(OSError):
                size = fcntl.ioctl(self.target, termios.TIOCGWINSZ, struct.pack("4H", 0, 0, 0, 0))
                fcntl.ioctl(self.source, termios.TIOCSWINSZ, size)

    def close(self) -> None:
        for fd in (self.source, self.log):
            if fd is not None and fd >= 0:
                with contextlib.suppress(OSError):
                    os.close(fd)


def _terminal_like(target: int) -> tuple[int, int]:
    """A pseudo-terminal of the size of `target` that changes nothing: the real one does the line endings."""
    source, inner = os.openpty()
    mode = termios.tcgetattr(inner)
    mode[1] &= ~termios.OPOST
    mode[3] &= ~(termios.ECHO | termios.ISIG | termios.ICANON)
    termios.tcsetattr(inner, termios.TCSANOW, mode)
    with contextlib.suppress(OSError):
        size = fcntl.ioctl(target, termios.TIOCGWINSZ, struct.pack("4H", 0, 0, 0, 0))
        fcntl.ioctl(inner, termios.TIOCSWINSZ, size)
    return source, inner


def _is_pipe(fd: int) -> bool:
    """Whether it is a pipe that we write to, of which we are told when its reader has gone. One with a name may get
    another reader."""
    try:
        named = not os.readlink(f"/proc/self/fd/{fd}").startswith("pipe:")
        return not named and fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE == os.O_WRONLY
    except OSError:
        return False


def _never_has_room(fd: int) -> bool:
    """A device that could not take what was written, /dev/full: waiting helps nothing, and `yes` would never end."""
    return stat.S_ISCHR(os.fstat(fd).st_mode) and not os.isatty(fd)


def _write_all(fd: int, data: bytes) -> tuple[int, int]:
    """Write, waiting as long as the reader takes. Returns 0, or the errno, and how many bytes could not be written."""
    view = memoryview(data)
    while view:
        try:
            view = view[os.write(fd, view):]
        except BlockingIOError:  # somebody who shares it has set it non-blocking
            with selectors.DefaultSelector() as waiting:
                waiting.register(fd, selectors.EVENT_WRITE)
                waiting.select()
        except OSError as e:
            return e.errno or errno.EIO, len(view)
    return 0, 0


def open_channels(logs: Path) -> list[tuple[Channel, tuple[int, ...]]]:
    """A channel for stdout and one for stderr, or one for both, each with the descriptors that it stands for."""
    there = [fd for fd in (1, 2) if _is_open(fd)]
    if len(there) == 2 and _same_file(1, 2):
        return [(Channel(1, logs / "output.log"), (1, 2))]
    names = {1: "stdout.log", 2: "stderr.log"}
    return [(Channel(fd, logs / names[fd]), (fd,)) for fd in there]


def _is_open(fd: int) -> bool:
    """Whether the command would have it: not what `hold_standard_streams` put there."""
    try:
        return os.get_inheritable(fd)
    except OSError:
        return False


def hold_standard_streams() -> None:
    """Where we were started without stdin, stdout or stderr (`2>&-`), put /dev/null there for ourselves, so that no
    file of ours ever gets such a number; the command is started without it all the same."""
    while True:
        fd = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        if fd > 2:
            os.close(fd)
            return


def _same_file(a: int, b: int) -> bool:
    x, y = os.fstat(a), os.fstat(b)
    return (x.st_dev, x.st_ino, x.st_rdev) == (y.st_dev, y.st_ino, y.st_rdev)


def resize(channels: Iterable[Channel]) -> None:
    """Our terminal has another size now: so have the command's."""
    for channel in channels:
        channel.resize()


def leave_pump(channels: Sequence[Channel]) -> None:
    """A process of the command lives on and still writes: pass it on, as long as it does, from a process of our own
    that holds nothing but these channels. It ends with the last writer."""
    if os.fork():
        return
    for channel in channels:
        channel.log = None  # the record has ended with the command
    try:
        keep = sorted(fd for c in channels for fd in (c.source, c.log, c.target) if fd is not None)
        low = 0
        for fd in keep:
            os.closerange(low, fd)
            low = fd + 1
        os.closerange(low, 65536)
        signal.pthread_sigmask(signal.SIG_SETMASK, set())
        with selectors.DefaultSelector() as waiting:
            for channel in channels:
                channel.watch(waiting)
            while waiting.get_map():
                for key, _ in waiting.select():
                    if key.data.source >= 0 and not key.data.goes_on(key.fd):
                        key.data.hang_up(waiting)
    finally:
        os._exit(0)
