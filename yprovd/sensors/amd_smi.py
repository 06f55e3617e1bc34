"""AMD GPUs by AMD's library, through its binding (`amd_library`): for tables that `gpu_metrics` does not know.

Sources: AMD SMI's headers and binding (ROCm/amdsmi 5.5 to 7.0), read and measured.

- It shares a lock in /dev/shm with every process that uses the same library, which are the job's own ranks:
  RSMI_MUTEX_THREAD_ONLY=1 keeps us out of it.
- The binding's dictionaries take 0.3 ms each, leak marks of absence as numbers, and make a boolean of the throttle
  status: what is read often is read from the raw structures, with one rule for what is no number
  (`gpu_metrics.clean`).
"""

from __future__ import annotations

import ctypes
import math
import os
import re
import time
from collections.abc import Callable, Sequence
from typing import Any

from yprovd.errors import SensorUnavailable
from yprovd.sensors import Surroundings
from yprovd.sensors.amd_library import binding, quiet
from yprovd.sensors.amd_sysfs import ABSENT, CAP_PERIOD_S, COLUMNS, LIMIT, TOTAL, USED, Gpu
from yprovd.sensors.gpu_metrics import (
    CLOCK,
    ENERGY,
    ENERGY_UNIT,
    FIELDS,
    POWER,
    REASONS,
    RESIDENCIES,
    Layout,
    Place,
    clean,
    grown,
)

_NOT_SUPPORTED = frozenset((2, 3))  # NOT_SUPPORTED, NOT_YET_IMPLEMENTED
_OPENING = {
    18: ("no GPU's device file may be opened",
         "compare `id` with: ls -l /dev/dri/renderD*; a Slurm step needs the job's GPUs: srun --gpus-per-node=..."),
    34: ("the amdgpu driver is not loaded", "an administrator loads it with: modprobe amdgpu"),
}

#: Ours -> the member of amdsmi_gpu_metrics_t.
_MEMBERS = {
    "edge": "temperature_edge", "hotspot": "temperature_hotspot", "memory": "temperature_mem",
    "gfx": "average_gfx_activity", "umc": "average_umc_activity", "power": "current_socket_power",
    "average_power": "average_socket_power", "energy": "energy_accumulator", "clock": "system_clock_counter",
    "gfxclk": "current_gfxclks", "one_gfxclk": "current_gfxclk", "uclk": "current_uclk", "reasons": "throttle_status",
    "hbm": "temperature_hbm", "xgmi_read": "xgmi_read_data_acc", "xgmi_write": "xgmi_write_data_acc",
}
_RESIDENCY_MEMBERS = ("prochot_residency_acc", "ppt_residency_acc", "socket_thm_residency_acc",
                      "vr_thm_residency_acc", "hbm_thm_residency_acc")
#: What a GPU may lack for good.
_NOT_ALL_HAVE = ("edge", "hotspot", "memory", "xgmi_read", "xgmi_write")


