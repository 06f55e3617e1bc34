"""series.zarr as one NetCDF-4 file with the same groups, variables, dimensions and attributes.

Stored values are copied as they are, in parts: an integer stays one, with its `_FillValue`, so that a reader that knows
CF finds NaN where something is missing. Compressed by zlib with shuffle, which every NetCDF-4 library has.

    xr.open_dataset("run.nc", group="gpu")     xr.open_datatree("run.nc")

Texts are variable-length strings; HDF5 cannot hold a NUL in them, which is written as `\\u0000`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import h5netcdf
import h5py
import numpy as np

from yprov.reading import RecordedRun

#: Bytes of values that are in memory at once.
PART = 16 << 20
#: Bytes of an array that is not worth a chunk and its index.
_SMALL = 4096


def write_netcdf(run: RecordedRun, groups: Sequence[str], path: Path, progress: Callable[[str], None]) -> None:
    with h5netcdf.File(path, "w") as out:
        for name, value in run.root.attrs.items():
            out.attrs[name] = value
        out.attrs["run"] = run.id
        for group in groups:
            progress(f"writing {group}")
            _write_group(run.root[group], out.create_group(group))


def _write_group(source: Any, target: Any) -> None:
    for name, value in source.attrs.items():
        target.attrs[name] = value
    arrays = dict(sorted(source.arrays()))
    for array in arrays.values():
        for dim, size in zip(array.metadata.dimension_names, array.shape, strict=True):
            if dim not in target.dimensions:
                target.dimensions[dim] = size
    for name, array in arrays.items():
        _write_array(name, array, target)


def _write_array(name: str, array: Any, target: Any) -> None:
    text = array.dtype.kind not in "iufb"
    about = {k: v for k, v in array.attrs.items() if k != "_FillValue"}
    fill = array.attrs.get("_FillValue")
    compress = {} if text or array.nbytes <= _SMALL else {
        "compression": "gzip", "compression_opts": 4, "shuffle": True, "chunks": array.chunks}
    variable = target.create_variable(
        name, array.metadata.dimension_names, h5py.string_dtype() if text else array.dtype,
        fillvalue=None if fill is None else array.dtype.type(fill), **compress)
    for key, value in about.items():
        variable.attrs[key] = value
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
                values = np.array([str(v).replace("\0", "\\u0000") for v in values.reshape(-1)],
                                  dtype=object).reshape(values.shape)
            variable[where] = values
