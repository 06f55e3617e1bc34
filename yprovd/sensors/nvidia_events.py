"""Xid errors of NVIDIA's GPUs: what the driver reports when a GPU, or a program on it, has gone wrong ("fallen off the
bus" is 79, a memory page fault 31; NVIDIA's Xid catalog tells the others).

NVML hands events out to whom has asked for them, from then on: nvmlEventSetWait with no time to wait returns at once
with Timeout when there is none. One question covers all GPUs. With MIG and without privileges it tells only what
befalls the whole GPU.
"""

from __future__ import annotations

import ctypes
import math
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from yprovd.sensors.nvml import REFUSED, Library

if TYPE_CHECKING:
    from yprovd.sensors.nvidia_gpu import Gpu

COUNT, LAST = "hw.errors.xid", "hw.errors.xid.last"
#: nvmlEventTypeXidCriticalError.
_XID = 8
#: Events that are taken at one reading; a broken GPU may report thousands.
_MOST = 64
#: Seconds that a question may take, or it is not asked at all.
_CHEAP_S = 1e-3


class Events:
    """`gpus`: those that report; empty where the driver, the device or this user's permission does not allow it.
    Each then has its COUNT, 0 at first, and LAST, NaN until there is one."""

    def __init__(self, library: Library, gpus: Sequence[Gpu]) -> None:
        self._library = library
        self._wait = library.function("nvmlEventSetWait_v2")
        self._set: Any = None
        self._status = 0
        self._data: Any = library.binding.c_nvmlEventData_t()
        self.gpus: tuple[Gpu, ...] = ()
        self._told: dict[str, tuple[int, float]] = {gpu.uuid: (0, math.nan) for gpu in gpus}
        self.gpus = self.register(gpus)
        if self.gpus:
            began = time.perf_counter()
            self._take()
            if self._status in REFUSED or time.perf_counter() - began > _CHEAP_S:
                self.gpus, self._set = (), None

    def register(self, gpus: Sequence[Gpu]) -> tuple[Gpu, ...]:
        """Ask for the events of these, also anew after the library was opened again. Those for which one may."""
        self._set = None
        made = self._library.ask("nvmlEventSetCreate") if self._wait is not None else None
        if made is None:
            return ()
        self._set = made
        able = []
        for gpu in gpus:
            self._library.ask("nvmlDeviceRegisterEvents", gpu.handle, _XID, made)
            if not self._library.status:
                able.append(gpu)
        return tuple(able)

    def _take(self) -> set[str]:
        """Count what has happened. Whom it befell."""
        befell: set[str] = set()
        for _ in range(_MOST):
            if self._set is None or self._wait is None:
                break
            self._status = self._wait(self._set, ctypes.byref(self._data), ctypes.c_uint(0))
            if self._status:
                break
            if self._data.eventType == _XID and (uuid := self._uuid()) in self._told:
                self._told[uuid] = self._told[uuid][0] + 1, float(self._data.eventData)
                befell.add(uuid)
        return befell

    def _uuid(self) -> str:
        device = ctypes.cast(self._data.device, ctypes.c_void_p).value
        for gpu in self.gpus:
            if gpu.handle.value == device:
                return gpu.uuid
        return self._library.ask("nvmlDeviceGetUUID", self._data.device) or ""

    def store(self, values: list[float]) -> None:
        """Take what has happened, and store each GPU's numbers; of one that is lost, when it was told why."""
        befell = self._take()
        for gpu in self.gpus:
            if not gpu.lost or gpu.uuid in befell:
                values[gpu.events_at:gpu.events_at + 2] = self._told[gpu.uuid]
