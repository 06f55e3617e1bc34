"""A run in a zip file, without zarr: single files of it, and all of it unpacked. The series: `yprov.reading_zip`.

A zip file holds one run, at its top or in a folder of its own: what `yprov export RUN --to zip` made, or what any other
program made of a run's directory.
"""

from __future__ import annotations

import errno
import lzma
import os
import shutil
import struct
import zipfile
import zlib
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from yprovd.config import PROV_FILE
from yprovd.errors import YprovError

#: What `zipfile` raises for a file that is damaged, encrypted (RuntimeError) or unknown (NotImplementedError is one).
DAMAGED = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error, EOFError, RuntimeError, ValueError)
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)


def is_zip(given: str) -> bool:
    """Whether a RUN of the command line is a zip file, by its name or by what it holds."""
    return os.path.isfile(given) and (given.endswith(".zip") or zipfile.is_zipfile(given))


def refused(path: Path, error: Exception) -> YprovError:
    return YprovError(f"cannot read `{path}`: {error.strerror if isinstance(error, OSError) else 'it is no zip file'}",
                      hint="a run is a directory, or what `yprov export RUN --to zip` made of it")


def top_of(path: Path, names: Iterable[str]) -> str:
    """The folder of the run among the `names` in a zip file: ``, or `folder/`. Raises YprovError for none or many."""
    tops = [name.removesuffix(PROV_FILE) for name in names
            if name.rpartition("/")[2] == PROV_FILE and name.count("/") < 2]
    if len(tops) != 1:
        raise YprovError(f"`{path}` holds {len(tops)} runs" if tops else f"`{path}` holds no {PROV_FILE}",
                         hint="yprov export RUN --to zip   packs one run")
    return tops[0]


def _open(path: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(path)
    except (OSError, *DAMAGED) as e:
        raise refused(path, e) from None


def read_file(path: Path, name: str) -> bytes:
    """A file of the zipped run `path`. Raises FileNotFoundError, and YprovError when it or the zip file is damaged."""
    with _open(path) as archive:
        top = top_of(path, archive.namelist())
        try:
            return archive.read(top + name)
        except KeyError:
            raise FileNotFoundError(errno.ENOENT, "no such file in the zip file", name) from None
        except (OSError, *DAMAGED) as e:
            raise YprovError(f"`{name}` in `{path}` cannot be read: {e}", hint="was it copied as a whole?") from None


def unpack(path: Path, folder: Path) -> list[str]:
    """All files of the zipped run into the empty `folder`. Returns what could not be unpacked, a sentence for each.
    Raises YprovError: no zip file of a run, or no room for it."""
    problems: list[str] = []
    with _open(path) as archive:
        top = top_of(path, archive.namelist())
        infos = [i for i in archive.infolist() if not i.is_dir() and i.filename.startswith(top)]
        needed, free = sum(i.file_size for i in infos), shutil.disk_usage(folder).free
        if needed > free:
            raise _no_room(path, folder, f"{needed} bytes are needed, {free} are free")
        taken: set[str] = set()
        for info in infos:
            name = info.filename.removeprefix(top)
            if name in taken:
                problems.append(f"{name}: stands twice in the zip file")
            elif PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
                problems.append(f"{name}: lies outside of the run")
            else:
                taken.add(name)
                try:
                    target = folder / name
                    target.parent.mkdir(parents=True, exist_ok=True)
                    with archive.open(info) as source, open(target, "xb") as out:
                        shutil.copyfileobj(source, out, 1 << 20)
                except (OSError, *DAMAGED) as e:
                    if isinstance(e, OSError) and e.errno in _NO_ROOM:
                        raise _no_room(path, folder, str(e.strerror)) from None
                    problems.append(f"{name}: cannot be unpacked: {e.strerror if isinstance(e, OSError) else e}")
    return problems


def _no_room(path: Path, folder: Path, why: str) -> YprovError:
    return YprovError(f"`{path}` cannot be unpacked in `{folder.parent}`: {why}",
                      hint="TMPDIR=DIRECTORY yprov validate ...   unpacks it elsewhere")
