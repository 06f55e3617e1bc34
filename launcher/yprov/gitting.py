"""Asking git about a user's repository without touching it, and without running what its configuration says.

Git is never pointed at the repository's own `.git`, but at a *shadow* of it in a folder of ours: a copy of the index,
the object store as an alternate, and of the configuration only what says how files are to be compared. So nothing of
the user's is locked, refreshed or written, and no hook, file system monitor, filter, `textconv`, external diff,
credential helper or lazy fetch of a hostile or slow repository runs. Commands that write objects are not used at all:
they would also touch the time stamps of the alternate's. Only references and settings are read from `.git` itself.
"""

from __future__ import annotations

import hashlib
import os
import select
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from pathlib import Path

from yprov.locating import find, why_none

#: The settings that say what a file's content is, and which files count.
_KEPT = ("core.autocrlf", "core.eol", "core.filemode", "core.ignorecase", "core.symlinks", "core.precomposeunicode",
         "core.sparsecheckout", "core.sparsecheckoutcone")
_FILES = {"core.excludesfile": "git/ignore", "core.attributesfile": "git/attributes"}
#: Git's tree without files; every git knows it.
EMPTY_TREE = "4b825dc642cb6eb9a060e54bf8d69288fbee4904"
_CALL_S = 20.0
_SAFE = ("-c", "core.fsmonitor=false", "-c", "core.hooksPath=/dev/null", "-c", "protocol.allow=never",
         "-c", "gc.auto=0", "-c", "maintenance.auto=false", "-c", "core.untrackedCache=false")


class GitFailed(Exception):
    """A sentence for the record: what could not be had."""