class AmdSmi:
    """The GPUs among `known` that the library can open. Raises SensorUnavailable."""

    def __init__(
        self, where: Surroundings, known: Sequence[Gpu], clock: Callable[[], float] = time.monotonic
    ) -> None:
        os.environ["RSMI_MUTEX_THREAD_ONLY"] = "1"
        with quiet():
            self._amdsmi, version = binding(where)
            self._raw = self._amdsmi.amdsmi_wrapper
            status = self._raw.amdsmi_init(self._raw.AMDSMI_INIT_AMD_GPUS)
        if status:
            text = self._raw.amdsmi_status_t__enumvalues.get(status, "unknown")
            reason, hint = _OPENING.get(status, (text, "amd-smi list; sudo dmesg | grep amdgpu"))
            raise SensorUnavailable(f"AMD SMI does not start ({status}): {reason}", hint=hint)
        self.backend = f"amdsmi {version}"
        try:
            by_pci = {gpu.pci: gpu for gpu in known}
            handles = self._ask("amdsmi_get_processor_handles") or []
            found = [(by_pci[pci], h) for h in handles if (pci := self._ask("amdsmi_get_gpu_device_bdf", h)) in by_pci]
            if not found:
                raise SensorUnavailable(f"AMD SMI opens {len(handles)} GPUs, none of those here", hint=_OPENING[18][1])
            self._devices = [_Device(self._raw, handle, clock) for _, handle in found]
            self.gpus = [self._identify(gpu, handle, device)
                         for (gpu, handle), device in zip(found, self._devices, strict=True)]
        except BaseException:
            self.close()
            raise

    def read(self, wanted: Sequence[int]) -> list[Sequence[float]]:
        return [self._devices[i].read() for i in wanted]

    def close(self) -> None:
        self._raw.amdsmi_shut_down()

    def _ask(self, function: str, *arguments: Any) -> Any:
        """What the binding's own wrapper gives; None where it raises, or is not there. For what is asked once."""
        try:
            return getattr(self._amdsmi, function)(*arguments)
        except (AttributeError, ValueError, self._amdsmi.AmdSmiException):
            return None

    def _identify(self, gpu: Gpu, handle: Any, device: _Device) -> Gpu:
        """What the files did not tell."""
        asic = self._ask("amdsmi_get_gpu_asic_info", handle) or {}
        kfd = self._ask("amdsmi_get_gpu_kfd_info", handle) or {}
        serial = str(asic.get("asic_serial", "N/A")).lower().removeprefix("0x")
        uuid = f"GPU-{serial}" if re.fullmatch(r"[0-9a-f]{16}", serial) and serial.strip("0") else ""
        market = str(asic.get("market_name", "N/A"))
        node = kfd.get("node_id")
        return gpu._replace(
            name=gpu.name if market == "N/A" or not gpu.name.startswith("AMD GPU ") else market,
            uuid=gpu.uuid or uuid, order=gpu.order or ((node,) if isinstance(node, int) else ()), hidden=False,
            fields=device.fields, about={**gpu.about, "clock_reasons": device.reasons},
            library_unit_j=device.unit_uj / 1e6)


