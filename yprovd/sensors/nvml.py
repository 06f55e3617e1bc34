"""NVML, the library of NVIDIA's driver: loading it, and what its answers mean. The only file that loads `pynvml`, the
binding of the distribution nvidia-ml-py. Source: NVIDIA's NVML API reference.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

from yprovd.errors import SensorUnavailable
from yprovd.sensors import libraries

LIBRARY = "libnvidia-ml.so.1"

# Statuses (`nvmlReturn_t`), by what follows from them. Everything else (Timeout, NoPermission, InUse, Unknown...) is
# about this one time.
NOT_SUPPORTED, NOT_FOUND, TOO_SMALL, FUNCTION_NOT_FOUND = 3, 6, 7, 13
#: NotSupported, FunctionNotFound, ArgumentVersionMismatch, Deprecated: it will never be there.
NEVER = frozenset((NOT_SUPPORTED, FUNCTION_NOT_FOUND, 25, 26))
#: Also said of what this device or this user does not have: InvalidArgument, NoPermission. Believed at the start only.
REFUSED = NEVER | {2, 4}
#: GpuIsLost, ResetRequired, GpuNotFound: this device, until the driver has been loaded anew.
LOST = frozenset((15, 16, 28))
#: Uninitialized, DriverNotLoaded, LibRmVersionMismatch: the whole library, likewise.
DOWN = frozenset((1, 9, 18))

_OPENING = {
    4: ("this user may not open the NVIDIA driver's devices", "compare `id` with: ls -l /dev/nvidia*"),
    9: ("the NVIDIA driver is not loaded", "an administrator loads it with: modprobe nvidia && nvidia-smi"),
    18: ("the NVIDIA driver and its library are of different versions (it was upgraded while in use)",
         "reboot the node, or have its nvidia modules loaded anew; nvidia-smi says the same"),
}


class Library:
    """The library below one root, loaded through the real binding and initialised. Blocks while the driver wakes up
    the GPUs (seconds without its persistence mode). Raises SensorUnavailable."""

    def __init__(self, root: str) -> None:
        try:
            self._library = libraries.load(root, LIBRARY)
        except OSError as e:
            raise SensorUnavailable(f"no NVIDIA driver: {e}") from None
        self.binding: Any
        try:
            self.binding = importlib.import_module("pynvml")
        except ImportError as e:
            raise SensorUnavailable(f"the Python binding is missing: {e}",
                                    hint="python -m pip install nvidia-ml-py") from None
        # The binding keeps one library per process, and what it found in it: it shall be this one.
        self.binding.nvmlLib = self._library
        getattr(self.binding, "_nvmlGetFunctionPointer_cache", {}).clear()
        self._open = False
        self.status = 0
        status = self.restart()
        if status:
            other = f"NVML does not start: {self.text(status)}", "nvidia-smi; sudo dmesg | grep -i -e nvrm -e xid"
            reason, hint = _OPENING.get(status, other)
            raise SensorUnavailable(reason, hint=hint)

    def function(self, name: str) -> Callable[..., int] | None:
        """None where this driver's library lacks it."""
        return getattr(self._library, name, None)

    def ask(self, function: str, *arguments: Any) -> Any:
        """What the binding's wrapper of this name returns; None after any error, which `status` then is. For what is
        asked seldom."""
        try:
            self.status = 0
            return getattr(self.binding, function)(*arguments)
        except self.binding.NVMLError as e:
            self.status = int(e.value)
        except self.binding.NVMLLibraryMismatchError:  # no NVMLError: the function has a version that is newer
            self.status = FUNCTION_NOT_FOUND
        return None

    def text(self, status: int) -> str:
        return str(self.binding.NVMLError(status))

    def restart(self) -> int:
        """Give back and open anew. The status of opening; handles are to be fetched again."""
        self.close()
        try:
            self.binding.nvmlInit()
        except self.binding.NVMLError as e:
            return int(e.value)
        self._open = True
        return 0

    def close(self) -> None:
        if self._open:
            self._open = False
            self.ask("nvmlShutdown")
