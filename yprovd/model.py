"""What a number is, from the sensor to the archive: Device, Metric, Schema, Sample, Absence, Event kinds.

Names follow OpenTelemetry's semantic conventions (`system.*`, `hw.*`), units are UCUM (`s`, `By`, `J`, `W`, `Hz`,
`Cel`, `1`), always base units: whatever a vendor delivers is converted in its sensor and nowhere else. A value
that is not there is NaN, never 0.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

Kind = Literal["gauge", "counter", "time"]
Scalar = str | int | float | bool | None
_NO_ATTRIBUTES: Mapping[str, Scalar] = {}
# Tuples with names, here and in `config`: `dataclasses` would cost each node's daemon 10 ms at its start.


class Device(NamedTuple):
    """One thing on a node that has values of its own: a GPU, a disk, a network interface, a RAPL zone.

    `cls` names the group of the archive that the device is a row of (`gpu`, `socket`, `disk`, `nic`, `rapl`...);
    `id` is stable across reboots (UUID, PCI address, kernel name), never an index.
    """

    cls: str
    id: str
    name: str = ""
    attributes: Mapping[str, Scalar] = _NO_ATTRIBUTES


class Metric(NamedTuple):
    """One number that a sensor delivers at every tick.

    `kind` is `counter` for what only grows (energy, bytes, CPU seconds), else `gauge`; a metric of kind `time` is
    called `<other>.time` and says, in seconds of CLOCK_MONOTONIC, when `<other>` of the same device had its value:
    vendors' counters have time stamps of their own. `resolution` is the smallest step worth keeping, in `unit`: it
    chooses the integer unit of the archive (`yprovd.stitch.series.STORAGE`). `device` is None for the node itself.
    """

    name: str
    unit: str
    kind: Kind
    description: str
    resolution: float
    device: Device | None = None


class Absence(NamedTuple):
    """A sensor that this node does not have, why, and what would change it."""

    sensor: str
    reason: str
    hint: str = ""


class Schema(NamedTuple):
    """The ordered metrics of a node and their rate. Announced once; samples then are bare vectors in this order.

    `traced`: gauges that devices record by themselves, at a rate of their own (see `Trace`).
    """

    interval_ns: int
    metrics: tuple[Metric, ...]
    absences: tuple[Absence, ...] = ()
    traced: tuple[Metric, ...] = ()

    def to_json(self) -> bytes:
        """Devices are listed once and referred to by position: one GPU carries ten metrics."""
        devices: dict[tuple[str, str], int] = {}
        listed: list[dict[str, Any]] = []
        doc: dict[str, Any] = {
            "interval_ns": self.interval_ns, "devices": listed,
            "metrics": [_row(m, devices, listed) for m in self.metrics],
            "absences": [[a.sensor, a.reason, a.hint] for a in self.absences],
        }
        if self.traced:
            doc["traced"] = [_row(m, devices, listed) for m in self.traced]
        return json.dumps(doc, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "backslashreplace")

    @classmethod
    def from_json(cls, data: bytes) -> Schema:
        """Also of a program that knew no traces."""
        doc = json.loads(data)
        devices = [Device(d["cls"], d["id"], d["name"], d["attributes"]) for d in doc["devices"]]

        def metrics(rows: list[Any]) -> tuple[Metric, ...]:
            return tuple(Metric(name, unit, kind, description, resolution, None if at is None else devices[at])
                         for name, unit, kind, description, resolution, at in rows)

        return cls(doc["interval_ns"], metrics(doc["metrics"]), tuple(Absence(*a) for a in doc["absences"]),
                   metrics(doc.get("traced", [])))

    @property
    def id(self) -> int:
        """CRC-32 of the announcement: any copy of the announcement decodes the samples."""
        return zlib.crc32(self.to_json())


def _row(m: Metric, devices: dict[tuple[str, str], int], listed: list[dict[str, Any]]) -> list[Any]:
    at = None
    if m.device is not None:
        key = (m.device.cls, m.device.id)
        if key not in devices:
            devices[key] = len(listed)
            listed.append({"cls": m.device.cls, "id": m.device.id, "name": m.device.name,
                           "attributes": dict(m.device.attributes)})
        at = devices[key]
    return [m.name, m.unit, m.kind, m.description, m.resolution, at]


class Trace(NamedTuple):
    """What a device recorded by itself since the sample before: a power curve at the sensor's own rate.

    `metric`: position in `Schema.traced` (of a sensor's own traces: in its `traced`). `mono_ns`: CLOCK_MONOTONIC of
    each value, growing; of the same length as `values`, which are in the metric's unit.
    """

    metric: int
    mono_ns: Sequence[int]
    values: Sequence[float]


class Sample(NamedTuple):
    """All metrics of one node at one tick.

    `nominal_ns`: the tick of the grid that it stands for (wall clock). `wall_ns`, `mono_ns`: when the sensors were
    really read. `values`: in the order of the schema, NaN where a value is absent. `traces` came with them.
    """

    nominal_ns: int
    wall_ns: int
    mono_ns: int
    values: Sequence[float]
    traces: Sequence[Trace] = ()


#: How a run ended (`state` in prov.json), see `yprovd.stitch.states`.
STATES = ("completed", "failed", "cancelled", "timeout", "node_fail", "killed", "incomplete")
