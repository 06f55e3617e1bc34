"""A run in a zip file, read where it lies: its files by name, its series as a store that zarr and xarray read.

What `yprov export --to zip` packs is read without unpacking anything: the entries of series.zarr.zip are not
compressed (blosc has done it), nor is that file within the outer one, so each chunk is a stretch of the outer file.
A run's directory that somebody packed with any other program is read as well: below a folder or not, compressed or
not, `series.zarr/` packed or as it was.

zarr finds no store in `x.zarr.zip` by its path (`GroupNotFoundError`), and its `ZipStore` wants a file of its own:
hence a store here.
"""

from __future__ import annotations

import contextlib
import io
import os
import struct
import tempfile
import threading
import weakref
import zipfile
from collections.abc import AsyncIterator, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from zarr.abc.store import OffsetByteRequest, RangeByteRequest, Store, SuffixByteRequest

from yprov.zipped import DAMAGED, refused, top_of
from yprovd.errors import YprovError
from yprovd.stitch import PACKED_SERIES, SERIES_DIR

#: A local file header: 30 bytes, of which the last four are the lengths of a name and of more, which follow.
_HEADER, _LENGTHS = 30, struct.Struct("<HH")


@contextlib.contextmanager
def _readable(name: str) -> Iterator[None]:
    try:
        yield
    except DAMAGED as e:
        raise YprovError(f"`{name}` in the zip file cannot be read: {e}", hint="was it copied as a whole?") from None


class _Opened:
    """A file that any thread may read, closed once: by `close`, or when nobody has it any more. Its number may belong
    to another file after that, so it is not used again."""

    def __init__(self, fd: int) -> None:
        self._fd, self.size = fd, os.fstat(fd).st_size
        self._close = weakref.finalize(self, os.close, fd)

    def ensure_open(self) -> None:
        if not self._close.alive:
            raise YprovError("the run was closed, and nothing more can be read from its zip file",
                             hint="read (or .load()) within `with yprov.open_run(...) as run:`")

    def read(self, size: int, at: int) -> bytes:
        self.ensure_open()
        return os.pread(self._fd, size, at)

    def close(self) -> None:
        self._close()


class _Slice(io.RawIOBase):
    """Bytes `start` to `start + size` of a file, as a file."""

    def __init__(self, file: _Opened, start: int, size: int) -> None:
        self._file, self._start, self._size, self._at = file, start, size, 0

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        at = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence]
        if at < 0:
            raise ValueError("a part of it would lie before its begin")  # a damaged list of contents
        self._at = at
        return at

    def readinto(self, buffer: Any) -> int:
        data = self._file.read(min(len(buffer), max(0, self._size - self._at)), self._start + self._at)
        buffer[:len(data)] = data
        self._at += len(data)
        return len(data)


class _Entry(NamedTuple):
    archive: Archive
    info: zipfile.ZipInfo


class Archive:
    """An open zip file, from byte `start` of `file` on. Any thread may read. Raises OSError, the constructor also one
    of `DAMAGED`; YprovError for an entry that is damaged, encrypted or packed in a way that Python does not know."""

    def __init__(self, file: _Opened, start: int, size: int) -> None:
        self.file, self.start = file, start
        self._zip = zipfile.ZipFile(io.BufferedReader(_Slice(file, start, size)))
        self._lock = threading.Lock()  # of the reader's position
        self.entries = {i.filename: i for i in self._zip.infolist() if not i.is_dir()}

    def data_of(self, info: zipfile.ZipInfo) -> int | None:
        """Where in `file` the bytes of an entry begin; None when they are compressed."""
        if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1:
            return None
        at = self.start + info.header_offset
        with _readable(info.filename):
            name, more = _LENGTHS.unpack(self.file.read(4, at + _HEADER - 4))
        return at + _HEADER + int(name) + int(more)

    def read(self, info: zipfile.ZipInfo, begin: int = 0, end: int | None = None) -> bytes:
        self.file.ensure_open()
        end = info.file_size if end is None else min(end, info.file_size)
        data = self.data_of(info)
        if data is not None:
            return b"".join(_stretch(self.file, data + begin, max(0, end - begin)))
        with self._lock, _readable(info.filename):
            return self._zip.read(info)[begin:end]

    def within(self, info: zipfile.ZipInfo) -> Archive:
        """A zip file that is an entry of this one: where it lies, or unpacked into a file without a name."""
        self.file.ensure_open()
        data = self.data_of(info)
        if data is not None:
            with _readable(info.filename):
                return Archive(self.file, data, info.file_size)
        with tempfile.TemporaryFile() as out, self._lock, _readable(info.filename), self._zip.open(info) as f:
            while block := f.read(1 << 20):
                out.write(block)
            out.flush()
            return Archive(_Opened(os.dup(out.fileno())), 0, info.file_size)

    def close(self) -> None:
        """Once or more often. What is read afterwards is a YprovError."""
        self._zip.close()
        self.file.close()


