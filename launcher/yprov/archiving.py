"""The archive of a run that has ended: waited for while the collector makes it, made here where that cannot."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from yprov.command import Signals
from yprov.daemons import Daemons, clean_environment
from yprov.saying import say, show_path

if TYPE_CHECKING:
    from yprov.placed import PlacedDaemons

#: How long it is waited for when the collector could not be asked to make it.
UNREACHED_S = 5.0


def see_to_archive(
    run_dir: Path, daemons: Daemons | PlacedDaemons, signals: Signals, began: float, progress: Callable[[str], None],
    *, in_order: bool,
) -> None:
    """Leaves the daemons. `began`: when the end did, on the monotonic clock. `in_order`: the daemons have ended as they
    were told. Those on other nodes that cannot be reached go on by themselves once we are gone."""
    patience_s = UNREACHED_S if not in_order and not isinstance(daemons, Daemons) else float("inf")
    status = _waited_for(daemons, signals, began, patience_s, progress)
    if status is None:
        daemons.let_go()
        say(f"the archive is still being made in {show_path(run_dir)}")
        return
    daemons.close()
    if status != 0:
        status = subprocess.run([sys.executable, "-P", "-m", "yprovd.stitch", str(run_dir)],
                                stdin=subprocess.DEVNULL, env=clean_environment(), check=False).returncode
    if status != 0:
        say("warning: the archive could not be finished; the spool is kept\n"
            f"hint: yprov stitch {show_path(run_dir)}")


def _waited_for(
    daemons: Daemons | PlacedDaemons, signals: Signals, began: float, patience_s: float,
    progress: Callable[[str], None],
) -> int | None:
    """The status of the stitch; None when it is not there in time, or the user does not want to wait (Ctrl-C)."""
    signals.interrupted = 0
    told = began + 2.0
    deadline = time.monotonic() + patience_s
    while True:
        status = daemons.archive_made(0.1)
        if status is not None or signals.interrupted or time.monotonic() > deadline:
            return status
        if time.monotonic() > told:
            progress(f"making the archive ({time.monotonic() - began:.0f} s; Ctrl-C leaves it to the background)")
            told = time.monotonic() + 10.0