class Git:
    """One repository by its shadow: the one that `folder` lies in, `given` (`yprov.locating.named`) where it lies in
    the work tree of that. `scratch`: a folder of ours that does not exist yet. `left_s`: seconds left for all calls.
    Raises GitFailed, also from the constructor, and OSError."""

    def __init__(
        self, folder: Path, scratch: Path, left_s: Callable[[], float] = lambda: 60.0, *,
        given: tuple[Path, Path] | None = None,
    ) -> None:
        program = shutil.which("git")
        if program is None:
            raise GitFailed("`git` is not in PATH")
        found = given if given is not None and folder.is_relative_to(given[0]) else find(folder)
        if found is None:
            raise GitFailed(why_none(folder))
        self.program, self.scratch, self.left_s = program, scratch, left_s
        self.root, self.git_dir = found
        scratch.mkdir(parents=True)
        self.common = self.git_dir
        if (self.git_dir / "commondir").is_file():
            self.common = Path(os.path.normpath(self.git_dir / (self.git_dir / "commondir").read_text().strip()))
        self.settings = self._settings()
        self.sha256 = self.settings.get("extensions.objectformat", "") == "sha256"
        self.branch = self._line("symbolic-ref", "--quiet", "--short", "HEAD")
        self.head, self.no_head = self._find_head()
        self.shadow = self._make_shadow()
        self.damaged = _damage_of(self.shadow / "index", self.sha256)

    # -- the repository itself: references and settings ------------------------------------------------------------

    def _settings(self) -> dict[str, str]:
        listed = self._run([f"--git-dir={self.git_dir}", "config", "--list", "-z"], self._environ(), self.root)
        pairs = (one.partition("\n") for one in listed.decode("utf-8", "surrogateescape").split("\0") if one)
        return {key: value for key, _, value in pairs}

    def _line(self, *words: str) -> str:
        """The one line that a command says of `.git`; "" when it fails."""
        try:
            said = self._run([*_SAFE, f"--git-dir={self.git_dir}", *words], self._environ(), self.root)
        except GitFailed:
            return ""
        return said.decode("utf-8", "surrogateescape").strip()

    def _find_head(self) -> tuple[str, str]:
        """(the commit, or ""; why there is none)."""
        try:
            said = self._run([*_SAFE, f"--git-dir={self.git_dir}", "rev-parse", "--verify", "HEAD^0"],
                             self._environ(), self.root)
            return said.decode("ascii", "replace").strip(), ""
        except GitFailed as e:
            reason = str(e)
        if named := self._line("rev-parse", "--verify", "--quiet", "HEAD"):  # the name is there, the commit is not
            return "", f"HEAD names {named}, which cannot be read: {reason}"
        if self.unborn:
            return "", f"nothing was committed to the branch {self.branch} yet"
        return "", f"HEAD cannot be read: {reason}"

    @cached_property
    def unborn(self) -> bool:
        """Whether nothing is known of the branch that HEAD names: neither a file nor a packed name, which may be
        broken. So it is before the first commit."""
        if not self.branch:
            return False
        name = f"refs/heads/{self.branch}"
        try:
            packed = self.common / "packed-refs"
            listed = packed.is_file() and f" {name}\n".encode("utf-8", "surrogateescape") in packed.read_bytes()
            return not listed and not os.path.lexists(self.common / name)
        except OSError:
            return False

    def remotes(self) -> dict[str, str]:
        """{name: address as it is configured}"""
        return {key[7:-4]: value for key, value in self.settings.items()
                if key.startswith("remote.") and key.endswith(".url")}

    def remote_tips(self) -> list[str]:
        """The commits that remotes are known to have."""
        said = self._line("for-each-ref", "--format=%(objectname)", "refs/remotes")
        return sorted(set(said.split()))

    # -- the shadow ------------------------------------------------------------------------------------------------

    def _environ(self) -> dict[str, str]:
        environ = {k: v for k, v in os.environ.items() if not k.startswith(("GIT_", "LC_", "LD_PRELOAD"))}
        quiet = {"GIT_OPTIONAL_LOCKS": "0", "GIT_TERMINAL_PROMPT": "0", "GIT_NO_LAZY_FETCH": "1", "LC_ALL": "C"}
        return environ | quiet

    def _make_shadow(self) -> Path:
        shadow = self.scratch / "git"
        (shadow / "objects" / "info").mkdir(parents=True)
        (shadow / "refs").mkdir()
        (shadow / "info").mkdir()
        alternate = os.fspath(self.common / "objects").replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
        (shadow / "objects" / "info" / "alternates").write_bytes(os.fsencode(f'"{alternate}"\n'))
        for name in ("index", *(p.name for p in self.git_dir.glob("sharedindex.*"))):
            if (self.git_dir / name).is_file():
                # With its time: a file as old as the index is compared by content (git's "racy" entries).
                shutil.copy2(self.git_dir / name, shadow / name)
        for name in ("info/exclude", "info/attributes", "info/sparse-checkout", "shallow"):
            for home in (self.git_dir, self.common):
                if (home / name).is_file() and not (shadow / name).exists():
                    shutil.copyfile(home / name, shadow / name)
        lines = ["[core]", f"repositoryformatversion = {int(self.sha256)}", "bare = false", "untrackedCache = false"]
        lines += [f"{key[5:]} = {_quoted(self.settings[key])}" for key in _KEPT if key in self.settings]
        config_home = Path(os.environ.get("XDG_CONFIG_HOME") or "~/.config").expanduser()
        for key, usual in _FILES.items():
            path = Path(self.settings.get(key) or config_home / usual).expanduser()
            lines.append(f"{key[5:]} = {_quoted(os.fspath(self.root / path))}")
        if self.sha256:
            lines += ["[extensions]", "objectformat = sha256"]
        (shadow / "config").write_text("\n".join([*lines, ""]), encoding="utf-8", errors="surrogateescape")
        (shadow / "HEAD").write_text(f"{self.head}\n" if self.head else "ref: refs/heads/unborn\n")
        if self.head and self.branch:
            branch = shadow / "refs" / "heads" / self.branch
            branch.parent.mkdir(parents=True)
            branch.write_text(f"{self.head}\n")
        return shadow

    def __call__(self, *words: str, feed: bytes = b"", limit: int = 256 << 20) -> bytes:
        """What git says of the shadow, in the work tree's topmost folder."""
        return self._run([*_SAFE, *words], self._shadow_environ(), self.root, feed, limit)

    def _shadow_environ(self) -> dict[str, str]:
        nothing = os.fspath(self.scratch)
        return self._environ() | {
            "GIT_DIR": os.fspath(self.shadow), "GIT_WORK_TREE": os.fspath(self.root), "HOME": nothing,
            "XDG_CONFIG_HOME": nothing, "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull,
            "GIT_CONFIG_NOSYSTEM": "1", "GIT_ATTR_NOSYSTEM": "1", "GIT_LITERAL_PATHSPECS": "0",
        }

    def _run(
        self, words: Sequence[str], environ: dict[str, str], folder: Path, feed: bytes = b"", limit: int = 1 << 20
    ) -> bytes:
        """Output goes to a file of ours, so that no amount of it fills the memory or blocks git."""
        left = min(_CALL_S, self.left_s())
        what = next((w for w in words if not w.startswith("-") and "=" not in w), "git")
        if left <= 0:
            raise GitFailed(f"no time was left for `git {what}`")
        said, asked, wrong = self.scratch / "said", self.scratch / "asked", self.scratch / "wrong"
        asked.write_bytes(feed)
        with open(said, "wb") as out, open(asked, "rb") as given, open(wrong, "wb") as why:
            child = subprocess.Popen([self.program, *words], stdin=given, stdout=out, stderr=why,
                                     env=environ, cwd=folder)  # of our group: it ends with us (`Capture.stop`)
            deadline = time.monotonic() + left
            try:
                while not _ended(child, 0.25):
                    if time.monotonic() > deadline:
                        raise GitFailed(f"`git {what}` took longer than {left:.3g} s")
                    if os.fstat(out.fileno()).st_size + os.fstat(why.fileno()).st_size > limit:
                        raise GitFailed(f"`git {what}` said more than {limit} bytes")
            finally:
                _end(child)
        if child.returncode != 0:
            raise GitFailed(f"`git {what}` ended with {child.returncode}{self._complaint(wrong)}")
        if said.stat().st_size > limit:
            raise GitFailed(f"`git {what}` said more than {limit} bytes")
        return said.read_bytes()

    def _complaint(self, path: Path) -> str:
        """What git said of its own failure, the line that counts: the first that is an error's, else the last."""
        with open(path, "rb") as f:
            lines = f.read(4096).decode("utf-8", "backslashreplace").strip().split("\n")
        line = next((one for one in lines if one.startswith(("fatal: ", "error: "))), lines[-1])
        words = line.removeprefix("fatal: ").removeprefix("error: ").replace(f"{self.scratch}/git/", ".git/")
        return f": {words[:300]}" if words else ""

    def contents(self, names: Sequence[str]) -> Iterator[tuple[str, bytes]]:
        """(type, content) of each object, one at a time."""
        (self.scratch / "asked").write_text("".join(f"{name}\n" for name in names))
        with open(self.scratch / "asked", "rb") as given:
            child = subprocess.Popen([self.program, *_SAFE, "cat-file", "--batch"], stdin=given, cwd=self.root,
                                     stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=self._shadow_environ())
        assert child.stdout is not None
        try:
            for name in names:
                if self.left_s() <= 0:
                    raise GitFailed("no time was left to read its objects")
                words = child.stdout.readline().split()
                if len(words) != 3 or not words[2].isdigit():
                    raise GitFailed(f"the object {name} is missing")
                yield words[1].decode(), child.stdout.read(int(words[2]))
                child.stdout.read(1)
        finally:
            child.stdout.close()
            _end(child)


