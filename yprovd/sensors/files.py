"""Reading the kernel's small files often: descriptors that stay open, and counters that only grow.

`pread` at offset 0 of an open descriptor makes procfs and sysfs produce the content anew, at a twentieth of
the cost of open, read and close.
"""

from __future__ import annotations

import errno
import os

#: The descriptor no longer leads anywhere, the path may: a device came back, a file system was mounted again.
_REOPEN = frozenset((errno.ENODEV, errno.ENOENT, errno.ESTALE))


class KeptFile:
    """A file that is read again and again. It is opened by the first read; with `keep=False` by every read.

    A read that fails with ENODEV, ENOENT or ESTALE opens the path again, once. Every other OSError is the
    caller's.
    """

    __slots__ = ("_fd", "_keep", "_size", "path")

    def __init__(self, path: str, size: int = 4096, *, keep: bool = True) -> None:
        self.path = path
        self._size = size
        self._keep = keep
        self._fd = -1

    def read(self) -> bytes:
        """The first `size` bytes, by one system call: for one record, or where the head of the file is
        enough."""
        if self._fd >= 0:
            try:
                return os.pread(self._fd, self._size, 0)
            except OSError as e:
                if e.errno not in _REOPEN:
                    raise
                self.close()
        self._fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            return os.pread(self._fd, self._size, 0)
        except OSError:
            self.close()
            raise
        finally:
            if not self._keep:
                self.close()

    def read_all(self) -> bytes:
        """The whole of a kept file. A procfs table comes a page at a time, however much is asked for."""
        data = self.read()
        while data and (more := os.pread(self._fd, self._size, len(data))):
            data += more
        return data

    def close(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)


class Rising:
    """A counter that only grows, made of one that does not: it starts at the first raw value.

    A raw value below the one before it means that a counter of `modulus` states went round; without a
    modulus, that it began again at 0 (a driver was loaded anew, a disk plugged in again).
    """

    __slots__ = ("_last", "_modulus", "_total")

    def __init__(self, modulus: int = 0) -> None:
        self._modulus = modulus
        self._last = 0
        self._total = 0

    def __call__(self, raw: int) -> int:
        step = raw - self._last
        if step < 0:
            step = step % self._modulus if self._modulus else raw
        self._last = raw
        self._total += step
        return self._total


def read_word(path: str) -> str:
    """The content of a small file without white space around it, "" when it cannot be read."""
    try:
        with open(path, "rb", buffering=0) as f:
            return f.read(4096).strip().decode("utf-8", "backslashreplace")
    except OSError:
        return ""
