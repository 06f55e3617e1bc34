"""The client's other half, loaded with its first event: frames from what the script said, sent to the daemon."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from typing import Any

from yprov.environment import place_of
from yprovd.clock import SystemClock
from yprovd.processes import about_source
from yprovd.transport import Sender, ipc
from yprovd.wire import Kind, Packer, new_source, pack_metrics, to_json

#: Bytes kept until the daemon has them on disk.
SEND_LIMIT = 32 << 20
#: Rows of one frame: what a damaged frame can cost.
ROWS_PER_FRAME = 8192
#: Files of one process of which we look whether they are there: each look costs the file system a request.
LOOKS = 1000


class Shipper:
    """One process's connection to its node daemon, which knows it by `source`. For the client's thread only."""

    def __init__(self, endpoint: str, source: int) -> None:
        self._endpoint = endpoint
        self._packer = Packer(source, SystemClock())
        self._sender, self._guard = self._connection(source)
        self._about = _about()
        self._announced = False
        self._pushed_out = 0
        self._told = (0, 0, 0)  # lost, rejected, pushed out
        self._looks = LOOKS

    def _connection(self, name: int) -> tuple[Sender, _Guard]:
        sender = Sender(ipc(self._endpoint), limit=SEND_LIMIT, identity=b"proc-%016x" % name)
        return sender, _Guard()

    def _renew(self) -> None:
        """A program that makes itself a daemon closes every descriptor, also those of libzmq, which aborts the process
        when it is asked for anything then. It is left alone for ever, and what is not on disk goes another way. Under
        another name: the numbers of its messages begin anew."""
        if self._guard.stands():
            return
        kept, pushed_out = self._sender.kept(), self._sender.pushed_out
        _never_free(self._sender)
        self._sender, self._guard = self._connection(new_source())
        self._sender.pushed_out = pushed_out
        if kept:
            self._sender.send(kept, sync=True)

    @property
    def waiting(self) -> int:
        """Messages that are not on disk yet."""
        return self._sender.waiting

    def ship(
        self, metrics: list[Any], events: list[dict[str, Any]], *, lost: int, rejected: int, reason: str, sync: bool
    ) -> list[str]:
        """Send what there is. `lost`, `rejected`: calls left out so far, in all, and the first reason of the latter.
        Returns why, for each that has to be rejected now, because it cannot be written. Never raises for what is in
        them."""
        self._renew()
        frames: list[bytes] = []
        refused: list[str] = []
        for i in range(0, len(metrics), ROWS_PER_FRAME):
            refused += self._pack(frames, Kind.METRICS, pack_metrics, metrics[i:i + ROWS_PER_FRAME])
        rows: list[dict[str, Any]] = []
        for event in events:
            if event["e"] == "file":
                refused += self._pack(frames, Kind.FILE, lambda one: to_json(one[0]), [event])
            else:
                rows.append(event)
        for i in range(0, len(rows), ROWS_PER_FRAME):
            refused += self._pack(frames, Kind.EVENTS, to_json, rows[i:i + ROWS_PER_FRAME])
        if self._sender.pushed_out > self._pushed_out:
            self._pushed_out = self._sender.pushed_out
            self._announced = False  # the announcement may have been among what was pushed out
        told = lost, rejected + len(refused), self._pushed_out
        if told != self._told:
            self._told = told
            frames.append(self._packer.json(Kind.LOSS, {
                "events": lost, "why": "the process's queue was full", "pushed_out": self._pushed_out,
                "rejected": rejected + len(refused), "reason": reason or "".join(refused[:1])}))
        if frames:
            if not self._announced:
                frames.insert(0, self._packer.json(Kind.SOURCE, self._about))
                self._announced = True
            self._sender.send(frames, sync=sync)
        return refused

    def _pack(self, frames: list[bytes], kind: int, encode: Callable[[list[Any]], bytes], rows: list[Any]) -> list[str]:
        """Adds the rows as frames: one, or more when they are too long for one or one of them cannot be written.
        Returns why, for each that was left out."""
        try:
            frames.append(self._packer.frame(kind, encode(rows)))
        except Exception as e:  # noqa: BLE001  whatever a script logs, the rest of what it logs is recorded
            if len(rows) == 1:
                name = rows[0].get("name", rows[0]["e"]) if isinstance(rows[0], dict) else rows[0][1]
                return [f"{name!r:.100}: {e}"]
            half = len(rows) // 2
            return self._pack(frames, kind, encode, rows[:half]) + self._pack(frames, kind, encode, rows[half:])
        return []

    def look(self, events: list[dict[str, Any]]) -> str:
        """Which of the declared files are there, as this process sees them: it may be in a container, and the daemon
        not. They are `seen`. Returns the first that the script says to have made and that is not there, or "": for
        the script's author, in time to mend it."""
        missing = ""
        for event in events:
            if event["e"] == "file" and "://" not in event["path"] and self._looks > 0:
                self._looks -= 1
                try:
                    os.stat(event["path"])
                    event["seen"] = True
                except (FileNotFoundError, NotADirectoryError):
                    if event["role"] in ("output", "model"):
                        missing = missing or str(event["path"])
                except (OSError, ValueError):
                    pass  # nobody knows
        return missing

    def receive(self, timeout_ms: int) -> None:
        self._renew()
        self._sender.receive(timeout_ms)
        self._sender.resend_if_due()

    @property
    def reachable(self) -> bool:
        """Whether there is a socket at all: it goes with the run, and a process may live on."""
        return os.path.exists(self._endpoint)

    def wait(self, timeout_s: float) -> None:
        """Until everything is on disk, `timeout_s` at most."""
        deadline = time.monotonic() + timeout_s
        while self.waiting and (left := deadline - time.monotonic()) > 0:
            self.receive(max(1, int(min(left, 0.2) * 1000)))

    def close(self) -> None:
        if self._guard.stands():
            self._guard.close()
            self._sender.close()
        else:
            _never_free(self._sender)


class _Guard:
    """A descriptor of ours beside those of libzmq, which shows whether somebody has closed them all: a file in memory,
    that has an identity, which libzmq's own have not."""

    def __init__(self) -> None:
        try:
            self._fd = os.memfd_create("yprov")
        except OSError:
            self._fd = -1  # not allowed here: nobody watches
        self._is = self._identity()

    def _identity(self) -> tuple[int, int] | None:
        try:
            stat = os.fstat(self._fd)
        except OSError:
            return None
        return stat.st_dev, stat.st_ino

    def stands(self) -> bool:
        return self._identity() == self._is

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)


def _never_free(thing: Any) -> None:
    """To free a connection is to ask libzmq for something, also when the interpreter ends."""
    import ctypes

    ctypes.pythonapi.Py_IncRef(ctypes.py_object(thing))


def _about() -> dict[str, Any]:
    """This process, announced once: where it is, which rank, which interpreter."""
    return {
        **about_source("process"),
        **place_of(os.environ),
        "argv": sys.argv[:1], "python": sys.version.split()[0], "executable": sys.executable,
    }
