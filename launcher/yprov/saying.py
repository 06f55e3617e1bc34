"""What `yprov run` tells its user: on stderr, which it shares with the command, and never in the way of it."""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path


def say(text: str) -> None:
    """To stderr, each line marked as ours. Never raises."""
    with contextlib.suppress(OSError, ValueError):
        sys.stderr.write("".join(f"yprov: {line}\n" for line in text.splitlines()))
        sys.stderr.flush()


def say_nothing(_text: str) -> None:
    """In the place of `say`, for who wants no progress."""


def show_path(path: Path) -> str:
    """Relative where that is shorter, as the user would type it."""
    relative = os.path.relpath(path)
    return relative if len(relative) < len(str(path)) else str(path)
