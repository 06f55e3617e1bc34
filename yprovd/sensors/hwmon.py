"""Power meters of the firmware (ACPI), and energy counters of AMD processors where RAPL gives none.

Sources: /sys/class/hwmon/hwmon*/{name,power1_average,...} of the kernel's driver `power_meter` (kernel documentation,
hwmon/acpi_power_meter: microwatts, averaged over power1_average_interval milliseconds), whose files lie in `device/`
on most kernels; and of the modules `amd_energy` and `zenergy`, which are not in the kernel: energyN_input,
microjoules, summed up by the module, energyN_label.

What a meter sees it says in power1_oem_info. NVIDIA's Grace has four for each socket: `Module` (the processor, its
memory and the GPU), in it `Grace` (the processor and its memory), in that `CPU` and `SysIO` (the rails of the cores
and of the rest), which do not add up to it. One that says nothing of the kind, and is alone, is the whole node's.

Trust, where several sources meter the same: pm_counters of a Cray before an ACPI power meter before RAPL (with the
GPUs' own meters added, a partial sum).
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Sequence
from typing import NamedTuple

from yprovd.errors import SensorUnavailable
from yprovd.model import Device, Metric, Scalar
from yprovd.sensors import Surroundings
from yprovd.sensors.files import KeptFile, Rising, read_word
from yprovd.sensors.rapl import RaplSensor

#: Such as "Module Power Socket 0", "CPU Rail Input Power Socket 1".
_SOCKET = re.compile(r"(\w+)(?: Rail)?(?: Input)? Power(?: in uW)? Socket (\d+)", re.IGNORECASE)

#: Word of a socket's meter -> (what it sees, the words of the meters that it lies within, or None: always within).
#: A GPU's is never added up: the GPU's own library counts the same.
_PARTS: dict[str, tuple[str, tuple[str, ...] | None]] = {
    "module": ("module", ()),
    "grace": ("cpu", ()),
    "total": ("cpu", ("grace",)),
    "cpu": ("cpu", ("grace", "total")),
    "sysio": ("cpu", ("grace", "total")),
    "soc": ("cpu", ("grace", "total")),
    "dram": ("memory", ("grace", "total")),
    "gpu": ("gpu", None),
}

#: What the driver makes of 0xFFFFFFFF milliwatts, ACPI's "not known" (microwatts).
_UNKNOWN = 0xFFFFFFFF * 1000

_ENERGY_MODULES = ("amd_energy", "zenergy")
_HINT = "an administrator may allow it until the next boot: sudo chmod a+r {}"
_HINT_NONE = "a server that has one shows it once its driver is loaded: sudo modprobe acpi_power_meter"


class _Meter(NamedTuple):
    """A power meter that was read: the stable name of its device, and what it says of itself."""

    id: str
    says: str
    interval: str
    battery: bool


class HwmonSensor:
    """Devices (`hwmon`): `node`, `module-0`, `grace-0`... with power, or `socket-0`... with energy.

    `summed` is True for a meter that adds up with the others of the same `meter`; one of unknown extent has neither. A
    read of such a meter may go through the management controller and take long, so it has a thread of its own.
    """

    name = "hwmon"
    own_thread = True

    def __init__(self, where: Surroundings) -> None:
        base = os.path.join(where.root, "sys/class/hwmon")
        self._powers: list[KeptFile] = []
        self._energies: list[tuple[KeptFile, Rising]] = []
        refused: list[tuple[str, OSError | ValueError]] = []
        metrics = self._open_meters(base, refused) + self._open_modules(base, where, refused)
        if not metrics:
            raise _absence(base, refused)
        self.metrics = tuple(metrics)

    def read(self) -> Sequence[float]:
        return [*map(_watts, self._powers), *(_joules(file, counter) for file, counter in self._energies)]

    def close(self) -> None:
        for file in (*self._powers, *(file for file, _ in self._energies)):
            file.close()

    def _open_meters(self, base: str, refused: list[tuple[str, OSError | ValueError]]) -> list[Metric]:
        meters: list[_Meter] = []
        for directory, id in _named(base, ("power_meter",)):
            file = KeptFile(os.path.join(directory, "power1_average"), 32)
            try:
                int(file.read())
            except (OSError, ValueError) as e:
                file.close()
                refused.append((file.path, e))
                continue
            names = ("oem_info", "model_number", "average_interval", "is_battery")
            oem, model, interval, battery = (read_word(os.path.join(directory, f"power1_{n}")) for n in names)
            meters.append(_Meter(id, " ".join(w for w in (oem, model) if w), interval, battery == "1"))
            self._powers.append(file)
        return [Metric("hw.power", "W", "gauge", "Power, averaged by the meter", 1e-3, device)
                for device in _devices(meters)]

    def _open_modules(
        self, base: str, where: Surroundings, refused: list[tuple[str, OSError | ValueError]]
    ) -> list[Metric]:
        """The same registers as RAPL's: only where RAPL gives nothing. A core's energy is in its socket's."""
        directories = _named(base, _ENERGY_MODULES)
        if not directories or _has_rapl(where):
            return []
        metrics: list[Metric] = []
        for directory, _ in directories:
            for name in sorted(n for n in os.listdir(directory) if re.fullmatch(r"energy\d+_label", n)):
                socket = re.fullmatch(r"Esocket(\d+)", read_word(os.path.join(directory, name)))
                if socket is None:
                    continue
                file = KeptFile(os.path.join(directory, name.replace("label", "input")), 32)
                try:
                    int(file.read())
                except (OSError, ValueError) as e:
                    file.close()
                    refused.append((file.path, e))
                    continue
                self._energies.append((file, Rising()))
                attributes: dict[str, Scalar] = {"meter": "cpu", "summed": True}
                device = Device("hwmon", f"socket-{socket[1]}", attributes=attributes)
                metrics.append(Metric("hw.energy", "J", "counter", "Energy used", 1e-6, device))
        return metrics


