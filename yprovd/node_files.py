"""The files of a job on one node: those that its processes name, and those that they are seen to have open."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from yprovd.config import RunConfig
from yprovd.files import FileWorker
from yprovd.opened import EVERY_S, FIRST_S, OpenedFiles
from yprovd.secrets import Masker


class NodeFiles:
    """`source`: of the declarations of what was only seen. `sink` takes the facts, in a thread of its own."""

    def __init__(
        self, run_dir: Path, config: RunConfig, source: int, masker: Masker, sink: Callable[[dict[str, Any]], None]
    ) -> None:
        settings = config.settings
        self._worker = FileWorker(run_dir / "artifacts", sink, hash_limit=settings.hash_limit, masker=masker)
        self._opened = OpenedFiles(config.root, str(run_dir)) if settings.opened_files else None
        self._source = source
        self._masker = masker
        self._look_at, self._pause_s = 0.0, FIRST_S
        self._written: list[dict[str, Any]] = []  # files that are complete when the run ends
        self.declare = self._worker.declare
        self.close = self._worker.close

    def look(self, processes: Callable[[], Iterable[str]], mono_ns: int) -> list[dict[str, Any]]:
        """Files that the job has open now, as declarations, when it is time to look; what is written is looked at when
        the run ends."""
        if self._opened is None or time.monotonic() < self._look_at:
            return []
        self._look_at = time.monotonic() + self._pause_s
        self._pause_s = min(2 * self._pause_s, EVERY_S)
        rows = self._opened.look(processes(), mono_ns)
        for row in rows:
            if row["role"] == "output":
                self._written.append(row)
            else:
                self._worker.declare(self._source, row)
        return [self._masker.document(row) for row in rows]

    def declare_written(self) -> None:
        """The run has ended: what was only seen is complete now."""
        for row in self._written:
            self._worker.declare(self._source, row)
