"""`python -m yprov.capturing`: looks at the code, the packages and the container of a run, beside its command.

A process of its own, so that it can have the lowest priority, and be ended when the run ends. Its standard input gives
the job as a line of JSON {run_dir, argv, cwd, run_id, hash_limit, begun_ns, parent}, and ends with the command. Each
line that it writes is `{"part": a part of the RUN record, "done": [steps]}`, as soon as it is known. While the command
runs it also takes secrets out of the logs (`Masker.overwrite`).
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import select
import shutil
import signal
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from yprov import container, packages
from yprov.capture import ALWAYS_S, STEPS, script_of
from yprov.gitting import GitFailed
from yprov.interpreter import Found, interpreter_of, surroundings
from yprov.locating import named
from yprov.repository import Code, store
from yprovd.files import lasting
from yprovd.processes import carries_marker
from yprovd.secrets import Masker, known_values, values_of_command

#: Seconds for all of it; and for what is left when the command has ended.
_ALL_S, _HURRY_S = 300.0, 1.2
#: Of the time that there always is, what the reasons need to arrive.
_SPARE_S = 1.0
#: Between two looks at the logs, and for a Python among the run's processes; how long that one is sought.
_LOGS_S, _SEEK_S, _SOUGHT_S = 2.0, 0.5, 60.0
_COPY_LIMIT = 16 << 20
LOCKS = ("uv.lock", "poetry.lock", "pdm.lock", "pixi.lock", "Pipfile.lock", "Pipfile", "pylock.toml", "pyproject.toml",
         "environment.yml", "environment.yaml", "conda-lock.yml", "setup.cfg", "setup.py", "pixi.toml")
LOGS = ("stdout.log", "stderr.log", "output.log")


class Capturing:
    """One run's look around. `said`: gets each part. `ended`: whether the command has, asked again and again."""

    def __init__(
        self, job: dict[str, Any], said: Callable[[dict[str, Any], list[str]], None], ended: Callable[[float], bool],
    ) -> None:
        self.said, self._ended = said, ended
        self.run_dir, self.cwd = Path(job["run_dir"]), Path(job["cwd"])
        self.argv: list[str] = list(job["argv"])
        self.run_id, self.begun_ns = str(job["run_id"]), int(job["begun_ns"])
        self.limit = int(job["hash_limit"])
        self.source = self.run_dir / "source"
        self.scratch = self.run_dir / f".capture.{os.getpid()}.tmp"  # the stitch takes away what we leave
        self.masker = Masker(known_values(os.environ) | values_of_command(self.argv))
        self.code: dict[str, Any] = {}
        self.repository: Code | None = None
        self.looked_to: dict[str, int] = {}
        self._began = time.monotonic()
        self._deadline = self._began + _ALL_S
        self._hurried = False

    def left_s(self) -> float:
        """Seconds left; few once the command has ended."""
        if not self._hurried and self._ended(0.0):
            self._hurried = True
            hurried = max(time.monotonic() + _HURRY_S, self._began + ALWAYS_S - _SPARE_S)
            self._deadline = min(self._deadline, hurried)
        return self._deadline - time.monotonic()

    def run(self) -> None:
        try:
            for step in STEPS:
                part: dict[str, Any] = {}
                try:
                    part = getattr(self, f"_{step}")()
                except Exception as e:  # noqa: BLE001  whatever a user's files are like, the other steps are done
                    part = {f"{step}_reason": self.masker.text(f"{type(e).__name__}: {e}")}
                self.said(part, [step])
        finally:
            shutil.rmtree(self.scratch, ignore_errors=True)

    def _script(self) -> dict[str, Any]:
        script = script_of(self.argv, self.cwd)
        if script is not None:
            self.code["script"] = self._copy(script, script.name)
        folders = [script.parent, self.cwd] if script is not None else [self.cwd]
        for folder in folders:
            try:
                self.repository = Code(Path(os.path.realpath(folder)), self.source, self.scratch / "git", self.masker,
                                       self.left_s, given=named(os.environ, self.cwd))
                break
            except (GitFailed, OSError, ValueError, RuntimeError) as e:  # also where there is no home: the rest is told
                shutil.rmtree(self.scratch, ignore_errors=True)
                self.code["reasons"] = {"repository": str(e)}
        if self.repository is not None:
            self.code.pop("reasons", None)
            self.code |= self.repository.facts
        facts = container.container_of(self.argv, os.environ)
        self.container = self.masker.document(facts)
        self.image = facts
        return {**({"code": self.code} if self.code else {}), **({"container": self.container} if facts else {})}

    def _copy(self, path: Path, name: str) -> dict[str, Any]:
        """A copy in source/, masked where it holds a secret: the checksum is the copy's."""
        about: dict[str, Any] = {"path": self.masker.text(str(path))}
        try:
            if path.stat().st_size > _COPY_LIMIT:
                return {**about, "reason": f"larger than {_COPY_LIMIT} bytes"}
            data = path.read_bytes()
            masked = self.masker.data(data)
            kept = store(self.source, lasting(self.masker.text(name)), masked)
        except OSError as e:
            return {**about, "reason": e.strerror or str(e)}
        return {**about, "sha256": kept["sha256"], "stored": kept["path"], "bytes": kept["bytes"],
                **({"masked": True} if masked is not data else {})}

    def _changes(self) -> dict[str, Any]:
        if self.repository is None:
            return {}
        self.repository.take_changes(self.run_dir.parent, self.begun_ns)
        self.code |= self.repository.facts
        return {"code": self.code}

    def _unpushed(self) -> dict[str, Any]:
        if self.repository is None:
            return {}
        self.repository.take_unpushed()
        self.code |= self.repository.facts
        return {"code": self.code}

    def _packages(self) -> dict[str, Any]:
        if self.container and not self.container.get("inside"):
            return {"packages": {"reason": "the command runs in a container: the packages are those of its image"}}
        found = interpreter_of(self.argv, self.cwd, os.environ)
        self.sought = found is None
        if found is None:
            return {}
        return {"packages": self._described(found)}

    def _described(self, found: Found) -> dict[str, Any]:
        facts = packages.describe(found, os.environ, self._lock_files(), self.source, self.masker)
        return {k: self.masker.text(v) if isinstance(v, str) else v for k, v in facts.items()}

    def _lock_files(self) -> list[Path]:
        """Those of the project, each name once: of the script's folder, the current one and the repository's top."""
        script = script_of(self.argv, self.cwd)
        folders = [self.cwd, *([script.parent] if script else [])]
        if self.repository is not None:
            folders.append(self.repository.git.root)
        out: dict[str, Path] = {}
        for folder in folders:
            with contextlib.suppress(OSError):
                for name in sorted(os.listdir(folder)):
                    wanted = name in LOCKS or (name.startswith("requirements") and name.endswith((".txt", ".in")))
                    if wanted and (folder / name).is_file():
                        out.setdefault(name, folder / name)
        return list(out.values())[:30]

    def _locks(self) -> dict[str, Any]:
        kept = [self._copy(path, f"project/{path.name}") for path in self._lock_files()]
        return {"locks": kept} if kept else {}

    def _container(self) -> dict[str, Any]:
        part: dict[str, Any] = {}
        if self.image:
            digest = container.digest_of(self.image, self.cwd, self.limit, lambda: self.left_s() > 0)
            part["container"] = {**self.container, **self.masker.document(digest)}
        if getattr(self, "sought", False):
            part["packages"] = self._among_processes()
        return part

    def _among_processes(self) -> dict[str, Any]:
        """The command names no Python: the first one among the run's processes, else the active environment's."""
        until = time.monotonic() + _SOUGHT_S
        while True:
            if (found := seen_python(self.run_id)) is not None:
                return self._described(found)
            self._mask_logs(final=False)
            if self._ended(_SEEK_S) or time.monotonic() > until:
                break
        found = surroundings(os.environ)
        return self._described(found) if found else {"reason": "no Python was found in the command"}

    def _logs(self) -> dict[str, Any]:
        """Until the command has ended, and then to the end of the logs, as far as time is left."""
        while not self._ended(_LOGS_S):
            self._mask_logs(final=False)
        # What is left may be too much for the time. One less: a secret at the very end is still to be masked, and the
        # stitch looks at no log of which all is done.
        self.said({"masked_logs": {name: upto - 1 for name, upto in self.looked_to.items()}}, [])
        self._mask_logs(final=True)
        return {"masked_logs": dict(self.looked_to)}

    def _mask_logs(self, *, final: bool) -> None:
        for name in LOGS:
            with contextlib.suppress(OSError):
                path = self.run_dir / "logs" / name
                if final or path.stat().st_size > self.looked_to.get(name, 0):
                    self.looked_to[name] = self.masker.overwrite(
                        path, self.looked_to.get(name, 0), final=final, told=partial(self._looked, name))

    def _looked(self, name: str, upto: int) -> None:
        """A part of a large log is done: the stitch goes on from there where our time is over before the end."""
        self.looked_to[name] = upto
        self.said({"masked_logs": dict(self.looked_to)}, [])


