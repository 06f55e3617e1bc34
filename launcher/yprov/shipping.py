"""The client's other half, loaded with its first event: frames from what the script said, sent to the daemon."""

from __future__ import annotations

import os
import platform
import sys
import time
from typing import Any

from yprov.client import ROWS_PER_FRAME, SEND_LIMIT
from yprov.environment import job_environment
from yprovd.clock import SystemClock
from yprovd.processes import about_source
from yprovd.transport import Sender, ipc
from yprovd.wire import Kind, Packer, new_source, pack_metrics


class Shipper:
    """One process's connection to its node daemon. For the client's thread only."""

    def __init__(self, endpoint: str) -> None:
        self._packer = Packer(new_source(), SystemClock())
        self._sender = Sender(ipc(endpoint), limit=SEND_LIMIT, identity=b"proc-%016x" % self._packer.source)
        self._announced = False
        self._lost = 0

    @property
    def waiting(self) -> int:
        """Messages that are not on disk yet."""
        return self._sender.waiting

    def ship(self, metrics: list[Any], events: list[dict[str, Any]], *, dropped: int, sync: bool) -> None:
        """Send what there is. `dropped`: calls left out so far, in all."""
        frames: list[bytes] = []
        pack = self._packer
        for i in range(0, len(metrics), ROWS_PER_FRAME):
            frames.append(pack.frame(Kind.METRICS, pack_metrics(metrics[i:i + ROWS_PER_FRAME])))
        rows: list[dict[str, Any]] = []
        for event in events:
            if event["e"] == "file":
                frames.append(pack.json(Kind.FILE, event))
            else:
                rows.append(event)
        for i in range(0, len(rows), ROWS_PER_FRAME):
            frames.append(pack.json(Kind.EVENTS, rows[i:i + ROWS_PER_FRAME]))
        if dropped + self._sender.pushed_out > self._lost:
            self._lost = dropped + self._sender.pushed_out
            frames.append(pack.json(Kind.LOSS, {"events": dropped, "pushed_out": self._sender.pushed_out,
                                                "why": "events came faster than they could be sent"}))
        if frames or (sync and self.waiting):
            if not self._announced:
                frames.insert(0, pack.json(Kind.SOURCE, _about()))
                self._announced = True
            self._sender.send(frames, sync=sync)

    def receive(self, timeout_ms: int) -> None:
        self._sender.receive(timeout_ms)
        self._sender.resend_if_due()

    def wait(self, timeout_s: float) -> None:
        """Until everything is on disk, `timeout_s` at most."""
        deadline = time.monotonic() + timeout_s
        while self.waiting and (left := deadline - time.monotonic()) > 0:
            self.receive(max(1, int(min(left, 0.2) * 1000)))

    def close(self) -> None:
        self._sender.close()


def _about() -> dict[str, Any]:
    """This process, announced once: where it is, which rank, which interpreter."""
    job = job_environment(os.environ)
    return {
        **about_source("process"),
        "rank": job.rank, "world_size": job.world_size, "local_rank": job.local_rank, "launcher": job.launcher,
        "argv": sys.argv[:1], "python": platform.python_version(), "executable": sys.executable,
    }
