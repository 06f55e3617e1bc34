"""A node with NVIDIA GPUs: a root that holds the stand-in `nvml.c`, and the functions that control it."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.stubs.build import FOLDER, build


class NvmlNode:
    """`node.lose(2)` is `stub_lose(2)` of nvml.c: text, int and float become what C expects. Its environment variables
    (STUB_NVML_...) count from when this is made."""

    def __init__(self, root: Path, without: Sequence[str] = ()) -> None:
        self.path = build("nvml", root / FOLDER, without=without)
        self._library = ctypes.CDLL(str(self.path))

    def __getattr__(self, name: str) -> Any:
        function = getattr(self._library, f"stub_{name}")
        function.restype = {"work": ctypes.c_double, "power": ctypes.c_double, "calls": ctypes.c_ulonglong}.get(
            name, ctypes.c_int)

        def call(*arguments: str | int | float) -> Any:
            return function(*[_c(argument) for argument in arguments])

        return call

    def process(self, device: int, pid: int, memory: int) -> None:
        self._library.stub_process(device, pid, ctypes.c_ulonglong(memory))


def _c(argument: str | int | float) -> Any:
    if isinstance(argument, str):
        return argument.encode()
    return ctypes.c_double(argument) if isinstance(argument, float) else argument
