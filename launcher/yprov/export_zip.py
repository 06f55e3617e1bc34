"""A run in one zip file, as small as it is and the same each time: the files of its RO-Crate, nothing else.

`series.zarr/` is within it as `series.zarr.zip`, not compressed (blosc has done it), so that it can be read where it
lies, and is one file when the archive is unpacked on a file system that dislikes many. In ro-crate-metadata.json the
Dataset `series.zarr/` is therefore the File `series.zarr.zip`, with its size and SHA-256; its description keeps those
of the folder. Every other file is the same byte for byte, prov.json with its `series.zarr/...` included.

The same run gives the same bytes (with one version of zlib): names in the order of their bytes, no times, mode 0600.
The spool, where it was kept, stays where it is.
"""

from __future__ import annotations

import json
import os
import shutil
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from yprovd.errors import YprovError
from yprovd.stitch import CRATE_FILE, PACKED_SERIES, SERIES_DIR
from yprovd.stitch.crate import archive_files, file_hash, files_below

_NEVER = (1980, 1, 1, 0, 0, 0)
_BLOCK = 1 << 20


def write_zip(run_dir: Path, path: Path, progress: Callable[[str], None]) -> None:
    """Pack `run_dir` into the new file `path`. Raises YprovError, OSError."""
    names = archive_files(run_dir)
    packed = path.with_name(f"{path.name}.{SERIES_DIR}")
    try:
        progress(f"packing {SERIES_DIR}")
        store = run_dir / SERIES_DIR
        if store.is_dir():
            with zipfile.ZipFile(packed, "w") as out:
                _add_all(out, store, files_below(store), zipfile.ZIP_STORED)
        elif (run_dir / PACKED_SERIES).is_file():  # an unpacked export
            names.remove(PACKED_SERIES)
            shutil.copyfile(run_dir / PACKED_SERIES, packed)
        with zipfile.ZipFile(path, "w") as out:
            crate = run_dir / CRATE_FILE
            if crate.is_file():
                progress("packing the crate")
                out.writestr(_info(CRATE_FILE, zipfile.ZIP_DEFLATED), crate_of_zip(crate.read_bytes(), packed))
            progress("packing the files")
            _add_all(out, run_dir, names, zipfile.ZIP_DEFLATED)
            if packed.exists():
                progress(f"adding {PACKED_SERIES}")
                _add(out, packed, PACKED_SERIES, zipfile.ZIP_STORED)
    finally:
        packed.unlink(missing_ok=True)


def _info(name: str, compression: int) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name, _NEVER)
    info.create_system = 3  # Unix, which has modes
    info.external_attr = 0o100600 << 16
    info.compress_type = compression
    return info


def _add_all(out: zipfile.ZipFile, folder: Path, names: Iterable[str], compression: int) -> None:
    for name in names:
        _add(out, folder / name, name, compression)


def _add(out: zipfile.ZipFile, path: Path, name: str, compression: int) -> None:
    try:
        name.encode()
    except UnicodeEncodeError:
        raise YprovError(f"`{os.fsencode(name).decode('utf-8', 'backslashreplace')}` cannot be in a zip file: its name "
                         "is not UTF-8", hint="tar -cf run.tar RUN   takes any name") from None
    info = _info(name, compression)
    info.file_size = path.stat().st_size  # so that it is written with 64-bit sizes where it needs them
    with open(path, "rb") as f, out.open(info, "w") as entry:
        shutil.copyfileobj(f, entry, _BLOCK)


def crate_of_zip(metadata: bytes, packed: Path) -> bytes:
    """ro-crate-metadata.json with the store as it is in the zip file; as it was where that is no crate of ours."""
    folder = f"{SERIES_DIR}/"
    try:
        doc = json.loads(metadata)
        thing = next(e for e in doc["@graph"] if e["@id"] == folder)
    except (ValueError, KeyError, TypeError, StopIteration):
        return metadata
    size, digest = file_hash(packed)
    was = f" Unpacked it is `{folder}`, of {thing.get('contentSize')} bytes" + (
        f"; the sha256 of the sorted output of sha256sum over its files is {thing['sha256']}"
        if thing.get("sha256") else "")
    thing.update({"@id": PACKED_SERIES, "@type": "File", "name": PACKED_SERIES, "contentSize": str(size),
                  "sha256": digest, "encodingFormat": "application/zip",
                  "description": f"Every series of the run: a Zarr store (version 3) in a zip file.{was}."})
    return (json.dumps(_renamed(doc, folder), indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()


def _renamed(value: Any, folder: str) -> Any:
    if isinstance(value, dict):
        if value == {"@id": folder}:
            return {"@id": PACKED_SERIES}
        return {k: _renamed(v, folder) for k, v in value.items()}
    return [_renamed(v, folder) for v in value] if isinstance(value, list) else value
