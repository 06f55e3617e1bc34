"""series.zarr as one NetCDF-4 file with the same groups, variables, dimensions and attributes.

Stored values are copied as they are, in parts: an integer stays one, with its `_FillValue`, so that a reader that knows
CF finds NaN where something is missing. Compressed by zlib with shuffle, which every NetCDF-4 library has.

    xr.open_dataset("run.nc", group="gpu")     xr.open_datatree("run.nc")

Texts are variable-length strings; HDF5 cannot hold a NUL in them, which is written as `\\u0000`.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from yprov.reading import RecordedRun, open_run
from yprovd.errors import YprovError

#: Bytes of values that are in memory at once.
PART = 16 << 20
#: Bytes of an array that is not worth a chunk and its index.
_SMALL = 4096
#: What a line of the child's begins with that says what it is at.
_STAGE = "stage: "


def write_netcdf(run: RecordedRun, groups: Sequence[str], path: Path, progress: Callable[[str], None]) -> None:
    import h5netcdf  # the parent of the process that writes needs neither of the two

    with h5netcdf.File(path, "w") as out:
        _describe(out, run.root.attrs)
        out.attrs["run"] = run.id
        for group in groups:
            progress(f"writing {group}")
            _write_group(run.root[group], out.create_group(group))


def export_netcdf(run: RecordedRun, groups: Sequence[str], path: Path, progress: Callable[[str], None]) -> None:
    """`write_netcdf` in a process of its own: HDF5 ends the one that it is in by SIGSEGV when the disk is full. Raises
    YprovError."""
    words = [sys.executable, "-P", "-m", "yprov.export_netcdf", os.path.abspath(run.directory), str(path)]
    paths = os.pathsep.join(entry for entry in sys.path if entry)
    with subprocess.Popen(words, env={**os.environ, "PYTHONPATH": paths}, stdin=subprocess.PIPE, text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, errors="replace") as child:
        assert child.stdin is not None
        assert child.stdout is not None
        last = ""
        try:
            with contextlib.suppress(BrokenPipeError), child.stdin:
                child.stdin.write(json.dumps(list(groups)))
            for line in child.stdout:
                said = line.rstrip("\n")
                if said.startswith(_STAGE):
                    progress(said.removeprefix(_STAGE))
                elif said.strip():
                    last = said.strip()
        except BaseException:
            child.kill()
            raise
    if child.returncode:
        how = f"signal {-child.returncode}" if child.returncode < 0 else f"exit status {child.returncode}"
        raise YprovError(f"cannot write `{path.parent}` as NetCDF: {last or 'HDF5 said nothing'} ({how})",
                         hint=f"df -h {path.parent}   is the disk full?")


def main(words: Sequence[str]) -> int:
    """DIRECTORY (or zip file) FILE, and the groups as JSON on stdin. What goes wrong is the last line."""
    where, path = words
    groups = json.load(sys.stdin)
    try:
        with open_run(where) as run:
            write_netcdf(run, groups, Path(path), lambda stage: print(f"{_STAGE}{stage}", flush=True))
    except (YprovError, OSError, RuntimeError, ValueError) as e:
        print(f"{(e.strerror if isinstance(e, OSError) else None) or e}".replace("\n", " "), flush=True)
        os._exit(1)  # at its end HDF5 would try again to write what it could not
    return 0


def _describe(target: Any, about: Mapping[str, Any]) -> None:
    for key, value in about.items():
        target.attrs[key] = _plain(value) if isinstance(value, str) else value


def _plain(text: str) -> str:
    return text.replace("\0", "\\u0000")


def _write_group(source: Any, target: Any) -> None:
    _describe(target, source.attrs)
    arrays = dict(sorted(source.arrays()))
    for array in arrays.values():
        for dim, size in zip(array.metadata.dimension_names, array.shape, strict=True):
            if dim not in target.dimensions:
                target.dimensions[dim] = size
    for name, array in arrays.items():
        _write_array(name, array, target)


def _write_array(name: str, array: Any, target: Any) -> None:
    import h5py

    text = array.dtype.kind not in "iufb"
    about = {k: v for k, v in array.attrs.items() if k != "_FillValue"}
    fill = array.attrs.get("_FillValue")
    compress = {} if text or array.nbytes <= _SMALL else {
        "compression": "gzip", "compression_opts": 4, "shuffle": True, "chunks": array.chunks}
    variable = target.create_variable(
        name, array.metadata.dimension_names, h5py.string_dtype() if text else array.dtype,
        fillvalue=None if fill is None else array.dtype.type(fill), **compress)
    _describe(variable, about)
    if not array.size:
        return
    across = math.prod(array.chunks[1:])
    step = max(1, PART // (array.dtype.itemsize * max(1, array.size // array.shape[0])) // array.chunks[0])
    height = array.chunks[0] * step
    width = array.shape[-1] if array.ndim == 1 else max(1, PART // (array.dtype.itemsize * height) // across) * across
    for first in range(0, array.shape[0], height):
        for begin in range(0, array.shape[1] if array.ndim == 2 else 1, width):
            where = (slice(first, first + height), slice(begin, begin + width))[:array.ndim]
            values = array[where]
            if text:
                values = np.array([_plain(str(v)) for v in values.reshape(-1)], dtype=object).reshape(values.shape)
            variable[where] = values


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
