"""The launcher's own records in the run's spool: what was run, what happened, how it ended."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from yprovd.clock import SystemClock
from yprovd.config import SPOOL_DIR
from yprovd.errors import SpoolFull
from yprovd.processes import about_source
from yprovd.secrets import Masker
from yprovd.spool import SpoolWriter
from yprovd.wire import Kind, Packer, new_source

#: Room kept on the disk for the run's last words.
_RESERVE = 64 << 10


class LauncherSpool:
    """Written at once, synced to disk; without what `masker` knows as a secret."""

    def __init__(self, run_dir: Path, masker: Masker | None = None) -> None:
        self._masker = masker or Masker()
        folder = run_dir / SPOOL_DIR
        self._packer = Packer(new_source(), SystemClock())
        self._writer = SpoolWriter(folder / f"launcher-{os.getpid()}.spool")
        self._reserve: Path | None = folder / ".reserve"
        with contextlib.suppress(OSError):
            fd = os.open(self._reserve, os.O_WRONLY | os.O_CREAT, 0o600)
            os.posix_fallocate(fd, 0, _RESERVE)
            os.close(fd)
        self._lock = threading.Lock()
        self._closed = False
        self.write(Kind.SOURCE, about_source("launcher"))

    @property
    def source(self) -> int:
        return self._packer.source

    def write(self, kind: int, value: Mapping[str, Any]) -> bool:
        """Also from threads. When the disk is full, the room kept back is used; False when even that is gone."""
        value = self._masker.document(dict(value))
        with self._lock:
            if self._closed:
                return False  # a thread that was not waited for
            frame = self._packer.json(kind, value)
            for attempt in (1, 2):
                try:
                    self._writer.append([frame])
                    self._writer.sync()
                    return True
                except (SpoolFull, OSError):
                    if attempt == 1 and self._reserve is not None:
                        self._give_room()
        return False

    def _give_room(self) -> None:
        if self._reserve is not None:
            self._reserve.unlink(missing_ok=True)
            self._reserve = None

    def close(self) -> None:
        with self._lock:
            self._closed = True
            self._give_room()
            with contextlib.suppress(OSError):
                self._writer.close()
