"""Facts about the files that a run declares: size, time, SHA-256, and a copy where one was asked for.

They are looked at where they lie, on the node that named them, beside the job: one thread at the lowest priority,
files above a limit without a checksum, and an end when the run ends. A file that cannot be looked at is a fact
with a reason. A copy is a part of the archive: of a text the secrets are overwritten in it (`masked`), anything else
with a secret in it is not copied.
"""

from __future__ import annotations

import os
import queue
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from yprovd.secrets import Masker

#: Larger files get their size and time, and no checksum: reading them would take the file system from the job.
HASH_LIMIT = 4 << 30
#: Larger copies are taken for data and not for a text.
TEXT_LIMIT = 32 << 20
#: Of a folder at most so many files are looked at.
FOLDER_LIMIT = 10_000
_BLOCK = 1 << 20


class _OutOfTime(Exception):
    pass


class _Secret(Exception):
    pass


def lasting(name: str) -> str:
    """The name, or relative path, of a file that is to be kept: none that half-written files have, which no archive
    holds (`yprovd.stitch.contents`). `.x.tmp` is `_.x.tmp`."""
    folder, slash, last = name.rpartition("/")
    half = last.startswith(".partial-") or (last.startswith(".") and last.endswith(".tmp"))
    return f"{folder}{slash}_{last}" if half else name