def seen_python(run_id: str, root: str = "/") -> Found | None:
    """The Python of a process of the run, as it was called; None while there is none, or it is another mount's."""
    proc = os.path.join(root, "proc")
    try:
        ours = os.readlink(f"{proc}/self/ns/mnt")
    except OSError:
        ours = ""
    for entry in sorted((e for e in os.listdir(proc) if e.isdecimal()), key=int):
        try:
            exe = os.readlink(f"{proc}/{entry}/exe")
            if not os.path.basename(exe).startswith(("python", "pypy")) or not carries_marker(entry, run_id, root):
                continue
            if ours and os.readlink(f"{proc}/{entry}/ns/mnt") != ours:
                continue
            called = Path(f"{proc}/{entry}/cmdline").read_bytes().split(b"\0")[0]
            environ = Path(f"{proc}/{entry}/environ").read_bytes().split(b"\0")
        except OSError:
            continue
        path = next((os.fsdecode(e[5:]) for e in environ if e.startswith(b"PATH=")), os.defpath)
        name = os.fsdecode(called)
        where = name if os.path.isabs(name) else shutil.which(name, path=path)
        if where is None or os.path.realpath(where) != os.path.realpath(exe):
            where = exe
        return Found(Path(where), f"process {entry} of the run")
    return None


def _line(fd: int) -> bytes:
    """The one line that comes, to its line feed; what comes next is the end, which `select` must see. In large pieces:
    the launcher waits while a command line of megabytes is read."""
    pieces = []
    while piece := os.read(fd, 1 << 20):
        pieces.append(piece)
        if piece.endswith(b"\n"):
            break
    return b"".join(pieces)


def main() -> int:
    signal.pthread_sigmask(signal.SIG_SETMASK, set())  # the launcher blocks its signals, and we inherit that
    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(signum, signal.SIG_IGN)  # meant for the job
    with contextlib.suppress(OSError):
        os.nice(19)
    job = json.loads(_line(0))
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    if os.getppid() != job["parent"]:
        return 1
    over = False

    def ended(wait_s: float) -> bool:
        nonlocal over
        if not over and select.select([0], [], [], wait_s)[0]:
            over = not os.read(0, 4096)
        return over

    def said(part: dict[str, Any], done: list[str]) -> None:
        line = json.dumps({"part": part, "done": done}, ensure_ascii=True)
        sys.stdout.write(line + "\n")
        sys.stdout.flush()

    Capturing(job, said, ended).run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
