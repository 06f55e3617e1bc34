"""AMD GPUs: power, energy, utilisation, memory, temperatures, clocks. By the driver's files (`amd_sysfs`), or by AMD's
library where their table is of a revision that we do not know (`amd_smi`).

What a meter sees. An MI250X meters the whole module of two GCDs (`amd_oam`): one device `socket` with `members` and
the meter, and a device `gpu` without a meter for each GCD. Where GCDs cannot be paired, each one that meters keeps its
meter, and says why in `unpaired`. Of an APU (MI300A) power "includes the CPU" (kernel documentation,
gpu/amdgpu/thermal), and its memory is in the package too: its meter is a `module`. All others meter their own package,
memory included.

Energy is the raw counter in units of 2^-16 J with the time stamp of its reading. It falls when the driver is loaded
anew. 0 is no energy: a counter that has not begun, or a secondary die's.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from operator import itemgetter
from typing import NamedTuple, Protocol

from yprovd.devices import Choice, Found, of_job
from yprovd.errors import SensorUnavailable
from yprovd.model import Device, Kind, Metric, Scalar
from yprovd.sensors import Surroundings
from yprovd.sensors.amd_oam import Die, address, has_two_dies, paired
from yprovd.sensors.amd_sysfs import COLUMNS, LIMIT, Boottime, Gpu, Sysfs
from yprovd.sensors.gpu_metrics import CLOCK, ENERGY, ENERGY_UNIT, FIELDS, POWER

_HINT = "an AMD GPU needs the amdgpu driver: lsmod | grep amdgpu; in a container also /sys of the host"
_MI300A = 0x74A0

#: Column -> metric, of a meter and of any GPU.
_Row = tuple[str, str, Kind, str, float]
_METER: dict[str, _Row] = {
    "energy": ("hw.energy", "J", "counter", "Energy used", 1e-6),
    "clock": ("hw.energy.time", "s", "time", "When hw.energy had its value", 1e-6),
    "power": ("hw.power", "W", "gauge", "Power, as the firmware averages it", 1.0),
    "limit": ("hw.power.limit", "W", "gauge", "Power cap", 1.0),
}
_GPU: dict[str, _Row] = {
    "gfx": ("hw.gpu.utilization", "1", "gauge", "How busy the compute units are", 0.01),
    "umc": ("hw.gpu.memory.activity", "1", "gauge", "How busy the memory controller is", 0.01),
    "used": ("hw.gpu.memory.usage", "By", "gauge", "Memory in use", 1 << 20),
    "total": ("hw.gpu.memory.limit", "By", "gauge", "Memory that it has", 1 << 20),
    "edge": ("hw.gpu.temperature", "Cel", "gauge", "Temperature at the edge of the die", 1.0),
    "hotspot": ("hw.gpu.hotspot.temperature", "Cel", "gauge", "Temperature of the hottest spot", 1.0),
    "memory": ("hw.gpu.memory.temperature", "Cel", "gauge", "Temperature of the hottest memory", 1.0),
    "gfxclk": ("hw.gpu.clock", "Hz", "gauge", "Clock of the compute units, the mean of several dies", 1e6),
    "uclk": ("hw.gpu.memory.clock", "Hz", "gauge", "Clock of the memory", 1e6),
    "reasons": ("hw.gpu.clock.reasons", "{bitmask}", "gauge", "Why clocks are reduced", 1.0),
    "xgmi_read": ("hw.gpu.xgmi.receive", "By", "counter", "Bytes read over links to other GPUs", 1024.0),
    "xgmi_write": ("hw.gpu.xgmi.transmit", "By", "counter", "Bytes written over links to other GPUs", 1024.0),
}
_Values = Sequence[float]


class Backend(Protocol):
    """`backend`: its name. `gpus`: all that it can read, by PCI address."""

    backend: str
    gpus: list[Gpu]

    def read(self, wanted: Sequence[int]) -> list[_Values]:
        """COLUMNS of these GPUs (NaN: absent), in their order."""

    def close(self) -> None: ...


class _Mine(NamedTuple):
    """A GPU of the job's: its position among the backend's, and in HIP's order."""

    at: int
    number: int
    shared: bool


