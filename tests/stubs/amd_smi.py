"""A ROCm tree below a root, with the stand-in `amd_smi.c` as its library, and the functions that control it."""

from __future__ import annotations

import ctypes
import functools
import importlib.util
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.stubs.build import build


def installed() -> Path:
    """The folder of the binding that is installed here."""
    spec = importlib.util.find_spec("amdsmi")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent


@functools.cache
def functions() -> tuple[str, ...]:
    """All that the binding wants of its library, at once, at import."""
    text = (installed() / "amdsmi_wrapper.py").read_text()
    return tuple(sorted(set(re.findall(r"_libraries\['libamd_smi\.so'\]\.(\w+)", text))))


@functools.cache
def not_supported() -> str:
    """C text: a weak function for each of them that says AMDSMI_STATUS_NOT_SUPPORTED."""
    return "\n".join(f"__attribute__((weak)) int {name}(void) {{ return 2; }}" for name in functions())


class AmdSmiNode:
    """`node.fail("amdsmi_get_power_info", 16)` is `stub_fail` of amd_smi.c. `release`: of the tree, "" for a tree that
    does not say. `binding`: whether it brings its own, a copy of the installed one that calls itself `release`.
    `without`: functions that its library lacks."""

    def __init__(
        self, root: Path, *, rocm: str = "opt/rocm", release: str = "7.0.2-104", binding: bool = True,
        without: Sequence[str] = (),
    ) -> None:
        self.rocm = root / rocm
        self.path = build("amd_smi", self.rocm / "lib", without=without, more=not_supported())
        if release:
            (self.rocm / ".info").mkdir()
            (self.rocm / ".info/version").write_text(f"{release}\n")
        if binding:
            own = self.rocm / "share/amd_smi/amdsmi"
            shutil.copytree(installed(), own, ignore=shutil.ignore_patterns("__pycache__"))
            (own / "_version.py").write_text('__version__ = "26.0.0+own"\n')
        self._library = ctypes.CDLL(str(self.path))
        self._library.stub_counts.restype = ctypes.c_uint64

    def __getattr__(self, name: str) -> Any:
        function = getattr(self._library, f"stub_{name}")
        return lambda *arguments: function(*map(_c, arguments))

    def joules(self, gcd: int, boottime_ns: int) -> float:
        return float(self._library.stub_counts(gcd, ctypes.c_uint64(boottime_ns)) / 65536)


def _c(argument: str | int | float) -> Any:
    if isinstance(argument, str):
        return argument.encode()
    return ctypes.c_double(argument) if isinstance(argument, float) else argument
