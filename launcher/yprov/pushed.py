"""Where a run was published: `.push.json` in its directory, about the archive and no part of it.

    {"format": "yprov-push", "version": 1, "pushes": [{"url", "backend", "pid", "version", "parent", "sha256", "time",
     "artifacts": {path: {"pid", "sha256"}}, "related": [pid], "pending": {"sha256", "parent", "since"}}]}

One for each service: the last push that arrived, and what was begun and not heard of again. There is no secret in it.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from yprov.addresses import json_of
from yprov.parcels import Attempt, Published
from yprov.runs import write_whole
from yprovd.config import PUSH_FILE, PUSH_LOCK

_FORMAT, _VERSION = "yprov-push", 1


@contextlib.contextmanager
def alone(run_dir: Path, say: Callable[[str], None]) -> Iterator[None]:
    """One push of a run at a time, also from several hosts where the file system can lock. Where nothing may be
    written it goes without."""
    try:
        fd = os.open(run_dir / PUSH_LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
    except OSError:
        yield
        return
    try:
        with contextlib.suppress(OSError):  # a file system without locks
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                say("waiting for another push of this run")
                fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


class Memory:
    """What `.push.json` says of one service. `push`: the last that arrived; `pending`: one of which nobody knows."""

    def __init__(self, run_dir: Path, url: str, backend: str, say: Callable[[str], None]) -> None:
        self._path, self._say = run_dir / PUSH_FILE, say
        self._key = {"url": url, "backend": backend}
        found = [p for p in self._read() if self._key.items() <= p.items()]
        self._entry: dict[str, Any] = found[-1] if found else dict(self._key)

    @property
    def push(self) -> dict[str, Any] | None:
        pid = self._entry.get("pid")
        return self._entry if isinstance(pid, str) and pid else None

    @property
    def pending(self) -> Attempt | None:
        value: Any = self._entry.get("pending")
        try:
            sha256, parent, since = value["sha256"], value["parent"], datetime.fromisoformat(value["since"])
        except (TypeError, KeyError, ValueError):
            return None
        good = isinstance(sha256, str) and (parent is None or isinstance(parent, str)) and since.tzinfo is not None
        return Attempt(sha256, parent, since) if good else None

    @property
    def artifacts(self) -> dict[str, dict[str, str]]:
        value = self._entry.get("artifacts")
        return {k: v for k, v in value.items() if isinstance(v, dict)} if isinstance(value, dict) else {}

    @property
    def related(self) -> Any:
        """The artifacts that the service knows to belong to the document: their pids, sorted."""
        return self._entry.get("related")

    def has(self, name: str, sha256: str) -> bool:
        """Whether an artifact was sent as it is now."""
        return self.artifacts.get(name, {}).get("sha256") == sha256

    def expect(self, attempt: Attempt | None) -> None:
        """Before it is made; None when it is known that nothing came of it."""
        entry = {k: v for k, v in self._entry.items() if k != "pending"}
        if attempt is not None:
            entry["pending"] = {"sha256": attempt.sha256, "parent": attempt.parent, "since": attempt.since.isoformat()}
        with contextlib.suppress(OSError):  # told when there is something to remember
            self._write(entry)

    def remember(self, published: Published, sha256: str) -> None:
        before = self.push
        if before is not None and not published.sent and before.get("sha256") == sha256 and "pending" not in before:
            return
        self._note({**self._key, "pid": published.pid, "version": published.version, "parent": published.parent,
                    "sha256": sha256, "time": datetime.now(UTC).isoformat(timespec="seconds"),
                    "artifacts": self.artifacts})

    def remember_artifact(self, name: str, pid: str, sha256: str) -> None:
        self._note({**self._entry, "artifacts": {**self.artifacts, name: {"pid": pid, "sha256": sha256}}})

    def remember_related(self, pids: list[str]) -> None:
        self._note({**self._entry, "related": pids})

    def _note(self, entry: dict[str, Any]) -> None:
        try:
            self._write(entry)
        except OSError as e:
            self._say(f"warning: cannot note in `{self._path}` that this is published: {e.strerror}; "
                      f"the next version needs --parent {entry['pid']}")

    def _read(self) -> list[dict[str, Any]]:
        """Whatever cannot be read was not written by us, and nothing is known."""
        try:
            value = json_of(self._path.read_bytes())
        except OSError:
            value = None
        pushes = value.get("pushes") if isinstance(value, dict) and value.get("format") == _FORMAT else None
        return [p for p in pushes if isinstance(p, dict)] if isinstance(pushes, list) else []

    def _write(self, entry: dict[str, Any]) -> None:
        """What it says of other services stays as it is now."""
        self._entry = entry
        pushes = [p for p in self._read() if not self._key.items() <= p.items()] + [entry]
        text = json.dumps({"format": _FORMAT, "version": _VERSION, "pushes": pushes}, indent=1) + "\n"
        write_whole(self._path, text.encode())