def _watts(file: KeptFile) -> float:
    try:
        raw = int(file.read())
    except (OSError, ValueError):
        return math.nan
    return math.nan if raw >= _UNKNOWN else raw / 1e6


def _joules(file: KeptFile, counter: Rising) -> float:
    try:
        return counter(int(file.read())) / 1e6
    except (OSError, ValueError):
        return math.nan


def _named(base: str, drivers: tuple[str, ...]) -> list[tuple[str, str]]:
    """(directory of the files, stable name) of each of the drivers' devices, in the order of the numbers."""
    try:
        listed = [m for entry in os.listdir(base) if (m := re.fullmatch(r"hwmon(\d+)", entry))]
    except OSError:
        return []
    out: list[tuple[str, str]] = []
    for m in sorted(listed, key=lambda m: int(m[1])):
        top = os.path.join(base, m[0])
        inner = os.path.join(top, "device")
        if (read_word(os.path.join(top, "name")) or read_word(os.path.join(inner, "name"))) in drivers:
            here = any(os.path.exists(os.path.join(top, name)) for name in ("power1_average", "energy1_label"))
            stable = os.path.basename(os.path.realpath(inner)) if os.path.islink(inner) else m[0]
            out.append((top if here else inner, stable))
    return out


def _devices(meters: list[_Meter]) -> list[Device]:
    """A device for each meter, with what it sees and whether it adds up."""
    parts = [_part(meter.says) for meter in meters]
    unknown = [meter for meter, part in zip(meters, parts, strict=True) if part is None and not meter.battery]
    out: list[Device] = []
    for meter, part in zip(meters, parts, strict=True):
        id = meter.id
        attributes: dict[str, Scalar] = {}
        if meter.interval.isdigit():
            attributes["average_interval_ms"] = int(meter.interval)
        if part is not None:
            word, socket = part
            sees, within = _PARTS[word]
            first = f"{word}-{socket}" not in {d.id for d in out}
            summed = first and within is not None and not any((w, socket) in parts for w in within)
            attributes |= {"meter": sees, "summed": summed}
            id = f"{word}-{socket}" if first else f"{word}-{socket}-{meter.id}"
        elif unknown == [meter] and not any(parts):
            attributes |= {"meter": "node", "summed": True}
            id = "node"
        out.append(Device("hwmon", id, meter.says, attributes))
    return out


def _part(says: str) -> tuple[str, str] | None:
    """(word, socket) of a meter that is one of a socket's."""
    m = _SOCKET.search(says)
    return (m[1].lower(), m[2]) if m and m[1].lower() in _PARTS else None


def _has_rapl(where: Surroundings) -> bool:
    try:
        RaplSensor(where).close()
    except SensorUnavailable:
        return False
    return True


def _absence(base: str, refused: list[tuple[str, OSError | ValueError]]) -> SensorUnavailable:
    for path, error in refused:
        if isinstance(error, PermissionError):
            return SensorUnavailable(f"{path} may not be read by this user", hint=_HINT.format(path))
    if refused:
        return SensorUnavailable("{} cannot be read: {}".format(*refused[0]))
    return SensorUnavailable(f"no power meter of the firmware in {base}", hint=_HINT_NONE)
