"""Arrays into a Zarr v3 store: the one file that knows zarr. Few files, only codecs that every reader has.

zarr works in memory, many arrays at a time on one event loop, and what it made is then copied to files: 0.7 ms for a
small array, where `create_array` and a write in a LocalStore take 3.6 ms. Nothing may read the folder before `close`,
so neither temporary names nor consolidated metadata (off the specification, and stale after a change) are needed.
"""

from __future__ import annotations

import asyncio
import math
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import zarr.api.asynchronous as zarr_async
from zarr.codecs import BloscCodec
from zarr.storage import MemoryStore

#: Rows (devices, nodes) and time slots of a chunk, and of the shard that holds many chunks in one file.
CHUNK = (64, 900)
SHARD = (1024, 86_400)
#: The same for tables.
CHUNK_ROWS = 65_536
SHARD_ROWS = 64 * CHUNK_ROWS
#: Bytes of values that may wait in memory before they are compressed and written.
BATCH = 64 << 20

NUMBERS = BloscCodec(cname="zstd", clevel=5, shuffle="shuffle")
STRINGS = BloscCodec(cname="zstd", clevel=5, shuffle="noshuffle", typesize=1)


def layout(shape: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[int, ...] | None]:
    """(chunk, shard or None) for an array. No chunk is larger than its array; an array that is larger than one chunk
    is sharded. A chunk of few rows is longer in time: each costs 0.2 ms of Python, whatever it holds."""
    if len(shape) == 1:
        chunk: tuple[int, ...] = (min(shape[0], CHUNK_ROWS),)
        most: tuple[int, ...] = (SHARD_ROWS,)
    else:
        rows = min(shape[0], CHUNK[0])
        slots = CHUNK[1] * math.ceil(CHUNK[0] / rows)
        chunk, most = (rows, min(shape[1], slots)), SHARD
    if chunk == shape:
        return chunk, None
    whole = tuple(min(m // c, -(-n // c)) * c for n, c, m in zip(shape, chunk, most, strict=True))
    return chunk, whole


def text(value: str) -> str:
    """Lone surrogates (a name that is not UTF-8) as `\\udcff`: JSON and Zarr hold UTF-8 only."""
    return value.encode("utf-8", "backslashreplace").decode()


def sentinel(dtype: npt.DTypeLike) -> int:
    """What stands for a missing value in an integer array: the least value of its type."""
    return int(np.iinfo(np.dtype(dtype)).min)


class Store:
    """A store in the new folder `path`. Arrays are held until `BATCH` bytes are there, or until `close`."""

    def __init__(self, path: Path, attributes: Mapping[str, Any]) -> None:
        self._path = path
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="yprov-zarr")
        self._waiting: list[tuple[str, npt.NDArray[Any], dict[str, Any]]] = []
        self._groups: list[tuple[str, dict[str, Any]]] = []
        self._bytes = 0
        self._memory: dict[str, Any] = {}
        self._written: set[str] = set()
        os.makedirs(path)
        self._made = {os.fspath(path)}
        self.group("", attributes)

    def group(self, path: str, attributes: Mapping[str, Any] | None = None) -> None:
        self._groups.append((path, dict(attributes or {})))

    def array(
        self, path: str, data: npt.NDArray[Any] | list[str], dims: tuple[str, ...], *, fill: bool = False,
        **attributes: Any,
    ) -> None:
        """Add an array; it must not be changed afterwards. `fill`: an integer array in which `sentinel` stands for
        what is missing. xarray reads the attribute `_FillValue`, everything else the Zarr `fill_value`: both say so.
        """
        strings = isinstance(data, list)
        values = np.array([text(s) for s in data], dtype=object) if strings else np.ascontiguousarray(data)
        missing: Any = "" if strings else np.nan if values.dtype.kind == "f" else 0
        if fill:
            missing = attributes["_FillValue"] = sentinel(values.dtype)
        chunks, shards = layout(values.shape)
        self._waiting.append((path, values, {
            "shape": values.shape, "dtype": str if strings else values.dtype, "chunks": chunks, "shards": shards,
            "fill_value": missing, "dimension_names": dims, "compressors": STRINGS if strings else NUMBERS,
            "attributes": {k: text(v) if isinstance(v, str) else v for k, v in attributes.items()},
        }))
        self._bytes += values.nbytes
        if self._bytes > BATCH:
            self._flush()

    def close(self) -> None:
        self._flush()
        self._pool.shutdown()

    def _flush(self) -> None:
        # On a thread of our own: the caller's may be running an event loop already.
        self._pool.submit(asyncio.run, self._compress()).result()
        for key, buffer in self._memory.items():
            if key in self._written:
                continue  # zarr makes a group anew, without its attributes, for the arrays of a later batch
            self._written.add(key)
            file = os.path.join(self._path, *key.split("/"))
            folder = os.path.dirname(file)
            if folder not in self._made:
                os.makedirs(folder, exist_ok=True)
                self._made.add(folder)
            with open(file, "wb", buffering=0) as f:
                view = memoryview(buffer.as_numpy_array()).cast("B")
                while view:
                    view = view[f.write(view):]
        self._memory.clear()
        self._bytes = 0

    async def _compress(self) -> None:
        store = MemoryStore(self._memory)
        waiting, self._waiting = self._waiting, []
        groups, self._groups = self._groups, []
        for path, attributes in groups:
            await zarr_async.create_group(store=store, path=path or None, attributes=attributes)

        async def write(path: str, values: npt.NDArray[Any], how: dict[str, Any]) -> None:
            array = await zarr_async.create_array(store, name=path, **how)
            await array.setitem(slice(None), values)

        await asyncio.gather(*(write(*array) for array in waiting))