class Oam:
    """The meter of two dies, of which one gives what both use. `rows`: positions of the two in a reading. `energies`:
    what they have counted so far, 0 for nothing.

    Which one it is may be unknown at first (no counter has begun yet). If both come to count, they are no pair, or the
    driver does what we do not know: then there is no value, rather than half or twice of it.
    """

    def __init__(self, rows: tuple[int, int], energies: tuple[float, float]) -> None:
        self._rows = rows
        self._first = [energy if energy > 0 else 0.0 for energy in energies]
        self._counts = [False, False]
        self._primary = next((die for die in (0, 1) if self._first[die]), -1)

    def read(self, rows: Sequence[_Values], clock: Boottime) -> _Values:
        for die, at in enumerate(self._rows):
            energy = rows[at][ENERGY]
            if energy > 0:
                first = self._first[die]
                if not first:
                    self._first[die] = energy
                    self._primary = die if self._primary < 0 else self._primary
                elif energy != first:
                    self._counts[die] = True
        if self._primary < 0 or self._counts[1 - self._primary]:
            return _NONE
        return metered(rows[self._rows[self._primary]], clock)


_NONE = (math.nan,) * len(_METER)


def metered(row: _Values, clock: Boottime) -> _Values:
    """The columns of a meter: energy and its time, power, limit."""
    energy, power = row[ENERGY], row[POWER]
    watts = power if power > 0 else math.nan
    if energy > 0:
        return energy, clock.seconds(row[CLOCK]), watts, row[LIMIT]
    return math.nan, math.nan, watts, row[LIMIT]


class AmdSensor:
    """Devices `gpu` (the job's GPUs and GCDs, by PCI address), and `socket` (`oam-` and the PCI address of its lower
    GCD). A GPU that fails is NaN, and so it is while it is gone."""

    name = "amd"
    own_thread = True

    def __init__(self, where: Surroundings) -> None:
        sysfs = Sysfs(where.root)
        if not sysfs.gpus:
            sysfs.close()
            base = os.path.join(where.root, "sys/class/drm")
            raise SensorUnavailable(f"no GPU of the amdgpu driver in {base}", hint=_HINT)
        self._backend: Backend = sysfs
        try:
            mine = _of_job(sysfs.gpus, where)
            self._backend = backend = _better(sysfs, [sysfs.gpus[m.at].pci for m in mine], where)
            if backend is not sysfs:
                sysfs.close()
                mine = _of_job(backend.gpus, where)
            self._read, self.metrics = _plan(backend, mine)
        except BaseException:
            self._backend.close()
            sysfs.close()
            raise

    def read(self) -> Sequence[float]:
        return self._read()

    def close(self) -> None:
        self._backend.close()


def _better(sysfs: Sysfs, wanted: Sequence[str], where: Surroundings) -> Backend:
    """The library, if the files of one of these GPUs say too little, and it can say more. Raises SensorUnavailable."""
    reasons = [sysfs.unknown[pci] for pci in wanted if pci in sysfs.unknown]
    if not reasons:
        return sysfs
    from yprovd.sensors.amd_smi import AmdSmi

    try:
        return AmdSmi(where, sysfs.gpus)
    except SensorUnavailable as e:
        if len(reasons) < len(wanted):
            return sysfs
        raise SensorUnavailable(f"{reasons[0]}; AMD's library would, but {e.reason}", hint=e.hint) from None


def _of_job(gpus: Sequence[Gpu], where: Surroundings) -> list[_Mine]:
    """The job's GPUs in HIP's order. Partitions count one by one there. Raises SensorUnavailable when there is none."""
    seen = [i for i, gpu in enumerate(gpus) if not gpu.hidden] or list(range(len(gpus)))
    units = sorted((order, address(gpus[i].pci), i) for i in seen for order in gpus[i].order or (1 << 32,))
    found = [Found(n, gpus[i].uuid, gpus[i].pci, gpus[i].minor) for n, (_order, _pci, i) in enumerate(units)]
    choice: Choice = of_job(where.environ, "amd", found)
    parts: dict[int, list[tuple[int, bool]]] = {}
    for unit, shared in zip(choice.mine, choice.shared, strict=True):
        parts.setdefault(units[unit][2], []).append((unit, shared))
    if not parts:
        raise SensorUnavailable(f"none of {len(found)} AMD GPUs is the job's: {choice.reason}")
    whole = {i: len(gpus[i].order or (0,)) for i in parts}
    out = [_Mine(i, min(unit for unit, _ in of), len(of) < whole[i] or any(shared for _, shared in of))
           for i, of in parts.items()]
    return sorted(out, key=lambda m: m.number)


