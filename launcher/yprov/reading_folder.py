"""A run in its directory, or in one that a zip file of it was unpacked into: its files by name, and its store."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

from yprovd.errors import YprovError
from yprovd.stitch import PACKED_SERIES, SERIES_DIR


class Folder:
    """The files of a run's directory; its store may be packed, as it is in an unpacked zip file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._packed: Any = None

    def names(self) -> list[str]:
        """Without links that lead out of the directory, which `read` does not follow."""
        found = (os.path.relpath(os.path.join(folder, name), self.path)
                 for folder, _dirs, names in os.walk(self.path) for name in names)
        return sorted(name for name in found if not (self.path / name).is_symlink() or self._holds(name))

    def _holds(self, name: str) -> bool:
        """Whether the path stays within the directory, wherever `..` and links lead."""
        try:
            return Path(os.path.realpath(self.path / name)).is_relative_to(os.path.realpath(self.path))
        except ValueError:  # a NUL: of no file
            return False

    def read(self, name: str) -> bytes:
        """Raises FileNotFoundError, also for what is no file, and YprovError for what lies outside of the directory."""
        if not self._holds(name):
            raise YprovError(f"`{name}` lies outside of the run `{self.path}`", hint="names() are the paths within it")
        path = self.path / name
        if not path.is_file():  # a pipe would be waited for
            raise FileNotFoundError(errno.ENOENT, "the run has no such file", name)
        return path.read_bytes()

    def store(self) -> Any:
        if (self.path / SERIES_DIR).is_dir():
            return str(self.path / SERIES_DIR)
        from yprov.reading_zip import open_archive, store_of

        if not (self.path / PACKED_SERIES).is_file():
            return None
        self._packed = open_archive(self.path / PACKED_SERIES)
        return store_of(self._packed)

    def close(self) -> None:
        if self._packed is not None:
            self._packed.close()
