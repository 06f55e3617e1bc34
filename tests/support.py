"""What the tests of several rooms need: waiting for a condition, and a listener in the place of the node daemon."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from tests.running import environment, eventually
from yprovd.transport import DATA, Receiver, ipc, wait_readable
from yprovd.wire import Frame, Kind, MetricRow, frames_of, from_json, unpack_metrics

__all__ = ["Listener", "Said", "environment", "eventually", "run_script", "start_script"]


@dataclass
class Said:
    """What one process said: its frames, decoded, in their order."""

    about: dict[str, Any] = field(default_factory=dict)
    metrics: list[MetricRow] = field(default_factory=list)
    events: list[dict[str, Any]] = field(default_factory=list)
    files: list[dict[str, Any]] = field(default_factory=list)
    losses: list[dict[str, Any]] = field(default_factory=list)
    seqs: list[int] = field(default_factory=list)

    @property
    def pid(self) -> int:
        return int(self.about["pid"])

    @property
    def values(self) -> list[float]:
        return [row.value for row in self.metrics]

    def of(self, kind: str) -> list[dict[str, Any]]:
        return [e for e in self.events if e["e"] == kind]

    @property
    def exit(self) -> dict[str, Any] | None:
        found = self.of("exit")
        assert len(found) < 2
        return found[0] if found else None

    @property
    def arrived(self) -> int:
        """Calls that arrived, to be compared with what the exit record says was logged."""
        return len(self.metrics) + len(self.files) + sum(e["e"] != "exit" for e in self.events)


class Listener:
    """Stands where the node daemon does: takes what processes say, remembers it, and acknowledges it at once (unless
    `acknowledge` is false). In a directory of its own, with a path short enough for a socket.

    `wait=True` leaves the socket unbound until `listen()`: a daemon that comes late.
    """

    def __init__(self, *, acknowledge: bool = True, wait: bool = False) -> None:
        self.dir = Path(tempfile.mkdtemp(prefix="yprov-"))
        self.endpoint = str(self.dir / "node.sock")
        self.acknowledge = acknowledge
        self.messages = 0
        self._frames: dict[tuple[int, int], Frame] = {}
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        if not wait:
            self.listen()

    def listen(self) -> None:
        receiver = Receiver(ipc(self.endpoint))
        self._thread = threading.Thread(target=self._run, args=(receiver,))
        self._thread.start()

    def deaf(self) -> None:
        """Stop listening; what was heard is kept."""
        if self._thread is not None:
            self._stop.set()
            self._thread.join()
            self._thread = None
            self._stop.clear()

    def __enter__(self) -> Listener:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self.deaf()
        shutil.rmtree(self.dir)

    def _run(self, receiver: Receiver) -> None:
        while not self._stop.is_set():
            wait_readable(receiver.socket, timeout_ms=20)
            for message in receiver.receive():
                if message.kind != DATA:
                    continue
                with self._lock:
                    self.messages += 1
                    for data in message.frames:
                        for frame in frames_of(data):
                            self._frames[frame.source, frame.seq] = frame
                if self.acknowledge:
                    receiver.ack(message.peer, [message.number])
        receiver.close()

    def heard(self) -> list[Said]:
        """Everybody who said something, in the order of their pids."""
        with self._lock:
            frames = sorted(self._frames.items())
        said: dict[int, Said] = {}
        for (source, seq), frame in frames:
            one = said.setdefault(source, Said())
            one.seqs.append(seq)
            if frame.kind == Kind.METRICS:
                one.metrics += unpack_metrics(frame.payload)
            elif frame.kind == Kind.EVENTS:
                one.events += from_json(frame.payload)
            elif frame.kind == Kind.SOURCE:
                one.about = from_json(frame.payload)
            elif frame.kind == Kind.FILE:
                one.files.append(from_json(frame.payload))
            elif frame.kind == Kind.LOSS:
                one.losses.append(from_json(frame.payload))
        return sorted(said.values(), key=lambda s: s.about.get("pid", 0))

    def only(self) -> Said:
        """The one process that said something."""
        (said,) = self.heard()
        return said


def script_environment(endpoint: str, **changes: str) -> dict[str, str]:
    return environment(YPROV_ENDPOINT=endpoint, YPROV_RUN_ID="run-1", YPROV_RUN_DIR="/runs/1", **changes)


def start_script(code: str, endpoint: str, *args: str, env: dict[str, str] | None = None) -> subprocess.Popen[str]:
    """A Python program under our ears, its streams in pipes."""
    return subprocess.Popen([sys.executable, "-c", code, *args], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE, text=True, env=script_environment(endpoint, **(env or {})))


def run_script(
    code: str, endpoint: str, *args: str, env: dict[str, str] | None = None, file: Path | None = None,
    options: Sequence[str] = (), status: int = 0,
) -> subprocess.CompletedProcess[str]:
    """Run it to its end. With `file` it is written there first, as multiprocessing's spawn needs it. Nothing may be
    on stdout but what the program prints itself."""
    words = ["-c", code]
    if file is not None:
        file.write_text(code)
        words = [str(file)]
    done = subprocess.run([sys.executable, *options, *words, *args], capture_output=True, text=True, timeout=60,
                          env=script_environment(endpoint, **(env or {})), check=False)
    assert done.returncode == status, (done.returncode, done.stderr)
    return done


def seconds(since: float) -> float:
    return time.monotonic() - since
