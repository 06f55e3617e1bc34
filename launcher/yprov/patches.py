"""What differs between a commit and the work tree, as one patch for `git apply`.

The patch is `git diff --binary --full-index HEAD` and, behind it, each untracked file as a new one, in the same format
(git-diff(1), "Generating patch text"; binary: `literal`, deflated, in base 85, apply.c). It is bounded per file and in
sum; what is left out has a reason. Secrets are masked in it, where they stand in text; a binary file with one is left
out. A masked patch does not give the same files, and may not apply.
"""

from __future__ import annotations

import base64
import os
import stat
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from yprov.gitting import EMPTY_TREE, Git, GitFailed, zero_separated
from yprovd.secrets import Masker
from yprovd.swhid import COMMIT, EXECUTABLE, FILE, LINK, content_digest

#: Bytes of one file, and of all, that are kept in the patch.
FILE_LIMIT, PATCH_LIMIT = 4 << 20, 16 << 20
#: Untracked files that are looked at: more are data, and there is no patch.
MOST_FILES = 20_000
#: Files that are made to hold secrets.
_SECRET_FILES = (".env", ".netrc", ".pypirc", ".pgpass", "id_rsa", "id_ed25519", "id_ecdsa", ".git-credentials")
_SECRET_ENDS = (".pem", ".key", ".p12", ".pfx", ".kdbx", ".keystore")


class Change(NamedTuple):
    """A path that differs from HEAD. `mode` 0: it is gone."""

    path: bytes
    mode: bytes
    status: str


@dataclass
class Changes:
    """`tracked`: against HEAD; `untracked`: not ignored, None where they could not be listed. `left_out`: (path, bytes,
    reason). `masked`: paths."""

    tracked: list[Change] = field(default_factory=list)
    untracked: list[bytes] | None = None
    left_out: list[tuple[bytes, int | None, str]] = field(default_factory=list)
    masked: list[bytes] = field(default_factory=list)
    patch: bytes = b""

    def listing(self) -> dict[str, Any]:
        """For source/repository.json."""
        return {
            "changed": [{"path": os.fsdecode(c.path), "status": c.status} for c in self.tracked],
            "untracked": [os.fsdecode(p) for p in self.untracked or ()],
            "left_out": [{"path": os.fsdecode(p), "bytes": n, "reason": r} for p, n, r in self.left_out],
            "masked": [os.fsdecode(p) for p in self.masked],
        }


def tracked_changes(git: Git) -> Changes:
    """What differs from HEAD, of the files that git knows. Raises GitFailed."""
    out = Changes()
    words = zero_separated(git("diff", "--raw", "-z", "--no-abbrev", "--no-renames", "--no-ext-diff",
                               "--ignore-submodules=dirty", git.head or EMPTY_TREE, "--"))
    for about, path in zip(words[::2], words[1::2], strict=True):
        _old, mode, _a, _b, status = about.split(b" ")
        if status != b"U":
            out.tracked.append(Change(path, b"" if status == b"D" else mode, status.decode()))
    return out


def add_untracked(git: Git, out: Changes, runs: Path, begun_ns: int) -> None:
    """The files that git does not know, and does not ignore. `runs`: the folder of the runs, whose files are none of
    the code, if it lies in the work tree; what was written after `begun_ns` is the command's own. Raises GitFailed."""
    own = os.path.relpath(runs, git.root)
    skip = () if own.startswith("..") or own == "." else (f"--exclude=/{_literal(own)}/",)
    listed = zero_separated(git("ls-files", "--others", "--exclude-standard", "--exclude=yprov-runs/", *skip, "-z"))
    if len(listed) > MOST_FILES:
        raise GitFailed(f"{len(listed)} files are untracked and not ignored: more than {MOST_FILES}")
    out.untracked = []
    for path in listed:
        first = git.root / os.fsdecode(path.split(b"/", 1)[0])
        if own == "." and (first / "run.json").is_file():
            continue
        if path.endswith(b"/"):
            out.left_out.append((path, None, "another repository"))
            continue
        try:
            file = os.lstat(git.root / os.fsdecode(path))
        except OSError:
            continue  # it has gone
        if file.st_mtime_ns > begun_ns:
            out.left_out.append((path, file.st_size, "written after the run began"))
        else:
            out.untracked.append(path)


