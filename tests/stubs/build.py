"""Stand-ins for vendors' libraries, written in C and compiled when a test asks for one, once per session.

Each file `<name>.c` here becomes a shared library with the vendor's own name inside (SONAME), so that the real Python
binding takes it for the vendor's. Every call of `build` gives a copy of its own: the loader takes two files for two
libraries, hence nothing that one test sets is seen by another.
"""

from __future__ import annotations

import functools
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

import pytest

HERE = Path(__file__).parent
#: file here -> the name of the vendor's library
LIBRARIES = {"nvml": "libnvidia-ml.so.1", "amd_smi": "libamd_smi.so"}
#: Where `yprovd.sensors.libraries` looks first below a root.
FOLDER = "usr/lib64"


def build(name: str, folder: Path, *, without: Sequence[str] = (), more: str = "") -> Path:
    """The path of `<folder>/<vendor's name of the library>`, which is new: a process that has loaded a library from a
    path does not look at the file again. Skips the test where there is no C compiler.

    `without`: functions that it shall not have (an older driver). `more`: C text that is compiled with it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / LIBRARIES[name]
    assert not path.exists(), f"{path} may be loaded already"
    return Path(shutil.copy(_compiled(name, tuple(without), more), path))


@functools.cache
def _compiled(name: str, without: tuple[str, ...], more: str) -> Path:
    cc = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if cc is None:
        pytest.skip("no C compiler (cc, gcc, clang) to build the stand-in for a vendor's library")
    folder = _folder()
    stem = f"{name}-{len(list(folder.iterdir()))}"
    (folder / f"{stem}.more.c").write_text(more + "\n")
    hidden = "".join(f" {function};" for function in without)
    (folder / f"{stem}.map").write_text(f"{{ global: *; local: {hidden or ' none_at_all;'} }};\n")
    library = folder / f"{stem}.so"
    done = subprocess.run(
        [cc, "-std=gnu11", "-O1", "-Wall", "-Wextra", "-Werror", "-fPIC", "-shared", "-o", library, HERE / f"{name}.c",
         folder / f"{stem}.more.c", f"-Wl,-soname,{LIBRARIES[name]}", f"-Wl,--version-script={folder / stem}.map",
         "-lm", "-lpthread"],
        capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return library


@functools.cache
def _folder() -> Path:
    folder = tempfile.TemporaryDirectory(prefix="yprov-stubs-")
    _kept.append(folder)
    return Path(folder.name)


_kept: list[tempfile.TemporaryDirectory[str]] = []
