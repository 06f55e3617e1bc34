"""What an imported run keeps in `artifacts/`, and what is known of the files that it declared."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path
from typing import Any

from yprovd.files import HASH_LIMIT, lasting

_BLOCK = 1 << 20


class Artifacts:
    """The folder of what is kept, made when the first thing comes. No name is given twice."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def _free(self, name: str) -> Path:
        wanted = self._folder / lasting(name)
        wanted.parent.mkdir(parents=True, exist_ok=True)
        path, number = wanted, 1
        while path.exists():
            number += 1
            path = wanted.with_name(f"{wanted.stem}-{number}{wanted.suffix}")
        return path

    def _place(self, path: Path) -> str:
        return f"{self._folder.name}/{path.relative_to(self._folder)}"

    def keep(self, source: Path, name: str) -> str:
        path = self._free(name)
        shutil.copyfile(source, path)
        return self._place(path)

    def write(self, name: str, text: str) -> None:
        self._free(name).write_text(text, encoding="utf-8", errors="backslashreplace")

    def facts(self, path: Path, copy_as: str) -> dict[str, Any]:
        """What is known of a file that is there; a copy under the name `copy_as`, when there is one."""
        try:
            stat = path.stat()
            facts: dict[str, Any] = {"modified_ns": stat.st_mtime_ns}
            if not path.is_file():
                return {**facts, "reason": "a folder" if path.is_dir() else "not a regular file"}
            facts["size"] = stat.st_size
            if stat.st_size > HASH_LIMIT and not copy_as:
                return {**facts, "reason": f"larger than {HASH_LIMIT} bytes"}
            target = self._free(copy_as) if copy_as else None
            facts["sha256"] = _read(path, target)
        except OSError as e:
            return {"reason": e.strerror or str(e)}
        return {**facts, "stored": self._place(target)} if target else facts


def _read(path: Path, target: Path | None) -> str:
    """The checksum of a file, which is copied on the way."""
    digest = hashlib.sha256()
    with open(path, "rb") as f, open(target or "/dev/null", "wb") as out:
        while block := f.read(_BLOCK):
            digest.update(block)
            if target:
                out.write(block)
    return digest.hexdigest()