def _literal(path: str) -> str:
    """A path as a pattern of git's."""
    return "".join(f"\\{c}" if c in "\\*?[]!# " else c for c in path)


def make_patch(git: Git, changes: Changes, masker: Masker, lfs: set[bytes]) -> None:
    """Fill in `patch`, `masked` and `left_out`. Raises GitFailed and OSError."""
    excluded = []
    total = 0
    for change in changes.tracked:
        size = _size(git.root, change.path)
        reason = "kept by Git LFS" if change.path in lfs and change.mode else ""
        if not reason and change.mode in (FILE, EXECUTABLE) and not _can_be_read(git.root, change.path):
            reason = "not a regular file"
        if not reason and size is not None and size > FILE_LIMIT and change.mode != COMMIT:
            reason = f"larger than {FILE_LIMIT} bytes"
        if not reason and change.mode and _binary_secret(git.root, change, masker):
            reason = "a binary file with what looks like a secret"
        if not reason and (total := total + (size or 0)) > PATCH_LIMIT:
            reason = f"beyond {PATCH_LIMIT} bytes in all"
        if reason:
            changes.left_out.append((change.path, size, reason))
            excluded.append(change.path)
    parts = _tracked_sections(git, changes, excluded) if changes.tracked else []
    total = sum(map(len, parts))
    out = []
    for part, path in zip(parts, [c.path for c in changes.tracked if c.path not in set(excluded)], strict=True):
        if b"\nGIT binary patch\n" in part and _old_secret(git, path, masker):
            changes.left_out.append((path, None, "a binary file with what looks like a secret"))
            continue
        masked = masker.data(part)
        if masked is not part:
            changes.masked.append(path)
        out.append(masked)
    for path in changes.untracked or ():
        section = _untracked_section(git.root, path, changes, masker, lfs, PATCH_LIMIT - total)
        total += len(section)
        out.append(section)
    changes.patch = b"".join(out)


def _tracked_sections(git: Git, changes: Changes, excluded: list[bytes]) -> list[bytes]:
    """Git's patch, file by file, in the order of `changes.tracked`."""
    pathspecs = [f":(top,literal,exclude){os.fsdecode(p)}" for p in excluded]
    if len(excluded) == len(changes.tracked):
        return []
    data = git("diff", "--binary", "--full-index", "--no-color", "--no-ext-diff", "--no-textconv", "--no-renames",
               "--ignore-submodules=dirty", "--src-prefix=a/", "--dst-prefix=b/", git.head or EMPTY_TREE, "--",
               ":(top)", *pathspecs, limit=4 * PATCH_LIMIT)
    begins = _line_starts(data, b"diff --git ")
    sections = [data[a:b] for a, b in zip(begins, [*begins[1:], len(data)], strict=True)]
    kept = len(changes.tracked) - len(excluded)
    if len(sections) != kept:
        raise GitFailed(f"`git diff` tells of {len(sections)} files and not of {kept}: they change just now")
    return sections


def _line_starts(data: bytes, head: bytes) -> list[int]:
    """Where a line begins with `head`: in a patch no line of a file's content does, they have a sign in front."""
    out = [0] if data.startswith(head) else []
    at = data.find(b"\n" + head)
    while at >= 0:
        out.append(at + 1)
        at = data.find(b"\n" + head, at + 1)
    return out


def _size(root: Path, path: bytes) -> int | None:
    try:
        return os.lstat(root / os.fsdecode(path)).st_size
    except OSError:
        return None


def _can_be_read(root: Path, path: bytes) -> bool:
    """Not a pipe in a file's place, which git takes for one: to open it would wait for a writer, and take its data."""
    try:
        return stat.S_ISREG(os.lstat(root / os.fsdecode(path)).st_mode)
    except OSError:
        return True  # it has gone meanwhile


def _binary_secret(root: Path, change: Change, masker: Masker) -> bool:
    if change.mode not in (FILE, EXECUTABLE):
        return False
    try:
        data = (root / os.fsdecode(change.path)).read_bytes()
    except OSError:
        return False
    return _is_binary(data) and masker.holds_secret(data)


