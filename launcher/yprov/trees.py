"""The work tree as git's tree: one identifier that proves that the code was restored; and files that Git LFS keeps."""

from __future__ import annotations

import hashlib
import os
import re
import stat
from pathlib import Path

from yprov.gitting import Git, GitFailed, zero_separated
from yprov.patches import Changes, quoted
from yprovd.swhid import COMMIT, EXECUTABLE, FILE, LINK, content_digest, directory_id

#: Bytes of changed and untracked files that are read.
READ_LIMIT = 1 << 30
_LFS = b"version https://git-lfs.github.com/spec/v1\n"


def lfs_paths(git: Git, paths: list[bytes]) -> set[bytes]:
    """Those of the paths whose content Git LFS keeps."""
    if not paths:
        return set()
    words = git("check-attr", "-z", "--stdin", "filter", feed=b"\0".join(paths)).split(b"\0")
    return {path for path, value in zip(words[::3], words[2::3], strict=False) if value == b"lfs"}


def lfs_pointer(path: Path) -> bytes:
    """What git has in the place of a file that Git LFS keeps (its specification, version 1)."""
    with open(path, "rb") as f:
        head = f.read(200)
        if head.startswith(_LFS):
            return head + f.read(1024)
        f.seek(0)
        digest = hashlib.file_digest(f, "sha256").hexdigest()
        return b"%soid sha256:%s\nsize %d\n" % (_LFS, digest.encode(), f.tell())


def names_in(tree: bytes, digest_bytes: int) -> bytes:
    """The names of one of git's tree objects, a line for each: what is between them is digests, and no text."""
    names = re.findall(rb"[0-7]+ ([^\0]+)\0.{%d}" % digest_bytes, tree, re.DOTALL)
    return b"\n".join(names)


def tree_entries(git: Git) -> dict[bytes, tuple[bytes, bytes]]:
    """{path: (mode, digest)} of HEAD."""
    if not git.head:
        return {}
    out = {}
    for line in zero_separated(git("ls-tree", "-r", "-z", "--full-tree", git.head)):
        about, _, path = line.partition(b"\t")
        mode, _kind, name = about.split(b" ")
        out[path] = mode, bytes.fromhex(name.decode())
    return out


def tree_id(git: Git, changes: Changes, entries: dict[bytes, tuple[bytes, bytes]], lfs: set[bytes]) -> str:
    """`swh:1:dir:...` of the work tree: the tree that `git add --all` and `git write-tree` would give, without what the
    command itself has written. Raises GitFailed where it cannot be told."""
    if git.sha256:
        raise GitFailed("the repository names objects by SHA-256: they are no SWHIDs")
    if changes.untracked is None:
        raise GitFailed("its untracked files are not known")
    entries = dict(entries)
    to_hash: list[tuple[bytes, bytes]] = []
    size = 0
    for path, mode in [*((c.path, c.mode) for c in changes.tracked), *((p, b"?") for p in changes.untracked or ())]:
        entries.pop(path, None)
        if not mode:
            continue
        full = git.root / os.fsdecode(path)
        try:
            about = os.lstat(full)
            if stat.S_ISLNK(about.st_mode):
                entries[path] = LINK, content_digest(os.fsencode(os.readlink(full)))
            elif stat.S_ISDIR(about.st_mode):
                entries[path] = COMMIT, bytes.fromhex(Git(full, git.scratch / f"sub{len(entries)}").head)
            elif stat.S_ISREG(about.st_mode):
                size += about.st_size
                if size > READ_LIMIT:  # before it is read: a checkpoint may have any size
                    raise GitFailed(f"more than {READ_LIMIT} bytes are changed or untracked")
                kind = mode if mode in (FILE, EXECUTABLE) else (EXECUTABLE if about.st_mode & 0o100 else FILE)
                if path in lfs:
                    entries[path] = kind, content_digest(lfs_pointer(full))
                else:
                    to_hash.append((path, kind))
        except (OSError, ValueError) as e:
            raise GitFailed(f"{os.fsdecode(path)}: {e}") from None
    if to_hash:
        names = git("hash-object", "--stdin-paths", feed=b"".join(quoted(p) + b"\n" for p, _kind in to_hash)).split()
        for (path, kind), name in zip(to_hash, names, strict=True):
            entries[path] = kind, bytes.fromhex(name.decode())
    return directory_id((path, mode, digest) for path, (mode, digest) in entries.items())
