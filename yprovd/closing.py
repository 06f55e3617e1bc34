"""The stitch that the collector keeps ready, in a process of its own: the daemon itself never loads numpy or zarr."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from pathlib import Path


class ReadyStitch:
    """Not started yet. One that is started loads numpy and zarr, a third of a second, and begins when it is told to. If
    we die first, its standard input ends without a word, and it ends."""

    def __init__(self, run_dir: Path) -> None:
        self._run_dir = run_dir
        self._process: subprocess.Popen[bytes] | None = None

    def __bool__(self) -> bool:
        return self._process is not None

    def start(self, *, urgent: bool = False) -> None:
        """Unless it is there. `urgent`: the job is being killed, and what is not done by then is not done; otherwise
        the job comes first."""
        if self._process is not None:
            return
        environ = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "yprovd.stitch", "--when-told", str(self._run_dir)],
            stdin=subprocess.PIPE, env=environ, start_new_session=True)
        if not urgent:
            with contextlib.suppress(OSError):
                os.setpriority(os.PRIO_PROCESS, self._process.pid, 5)

    def drop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def make(self, *, keep_spool: bool) -> int:
        """Have the archive made. Blocks until it is; the status of the stitch."""
        self.start()
        assert self._process is not None
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError), self._process.stdin:
            self._process.stdin.write(b"keep\n" if keep_spool else b"go\n")
        return self._process.wait()
