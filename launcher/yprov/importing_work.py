"""The hidden folder beside the runs in which an import works, and how what it made comes to its place.

    .import-<random>/lock      the host; locked for as long as the import lives
                     aside/    a run that is being replaced; it goes back when its place is found free
                     ...       the run that is being made, and what was unpacked of zip files

However an import ends, what it had put aside goes back and its folder goes away: at its end, also by Ctrl-C and SIGTERM
(`ended_by_signals`); after a SIGKILL when the next import on that host begins. On a file system without locks nobody
knows that an import is dead, and its folder stays.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

_PREFIX = ".import-"
_LOCK = "lock"
_ASIDE = "aside"


@contextmanager
def work_folder(directory: Path) -> Iterator[Path]:
    """A folder of the import's own in `directory`, for as long as the block lasts. Raises OSError."""
    for left in directory.glob(f"{_PREFIX}*"):
        _sweep(left)
    work = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=directory))
    try:
        (work / _ASIDE).mkdir()
        with open(work / _LOCK, "w", encoding="utf-8") as lock:
            with contextlib.suppress(OSError):  # a file system without locks
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            lock.write(os.uname().nodename)  # only now does anybody look whether it is locked
            lock.flush()
            try:
                yield work
            finally:
                _take_away(work)
    finally:  # also where a lock that is open keeps its folder from going
        _take_away(work)


def _sweep(left: Path) -> None:
    """Take the folder of an import away that was killed on this host. Others', and what cannot be read, stay."""
    with contextlib.suppress(OSError), open(left / _LOCK, "r+", encoding="utf-8") as lock:
        if lock.read() == os.uname().nodename:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _take_away(left)


def _take_away(work: Path) -> None:
    for run in (work / _ASIDE).iterdir() if (work / _ASIDE).is_dir() else ():
        if not (work.parent / run.name).exists():
            os.rename(run, work.parent / run.name)
    shutil.rmtree(work, ignore_errors=True)


def put_in_place(made: Path, final: Path, old: Path, work: Path) -> None:
    """`made` becomes `final`, instead of `old` if that is there. The renames may be cut anywhere: what is aside goes
    back by `work_folder`. Raises OSError."""
    aside = work / _ASIDE / old.name
    if old.exists():
        os.rename(old, aside)
    os.rename(made, final)
    if aside.exists():
        os.rename(aside, made)  # it has a successor: taken away in part, it must not go back
        shutil.rmtree(made, ignore_errors=True)


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """SIGTERM and SIGHUP end the block like an exit does, with status 128 + n, so that what it cleans up is cleaned up.
    Signals that are ignored (`nohup`) stay so. For the main thread."""

    def end(number: int, _frame: FrameType | None) -> None:
        signal.signal(number, signal.SIG_IGN)  # a second one does not cut the cleaning
        raise SystemExit(128 + number)

    taken = [n for n in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(n) is signal.SIG_DFL]
    for number in taken:
        signal.signal(number, end)
    try:
        yield
    finally:
        for number in taken:
            signal.signal(number, signal.SIG_DFL)
