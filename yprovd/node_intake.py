"""What the processes of a job say to their node's daemon: taken when it is whole, and without secrets."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from yprovd.config import RunConfig
from yprovd.errors import WireError
from yprovd.masking import masked_frames, values_of_process
from yprovd.processes import carries_marker
from yprovd.secrets import Masker
from yprovd.transport import DATA, QUESTION, REPLY, STOP, Message, Receiver
from yprovd.wire import Kind, frames_of, from_json

#: Of processes that were not heard so many are named; the others are counted.
MOST_NAMES = 1000
#: Bytes of a process's mark: a sign and its name (`yprov.beginning`).
_MARK = 17


@dataclass
class Taken:
    """What came since the last time. `riders`: (peer, number) of the messages that the frames came in; they are
    acknowledged when these are on disk. `stop`: the launcher wants the daemon to end."""

    frames: list[bytes] = field(default_factory=list)
    riders: list[tuple[bytes, int]] = field(default_factory=list)
    sync: bool = False
    stop: bool = False


class Intake:
    """`declare(source, declaration)` is told of each file that a process names, by its real path."""

    def __init__(
        self, receiver: Receiver, config: RunConfig, host: str, masker: Masker,
        declare: Callable[[int, dict[str, Any]], None],
    ) -> None:
        self._receiver = receiver
        self._config = config
        self._host = host
        self._masker = masker
        self._declare = declare
        self._heard: set[int] = set()
        self._clients = os.path.join(config.runtime_dir, "clients")
        with contextlib.suppress(OSError):  # a daemon that is started again reads on
            os.close(os.open(self._clients, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))

    def take(self) -> Taken:
        taken = Taken()
        for message in self._receiver.receive():
            if message.kind == DATA:
                taken.frames.extend(self._checked(message))
                taken.riders.append((message.peer, message.number))
                taken.sync = taken.sync or message.sync
            elif message.kind == QUESTION:
                self._receiver.control(message.peer, REPLY, {"role": "node", "host": self._host})
            elif message.kind == STOP:  # from the launcher, when there is no collector to say it
                taken.stop = True
        return taken

    def _checked(self, message: Message) -> list[bytes]:
        """The frames of a process that are whole; declarations of files are looked at on the way."""
        good = []
        for data in message.frames:
            try:
                frames = frames_of(data)
                for frame in frames:
                    if frame.kind == Kind.SOURCE:
                        self._heard.add(frame.source)
                        self._learn_secrets(from_json(frame.payload))
                    elif frame.kind == Kind.FILE:
                        self._declare(frame.source, from_json(frame.payload))
                data = masked_frames(frames, data, self._masker)
            except (WireError, KeyError, TypeError, AttributeError):
                self._receiver.malformed += 1
            else:
                good.append(data)
        return good

    def _learn_secrets(self, about: dict[str, Any]) -> None:
        """Those that a process has in its environment and we have not: a script may have set them."""
        pid, root = int(about["pid"]), self._config.root
        if about.get("host") == self._host and carries_marker(pid, self._config.run_id, root):
            with contextlib.suppress(OSError), open(os.path.join(root, "proc", str(pid), "environ"), "rb") as f:
                self._masker.learn(values_of_process(f.read()))

    def unheard(self) -> dict[str, Any] | None:
        """Who began to speak, never came to the end of it, and was not heard at all: as a LOSS; None when there is
        nobody."""
        try:
            with open(self._clients, "rb") as f:
                lines = f.read().split(b"\n")
            os.unlink(self._clients)
        except OSError:
            return None
        left = {line[1:] for line in lines if line[:1] == b"-"}
        silent = sorted({line[1:].decode("ascii", "replace") for line in lines
                         if len(line) == _MARK and line[:1] == b"+" and line[1:] not in left}
                        - {f"{source:016x}" for source in self._heard})
        return {"silent": silent[:MOST_NAMES], "silent_count": len(silent), "events": 0, "pushed_out": 0,
                "why": "processes were ended before they were heard"} if silent else None
