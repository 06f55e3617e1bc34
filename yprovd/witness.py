"""When something happened, though the one whom it concerns was waiting for a slow disk.

Whether the launcher died before the scheduler ended the job, or with it, is told by half a second between the two. The
collector's own loop may be held up by longer than that (fsync on a file system of the network): a thread with nothing
else to do notes both.
"""

from __future__ import annotations

import os
import select
import signal
import threading
import time


class Witness:
    """Notes the wall clock (ns; 0: not yet) of the launcher's end, and of the first SIGTERM since `signalled_ns` was
    last set to 0. `launcher_fd`: a pidfd that stays the caller's; None: nobody to watch. `start()` takes the process's
    wakeup descriptor for signals (signal.set_wakeup_fd), from the main thread, and presumes that SIGTERM is the only
    signal with a handler in Python."""

    def __init__(self, launcher_fd: int | None) -> None:
        self.launcher_ended_ns = 0
        self.signalled_ns = 0
        self._launcher = os.dup(launcher_fd) if launcher_fd is not None else None
        self._signals, self._written = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._thread = threading.Thread(target=self._watch, name="yprov-witness", daemon=True)

    def start(self) -> None:
        signal.set_wakeup_fd(self._written, warn_on_full_buffer=False)
        self._thread.start()

    def stop(self) -> None:
        """Give the descriptors back. Waits for the thread."""
        signal.set_wakeup_fd(-1)
        os.close(self._written)
        self._thread.join()
        os.close(self._signals)
        if self._launcher is not None:
            os.close(self._launcher)

    def _watch(self) -> None:
        ready = select.poll()
        ready.register(self._signals, select.POLLIN)
        if self._launcher is not None:
            ready.register(self._launcher, select.POLLIN)
        while True:
            for fd, _event in ready.poll():
                now = time.time_ns()
                if fd == self._launcher:
                    self.launcher_ended_ns = now
                    ready.unregister(fd)
                elif not os.read(self._signals, 4096):
                    return
                elif not self.signalled_ns:
                    self.signalled_ns = now