def _stretch(file: _Opened, at: int, size: int) -> Iterable[bytes]:
    while size and (block := file.read(size, at)):
        yield block
        at, size = at + len(block), size - len(block)


def open_archive(path: Path) -> Archive:
    """Raises YprovError."""
    try:
        file = _Opened(os.open(path, os.O_RDONLY | os.O_CLOEXEC))
    except OSError as e:
        raise refused(path, e) from None
    try:
        return Archive(file, 0, file.size)
    except (OSError, *DAMAGED) as e:
        file.close()
        raise refused(path, e) from None


class ZippedRun:
    """The files of a run in a zip file. Raises YprovError when it holds none, or several."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._archive = open_archive(path)
        self._inner: list[Archive] = []
        try:
            self._top = top_of(path, self._archive.entries)
        except YprovError:
            self.close()
            raise

    def names(self) -> list[str]:
        return sorted(name.removeprefix(self._top) for name in self._archive.entries if name.startswith(self._top))

    def read(self, name: str) -> bytes:
        """Raises FileNotFoundError."""
        info = self._archive.entries.get(self._top + name)
        if info is None:
            raise FileNotFoundError(2, "no such file in the zip file", name)
        return self._archive.read(info)

    def store(self) -> Store | None:
        packed = self._archive.entries.get(self._top + PACKED_SERIES)
        if packed is not None:
            self._inner.append(self._archive.within(packed))
            return store_of(self._inner[-1])
        store = store_of(self._archive, f"{self._top}{SERIES_DIR}/")
        return store if store.keys else None

    def close(self) -> None:
        for inner in self._inner:
            inner.close()
        self._archive.close()


def store_of(archive: Archive, top: str = "") -> ZippedStore:
    """The entries whose names begin with `top` as a store."""
    return ZippedStore({n.removeprefix(top): _Entry(archive, i) for n, i in archive.entries.items()
                        if n.startswith(top)})


class ZippedStore(Store):  # type: ignore[misc]  # zarr is not followed
    """Keys of a Zarr store that are entries of a zip file. Only read."""

    supports_writes: bool = False
    supports_deletes: bool = False
    supports_listing: bool = True

    def __init__(self, keys: dict[str, _Entry]) -> None:
        super().__init__(read_only=True)
        self.keys = keys

    def __eq__(self, other: object) -> bool:
        return self is other

    __hash__ = object.__hash__

    async def get(self, key: str, prototype: Any, byte_range: Any = None) -> Any:
        if key not in self.keys:
            return None
        archive, info = self.keys[key]
        begin, end = 0, info.file_size
        if isinstance(byte_range, RangeByteRequest):
            begin, end = byte_range.start, byte_range.end
        elif isinstance(byte_range, OffsetByteRequest):
            begin = byte_range.offset
        elif isinstance(byte_range, SuffixByteRequest):
            begin = max(0, end - byte_range.suffix)
        return prototype.buffer.from_bytes(archive.read(info, begin, end))

    async def get_partial_values(self, prototype: Any, key_ranges: Iterable[tuple[str, Any]]) -> Any:
        return [await self.get(key, prototype, byte_range) for key, byte_range in key_ranges]

    async def exists(self, key: str) -> bool:
        return key in self.keys

    async def list(self) -> AsyncIterator[str]:
        for key in self.keys:
            yield key

    async def list_prefix(self, prefix: str) -> AsyncIterator[str]:
        for key in self.keys:
            if key.startswith(prefix):
                yield key

    async def list_dir(self, prefix: str) -> AsyncIterator[str]:
        top = prefix.rstrip("/") + "/" if prefix else ""
        for name in {key.removeprefix(top).partition("/")[0] for key in self.keys if key.startswith(top)}:
            yield name

    async def set(self, key: str, value: Any) -> None:
        raise PermissionError("a packed run is only read")

    async def delete(self, key: str) -> None:
        raise PermissionError("a packed run is only read")
