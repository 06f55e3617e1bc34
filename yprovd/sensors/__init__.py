"""One file per source. A sensor only reads: no logging, no threads, no sleeping, no configuration object.

A sensor opens what it needs when it is constructed, or raises `SensorUnavailable(reason, hint=...)`; its `metrics`
are fixed from then on, and `read()` returns one float per metric, in that order, in base units, NaN for what is not
there now. The sampler owns time, errors and statistics; nothing else calls `read()`.

To add one: a file here, a line in `SENSORS`, a fixture tree, a test.
"""

from __future__ import annotations

import importlib
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import NamedTuple, Protocol

from yprovd.errors import SensorUnavailable
from yprovd.model import Absence, Metric

_NO_ENVIRONMENT: Mapping[str, str] = {}


class Surroundings(NamedTuple):
    """What a sensor may know of where it runs.

    `root`: the directory that holds `proc` and `sys` (a fixture tree in tests). `run_id`: marks the job's
    processes. `environ`: the environment of the daemon, which carries the scheduler's variables.
    """

    root: str = "/"
    run_id: str = ""
    environ: Mapping[str, str] = _NO_ENVIRONMENT


class Sensor(Protocol):
    """`name` is the key in `SENSORS`. A constructor takes `Surroundings` and nothing else.

    Two more attributes are optional. `own_thread = True`: its reads may take long (a node controller, a vendor's
    library), and the sampler never lets the others wait for it: a sample has what its last read gave. `traced`: metrics
    that devices record by themselves; `traces()`, called after each `read()` by the same thread, then returns a
    `yprovd.model.Trace` for each that has something new.
    """

    name: str

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """What `read()` delivers, in order. Fixed for the life of the sensor."""

    def read(self) -> Sequence[float]:
        """One value per metric, NaN where it is absent now. May raise OSError: the sampler counts it."""

    def close(self) -> None:
        """Give back files and handles. Never raises; may be called once."""


#: Every source that this project knows, in the order in which it is opened: name -> `module:class`.
#: A module is imported when its sensor is opened, so that a vendor's binding is never loaded for nothing.
SENSORS: dict[str, str] = {
    "cpu": "yprovd.sensors.cpu:CpuSensor",
    "memory": "yprovd.sensors.memory:MemorySensor",
    "processes": "yprovd.sensors.processes:ProcessesSensor",
    "cgroup": "yprovd.sensors.cgroup:CgroupSensor",
    "disk": "yprovd.sensors.disk:DiskSensor",
    "network": "yprovd.sensors.network:NetworkSensor",
    "rapl": "yprovd.sensors.rapl:RaplSensor",
    "cray": "yprovd.sensors.cray:CraySensor",
    "nvidia": "yprovd.sensors.nvidia:NvidiaSensor",
    "amd": "yprovd.sensors.amd:AmdSensor",
    "hwmon": "yprovd.sensors.hwmon:HwmonSensor",
    "slingshot": "yprovd.sensors.slingshot:SlingshotSensor",
    "infiniband": "yprovd.sensors.infiniband:InfinibandSensor",
    "lustre": "yprovd.sensors.lustre:LustreSensor",
}


#: Those that call a vendor's library or firmware when they are opened, which may take seconds, or hang.
SLOW_TO_OPEN = frozenset(("nvidia", "amd", "cray", "hwmon"))


def open_all(
    where: Surroundings, disabled: Sequence[str] = (), table: Mapping[str, str] = SENSORS,
    patience_s: float | None = None, slow: Collection[str] = SLOW_TO_OPEN,
    late: Callable[[Sensor], None] | None = None,
) -> tuple[list[Sensor], list[Absence]]:
    """Open every sensor of the table. What cannot be opened, for whatever reason, is an absence and not a failure:
    a vendor's binding may raise anything at import (amdsmi raises KeyError without ROCm).

    With `patience_s`, those that may be slow are opened in threads, beside each other; one that has not come back by
    then is an absence, and its thread is left to it: when it does come back, it calls `late` with the sensor. Blocks
    for that long at most, and for the others."""
    found: dict[str, Sensor | Absence] = {}
    lock = threading.Lock()
    over = False

    def attempt(name: str) -> None:
        opened = _open(name, table[name], where)
        with lock:
            if not over:
                found[name] = opened
                return
        if late is not None and not isinstance(opened, Absence):
            late(opened)

    opening = {name: threading.Thread(target=attempt, args=(name,), name=f"yprov-open-{name}", daemon=True)
               for name in table if patience_s is not None and name in slow and name not in disabled}
    deadline = time.monotonic() + (patience_s or 0.0)
    for thread in opening.values():
        thread.start()
    for name in table:
        if name in disabled:
            found[name] = Absence(name, "disabled in the configuration")
        elif name not in opening:
            attempt(name)
    for thread in opening.values():
        thread.join(max(0.0, deadline - time.monotonic()))
    with lock:
        over = True
    reason = f"it could not be opened within {patience_s:g} s: a library or firmware does not answer" if opening else ""
    results = [found.get(name, Absence(name, reason, "yprov doctor")) for name in table]
    return [r for r in results if not isinstance(r, Absence)], [r for r in results if isinstance(r, Absence)]


def _open(name: str, target: str, where: Surroundings) -> Sensor | Absence:
    module, _, cls = target.partition(":")
    try:
        sensor: Sensor = getattr(importlib.import_module(module), cls)(where)
        return sensor
    except SensorUnavailable as e:
        return Absence(name, e.reason, e.hint)
    except Exception as e:  # noqa: BLE001  absence has a reason, and a broken binding must not end the daemon
        return Absence(name, f"{type(e).__name__}: {e}")
