"""The Python binding `amdsmi` of AMD's `libamd_smi.so`, if there is one that fits it. The only file that imports it.

Sources: AMD SMI's binding (ROCm/amdsmi 5.5 to 7.0), read and measured.

Library and binding must be of one release: the structures that the library fills change with almost every one, and a
binding of another release starts well and gives wrong watts, or has the library write past its end. So the binding is
the one in the library's own ROCm tree (`<rocm>/share/amd_smi`), or else the installed one if its version is the tree's
(`<rocm>/.info/version`, librocm-core) or the library's own. That is settled before the binding is imported.

Importing it without its library prints to standard output, and raises KeyError; AttributeError if the library lacks
any of 180 functions; some releases raise OSError.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import importlib.util
import io
import os
import re
import sys
from collections.abc import Iterator
from typing import Any

from yprovd.errors import SensorUnavailable
from yprovd.sensors import Surroundings, libraries
from yprovd.sensors.files import read_word

LIBRARY = "libamd_smi.so"
_HINT = "load the ROCm module of this system before `yprov run`, or set ROCM_PATH to its directory"


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """What is printed meanwhile, by Python or by C, is not on standard output."""
    with contextlib.redirect_stdout(io.StringIO()):
        try:
            kept = os.dup(1)
        except OSError:  # it is closed
            yield
            return
        null = os.open(os.devnull, os.O_WRONLY)
        libc = ctypes.CDLL(None)
        try:
            libc.fflush(None)
            os.dup2(null, 1)
            yield
        finally:
            libc.fflush(None)
            os.dup2(kept, 1)
            os.close(kept)
            os.close(null)


def binding(where: Surroundings) -> tuple[Any, str]:
    """The module that fits the library, and its version. Raises SensorUnavailable."""
    trees = [tree for name in ("ROCM_HOME", "ROCM_PATH") if (tree := where.environ.get(name))] + ["/opt/rocm"]
    try:
        library = libraries.load(where.root, LIBRARY, [f"{tree}/{lib}" for tree in trees for lib in ("lib", "lib64")])
    except OSError as e:
        raise SensorUnavailable(f"AMD SMI cannot be loaded: {e}", hint=_HINT) from None
    tree = os.path.dirname(os.path.dirname(_path_of(library)))
    folder = os.path.join(tree, "share/amd_smi")
    owned = os.path.isfile(os.path.join(folder, "amdsmi/__init__.py"))
    loaded = {name: sys.modules.pop(name) for name in list(sys.modules) if name.partition(".")[0] == "amdsmi"}
    spec = None if owned else importlib.util.find_spec("amdsmi")
    if not owned and (spec is None or spec.origin is None):
        raise SensorUnavailable(f"the Python binding of {_path_of(library)} is not in {folder}, and none is installed",
                                hint="python -m pip install amdsmi==RELEASE, of the same release as ROCm")
    home = folder + "/amdsmi" if owned else os.path.dirname(str(spec.origin if spec else ""))
    found = re.search(r"__version__\s*=\s*[\"']([^\"']+)", read_word(os.path.join(home, "_version.py")))
    version = found[1] if found else "unknown"
    if not owned:
        _require_one_release(library, tree, version)
    known = loaded.get("amdsmi")
    if known is not None and os.path.dirname(str(known.__file__)) == home and _uses(known, library):
        sys.modules.update(loaded)
        return known, version
    module = _imported(folder if owned else "", tree)
    if not _uses(module, library):
        raise SensorUnavailable(f"the binding in {home} has loaded another {LIBRARY} than {_path_of(library)}",
                                hint=_HINT)
    return module, version


def _imported(folder: str, tree: str) -> Any:
    """Import it with its own search for the library directed to this tree."""
    variables = {name: os.environ.get(name) for name in ("ROCM_HOME", "ROCM_PATH")}
    os.environ.update(dict.fromkeys(variables, tree))
    if folder:
        sys.path.insert(0, folder)
    importlib.invalidate_caches()
    try:
        return importlib.import_module("amdsmi")
    except (ImportError, OSError, KeyError, AttributeError) as e:
        raise SensorUnavailable(f"the binding of AMD SMI does not fit its library: {type(e).__name__}: {e}",
                                hint=_HINT) from None
    finally:
        if folder:
            sys.path.remove(folder)
        for name, value in variables.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


def _uses(module: Any, library: ctypes.CDLL) -> bool:
    return bool(module.amdsmi_wrapper._libraries[LIBRARY]._handle == library._handle)


def _require_one_release(library: ctypes.CDLL, tree: str, version: str) -> None:
    """Raises SensorUnavailable unless major and minor version are those of ROCm, or of the library."""
    there = [v for v in (_rocm_version(tree), _library_version(library)) if v]
    if _release(version) not in {_release(v) for v in there}:
        release = _release(there[0]) if there else "RELEASE"
        raise SensorUnavailable(
            f"the installed binding is amdsmi {version}, and {_path_of(library)} is of {' or '.join(there) or 'no'} "
            "release: together they give wrong numbers",
            hint=f"python -m pip install 'amdsmi=={release}.*', or a ROCm that brings its own in share/amd_smi")


def _release(version: str) -> str:
    return ".".join(re.findall(r"\d+", version)[:2])


def _rocm_version(tree: str) -> str:
    if word := read_word(os.path.join(tree, ".info/version")):
        return word.partition("-")[0]
    numbers = [ctypes.c_uint32() for _ in range(3)]
    try:
        status = ctypes.CDLL(os.path.join(tree, "lib/librocm-core.so")).getROCmVersion(*map(ctypes.byref, numbers))
    except (OSError, AttributeError):
        return ""
    return "" if status else ".".join(str(n.value) for n in numbers)


def _library_version(library: ctypes.CDLL) -> str:
    """Into memory that is larger than any release's structure. Some begin with the year, which is no release."""
    numbers = (ctypes.c_uint32 * 64)()
    try:
        status = library.amdsmi_get_lib_version(ctypes.byref(numbers))
    except AttributeError:
        return ""
    return "" if status else f"{numbers[0]}.{numbers[1]}"


def _path_of(library: ctypes.CDLL) -> str:
    """Where the linker found it."""
    if "/" in library._name:
        return os.path.realpath(library._name)
    with open("/proc/self/maps") as maps:
        paths = (line.split(maxsplit=5)[-1].strip() for line in maps)
        return next((os.path.realpath(path) for path in paths if os.path.basename(path).startswith(LIBRARY)),
                    library._name)
