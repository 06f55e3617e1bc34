"""Arrays into a Zarr v3 store: the one file that knows zarr. Few files, only codecs that every reader has.

zarr works in memory, many arrays at a time on one event loop, and what it made is then copied to files: 0.7 ms for a
small array, where `create_array` and a write in a LocalStore take 3.6 ms. Nobody may read the folder before `close`.

The metadata of all arrays is written again into that of the root, as `zarr.consolidate_metadata` does it: xarray warns
where it is not found, although it is not in the specification (readers may ignore it, and this store never changes).

zarr writes no file for a chunk (or shard) that holds nothing but the fill value, and so a lost file reads as missing
values. The root's attribute `sparse`, as JSON text, is `{path: files}` of the arrays that have fewer files than chunks:
all others have one for each.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import math
import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
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
BATCH = 16 << 20

#: From how many values on a smaller form is worth looking for.
LARGE = 4096
#: Bytes of a percent-encoded name; file systems allow 255.
LONGEST = 200
SPARSE = "sparse"
EPOCH = "since 1970-01-01T00:00:00Z"

# Level 3 of blosc is zstd 5 or so and level 5 is zstd 9: 1 % larger, and 2.4 times faster to make.
NUMBERS = BloscCodec(cname="zstd", clevel=3, shuffle="shuffle")
STRINGS = BloscCodec(cname="zstd", clevel=5, shuffle="noshuffle", typesize=1)
#: A file `c.0.0` in the folder of its array: a third of the folders that `c/0/0` makes.
KEYS = {"name": "default", "separator": "."}
_UNSAFE = re.compile(r"[\x00-\x1f\x7f-\x9f/\\%]")


_Group = tuple[str, dict[str, Any]]
_Array = tuple[str, npt.NDArray[Any], dict[str, Any]]


def layout(shape: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[int, ...] | None]:
    """(chunk, shard or None) for an array. No chunk is larger than its array; an array that is larger than one chunk
    is sharded. A chunk of few rows is longer in time, and of few slots higher: each costs 0.2 ms of Python, whatever it
    holds."""
    if len(shape) == 1:
        chunk: tuple[int, ...] = (min(shape[0], CHUNK_ROWS),)
        most: tuple[int, ...] = (SHARD_ROWS,)
    else:
        rows = min(shape[0], CHUNK[0] * math.ceil(CHUNK[1] / shape[1]))
        slots = min(shape[1], CHUNK[1] * math.ceil(CHUNK[0] / rows))
        chunk, most = (rows, slots), SHARD
    if chunk == shape:
        return chunk, None
    whole = tuple(min(max(1, m // c), -(-n // c)) * c for n, c, m in zip(shape, chunk, most, strict=True))
    return chunk, whole


def files_of(shape: Sequence[int], step: Sequence[int]) -> int:
    """How many files an array has when it has one for each chunk, or for each shard, where it has shards."""
    return math.prod(-(-n // c) for n, c in zip(shape, step, strict=True))


def text(value: str) -> str:
    """Lone surrogates (a name that is not UTF-8) as `\\udcff`: JSON and Zarr hold UTF-8 only."""
    return value.encode("utf-8", "backslashreplace").decode()


def sentinel(dtype: npt.DTypeLike) -> int:
    """What stands for a missing value in an integer array: the least value of its type."""
    return int(np.iinfo(np.dtype(dtype)).min)


def int64(value: int | None) -> int:
    """An integer that may be missing, or (a script's epoch) larger than any integer of an array."""
    least = sentinel("i8")
    return least if value is None else min(max(value, least + 1), -(least + 1))


def encoded(name: str, reserved: Iterable[str] = ()) -> str:
    """A name as one component of a path, such that `urllib.parse.unquote` gives it back. A name that is
    empty, very long or not UTF-8 cannot be given back: it is told apart by a hash. zarr takes a backslash for a
    slash."""
    out = _UNSAFE.sub(lambda m: "".join(f"%{b:02X}" for b in m[0].encode()), text(name))
    if out.startswith((".", "__")) or out in reserved or out == "zarr.json":
        out = "".join(f"%{b:02X}" for b in out[0].encode()) + out[1:]
    if not out or len(out.encode()) > LONGEST or text(name) != name:
        front = re.sub("%[0-9A-F]?$", "", out.encode()[:LONGEST - 17].decode(errors="ignore"))
        out = f"{front}~{hashlib.sha256(name.encode('utf-8', 'surrogatepass')).hexdigest()[:16]}"
    return out


class Store:
    """A store in the new folder `path`. Arrays are held until `BATCH` bytes are there, or until `close`."""

    def __init__(self, path: Path, attributes: Mapping[str, Any]) -> None:
        self._path = path
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="yprov-zarr")
        self._waiting: list[_Array] = []
        self._groups: list[_Group] = []
        self._bytes = 0
        self._writing: Future[None] | None = None
        self._metadata: dict[str, Any] = {}
        self._files: Counter[str] = Counter()
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
            "fill_value": missing, "dimension_names": dims, "chunk_key_encoding": KEYS,
            "compressors": STRINGS if strings else NUMBERS,
            "attributes": {k: text(v) if isinstance(v, str) else v for k, v in attributes.items()},
        }))
        self._bytes += values.nbytes
        if self._bytes > BATCH:
            self._flush()

    def times(
        self, path: str, wall_ns: npt.NDArray[np.int64], dim: str, long_name: str, *, missing: bool = False
    ) -> None:
        """Times as integers, in nanoseconds, or many of them in the coarsest unit that is exact for all. `missing`:
        some are the sentinel."""
        units = "nanoseconds"
        if len(wall_ns) >= LARGE and not missing:
            for unit, size in (("seconds", 10**9), ("milliseconds", 10**6), ("microseconds", 10**3)):
                if not np.any(wall_ns % size):
                    units, wall_ns = unit, wall_ns // size
                    break
        self.array(path, wall_ns, (dim,), fill=missing, units=f"{units} {EPOCH}", long_name=long_name,
                   calendar="proleptic_gregorian")

    def optional(self, path: str, values: Sequence[int | None], dim: str = "row", **attributes: Any) -> None:
        """Integers of which some are missing."""
        self.array(path, np.array([int64(v) for v in values], dtype=np.int64), (dim,), fill=True,
                   long_name=path.rpartition("/")[2], **attributes)

    def close(self) -> None:
        """Write what is left. The store is whole from here on."""
        self._flush()
        self._wait()
        self._pool.shutdown()
        root = self._metadata.pop("")
        below = dict(sorted(self._metadata.items()))
        sparse = {path: self._files[path] for path, about in below.items() if about["node_type"] == "array"
                  and self._files[path] < files_of(about["shape"], about["chunk_grid"]["configuration"]["chunk_shape"])}
        root["attributes"][SPARSE] = json.dumps(sparse, ensure_ascii=False)
        root["consolidated_metadata"] = {"kind": "inline", "must_understand": False, "metadata": below}
        self._file("", "zarr.json", memoryview(json.dumps(root, allow_nan=False).encode()))

    def _wait(self) -> None:
        if self._writing is not None:
            self._writing.result()

    def _flush(self) -> None:
        """Give what waits to the writing thread, which has an event loop of its own, and go on. One batch is written
        while the next is made."""
        self._wait()
        self._writing = self._pool.submit(self._write, self._groups, self._waiting)
        self._groups, self._waiting, self._bytes = [], [], 0

    def _write(self, groups: list[_Group], arrays: list[_Array]) -> None:
        memory: dict[str, Any] = {}
        asyncio.run(_compressed(memory, groups, arrays))
        arrays.clear()
        for key, buffer in memory.items():
            folder, _, name = key.rpartition("/")
            data = memoryview(buffer.as_numpy_array()).cast("B")
            if name == "zarr.json":
                if folder in self._metadata:
                    continue  # zarr makes a group anew, without its attributes, for the arrays of a later batch
                self._metadata[folder] = json.loads(data.tobytes())
            else:
                self._files[folder] += 1
            self._file(folder, name, data)

    def _file(self, folder: str, name: str, data: memoryview) -> None:
        path = os.path.join(self._path, folder)
        if path not in self._made:
            os.makedirs(path, exist_ok=True)
            self._made.add(path)
        with open(os.path.join(path, name), "wb", buffering=0) as f:
            while data:
                data = data[f.write(data):]


async def _compressed(memory: dict[str, Any], groups: list[_Group], arrays: list[_Array]) -> None:
    store = MemoryStore(memory)
    for path, attributes in groups:
        await zarr_async.create_group(store=store, path=path or None, attributes=attributes)

    async def write(path: str, values: npt.NDArray[Any], how: dict[str, Any]) -> None:
        array = await zarr_async.create_array(store, name=path, **how)
        await array.setitem(slice(None), values)

    await asyncio.gather(*(write(*array) for array in arrays))