def _old_secret(git: Git, path: bytes, masker: Masker) -> bool:
    """Whether the committed content has one: a binary patch holds that too."""
    try:
        return any(masker.holds_secret(data) for _kind, data in git.contents([f"HEAD:{os.fsdecode(path)}"]))
    except GitFailed:
        return False  # it is new


def _is_binary(data: bytes) -> bool:
    return b"\0" in data[:8000]


def _untracked_section(
    root: Path, path: bytes, changes: Changes, masker: Masker, lfs: set[bytes], left: int
) -> bytes:
    """One untracked file as a new one; b"" where it is left out, with a reason."""
    full = root / os.fsdecode(path)
    name = os.path.basename(os.fsdecode(path)).lower()
    size = None
    try:
        about = os.lstat(full)
        size = about.st_size
        if stat.S_ISLNK(about.st_mode):
            mode, data = LINK, os.fsencode(os.readlink(full))
        elif not stat.S_ISREG(about.st_mode):
            raise _LeftOut("not a regular file")
        elif name.startswith(_SECRET_FILES) or name.endswith(_SECRET_ENDS):
            raise _LeftOut("a file of secrets, by its name")
        elif masker.holds_secret(path):
            raise _LeftOut("its name holds what looks like a secret")
        elif path in lfs:
            raise _LeftOut("kept by Git LFS")
        elif size > min(FILE_LIMIT, max(left, 0)):
            raise _LeftOut(f"larger than {FILE_LIMIT} bytes" if size > FILE_LIMIT
                           else f"beyond {PATCH_LIMIT} bytes in all")
        else:
            mode, data = EXECUTABLE if about.st_mode & 0o100 else FILE, full.read_bytes()
        masked = data
        if masker.holds_secret(data):
            if _is_binary(data):
                raise _LeftOut("a binary file with what looks like a secret")
            masked = masker.data(data)
            changes.masked.append(path)
    except _LeftOut as e:
        changes.left_out.append((path, size, str(e)))
        return b""
    except OSError as e:
        changes.left_out.append((path, size, e.strerror or str(e)))
        return b""
    return new_file(path, mode, masked)


class _LeftOut(Exception):
    pass


def new_file(path: bytes, mode: bytes, data: bytes) -> bytes:
    """A patch that makes a file."""
    binary = _is_binary(data)
    head = (b"diff --git %s %s\nnew file mode %s\nindex %s..%s\n"
            % (quoted(b"a/" + path), quoted(b"b/" + path), mode, b"0" * 40, content_digest(data).hex().encode()))
    if not data:
        return head
    if binary:
        return b"%sGIT binary patch\nliteral %d\n%s\nliteral 0\n%s\n" % (head, len(data), _base85(data), _base85(b""))
    end = b"\t" if b" " in path and quoted(path) == path else b""
    lines = data.split(b"\n")
    cut = lines[-1] != b""
    if not cut:
        lines.pop()
    count = b"+1" if len(lines) == 1 else b"+1,%d" % len(lines)
    body = b"".join(b"+%s\n" % line for line in lines) + (b"\\ No newline at end of file\n" if cut else b"")
    return b"%s--- /dev/null\n+++ %s%s\n@@ -0,0 %s @@\n%s" % (head, quoted(b"b/" + path), end, count, body)


def _base85(data: bytes) -> bytes:
    """Deflated, in lines of at most 52 bytes, each with its length in front (A-Z: 1-26, a-z: 27-52)."""
    packed = zlib.compress(data, 6)
    out = []
    for i in range(0, len(packed), 52):
        piece = packed[i:i + 52]
        n = len(piece)
        length = bytes([64 + n if n <= 26 else 96 + n - 26])
        out.append(length + base64.b85encode(piece + b"\0" * (-n % 4)) + b"\n")
    return b"".join(out)


def quoted(path: bytes) -> bytes:
    """A path as git writes it: in quotes, like a string of C, where it holds other than printable ASCII."""
    if all(32 <= c < 127 and c not in b'"\\' for c in path):
        return path
    escapes = {7: b"\\a", 8: b"\\b", 9: b"\\t", 10: b"\\n", 11: b"\\v", 12: b"\\f", 13: b"\\r", 34: b'\\"', 92: b"\\\\"}
    return b'"%s"' % b"".join(
        escapes.get(c) or (b"%c" % c if 32 <= c < 127 else b"\\%03o" % c) for c in path)
