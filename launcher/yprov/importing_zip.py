"""The zip file of a crate, unpacked so that its runs can be looked for like those of a folder."""

from __future__ import annotations

import shutil
import stat
import zipfile
from pathlib import Path

from yprov.zipped import DAMAGED
from yprovd.errors import YprovError

#: Unpacked are at most so many bytes, and so many times the size of the zip file. What yProv4ML writes is packed to a
#: tenth; deflate packs zeros to a thousandth.
_ALWAYS, _DENSEST = 64 << 20, 100


def unpack(path: Path, target: Path) -> None:
    """The regular files of a zip below `target`, wherever their names point to. Raises YprovError for one that would
    land outside, that is damaged, is packed tighter than any run is, or has more in it than the disk has room for."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = [m for m in archive.infolist() if not m.is_dir()]
            for member in members:
                parts = member.filename.replace("\\", "/").split("/")
                if member.filename.startswith(("/", "\\")) or ".." in parts or ":" in parts[0]:
                    raise YprovError(f"`{path}` holds a file that would land outside of it: `{member.filename}`",
                                     hint="it is no archive of yProv4ML; nothing was unpacked")
            claimed, packed = sum(m.file_size for m in members), path.stat().st_size
            if claimed > _ALWAYS + _DENSEST * packed:
                raise YprovError(f"`{path}` has {packed} bytes and would be unpacked to {claimed}: no run is so dense",
                                 hint="if you trust it, unpack it yourself: yprov import DIR")
            if claimed > shutil.disk_usage(target).free:
                raise YprovError(f"there is no room to unpack `{path}`", hint="yprov import --dir DIRECTORY ...")
            for member in members:
                if not stat.S_ISLNK(member.external_attr >> 16):
                    archive.extract(member, target)
    except DAMAGED as e:
        raise YprovError(f"`{path}` is damaged: {e}", hint="was it copied whole?") from None
