"""Energy of CPU packages and their memory: RAPL, of Intel and (package only) AMD. Source: the kernel's
powercap class, /sys/class/powercap/intel-rapl:<zone>[:<subzone>]/{name,energy_uj,max_energy_range_uj},
microjoules.

What a zone sees is its device attribute `meter`: `cpu` (a package), `memory` (its DRAM) or `platform` (psys). What
adds up is marked by `summed`: packages and their DRAM, or psys alone where there is one (it meters the whole
platform). The subzones core and uncore are inside their package and are not read.

Trust, where several sources meter the same: pm_counters of a Cray before an ACPI power meter before RAPL, to which the
GPUs' own meters are added: a sum that lacks the rest of the node, and is to be called partial.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence

from yprovd.errors import SensorUnavailable
from yprovd.model import Device, Metric, Scalar
from yprovd.sensors import Surroundings
from yprovd.sensors.files import KeptFile, Rising, read_word

#: The kernel lets only root read these since 5.10 (CVE-2020-8694: one can listen to other users'
#: computations).
_HINT = "an administrator may allow it until the next boot: sudo chmod a+r /sys/class/powercap/*/energy_uj"


class RaplSensor:
    """One device (`rapl`, such as `package-0`, `dram-0`, `psys`) per zone that can be read.

    A value starts at the first raw reading and only grows: the hardware's 32 bits go round every few minutes
    under load, and are followed as long as two reads are less than one round apart. A zone that vanishes is
    NaN.
    """

    name = "rapl"

    def __init__(self, where: Surroundings) -> None:
        base = os.path.join(where.root, "sys/class/powercap")
        self._zones: list[tuple[KeptFile, Rising]] = []
        found: list[tuple[str, str, int, bool]] = []
        refused: list[tuple[str, OSError | ValueError]] = []
        for zone, id in _zones(base):
            file = KeptFile(os.path.join(base, zone, "energy_uj"), 32)
            try:
                raw = int(file.read())  # os.access says yes to root in a container, and the read then says no
            except (OSError, ValueError) as e:
                file.close()
                refused.append((file.path, e))
                continue
            top = int(read_word(os.path.join(base, zone, "max_energy_range_uj")) or 0)
            self._zones.append((file, Rising(top + 1 if top else 0)))
            found.append((zone, id, top, raw > 0))
        if not found:
            raise _absence(base, refused)
        # A firmware without a platform meter may still show the zone: it then stands at 0.
        platform = any(id == "psys" and alive for _, id, _, alive in found)
        self.metrics = tuple(_metric(zone, id, top, (id == "psys") == platform) for zone, id, top, _ in found)

    def read(self) -> Sequence[float]:
        return [_joules(file, counter) for file, counter in self._zones]

    def close(self) -> None:
        for file, _ in self._zones:
            file.close()


def _joules(file: KeptFile, counter: Rising) -> float:
    try:
        return counter(int(file.read())) / 1e6
    except (OSError, ValueError):
        return math.nan


def _zones(base: str) -> list[tuple[str, str]]:
    """(directory, id) of the zones worth reading, sorted. The class lists zones and subzones side by side.

    The memory-mapped meter of a package is the one of its registers by another way: it is taken only where
    the registers have none.
    """
    try:
        listed = os.listdir(base)
    except OSError:
        return []
    zones: dict[str, str] = {}
    for driver in ("intel-rapl", "intel-rapl-mmio"):
        ours = sorted((e for e in listed if e.startswith(f"{driver}:")), key=_numbers)
        taken = set(zones)
        for zone in ours:
            id = _id(base, zone)
            if id in taken or not id:
                continue
            zones[id if id not in zones else f"{id}-zone{zone.partition(':')[2]}"] = zone
    return [(zone, id) for id, zone in zones.items()]


def _numbers(zone: str) -> list[int]:
    return [int(n) for n in zone.split(":")[1:]]


def _id(base: str, zone: str) -> str:
    """`package-0`, `package-0-die-1` and `psys` name themselves; every package calls its memory `dram`."""
    name = read_word(os.path.join(base, zone, "name"))
    if zone.count(":") == 1:
        return name
    parent = read_word(os.path.join(base, zone.rpartition(":")[0], "name"))
    return f"dram-{parent.removeprefix('package-')}" if name == "dram" else ""


def _metric(zone: str, id: str, top: int, summed: bool) -> Metric:
    meter = "platform" if id == "psys" else "memory" if id.startswith("dram-") else "cpu"
    attributes: dict[str, Scalar] = {"zone": zone, "max_energy_range_uj": top, "meter": meter, "summed": summed}
    return Metric("hw.energy", "J", "counter", "Energy used", 1e-6, Device("rapl", id, attributes=attributes))


def _absence(base: str, refused: list[tuple[str, OSError | ValueError]]) -> SensorUnavailable:
    for path, error in refused:
        if isinstance(error, PermissionError):
            return SensorUnavailable(f"{path} may not be read by this user", hint=_HINT)
    if refused:
        return SensorUnavailable("{} cannot be read: {}".format(*refused[0]))
    return SensorUnavailable(f"no RAPL zone in {base} (a virtual machine, or no RAPL driver)")
