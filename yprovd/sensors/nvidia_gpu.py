"""One NVIDIA GPU: who it is, and which prepared calls tell what of it. What the device does not have is found here,
once, by asking; `nvidia` reads the rest."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

from yprovd.model import Kind, Scalar
from yprovd.sensors import nvml_calls as nvml
from yprovd.sensors.nvidia_events import COUNT, LAST
from yprovd.sensors.nvidia_processes import Processes
from yprovd.sensors.nvml import REFUSED, Library
from yprovd.sensors.nvml_calls import Call, Curve, Field, Fields, Number, Target, TimedCall, probe

#: name -> unit, kind, description, resolution
SPECS: dict[str, tuple[str, Kind, str, float]] = {
    "hw.energy": ("J", "counter", "Energy since the driver was loaded, by the device's own meter", 1e-3),
    "hw.energy.time": ("s", "time", "When hw.energy had its value, on CLOCK_MONOTONIC", 1e-6),
    "hw.power": ("W", "gauge", "Power; see the device's power_kind and power_scope", 1e-3),
    "hw.power.time": ("s", "time", "When hw.power had its value, on CLOCK_MONOTONIC", 1e-6),
    "hw.power.average": ("W", "gauge", "Power, average of the last second", 1e-3),
    "hw.power.limit": ("W", "gauge", "Power limit in force", 1e-3),
    "hw.gpu.utilization": ("1", "gauge", "Share of the time in which a kernel ran, however small", 0.01),
    "hw.gpu.memory.activity": ("1", "gauge", "Share of the time in which memory was read or written", 0.01),
    "hw.gpu.memory.usage": ("By", "gauge", "Memory in use", 1 << 20),
    "hw.gpu.memory.limit": ("By", "gauge", "Memory that there is", 1 << 20),
    "hw.gpu.temperature": ("Cel", "gauge", "Temperature of the chip", 1.0),
    "hw.gpu.memory.temperature": ("Cel", "gauge", "Temperature of the memory", 1.0),
    "hw.gpu.clock": ("Hz", "gauge", "Clock of the multiprocessors", 1e6),
    "hw.gpu.memory.clock": ("Hz", "gauge", "Clock of the memory", 1e6),
    "hw.gpu.clock.reasons": ("{bitmask}", "gauge", "Why the clock is not higher (nvmlClocksEventReasons)", 1),
    "hw.errors": ("{error}", "counter", "Memory errors that could not be corrected, since the driver was loaded", 1),
    "hw.errors.corrected": ("{error}", "counter", "Memory errors that were corrected, since the driver was loaded", 1),
    "hw.errors.xid": ("{error}", "counter", "Xid errors that the driver reported during the run", 1),
    "hw.errors.xid.last": ("{xid}", "gauge", "Number of the last one (NVIDIA's Xid catalog)", 1),
    "hw.gpu.pcie.transmit": ("By", "counter", "Sent over PCIe, packet headers included", 1),
    "hw.gpu.pcie.receive": ("By", "counter", "Received over PCIe, packet headers included", 1),
    "hw.gpu.nvlink.transmit": ("By", "counter", "Data sent over all NVLinks", 1024),
    "hw.gpu.nvlink.receive": ("By", "counter", "Data received over all NVLinks", 1024),
    "hw.gpu.process.count": ("{process}", "gauge", "Processes of the job on the device; each 30 s", 1),
    "hw.gpu.process.memory": ("By", "gauge", "Memory of these; each 30 s", 1 << 20),
    "hw.gpu.process.utilization": ("1", "gauge", "Share of the time in which kernels of these ran; each 30 s", 0.01),
}

#: Fields that only some devices have: name -> id, scope, scale, and whether a change matters from sample to sample.
_OPTIONAL = {
    "hw.gpu.memory.temperature": (nvml.MEMORY_TEMPERATURE, nvml.SCOPE_GPU, 1.0, True),
    "hw.errors": (nvml.ECC_UNCORRECTED, nvml.SCOPE_GPU, 1.0, True),
    "hw.errors.corrected": (nvml.ECC_CORRECTED, nvml.SCOPE_GPU, 1.0, False),
    "hw.gpu.pcie.transmit": (nvml.PCIE_TRANSMIT, nvml.SCOPE_GPU, 1.0, False),
    "hw.gpu.pcie.receive": (nvml.PCIE_RECEIVE, nvml.SCOPE_GPU, 1.0, False),
    "hw.gpu.nvlink.transmit": (nvml.NVLINK_TRANSMIT, nvml.ALL_LINKS, 1024.0, False),
    "hw.gpu.nvlink.receive": (nvml.NVLINK_RECEIVE, nvml.ALL_LINKS, 1024.0, False),
}
#: What one field may take to be read at every sample (s).
_CHEAP_S = 300e-6

_KEPLER, _AMPERE, _HOPPER, _UNKNOWN = 2, 7, 9, 0xFFFFFFFF  # NVML_DEVICE_ARCH_*
#: PCI device ids of GA100 (A100, A30, A800...), the one chip of its generation whose power is instantaneous.
_GA100 = range(0x2080, 0x2100)
#: Renamed in CUDA 12.
_REASONS = ("nvmlDeviceGetCurrentClocksEventReasons", "nvmlDeviceGetCurrentClocksThrottleReasons")
_GPU_POWER_SAMPLES, _MODULE_POWER_SAMPLES = 0, 7  # nvmlSamplingType_t
_CLOCK_SM, _CLOCK_MEMORY = 1, 2  # nvmlClockType_t


class Gpu:
    """`first`, `end`: its metrics among the sensor's. `parts`: its MIG instances by UUID; after the choice, the
    job's. `fields`: those to be read at every sample, and the dear ones. `processes_at`: the first of the metrics of
    `processes`, -1 when those are not known; `events_at`: that of the Xid errors."""

    def __init__(self, index: int, uuid: str, handle: ctypes.c_void_p) -> None:
        self.index, self.uuid, self.handle = index, uuid, handle
        self.pci, self.minor, self.name, self.chip, self.architecture = "", -1, "", 0, 0
        self.parts: dict[str, ctypes.c_void_p] = {}
        self.attributes: dict[str, Scalar] = {}
        self.first = self.end = 0
        self.lost = False
        self.numbers: list[Number] = []
        self.calls: list[Call] = []
        self.fields: tuple[Fields, ...] = ()
        self.curve: Curve | None = None
        self.processes: Processes | None = None
        self.processes_at = self.events_at = -1

    @classmethod
    def identify(cls, library: Library, index: int, handle: Any) -> Gpu | None:
        """None when it does not even tell its UUID."""
        uuid = library.ask("nvmlDeviceGetUUID", handle)
        if uuid is None:
            return None
        gpu = cls(index, uuid, _pointer(handle))
        pci = library.ask("nvmlDeviceGetPciInfo", handle)
        if pci is not None:
            domain, _, rest = str(pci.busId).lower().partition(":")
            gpu.pci, gpu.chip = f"{int(domain, 16):04x}:{rest}", pci.pciDeviceId >> 16
        minor = library.ask("nvmlDeviceGetMinorNumber", handle)
        gpu.minor = -1 if minor is None else minor
        gpu.name = library.ask("nvmlDeviceGetName", handle) or ""
        gpu.architecture = library.ask("nvmlDeviceGetArchitecture", handle) or 0
        gpu.attributes = {"vendor": "nvidia", "index": index, "uuid": uuid, "pci": gpu.pci}
        if minor is not None:
            gpu.attributes["minor"] = minor
        if (library.ask("nvmlDeviceGetMigMode", handle) or (0,))[0]:
            for at in range(library.ask("nvmlDeviceGetMaxMigDeviceCount", handle) or 0):
                part = library.ask("nvmlDeviceGetMigDeviceHandleByIndex", handle, at)
                if part is not None and (name := library.ask("nvmlDeviceGetUUID", part)):
                    gpu.parts[name] = _pointer(part)
        return gpu

    def find_again(self, library: Library) -> bool:
        """After the library was opened anew: the prepared calls keep the place of the handle, with a new one in it."""
        for uuid, place in ((self.uuid, self.handle), *self.parts.items()):
            handle = library.ask("nvmlDeviceGetHandleByUUID", uuid)
            if handle is None:
                return False
            place.value = _pointer(handle).value
        return True


def _pointer(handle: Any) -> ctypes.c_void_p:
    return ctypes.cast(handle, ctypes.c_void_p)


#: A function, and its arguments.
_Prepared = tuple[Callable[..., int], tuple[Any, ...]]


class _Fitting:
    """Finds out what one device has, and numbers its metrics from `first` on."""

    def __init__(self, library: Library, gpu: Gpu, first: int) -> None:
        self.library, self.gpu, self.first = library, gpu, first
        self.names: list[str] = []
        self.fast: list[Field] = []
        self.slow: list[Field] = []

    def add(self, name: str, scale: float = 1.0) -> Target:
        self.names.append(name)
        return Target(self.first + len(self.names) - 1, scale, name.startswith("hw.power"))

    def _first(self, functions: tuple[str, ...], between: tuple[Any, ...], out: Any) -> _Prepared | None:
        """The first of these functions that the device does not refuse, with its arguments: the handle, those between,
        and `out`."""
        for name in functions:
            function = self.library.function(name)
            arguments = (self.gpu.handle, *between, ctypes.byref(out))
            if function is not None and function(*arguments) not in REFUSED:
                return function, arguments
        return None

    def number(self, name: str, scale: float, functions: tuple[str, ...], out: Any, *between: Any) -> bool:
        """Prepare a call that gives one number."""
        prepared = self._first(functions, between, out)
        if prepared is not None:
            self.gpu.numbers.append(Number(*prepared, out, self.add(name, scale)))
        return prepared is not None

    def call(self, metrics: dict[str, float], function: str, out: Any, format: str, time: str = "") -> bool:
        """Prepare a call that gives several, each with its scale. `time`: a metric that is to say when."""
        prepared = self._first((function,), (), out)
        if prepared is not None:
            targets = tuple(self.add(metric, scale) for metric, scale in metrics.items())
            call = Call(*prepared, out, format, targets)
            self.gpu.calls.append(TimedCall(call, self.add(time).at) if time else call)
        return prepared is not None

    def field(self, name: str, id: int, scope: int, scale: float, time: str = "") -> None:
        target = self.add(name, scale)
        self.fast.append(Field(id, scope, target, self.add(time).at if time else -1))

    def status(self, id: int, scope: int = nvml.SCOPE_GPU) -> int:
        return probe(self.library, self.gpu.handle, id, scope)[0]


def equip(library: Library, gpu: Gpu, first: int, *, with_processes: bool, with_events: bool) -> list[str]:
    """Prepare all calls; the names of the metrics, whose numbers begin with `first`."""
    fit = _Fitting(library, gpu, first)
    module = _equip_meter(fit)
    if "meter" in gpu.attributes:
        curve = Curve(library, gpu.handle, _MODULE_POWER_SAMPLES if module else _GPU_POWER_SAMPLES)
        gpu.curve = None if curve.status in REFUSED else curve
    fit.number("hw.power.limit", 1e-3, ("nvmlDeviceGetEnforcedPowerLimit",), ctypes.c_uint())
    fit.call({"hw.gpu.utilization": 0.01, "hw.gpu.memory.activity": 0.01}, "nvmlDeviceGetUtilizationRates",
             library.binding.c_nvmlUtilization_t(), "=II")
    _equip_memory(fit)
    celsius = library.binding.c_nvmlTemperature_v1_t(version=library.binding.nvmlTemperature_v1)
    if not fit.call({"hw.gpu.temperature": 1.0}, "nvmlDeviceGetTemperatureV", celsius, "=8xi"):
        fit.number("hw.gpu.temperature", 1.0, ("nvmlDeviceGetTemperature",), ctypes.c_uint(), 0)
    for clock, name in ((_CLOCK_SM, "hw.gpu.clock"), (_CLOCK_MEMORY, "hw.gpu.memory.clock")):
        fit.number(name, 1e6, ("nvmlDeviceGetClockInfo",), ctypes.c_uint(), clock)
    fit.number("hw.gpu.clock.reasons", 1.0, _REASONS, ctypes.c_ulonglong())
    for name, (id, scope, scale, often) in _OPTIONAL.items():
        _equip_optional(fit, name, id, scope, scale, often=often)
    if with_processes and (processes := Processes(library, gpu)).names:
        places = [fit.add(name).at for name in processes.names]
        gpu.processes, gpu.processes_at = processes, places[0]
    if with_events:
        gpu.events_at, _last = fit.add(COUNT).at, fit.add(LAST)
    gpu.fields = Fields(library, gpu.handle, fit.fast), Fields(library, gpu.handle, fit.slow)
    gpu.first, gpu.end = first, first + len(fit.names)
    return fit.names


def _equip_meter(fit: _Fitting) -> bool:
    """Energy and power, of one and the same scope. Whether that is the module."""
    gpu = fit.gpu
    own = fit.status(nvml.POWER_INSTANT) not in REFUSED
    module = fit.status(nvml.POWER_INSTANT, nvml.SCOPE_MODULE) == 0 and (not own or gpu.architecture == _HOPPER)
    scope = nvml.SCOPE_MODULE if module else nvml.SCOPE_GPU
    if module and fit.status(nvml.SCOPED_ENERGY, scope) not in REFUSED:
        fit.field("hw.energy", nvml.SCOPED_ENERGY, scope, 1e-3, "hw.energy.time")
    elif fit.status(nvml.ENERGY) not in REFUSED:
        fit.field("hw.energy", nvml.ENERGY, nvml.SCOPE_GPU, 1e-3, "hw.energy.time")
    else:
        fit.call({"hw.energy": 1e-3}, "nvmlDeviceGetTotalEnergyConsumption", ctypes.c_ulonglong(), "=Q",
                 "hw.energy.time")
    has_energy = bool(fit.names)
    time = "" if has_energy else "hw.power.time"  # only who has to integrate needs it
    usage_kind = _kind_of_usage(gpu)
    if own or module:
        gpu.attributes["power_kind"] = "instant"
        fit.field("hw.power", nvml.POWER_INSTANT, scope, 1e-3, time)
        if module or usage_kind != "average":
            _equip_optional(fit, "hw.power.average", nvml.POWER_AVERAGE, scope, 1e-3, often=True)
        else:  # the same number as the field, at a thousandth of its price
            fit.number("hw.power.average", 1e-3, ("nvmlDeviceGetPowerUsage",), ctypes.c_uint())
    elif fit.call({"hw.power": 1e-3}, "nvmlDeviceGetPowerUsage", ctypes.c_uint(), "=I", time):
        gpu.attributes["power_kind"] = usage_kind
    if fit.names:
        gpu.attributes["meter"] = "module" if module else "gpu"
    if "power_kind" in gpu.attributes:
        gpu.attributes["power_scope"] = "module" if module else "gpu"
    return module


def _kind_of_usage(gpu: Gpu) -> str:
    if not _KEPLER <= gpu.architecture < _UNKNOWN:
        return "unknown"
    return "average" if gpu.architecture >= _AMPERE and gpu.chip not in _GA100 else "instant"


def _equip_memory(fit: _Fitting) -> None:
    """Version 2 tells apart what the driver keeps for itself, which version 1 counts as used."""
    binding, metrics = fit.library.binding, {"hw.gpu.memory.limit": 1.0, "hw.gpu.memory.usage": 1.0}

    def version_2() -> Any:
        return binding.c_nvmlMemory_v2_t(version=binding.nvmlMemory_v2)

    for name, make, format in (("nvmlDeviceGetMemoryInfo_v2", version_2, "=8xQ16xQ"),
                               ("nvmlDeviceGetMemoryInfo", binding.c_nvmlMemory_t, "=Q8xQ")):
        if fit.gpu.parts:
            has = _equip_memory_of_parts(fit, name, make, metrics)
        else:
            has = fit.call(metrics, name, make(), format)
        if has:
            fit.gpu.attributes["memory_reserved"] = "apart" if make is version_2 else "used"
            return


def _equip_memory_of_parts(fit: _Fitting, name: str, make: Callable[[], Any], metrics: dict[str, float]) -> bool:
    """That of the whole GPU may not be asked for by everybody, and would include what others use."""
    function = fit.library.function(name)
    if function is None:
        return False
    parts = [(handle, make()) for handle in fit.gpu.parts.values()]
    sums = (ctypes.c_ulonglong * 2)()

    def add_up() -> int:
        for handle, out in parts:
            if status := function(handle, ctypes.byref(out)):
                return status
        sums[0], sums[1] = sum(out.total for _, out in parts), sum(out.used for _, out in parts)
        return 0

    if add_up() in REFUSED:
        return False
    targets = tuple(fit.add(metric, scale) for metric, scale in metrics.items())
    fit.gpu.calls.append(Call(add_up, (), sums, "=QQ", targets))
    return True


def _equip_optional(fit: _Fitting, name: str, id: int, scope: int, scale: float, *, often: bool) -> None:
    status, took = probe(fit.library, fit.gpu.handle, id, scope)
    if status not in REFUSED:
        target = fit.add(name, scale)._replace(positive=id in nvml.POSITIVE)
        (fit.fast if often and took < _CHEAP_S else fit.slow).append(Field(id, scope, target))