def _plan(backend: Backend, mine: Sequence[_Mine]) -> tuple[Callable[[], list[float]], tuple[Metric, ...]]:
    """What to read, and what comes of it."""
    gpus = backend.gpus
    doubles = [i for i, gpu in enumerate(gpus) if has_two_dies(gpu.device_id, gpu.name)]
    rows = dict(zip(doubles, backend.read(doubles), strict=True))
    siblings, why = paired([Die(gpus[i].pci, _meters(rows[i]), gpus[i].joined) for i in doubles])
    none_meters = not any(_meters(row) for row in rows.values())
    at = {gpu.pci: i for i, gpu in enumerate(gpus)}
    own = {gpus[m.at].pci: m for m in mine}
    wanted = list(dict.fromkeys([m.at for m in mine] + [at[siblings[pci]] for pci in own if pci in siblings]))
    place = {i: n for n, i in enumerate(wanted)}

    metrics: list[Metric] = []
    steps: list[tuple[int, bool, Callable[[_Values], _Values]]] = []
    for m in mine:
        gpu = gpus[m.at]
        single = gpu.pci not in siblings
        doubtful = single and m.at in rows
        metering = single and (not doubtful or none_meters or _meters(rows[m.at]) is not False)
        about = _about(backend, gpu, m)
        if not single:
            about["socket"] = _socket(gpu.pci, siblings)
        if doubtful:
            about["unpaired"] = why
        if metering:
            about |= _meter_of(gpu)
        columns = [c for c in _GPU if c in gpu.fields]
        metrics += _metrics(Device("gpu", gpu.pci, gpu.name, about), _METER if metering else (), columns)
        steps.append((place[m.at], metering, _getter([COLUMNS.index(c) for c in columns])))
    oams: list[Oam] = []
    for pci in dict.fromkeys(_lower(pci, siblings) for pci in own if pci in siblings):
        members = (pci, siblings[pci])
        shared = any(member not in own or own[member].shared for member in members)
        about = {"vendor": "amd", "members": ",".join(members), **_meter_of(gpus[at[pci]])}
        if shared:
            about["shared"] = True
        metrics += _metrics(Device("socket", _socket(pci, siblings), gpus[at[pci]].name, about), _METER, ())
        dies = at[pci], at[siblings[pci]]
        oams.append(Oam((place[dies[0]], place[dies[1]]), (rows[dies[0]][ENERGY], rows[dies[1]][ENERGY])))

    clock = Boottime()

    def read() -> list[float]:
        rows = backend.read(wanted)
        clock.look()
        values: list[float] = []
        for at, metering, get in steps:
            row = rows[at]
            if metering:
                values += metered(row, clock)
            values += get(row)
        for oam in oams:
            values += oam.read(rows, clock)
        return values

    return read, tuple(metrics)


def _meters(row: _Values) -> bool | None:
    """Whether a die's energy counter has a value; None when nothing could be read."""
    if row[ENERGY] > 0:
        return True
    return False if any(value == value for value in row[:len(FIELDS)]) else None


def _getter(columns: Sequence[int]) -> Callable[[_Values], _Values]:
    if len(columns) > 1:
        return itemgetter(*columns)
    return lambda row: [row[c] for c in columns]


def _about(backend: Backend, gpu: Gpu, mine: _Mine) -> dict[str, Scalar]:
    about: dict[str, Scalar] = {
        "vendor": "amd", "index": mine.number, "uuid": gpu.uuid, "pci": gpu.pci, "minor": gpu.minor,
        "driver": gpu.driver, "backend": backend.backend, **gpu.about}
    if mine.shared:
        about["shared"] = True
    return {k: v for k, v in about.items() if v not in ("", -1)}


def _meter_of(gpu: Gpu) -> dict[str, Scalar]:
    apu = gpu.device_id == _MI300A or "MI300A" in gpu.name.upper()
    units: dict[str, Scalar] = {"energy_unit_j": ENERGY_UNIT}
    if not math.isnan(gpu.library_unit_j):
        units["library_energy_unit_j"] = gpu.library_unit_j
    return {"meter": "module" if apu else "gpu", "summed": True, **units}


def _metrics(device: Device, *parts: Sequence[str] | dict[str, _Row]) -> list[Metric]:
    rows = {**_METER, **_GPU}
    return [Metric(*rows[column], device) for part in parts for column in part]


def _lower(pci: str, siblings: dict[str, str]) -> str:
    return min(pci, siblings[pci], key=address)


def _socket(pci: str, siblings: dict[str, str]) -> str:
    return f"oam-{_lower(pci, siblings)}"
