"""Which files are part of an imported folder, and what they weigh. Nothing outside of it is read, by no link, and
nothing that is no regular file: a FIFO would hold the import up for ever."""

from __future__ import annotations

import os
import stat
from pathlib import Path


def inside(home: Path, path: Path) -> Path | None:
    """Where `path` really lies; None when nothing is there, or it leads out of `home`."""
    try:
        found = path.resolve(strict=True)
        return found if found.is_relative_to(home.resolve()) else None
    except (OSError, ValueError, RuntimeError):  # a name with a NUL; a link to itself
        return None


def weight(path: Path) -> int:
    """The bytes of a regular file, or of a folder that holds nothing but such. Raises ValueError for anything else, and
    OSError."""
    mode = path.lstat()
    if stat.S_ISREG(mode.st_mode):
        return mode.st_size
    if not stat.S_ISDIR(mode.st_mode):
        raise ValueError(f"`{path.name}` is no regular file")
    with os.scandir(path) as entries:
        return sum(weight(Path(entry)) for entry in entries)