class FileWorker:
    """Takes declarations (FILE frames) and gives facts (FACTS, see `yprovd.stitch.record`) to `sink`, from its thread.

    `artifacts`: the folder that copies go to; it is made when the first one comes.
    """

    def __init__(
        self, artifacts: Path, sink: Callable[[dict[str, Any]], None], *, hash_limit: int = HASH_LIMIT,
        masker: Masker | None = None,
    ) -> None:
        self._masker = masker or Masker()
        self._artifacts = artifacts
        self._sink = sink
        self._limit = hash_limit
        self._queue: queue.SimpleQueue[tuple[dict[str, Any], str, bool] | None] = queue.SimpleQueue()
        self._deadline = float("inf")
        self._thread: threading.Thread | None = None
        self._declared: set[tuple[int, int, str]] = set()
        # What was read already, by what the file is: eight ranks that name one file have it read once.
        self._known: dict[tuple[int, int, int, int], str] = {}

    def declare(self, source: int, declaration: dict[str, Any]) -> None:
        """Look at this file soon. Never blocks. Raises KeyError or TypeError for what is not a declaration."""
        path = str(declaration["path"])
        facts = {"path": self._masker.text(path), "t": declaration["t"], "source": f"{source:016x}"}
        copy = bool(declaration.get("copy"))
        key = (source, facts["t"], facts["path"])
        if key in self._declared:
            return  # it was sent twice
        self._declared.add(key)
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="yprov-files", daemon=True)
            self._thread.start()
        self._queue.put((facts, path, copy))

    def close(self, timeout_s: float) -> None:
        """Finish what was declared, for at most `timeout_s`; what is left is told so as a fact."""
        if self._thread is None:
            return
        self._deadline = time.monotonic() + timeout_s
        self._queue.put(None)
        self._thread.join(timeout_s + 1.0)

    def _run(self) -> None:
        try:
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 19)
        except OSError:
            pass  # not allowed here: it is a courtesy
        while True:
            declared = self._queue.get()
            if declared is None:
                return
            facts, path, copy = declared
            try:
                facts.update(self._look(path, copy=copy))
            except _Secret:
                facts["reason"] = "not copied: it is no text, and holds what looks like a secret"
            except _OutOfTime:
                facts["reason"] = "the run ended before it was read"
            except OSError as e:
                facts["reason"] = e.strerror or str(e)
            except ValueError as e:  # a name that no file can have: with a zero byte in it
                facts["reason"] = str(e)
            self._sink(facts)

    def _look(self, path: str, *, copy: bool) -> dict[str, Any]:
        if time.monotonic() > self._deadline:
            raise _OutOfTime
        if "://" in path:
            return {"reason": "an address: only files are looked at"}
        try:
            stat = os.stat(path)
        except (FileNotFoundError, NotADirectoryError) as e:
            return {"missing": True, "reason": str(e.strerror)}
        facts: dict[str, Any] = {"modified_ns": stat.st_mtime_ns}
        if os.path.isdir(path):
            return {**facts, **self._look_into(path, copy=copy)}
        if not os.path.isfile(path):
            return {**facts, "reason": "not a regular file"}
        facts["size"] = stat.st_size
        if stat.st_size > self._limit and not copy:
            return {**facts, "reason": f"larger than {self._limit} bytes"}
        key = (stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns)
        if not copy and key in self._known:
            return {**facts, "sha256": self._known[key]}
        digest, size, stored, masked = self._read(path, copy=copy)
        if stored:  # the checksum is the copy's, whatever has become of the file
            return {**facts, "size": size, "sha256": digest, "stored": stored, **({"masked": True} if masked else {})}
        after = os.stat(path)
        if (after.st_size, after.st_mtime_ns) != (stat.st_size, stat.st_mtime_ns):
            return {**facts, "size": after.st_size, "modified_ns": after.st_mtime_ns,
                    "reason": "it changed while it was read"}
        self._known[key] = digest
        return {**facts, "sha256": digest}

    def _look_into(self, path: str, *, copy: bool) -> dict[str, Any]:
        """A folder's number of files and their size; of a large one, only that it is large: each look costs the file
        system a request."""
        sizes: list[int] = []
        more = ""
        for folder, _dirs, names in os.walk(path):
            if time.monotonic() > self._deadline:
                raise _OutOfTime
            sizes += [os.lstat(os.path.join(folder, name)).st_size for name in names[:FOLDER_LIMIT - len(sizes)]]
            if len(sizes) >= FOLDER_LIMIT:
                more = "more than "
                break
        reason = f"a folder of {more}{len(sizes)} files" + ("; folders are not copied" if copy else "")
        return {"reason": reason} if more else {"size": sum(sizes), "reason": reason}

    def _read(self, path: str, *, copy: bool) -> tuple[str, int, str, bool]:
        """(SHA-256, bytes, where the copy lies within the run's directory or "", whether it is masked)."""
        import hashlib

        digest = hashlib.sha256()
        size = 0
        out = None
        partial = self._artifacts / f".partial-{os.getpid()}-{threading.get_native_id()}"
        try:
            if copy:
                self._artifacts.mkdir(exist_ok=True)
                out = open(partial, "wb")  # noqa: SIM115  closed below, also when reading fails
            with open(path, "rb", buffering=0) as f:
                while block := f.read(_BLOCK):
                    if time.monotonic() > self._deadline:
                        raise _OutOfTime
                    digest.update(block)
                    size += len(block)
                    if out is not None:
                        out.write(block)
            if out is None:
                return digest.hexdigest(), size, "", False
            out.close()
            changed = self._mask(partial, size)
            name = lasting(os.path.basename(self._masker.text(path)))
            return changed or digest.hexdigest(), size, self._publish(partial, name), bool(changed)
        finally:
            if out is not None:
                out.close()
                partial.unlink(missing_ok=True)

    def _mask(self, partial: Path, size: int) -> str:
        """Take the secrets out of a copy; its SHA-256 where that has changed it."""
        import hashlib

        with open(partial, "rb") as f:
            text = size <= TEXT_LIMIT and b"\0" not in f.read(8000)
        if not text:
            if self._masker.in_binary(partial):
                raise _Secret
            return ""
        before = partial.read_bytes()
        self._masker.overwrite(partial)
        after = partial.read_bytes()
        return hashlib.sha256(after).hexdigest() if after != before else ""

    def _publish(self, partial: Path, name: str) -> str:
        """Give the copy a name that no other has: checkpoint.pt, checkpoint-2.pt... The name is taken first, so that
        nothing is overwritten, also on file systems without hard links."""
        stem, suffix = os.path.splitext(name)
        number = 1
        while True:
            final = self._artifacts / (name if number == 1 else f"{stem}-{number}{suffix}")
            try:
                os.close(os.open(final, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
            except FileExistsError:
                number += 1
            else:
                os.replace(partial, final)
                return f"{self._artifacts.name}/{final.name}"
