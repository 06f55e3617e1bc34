"""The spool: files of frames (`yprovd.wire`), one after the other, nothing between them. Only ever appended to.

A run's spool is every `*.spool` file in its folder `spool/`; each process writes a file of its own, so no two writers
share one. A killed writer leaves a torn last frame, which is normal: the reader finds every whole frame, wherever the
damage is, and counts the bytes that it had to pass over. Frames that stand in several files are the same frame when
(source, seq) is the same.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import mmap
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from yprovd.errors import SpoolFull, WireError
from yprovd.wire import MAGIC, Frame, unpack

SUFFIX = ".spool"


class SpoolWriter:
    """Appends frames to a new file. Blocks as long as the file system does. Not thread-safe.

    `append` makes frames visible to readers; `sync` makes them survive a power loss (fdatasync).
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self._size = 0
        self._synced = 0
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def append(self, frames: Iterable[bytes]) -> None:
        """Write whole frames, all or none. Raises SpoolFull when the disk or the quota is full: the file then ends
        behind the last whole frame, and the caller still has its frames."""
        data = b"".join(frames)
        view = memoryview(data)
        try:
            while view:
                view = view[os.write(self._fd, view):]
        except OSError as e:
            os.ftruncate(self._fd, self._size)
            if e.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                raise SpoolFull(e.errno, os.strerror(e.errno), str(self.path)) from None
            raise
        self._size += len(data)

    def sync(self) -> None:
        if self._synced != self._size:
            os.fdatasync(self._fd)
            self._synced = self._size

    def close(self) -> None:
        """Sync what can be synced and close."""
        try:
            self.sync()
        finally:
            os.close(self._fd)


def is_being_written(path: Path) -> bool:
    """Whether the writer of this file lives: it holds a lock on it. False where the file system cannot tell."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    finally:
        os.close(fd)
    return False


class SpoolReader:
    """Iterates over the whole frames of one file. `damaged` counts the bytes passed over, `torn` those of them that
    stand at the end of the file, where a killed writer leaves them."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.damaged = 0
        self.torn = 0

    def __iter__(self) -> Iterator[Frame]:
        """Payloads are views into the mapped file: they stay valid as long as somebody holds one."""
        self.damaged = self.torn = 0
        with open(self.path, "rb") as f:
            size = os.fstat(f.fileno()).st_size
            if size == 0:
                return
            data = mmap.mmap(f.fileno(), size, access=mmap.ACCESS_READ)
        view = memoryview(data)
        offset = 0
        while offset < size:
            try:
                frame, offset = unpack(view, offset)
            except WireError:
                found = data.find(MAGIC, offset + 1)
                skipped = (size if found < 0 else found) - offset
                self.damaged += skipped
                self.torn += skipped
                offset += skipped
            else:
                self.torn = 0
                yield frame


def spool_files(folder: Path) -> list[Path]:
    """The spool files of a run, in the order of their names."""
    return sorted(folder.glob("*" + SUFFIX))
