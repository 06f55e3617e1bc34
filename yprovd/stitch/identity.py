"""The persistent identifiers of a run: `urn:uuid:...` of the run itself, `swh:1:dir:...` of what its archive holds.

The identifier of the content is the SWHID (https://www.swhid.org/specification) of a folder with every file of the
archive, each as a plain one (mode 100644): modes, owners and times do not count, so it stays the same in a copy, and
in the zip file that `yprov export RUN --to zip` makes, where the files of `series.zarr.zip` count as those below
`series.zarr/`. Not among the files: the crate itself, which states the identifier, and what `yprovd.stitch.crate` does
not list either (the spool, links, temporaries, what exists only while a run goes on).

It is the tree that git makes of these files, so git says the same; `VERIFY` is the command, to be typed in the run's
directory. It writes nothing there: git gets a folder of its own, and hashes the files where they lie.
"""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import IO, Any

from yprovd.config import PROV_FILE
from yprovd.stitch import CRATE_FILE, PACKED_SERIES, SERIES_DIR
from yprovd.stitch.contents import Contents, contents_of, is_of_archive
from yprovd.stitch.entities import path_of_id
from yprovd.swhid import content_digest, plain_id, stated_id

VERIFY = r"""
export GIT_DIR=$(mktemp -d); git init --quiet --bare
find . \( -path ./spool -o -regex '\./\.\(partial-[^/]*\|[^/]*\.tmp\)' \) -prune -o -type f \
  ! -path ./ro-crate-metadata.json ! -path ./logs/daemons.log ! -path ./.keys ! -path ./collector.json \
  ! -path ./.push.json ! -path ./.push.lock ! -name '.partial-*' ! -name '.*.tmp' -printf '%P\0' |
  xargs -0 -n1 sh -c 'printf "100644 %s\t%s\0" "$(git hash-object --no-filters -- "$0")" "$0"' |
  git update-index -z --index-info
echo "swh:1:dir:$(git write-tree --missing-ok)"; rm -rf "$GIT_DIR"
"""


def content_id(run_dir: Path) -> str:
    """That of an archive, read anew; also of an unpacked zip file of it. Raises OSError, zipfile.BadZipFile."""
    return plain_id(_digests(run_dir, contents_of(run_dir)))


def _digests(run_dir: Path, found: Contents) -> dict[str, bytes]:
    digests = found.digests()
    if PACKED_SERIES in digests and not (run_dir / SERIES_DIR).exists():  # an unpacked zip file
        del digests[PACKED_SERIES]
        with zipfile.ZipFile(run_dir / PACKED_SERIES) as inner:
            digests |= _packed(inner)
    return digests


def content_id_of_zip(path: Path) -> str:
    """That of an archive in a zip file, below a folder or not, its series packed or as they were. Nothing is unpacked
    to disk. Raises OSError, zipfile.BadZipFile, and ValueError when there is no run in it."""
    with zipfile.ZipFile(path) as archive:
        tops = [n.removesuffix(PROV_FILE) for n in archive.namelist() if PurePosixPath(n).name == PROV_FILE]
        if not tops:
            raise ValueError(f"`{path}` holds no {PROV_FILE}")
        top = min(tops, key=len)
        files: dict[str, bytes] = {}
        for name, info in _files(archive):
            plain = name.removeprefix(top)
            if not name.startswith(top):
                continue
            if plain == PACKED_SERIES:
                with archive.open(info) as f, zipfile.ZipFile(f) as inner:
                    files |= _packed(inner)
            elif plain.startswith(f"{SERIES_DIR}/") or is_of_archive(plain):
                files[plain] = _digest(archive, info)
        return plain_id(files)


def _packed(inner: zipfile.ZipFile) -> dict[str, bytes]:
    return {f"{SERIES_DIR}/{name}": _digest(inner, info) for name, info in _files(inner)}


def _files(archive: zipfile.ZipFile) -> Iterator[tuple[str, zipfile.ZipInfo]]:
    return ((info.filename, info) for info in archive.infolist() if not info.is_dir())


def _digest(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> bytes:
    """The digest of git's blob, read in blocks."""
    digest = hashlib.sha1(b"blob %d\0" % info.file_size, usedforsecurity=False)
    f: IO[bytes]
    with archive.open(info) as f:
        while block := f.read(1 << 20):
            digest.update(block)
    return digest.digest()


def check_identity(run_dir: Path, *, ended: bool, found: Contents | None = None) -> list[str]:
    """Whether the content, `found` where it was read before, is that which the crate states. Where the command had not
    `ended`, logs may have grown: what they held then counts. Raises OSError, ValueError."""
    crate = json.loads((run_dir / CRATE_FILE).read_bytes())
    stated = stated_id(crate)
    if stated is None:
        return []
    there = plain_id(_digests(run_dir, found or contents_of(run_dir, {} if ended else listed_logs(crate))))
    return [] if there == stated else [f"{CRATE_FILE}: states {stated}; what lies here is {there}"]


def restate(run_dir: Path, crate: dict[str, Any], changed: Mapping[str, bytes], *, ended: bool) -> None:
    """Put into `crate` the identifier of the archive with some files `changed` to these bytes. An archive that is not
    what the crate states, before that, keeps the identifier that it does not have; unless it is what `crate` lists
    already: somebody was killed between the two files. Raises OSError."""
    stated = stated_id(crate)
    if stated is None:
        return
    found = contents_of(run_dir, {} if ended else listed_logs(crate))
    digests = _digests(run_dir, found)
    if plain_id(digests) == stated or found.is_listed(crate):
        new = plain_id(digests | {name: content_digest(data) for name, data in changed.items()})
        root = next(e for e in crate["@graph"] if e.get("@id") == "./")
        said = root["identifier"]
        root["identifier"] = [new if i == stated else i for i in said] if isinstance(said, list) else new


def listed_logs(crate: Mapping[str, Any]) -> dict[str, int]:
    """The logs' sizes when the crate was made."""
    return {path_of_id(e["@id"]): int(e["contentSize"]) for e in crate["@graph"]
            if str(e.get("@id")).startswith("logs/") and str(e.get("contentSize")).isdecimal()}
