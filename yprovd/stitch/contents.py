"""What an archive holds: which files of a run's directory are its own, and what is in them.

They are all regular files but the spool, the crate, which lists them, what exists only while a run goes on, and
temporaries. Symbolic links are not followed.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from yprovd.config import COLLECTOR_FILE, KEY_FILE, PUSH_FILE, PUSH_LOCK, SPOOL_DIR
from yprovd.stitch import CRATE_FILE, SERIES_DIR
from yprovd.stitch.entities import id_of_path

_BLOCK = 1 << 20
#: What the scheduler's command says of the daemons' step: it goes on when the archive is made.
_PLACING_LOG = "logs/daemons.log"


def _temporary(name: str) -> bool:
    return name.startswith(".partial-") or (name.startswith(".") and name.endswith(".tmp"))


#: Entries of a run's directory that are no part of its archive, or are listed in another way.
NOT_LISTED = {SPOOL_DIR, SERIES_DIR, CRATE_FILE, KEY_FILE, COLLECTOR_FILE, PUSH_FILE, PUSH_LOCK, _PLACING_LOG}


def archive_files(run_dir: Path) -> list[str]:
    """The files of the archive as paths relative to `run_dir`, sorted, without those within `series.zarr`."""
    return [name for name in files_below(run_dir, NOT_LISTED) if is_of_archive(name)]


def is_of_archive(name: str) -> bool:
    """The same of one file, by its relative path."""
    first, *_rest = parts = name.split("/")
    return first not in NOT_LISTED and name not in NOT_LISTED and not _temporary(first) and not _temporary(parts[-1])


def files_below(folder: Path, skipped: Iterable[str] = ()) -> list[str]:
    """The regular files below `folder` by the bytes of their relative paths; `skipped` names entries of `folder`."""
    out: list[str] = []
    skip = set(skipped)

    def walk(path: str, prefix: str) -> None:
        with os.scandir(path) as entries:
            for entry in entries:
                name = prefix + entry.name
                if name in skip or (not prefix and _temporary(entry.name)):
                    continue
                if entry.is_dir(follow_symlinks=False):
                    walk(entry.path, name + "/")
                elif entry.is_file(follow_symlinks=False):
                    out.append(name)

    walk(os.fspath(folder), "")
    return sorted(out, key=os.fsencode)


class Hashes(NamedTuple):
    """Of one file: its bytes, SHA-256 as hex, and git's blob digest."""

    size: int
    sha256: str
    blob: bytes


def hashes(path: str | Path, most: int | None = None) -> Hashes:
    """Reads the file once, as long as it was when it was opened (logs may grow meanwhile), or its first `most` bytes.
    Raises OSError."""
    with open(path, "rb", buffering=0) as f:
        size = os.fstat(f.fileno()).st_size
        size = left = size if most is None else min(most, size)
        sha256, sha1 = hashlib.sha256(), hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)
        while left and (block := f.read(min(_BLOCK, left))):
            sha256.update(block)
            sha1.update(block)
            left -= len(block)
    if left:
        raise OSError(f"{path} was cut while it was read")
    return Hashes(size, sha256.hexdigest(), sha1.digest())


def file_hash(path: str | Path) -> tuple[int, str]:
    """(size, SHA-256). Reads the file in blocks."""
    return hashes(path)[:2]


def hashes_of(folder: Path, names: list[str], sizes: Mapping[str, int] = {}) -> dict[str, Hashes]:
    """`hashes` of many files, several at a time (hashlib and reads let other threads run); of those in `sizes`, of so
    many bytes."""
    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
        found = pool.map(lambda name: hashes(os.path.join(folder, name), sizes.get(name)), names)
        return dict(zip(names, found, strict=True))


class Contents(NamedTuple):
    """What an archive holds, read once: its files, and those of its series, by their paths within `series.zarr`; None
    where there is no such folder."""

    files: dict[str, Hashes]
    series: dict[str, Hashes] | None

    def digests(self) -> dict[str, bytes]:
        """Of all files, git's blob digest."""
        within = {f"{SERIES_DIR}/{name}": one.blob for name, one in (self.series or {}).items()}
        return {name: one.blob for name, one in self.files.items()} | within

    def is_listed(self, crate: Mapping[str, Any]) -> bool:
        """Whether all of it, and nothing else, is what a crate lists."""
        listed = {e["@id"]: e.get("sha256") for e in crate["@graph"]
                  if e.get("@type") == "File" or e["@id"] == f"{SERIES_DIR}/"}
        there = {id_of_path(name): one.sha256 for name, one in self.files.items()}
        if self.series is not None:
            there[f"{SERIES_DIR}/"] = listing_of(self.series)[2]
        return listed == there


def contents_of(run_dir: Path, sizes: Mapping[str, int] = {}) -> Contents:
    """Reads all of an archive; of the files in `sizes` only the first so many bytes count. Raises OSError."""
    store = run_dir / SERIES_DIR
    series = hashes_of(store, files_below(store)) if store.is_dir() and not store.is_symlink() else None
    return Contents(hashes_of(run_dir, archive_files(run_dir), sizes), series)


def folder_hash(folder: Path) -> tuple[int, int, str]:
    """`listing_of` of a folder."""
    return listing_of(hashes_of(folder, files_below(folder)))


def listing_of(found: Mapping[str, Hashes]) -> tuple[int, int, str]:
    """(files, bytes, SHA-256 of the listing) as `yprovd.stitch.crate` says."""
    listing = hashlib.sha256()
    for name, one in found.items():
        listing.update(one.sha256.encode() + b"  " + os.fsencode(name) + b"\n")
    return len(found), sum(one.size for one in found.values()), listing.hexdigest()
