"""The git repository that a run's code lies in: its state, and what a later run needs to restore it.

The keys that `capture` adds to the `code` of the run's record, each as soon as it is known:

    root, remote, commit, branch, dirty, untracked (files)
    diff {path, sha256, bytes, files, masked?}: the changes as one patch, `yprov.patches`
    tree: `swh:1:dir:...` of the work tree: the one figure that proves that the code was restored
    unpushed: commits that no remote has; bundle {path, sha256, bytes, commits}: them as a git bundle
    lists {path, sha256, bytes}: source/repository.json: what is changed, untracked, left out and why, the submodules,
        the files of Git LFS; submodules, lfs, lfs_missing, left_out, masked: how many
    reasons {what: why it is not there}
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from yprov.gitting import Git, GitFailed
from yprov.patches import Changes, add_untracked, make_patch, tracked_changes
from yprov.trees import lfs_paths, lfs_pointer, names_in, tree_entries, tree_id
from yprovd.secrets import Masker
from yprovd.swhid import COMMIT

#: Of unpushed commits: objects, and their bytes, that are searched and kept.
MOST_OBJECTS, BUNDLE_LIMIT = 50_000, 64 << 20
MOST_SUBMODULES, MOST_LFS = 64, 5_000


class Code:
    """The state of one repository, found piece by piece; `facts` is what is known so far."""

    def __init__(
        self, folder: Path, source: Path, scratch: Path, masker: Masker, left_s: Callable[[], float] = lambda: 60.0, *,
        given: tuple[Path, Path] | None = None,
    ) -> None:
        """`given`: see `yprov.locating.named`. Raises GitFailed where there is no repository, and OSError."""
        self.source, self.masker = source, masker
        self.git = git = Git(folder, scratch, left_s, given=given)
        self.reasons: dict[str, str] = {}
        self.lists: dict[str, Any] = {}
        self.facts: dict[str, Any] = {"root": os.fspath(git.root), "reasons": self.reasons}
        remotes = git.remotes()
        name = git.settings.get(f"branch.{git.branch}.remote", "origin")
        if address := remotes.get(name) or next(iter(remotes.values()), ""):
            self.facts["remote"] = masker.text(without_password(address))
        if git.head:
            self.facts["commit"] = git.head
        else:
            self.reasons["commit"] = masker.text(git.no_head)
        if git.branch:
            self.facts["branch"] = masker.text(git.branch)

    def _try(self, what: str, step: Callable[[], None]) -> None:
        try:
            step()
        except (GitFailed, OSError, ValueError) as e:
            self.reasons[what] = self.masker.text(str(e))

    def take_changes(self, runs: Path, begun_ns: int) -> None:
        """The patch and the tree's identifier. `runs`, `begun_ns`: see `yprov.patches.add_untracked`."""
        def changed() -> None:
            if self.git.damaged:
                raise GitFailed(self.git.damaged)
            self.changes = tracked_changes(self.git)

        def untracked() -> None:
            add_untracked(self.git, self.changes, runs, begun_ns)

        def patch() -> None:
            make_patch(self.git, self.changes, self.masker, self.lfs)
            if self.changes.patch:
                self.facts["diff"] = {**self._write("code.diff", self.changes.patch),
                                      "files": self.changes.patch.count(b"\ndiff --git ") + 1}
                if self.changes.masked:
                    self.facts["diff"]["masked"] = len(self.changes.masked)

        def tree() -> None:
            self.facts["tree"] = tree_id(self.git, self.changes, self.entries, self.lfs)

        self.changes = Changes()
        self.entries: dict[bytes, tuple[bytes, bytes]] = {}
        self.lfs: set[bytes] = set()
        self._try("changes", changed)
        if "changes" in self.reasons:
            return
        self._try("untracked", untracked)
        changes = self.changes
        known = self.git.head or self.git.unborn  # else everything differs from nothing
        if known and (changes.tracked or changes.untracked is not None):
            self.facts["dirty"] = bool(changes.tracked or changes.untracked)
        if changes.untracked is not None:
            self.facts["untracked"] = len(changes.untracked)
        self._try("tree", self._read_entries)
        self._try("diff", patch)
        if "tree" not in self.reasons:
            self._try("tree", tree)
        self.lists |= changes.listing()
        if self.entries:
            self._try("submodules", self._submodules)
            self._try("lfs", self._lfs_state)
        self._write_lists()

    def _read_entries(self) -> None:
        self.entries = tree_entries(self.git)
        names = [p for p in (*self.entries, *(c.path for c in self.changes.tracked), *(self.changes.untracked or ()))
                 if p.rpartition(b"/")[2] == b".gitattributes"]
        attributes = [self.git.root / os.fsdecode(p) for p in names] + [self.git.shadow / "info" / "attributes"]
        if any(b"filter=lfs" in p.read_bytes() for p in attributes if p.is_file() and p.stat().st_size < 1 << 20):
            everything = {*self.entries, *(c.path for c in self.changes.tracked), *(self.changes.untracked or ())}
            self.lfs = lfs_paths(self.git, sorted(everything))

    def _submodules(self) -> None:
        wanted = {path: name.hex() for path, (mode, name) in self.entries.items() if mode == COMMIT}
        if not wanted:
            return
        urls: dict[str, str] = {}
        if (self.git.root / ".gitmodules").is_file():
            pairs = [one.partition("\n") for one in self.git("config", "--file", ".gitmodules", "-z", "--list").decode(
                "utf-8", "surrogateescape").split("\0") if one]
            paths = {key[:-5]: value for key, _, value in pairs if key.endswith(".path")}
            urls = {paths.get(key[:-4], ""): value for key, _, value in pairs if key.endswith(".url")}
        out = []
        for i, (path, commit) in enumerate(sorted(wanted.items())[:MOST_SUBMODULES]):
            name = os.fsdecode(path)
            one: dict[str, Any] = {"path": name, "commit": commit, "url": without_password(urls.get(name, ""))}
            if (self.git.root / name / ".git").exists():
                try:
                    sub = Git(self.git.root / name, self.git.scratch / f"module{i}", self.git.left_s)
                    changes = tracked_changes(sub)
                    add_untracked(sub, changes, self.source.parent, 1 << 62)
                    one |= {"checked_out": sub.head, "dirty": bool(changes.tracked or changes.untracked)}
                except (GitFailed, OSError) as e:
                    one["reason"] = str(e)
            else:
                one["reason"] = "not checked out"
            out.append(one)
        self.lists["submodules"] = out
        self.facts["submodules"] = len(wanted)

    def _lfs_state(self) -> None:
        if not self.lfs:
            return
        out, missing = [], 0
        for path in sorted(self.lfs)[:MOST_LFS]:
            full = self.git.root / os.fsdecode(path)
            about: dict[str, Any] = {"path": os.fsdecode(path)}
            if full.is_file():
                fetched = full.stat().st_size > 1024 or not full.read_bytes().startswith(b"version https://git-lfs")
                about["fetched"] = fetched
                missing += not fetched
                if not fetched:
                    about["pointer"] = lfs_pointer(full).decode("utf-8", "replace").split("\n")[1:3]
            out.append(about)
        self.lists["lfs"] = out
        self.facts |= {"lfs": len(self.lfs), "lfs_missing": missing}

    def _write_lists(self) -> None:
        for key, count in (("left_out", len(self.changes.left_out)), ("masked", len(self.changes.masked))):
            if count:
                self.facts[key] = count
        if any(self.lists.values()):
            text = json.dumps(self.masker.document(self.lists), indent=1, ensure_ascii=False)
            self.facts["lists"] = self._write("repository.json", text.encode("utf-8", "backslashreplace"))

    def _write(self, name: str, data: bytes) -> dict[str, Any]:
        return store(self.source, name, data)

    # -- commits that no remote has --------------------------------------------------------------------------------

    def take_unpushed(self) -> None:
        """As a bundle, which cannot be masked: it is searched first, and left out when it holds a secret."""
        if self.git.head:
            self._try("bundle", self._bundle)

    def _bundle(self) -> None:
        git = self.git
        tips = git.remote_tips()
        revisions = "".join([f"{git.head}\n", *(f"^{tip}\n" for tip in tips)]).encode()
        count = int(git("rev-list", "--count", "--stdin", feed=revisions))
        self.facts["unpushed"] = count
        if count == 0:
            return
        listed = git("rev-list", "--objects", "--stdin", feed=revisions, limit=64 << 20).splitlines()
        if len(listed) > MOST_OBJECTS:
            raise GitFailed(f"{count} commits are on no remote: more than {MOST_OBJECTS} objects")
        names = [line.partition(b" ")[0].decode() for line in listed]
        sizes = git("cat-file", "--batch-check=%(objectsize)", feed="".join(f"{n}\n" for n in names).encode()).split()
        if sum(int(s) for s in sizes if s.isdigit()) > BUNDLE_LIMIT:
            raise GitFailed(f"{count} commits are on no remote: more than {BUNDLE_LIMIT} bytes")
        for kind, data in git.contents(names):
            if self.masker.holds_secret(names_in(data, len(names[0]) // 2) if kind == "tree" else data):
                raise GitFailed(f"{count} commits are on no remote: a {kind} in them holds what looks like a secret")
        named = git.branch and self.masker.text(git.branch) == git.branch
        refs = "HEAD\n" + (f"refs/heads/{git.branch}\n" if named else "")
        target = git.scratch / "code.bundle"
        git("bundle", "create", os.fspath(target), "--stdin",
            feed=(refs + "".join(f"^{tip}\n" for tip in tips)).encode())
        self.facts["bundle"] = {**self._write("code.bundle", target.read_bytes()), "commits": count}


def store(source: Path, name: str, data: bytes) -> dict[str, Any]:
    """Write a file of the run's `source/`; what the record says of it. Raises OSError."""
    path = source / name
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    partial.write_bytes(data)
    os.replace(partial, path)
    return {"path": f"source/{name}", "sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}


def without_password(remote: str) -> str:
    """https://user:token@host/x -> https://host/x"""
    scheme, separator, rest = remote.partition("://")
    if not separator:
        return remote
    host, slash, path = rest.partition("/")
    return f"{scheme}://{host.rpartition('@')[2]}{slash}{path}"
