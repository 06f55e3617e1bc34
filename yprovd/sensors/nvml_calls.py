"""Calls of NVML that are prepared once: their arguments and their results in memory that stays. The binding's own
wrappers make all of that anew each time, and take ten times as long. `nvidia_gpu` prepares them, `nvidia` makes them.

Sources: NVIDIA's NVML API reference for units, types and time stamps; the binding for the structures; measurements on
real GPUs where a comment says so.
"""

from __future__ import annotations

import ctypes
import math
import struct
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from yprovd.sensors.nvml import FUNCTION_NOT_FOUND, NEVER, NOT_SUPPORTED, TOO_SMALL, Library

#: Field ids (`NVML_FI_DEV_*`), and which part of the machine they are about (`NVML_POWER_SCOPE_*`).
ENERGY, SCOPED_ENERGY, POWER_AVERAGE, POWER_INSTANT, MEMORY_TEMPERATURE = 83, 191, 185, 186, 82
ECC_CORRECTED, ECC_UNCORRECTED, PCIE_TRANSMIT, PCIE_RECEIVE, NVLINK_TRANSMIT, NVLINK_RECEIVE = 3, 4, 197, 198, 138, 139
POSITIVE = frozenset((POWER_AVERAGE, POWER_INSTANT, MEMORY_TEMPERATURE))  # 0 says that there is none
SCOPE_GPU, SCOPE_MODULE, ALL_LINKS = 0, 1, 0xFFFFFFFF


#: Clocks that were looked at within so many nanoseconds were looked at together.
_TOGETHER_NS = 50_000


class Clocks:
    """Time stamps of NVML, in microseconds, to CLOCK_MONOTONIC. By its documentation they count from 1970; those of
    buffered samples count from the boot with some drivers. Whichever clock shows nearly the same now is meant."""

    def __init__(self) -> None:
        self.now_ns = 0
        self._behind: tuple[int, ...] = ()
        self.look()

    def look(self) -> None:
        """Once per reading: a clock may have been set. Again, where something else ran between the looks at them."""
        for _ in range(4):
            self.now_ns = time.monotonic_ns()
            wall_ns, boot_ns = time.time_ns(), time.clock_gettime_ns(time.CLOCK_BOOTTIME)
            if time.monotonic_ns() - self.now_ns < _TOGETHER_NS:
                break
        self._behind = (wall_ns - self.now_ns, boot_ns - self.now_ns, 0)

    def behind_ns(self, stamp_us: int) -> int | None:
        """By how much CLOCK_MONOTONIC lies behind the clock of a stamp made within the last minute; None when no
        clock fits."""
        for behind in self._behind:
            if -1_000_000_000 < self.now_ns - (stamp_us * 1000 - behind) < 60_000_000_000:
                return behind
        return None


class Target(NamedTuple):
    """Where in the sample a number goes. `positive`: 0 means that there is none (a GPU never draws 0 W)."""

    at: int
    scale: float
    positive: bool = False


class Call:
    """One function with one device: `out`, which it fills, is unpacked by `format` to the targets."""

    __slots__ = ("_out", "_unpack", "arguments", "function", "targets")

    def __init__(
        self, function: Callable[..., int], arguments: tuple[Any, ...], out: Any, format: str,
        targets: tuple[Target, ...],
    ) -> None:
        self.function, self.arguments, self._out, self.targets = function, arguments, out, targets
        self._unpack = struct.Struct(format).unpack_from

    def store(self, values: list[float]) -> None:
        for (at, scale, positive), number in zip(self.targets, self._unpack(self._out), strict=True):
            values[at] = number * scale if number or not positive else math.nan


class Number(NamedTuple):
    """A call that gives one number, its parts side by side: the reader makes it and stores the number by itself, in a
    third of the time. Most calls are such."""

    function: Callable[..., int]
    arguments: tuple[Any, ...]
    out: Any
    target: Target


class TimedCall(Call):
    """Also stores when it was made, for what has no time stamp of its own."""

    __slots__ = ("_time_at",)

    def __init__(self, call: Call, time_at: int) -> None:
        self.function, self.arguments, self.targets = call.function, call.arguments, call.targets
        self._out, self._unpack, self._time_at = call._out, call._unpack, time_at

    def store(self, values: list[float]) -> None:
        super().store(values)
        values[self._time_at] = time.monotonic()


class Field(NamedTuple):
    """An entry of nvmlDeviceGetFieldValues. `time_at`: where its time stamp goes, -1 for nowhere."""

    id: int
    scope: int
    target: Target
    time_at: int = -1


#: c_nvmlFieldValue_t, with the union as 64 bits; a test compares it with the binding's.
ENTRY = "IIqqIIQ"
#: nvmlValueType_t -> the bits of the union that it means. The others are `_other`'s.
_MASKS = {1: 0xFFFFFFFF, 2: 0xFFFFFFFFFFFFFFFF, 3: 0xFFFFFFFFFFFFFFFF, 6: 0xFFFF}