def _damage_of(index: Path, sha256: bool) -> str:
    """Why an index is none; "" where it is one, or there is none. It ends with the digest of what stands before (git's
    gitformat-index(5)), or with zeros (`index.skipHash`); git itself does not look at that."""
    if not index.is_file():
        return ""
    digest = hashlib.sha256() if sha256 else hashlib.sha1(usedforsecurity=False)
    data = index.read_bytes()
    before, told = data[:-digest.digest_size], data[-digest.digest_size:]
    digest.update(before)
    if data[:4] != b"DIRC" or (told.strip(b"\0") and told != digest.digest()):
        return f"the index is damaged ({len(data)} bytes)"
    return ""


def _ended(child: subprocess.Popen[bytes], timeout_s: float) -> bool:
    """Whether it has, after at most `timeout_s`. By a descriptor: Popen's own waiting sleeps in steps."""
    try:
        fd = os.pidfd_open(child.pid)
    except OSError:  # Linux before 5.3
        try:
            child.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return False
        return True
    try:
        select.select([fd], [], [], timeout_s)
    finally:
        os.close(fd)
    return child.poll() is not None


def _end(child: subprocess.Popen[bytes]) -> None:
    if child.poll() is None:
        child.kill()
        child.wait()


def _quoted(value: str) -> str:
    """As a value in git's configuration file."""
    escaped = value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n").replace("\t", "\\t")
    return f'"{escaped}"'


def zero_separated(data: bytes) -> list[bytes]:
    return [one for one in data.split(b"\0") if one]
