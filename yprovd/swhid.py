"""Identifiers of content: SWHIDs, ISO/IEC 18670. The same files have the same identifier, wherever they lie.

`swh:1:cnt:<hex>` is a file, `swh:1:dir:<hex>` a folder; the digest is that of git's blob and tree objects, so that
`git hash-object FILE` and `git rev-parse COMMIT^{tree}` give the same (https://www.swhid.org/specification).
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

FILE, EXECUTABLE, LINK, FOLDER, COMMIT = b"100644", b"100755", b"120000", b"40000", b"160000"
_BLOCK = 1 << 20
_FOLDER_ID = re.compile(r"swh:1:dir:[0-9a-f]{40}")


def content_digest(data: bytes) -> bytes:
    """The 20 bytes of git's blob."""
    return _sha1(b"blob %d\0" % len(data), data)


def file_digest(path: Path) -> bytes:
    """The same of a file, read in blocks; of a symbolic link, of what it points to as text. Raises OSError."""
    if path.is_symlink():
        return content_digest(os.fsencode(os.readlink(path)))
    with open(path, "rb", buffering=0) as f:
        size = os.fstat(f.fileno()).st_size
        digest = hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)
        left = size
        while left and (block := f.read(min(_BLOCK, left))):
            digest.update(block)
            left -= len(block)
        if left or f.read(1):
            raise OSError(f"{path} changed while it was read")
    return digest.digest()


def tree_digest(files: Iterable[tuple[bytes, bytes, bytes]]) -> bytes:
    """The 20 bytes of git's tree of `(path, mode, digest)`: paths relative, with `/`, each once; any order."""
    here: dict[bytes, tuple[bytes, bytes]] = {}
    below: dict[bytes, list[tuple[bytes, bytes, bytes]]] = {}
    for path, mode, digest in files:
        first, slash, rest = path.partition(b"/")
        if slash:
            below.setdefault(first, []).append((rest, mode, digest))
        else:
            here[first] = (mode, digest)
    for name, inside in below.items():
        here[name] = (FOLDER, tree_digest(inside))
    # Git sorts a folder as if its name ended with a slash.
    names = sorted(here, key=lambda name: name + b"/" if here[name][0] == FOLDER else name)
    data = b"".join(b"%s %s\0%s" % (here[name][0], name, here[name][1]) for name in names)
    return _sha1(b"tree %d\0" % len(data), data)


def directory_id(files: Iterable[tuple[bytes, bytes, bytes]]) -> str:
    """`swh:1:dir:...` of `(path, mode, digest)`."""
    return f"swh:1:dir:{tree_digest(files).hex()}"


def plain_id(files: Mapping[str, bytes]) -> str:
    """`swh:1:dir:...` of files by their relative paths, each as a plain one: modes and links do not count."""
    return directory_id((os.fsencode(path), FILE, digest) for path, digest in files.items())


def stated_id(crate: Any) -> str | None:
    """What the RO-Crate of an archive states of its content; None when it says nothing (it was made before there was
    an identifier)."""
    graph = crate.get("@graph") if isinstance(crate, dict) else None
    entities = graph if isinstance(graph, list) else []
    said = next((e.get("identifier") for e in entities if isinstance(e, dict) and e.get("@id") == "./"), None)
    return next((i for i in (said if isinstance(said, list) else [said])
                 if isinstance(i, str) and _FOLDER_ID.fullmatch(i)), None)


def _sha1(*parts: bytes) -> bytes:
    digest = hashlib.sha1(usedforsecurity=False)
    for part in parts:
        digest.update(part)
    return digest.digest()