class Fields:
    """Several values in one call. Each has a status, a type and a time stamp of its own. One that is not supported is
    never asked for again."""

    def __init__(self, library: Library, handle: ctypes.c_void_p, fields: Sequence[Field]) -> None:
        self._entry: Any = library.binding.c_nvmlFieldValue_t
        self._function = library.function("nvmlDeviceGetFieldValues") or (lambda *_: FUNCTION_NOT_FOUND)
        self._handle = handle
        self._prepare(fields)

    def _prepare(self, fields: Sequence[Field]) -> None:
        self.fields = tuple(fields)
        self._places = [(field.target, field.time_at) for field in fields]
        self._entries = (self._entry * len(self.fields))()
        for entry, field in zip(self._entries, self.fields, strict=True):
            entry.fieldId, entry.scopeId = field.id, field.scope
        self._unpack = struct.Struct("=" + ENTRY * len(self.fields)).unpack_from

    def read(self, values: list[float], clocks: Clocks) -> Sequence[int]:
        """Store what there is. The status of each field."""
        if not self.fields:
            return ()
        status = self._function(self._handle, len(self.fields), self._entries)
        if status:
            statuses: tuple[int, ...] = (status,) * len(self.fields)
        else:
            raw = self._unpack(self._entries)
            statuses = raw[5::7]
            i = 0
            for (at, scale, positive), time_at in self._places:
                if not raw[i + 5]:  # to be looked at first: the value is undefined otherwise
                    kind, number = raw[i + 4], raw[i + 6]
                    number = number & _MASKS[kind] if kind in _MASKS else _other(kind, number)
                    values[at] = number * scale if number or not positive else math.nan
                    if time_at >= 0:
                        stamp_ns, behind = raw[i + 2] * 1000, clocks.behind_ns(raw[i + 2])
                        values[time_at] = 1e-9 * (time.monotonic_ns() if behind is None else stamp_ns - behind)
                i += 7
        if not NEVER.isdisjoint(statuses):
            self._prepare([f for f, s in zip(self.fields, statuses, strict=True) if s not in NEVER])
        return statuses


def _other(kind: int, bits: int) -> float:
    """A number of one of the rarer members of `nvmlValue_t`."""
    data = bits.to_bytes(8, "little")
    format = {0: "<d", 4: "<q", 5: "<i"}.get(kind)
    return struct.unpack_from(format, data)[0] if format else math.nan


def probe(library: Library, handle: ctypes.c_void_p, id: int, scope: int = SCOPE_GPU) -> tuple[int, float]:
    """Ask for one field, twice when it is there: its status, and the seconds that the second time took."""
    values, clocks = [math.nan], Clocks()
    one = Fields(library, handle, [Field(id, scope, Target(0, 1.0, id in POSITIVE))])
    began = last = time.perf_counter()
    for _ in range(2):
        began, (status,) = last, one.read(values, clocks)
        last = time.perf_counter()
        if status:
            return status, last - began
    return NOT_SUPPORTED if math.isnan(values[0]) else 0, last - began


class Curve:
    """Power that the device has recorded by itself (`nvmlDeviceGetSamples`): 119 values 20 ms apart on an RTX 5090,
    which take 1.5 ms to fetch; who asks less often than its buffer is long has gaps. What was recorded before this was
    made is passed over."""

    def __init__(self, library: Library, handle: ctypes.c_void_p, kind: int) -> None:
        self._function = library.function("nvmlDeviceGetSamples") or (lambda *_: FUNCTION_NOT_FOUND)
        self._handle, self._kind = handle, kind
        self._type, self._count, self._size = ctypes.c_uint(), ctypes.c_uint(), 0
        self._numbers: dict[int, Any] = {}
        self._last_us, self._last_ns, self._clock_known = 0, time.monotonic_ns(), False
        self.status = self._ask_size()
        if not self.status:  # some kinds of samples have a size, and are refused all the same
            self.read(Clocks())

    def _ask_size(self) -> int:
        self._count.value = 0
        status = self._call(None)
        self._size = max(self._count.value, 1)
        self._buffer = (ctypes.c_ulonglong * (2 * self._size))()  # of (time stamp, union)
        bytes_ = memoryview(self._buffer).cast("B")
        quads, halves, doubles = bytes_.cast("Q"), bytes_.cast("I"), bytes_.cast("d")
        self._stamps = quads[0::2]
        self._numbers = {0: doubles[1::2], 1: halves[2::4], 2: quads[1::2], 3: quads[1::2]}
        return status

    def _call(self, buffer: Any) -> int:
        return self._function(self._handle, self._kind, ctypes.c_ulonglong(self._last_us), ctypes.byref(self._type),
                              ctypes.byref(self._count), buffer)

    def read(self, clocks: Clocks) -> tuple[list[int], list[float]]:
        """CLOCK_MONOTONIC (ns, growing) and watts, of what was recorded since the last time. Where the clock of the
        stamps was set back, what is new has lower stamps: those from before are no help then, and are left out."""
        if self._clock_known and clocks.behind_ns(self._last_us) is None:
            self._last_us = 0
        self._count.value = self._size
        self.status = self._call(self._buffer)
        if self.status == TOO_SMALL:
            self._ask_size()
            self._count.value = self._size
            self.status = self._call(self._buffer)
        numbers = self._numbers.get(self._type.value)
        if self.status or numbers is None:
            return [], []
        n = min(self._count.value, self._size)
        stamps, watts = self._stamps[:n].tolist(), [mw * 1e-3 for mw in numbers[:n].tolist()]
        if stamps != sorted(stamps) or (stamps and stamps[0] <= self._last_us):
            pairs = sorted(p for p in zip(stamps, watts, strict=True) if p[0] > self._last_us)
            stamps, watts = [p[0] for p in pairs], [p[1] for p in pairs]
        if not stamps:
            return [], []
        fits = next((i for i in range(len(stamps), 0, -1) if clocks.behind_ns(stamps[i - 1]) is not None), 0)
        self._clock_known = fits > 0
        if fits:
            stamps, watts = stamps[:fits], watts[:fits]
        self._last_us = stamps[-1]
        behind = clocks.behind_ns(stamps[-1])
        if behind is None:
            behind = stamps[-1] * 1000 - clocks.now_ns
        mono = [us * 1000 - behind for us in stamps]
        first = next((i for i, ns in enumerate(mono) if ns > self._last_ns), len(mono))  # a clock was set
        self._last_ns = max(self._last_ns, mono[-1])
        return mono[first:], watts[first:]