class _Device:
    """One GPU, with the memory that its calls write to."""

    def __init__(self, raw: Any, handle: Any, clock: Callable[[], float]) -> None:
        self._raw, self._handle, self._clock = raw, handle, clock
        self._table = raw.amdsmi_gpu_metrics_t()
        self._layout = _layout(raw.amdsmi_gpu_metrics_t)
        self._bytes = memoryview(self._table).cast("B")
        self._used, self._total = ctypes.c_uint64(), math.nan
        self._cap, self._cap_due = math.nan, -math.inf
        self._residencies: tuple[int, ...] = ()
        total = ctypes.c_uint64()
        if not raw.amdsmi_get_gpu_memory_total(handle, 0, ctypes.byref(total)):
            self._total = float(total.value) or math.nan
        self._has_table = raw.amdsmi_get_gpu_metrics_info(handle, ctypes.byref(self._table)) not in _NOT_SUPPORTED
        #: The library's constant (uJ): 15.3 where the counter's unit is 2^-16 J.
        self.unit_uj = self._energy(list(ABSENT))
        seen = self.read()
        lacks = [c for c, value in zip(COLUMNS, seen, strict=True) if value != value and c in _NOT_ALL_HAVE]
        self.fields = frozenset(COLUMNS) - frozenset(lacks if len(lacks) < len(_NOT_ALL_HAVE) else ())
        self.reasons = ",".join(RESIDENCIES) if self._residencies else "throttle_status"

    def read(self) -> Sequence[float]:
        values = self._read_table() if self._has_table else self._read_singly()
        if not self._raw.amdsmi_get_gpu_memory_usage(self._handle, 0, ctypes.byref(self._used)):
            values[USED] = float(self._used.value)
        now = self._clock()
        if now >= self._cap_due:
            self._cap_due = now + CAP_PERIOD_S
            self._read_cap()
        values[TOTAL], values[LIMIT] = self._total, self._cap
        return values

    def _read_cap(self) -> None:
        """hwmon's number, in uW. (`power_limit` of the power info is W in some releases and uW in others.)"""
        cap = self._raw.amdsmi_power_cap_info_t()
        status = self._raw.amdsmi_get_power_cap_info(self._handle, 0, ctypes.byref(cap))
        watts = cap.power_cap / 1e6
        self._cap = watts if not status and 0 < watts < 5000 else math.nan

    def _read_table(self) -> list[float]:
        if self._raw.amdsmi_get_gpu_metrics_info(self._handle, ctypes.byref(self._table)):
            return list(ABSENT)
        values, residencies = self._layout.values(self._bytes)
        if residencies:
            values[REASONS] = grown(self._residencies, residencies)
            self._residencies = residencies
        return [*values, math.nan, math.nan, math.nan]

    def _read_singly(self) -> list[float]:
        """For tables that the library does not give as one."""
        raw, handle, values = self._raw, self._handle, list(ABSENT)
        self._energy(values)
        power = raw.amdsmi_power_info_t()
        if not raw.amdsmi_get_power_info(handle, ctypes.byref(power)):
            said = [clean(getattr(power, name, None), "power")
                    for name in ("socket_power", "current_socket_power", "average_socket_power")]
            values[POWER] = next((watts for watts in said if watts > 0), math.nan)
        usage = raw.amdsmi_engine_usage_t()
        if not raw.amdsmi_get_gpu_activity(handle, ctypes.byref(usage)):
            values[FIELDS.index("gfx")] = clean(usage.gfx_activity, "gfx")
            values[FIELDS.index("umc")] = clean(usage.umc_activity, "umc")
        celsius = ctypes.c_int64()
        for name, kind in (("edge", 0), ("hotspot", 1), ("memory", 2)):
            if not raw.amdsmi_get_temp_metric(handle, kind, 0, ctypes.byref(celsius)):
                values[FIELDS.index(name)] = clean(celsius.value, name)
        clocks = raw.amdsmi_clk_info_t()
        for name, kind in (("gfxclk", 0), ("uclk", 4)):
            if not raw.amdsmi_get_clock_info(handle, kind, ctypes.byref(clocks)):
                values[FIELDS.index(name)] = clean(getattr(clocks, "clk", None), name)
        return values

    def _energy(self, values: list[float]) -> float:
        count, unit, stamp = ctypes.c_uint64(), ctypes.c_float(), ctypes.c_uint64()
        status = self._raw.amdsmi_get_energy_count(
            self._handle, ctypes.byref(count), ctypes.byref(unit), ctypes.byref(stamp))
        if status:
            return math.nan
        near = abs(unit.value * 1e-6 - ENERGY_UNIT) < 0.01 * ENERGY_UNIT
        values[ENERGY] = clean(count.value, "energy") * (1.0 if near else unit.value * 1e-6 / ENERGY_UNIT)
        values[CLOCK] = clean(stamp.value, "clock")
        return round(unit.value, 6)


def _layout(table: Any) -> Layout:
    """Where this release has what we want."""
    codes = {2: "H", 4: "I", 8: "Q"}
    types = {name: kind for name, kind, *_ in table._fields_}

    def place(member: str, together: int = 1) -> Place:
        kind, count = types[member], together
        if hasattr(kind, "_length_"):
            kind, count = kind._type_, kind._length_
        return Place(getattr(table, member).offset, codes[ctypes.sizeof(kind)], count)

    places = {ours: place(member) for ours, member in _MEMBERS.items() if member in types}
    if all(member in types for member in _RESIDENCY_MEMBERS):
        places["residencies"] = place(_RESIDENCY_MEMBERS[0], len(_RESIDENCY_MEMBERS))
    return Layout(ctypes.sizeof(table), places)
