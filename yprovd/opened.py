"""Which files the job's processes on this node have open: a coarse look at /proc/<pid>/fd, for those who ask for it.

Rows, as FILE frames: {t, role ("input" | "output"), path, name, copy: false, how: "opened"}. A file that is open for
writing (`flags` in /proc/<pid>/fdinfo, octal, open(2)) is an output, any other an input. What is open only between two
looks is not seen. Left out: what is no regular file, pseudo file systems, the system's and Python's own files, and the
run's.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterable
from typing import Any

#: Seconds between two looks: at first few, since inputs are often read and closed at the beginning.
FIRST_S, EVERY_S = 0.5, 10.0
#: Processes and descriptors of one look, and files of the run on this node.
MOST_PROCESSES, MOST_FDS, MOST_FILES = 2048, 1024, 1000
_NOT = ("/proc/", "/sys/", "/dev/", "/usr/", "/lib/", "/lib64/", "/bin/", "/sbin/", "/etc/", "/run/", "/opt/rocm",
        "/var/lib/", "/var/cache/", "/boot/")
_CODE = re.compile(r"\.so(\.\d+)*$|\.py[co]?$|/(site|dist)-packages/|/lib/python\d|/__pycache__/|/\.nv/|\(deleted\)$")
_FLAGS = re.compile(rb"^flags:\s*([0-7]+)", re.MULTILINE)


class OpenedFiles:
    """`own`: the run's directory. `root`: the directory that holds `proc`. Not thread-safe."""

    def __init__(self, root: str, own: str) -> None:
        self._proc = os.path.join(root, "proc")
        self._own = own + os.sep
        self._files: dict[str, bool] = {}  # path: written
        self.beyond = 0

    def look(self, processes: Iterable[str], now_ns: int) -> list[dict[str, Any]]:
        """Files that were not seen before, or not as written. Does not raise."""
        rows = []
        for n, pid in enumerate(processes):
            if n >= MOST_PROCESSES:
                break
            for path, written in self._open_in(pid):
                known = self._files.get(path)
                if known or known is written:
                    continue
                if known is None and len(self._files) >= MOST_FILES:
                    self.beyond += 1
                    continue
                self._files[path] = written
                rows.append({"t": now_ns, "role": "output" if written else "input", "path": path,
                             "name": os.path.basename(path), "copy": False, "how": "opened"})
        return rows

    def _open_in(self, pid: str) -> Iterable[tuple[str, bool]]:
        folder = f"{self._proc}/{pid}/fd"
        try:
            numbers = os.listdir(folder)[:MOST_FDS]
        except OSError:
            return  # it has gone, or is not ours to look at
        for number in numbers:
            try:
                path = os.readlink(f"{folder}/{number}")
                if not path.startswith("/") or path.startswith((*_NOT, self._own)) or _CODE.search(path):
                    continue
                if not stat.S_ISREG(os.stat(f"{folder}/{number}").st_mode):
                    continue
                with open(f"{self._proc}/{pid}/fdinfo/{number}", "rb", buffering=0) as f:
                    flags = _FLAGS.search(f.read(512))
            except OSError:
                continue
            yield path, flags is not None and int(flags[1], 8) & os.O_ACCMODE != os.O_RDONLY
