"""The nodes and their devices, condensed: one set of attributes for all nodes, one for each kind of device."""

from __future__ import annotations

from collections import Counter
from typing import Any, NamedTuple

from yprovd.model import Device
from yprovd.stitch.document import qname
from yprovd.stitch.facts import host_list, lines_of
from yprovd.stitch.record import Node

#: What is said of a kind of device when all of its devices agree, or the different values with their number.
_SAID = {"vendor": "yp:vendor", "driver": "yp:driver", "meter": "yp:meters", "mig": "yp:mig", "shared": "yp:shared"}
#: Classes that are no hardware of their own: the daemon's sensors, a job's processes.
_NO_HARDWARE = frozenset({"sensor", "process"})


class Kind(NamedTuple):
    """All devices of one class and product, of all nodes."""

    cls: str
    name: str
    number: int
    per_node: dict[int, int]  # devices on a node: nodes
    said: dict[str, Counter[str]]

    def attributes(self) -> dict[str, Any]:
        return {
            "prov:label": self.name or self.cls, "yp:type": qname("yp:DeviceSet"), "yp:deviceClass": self.cls,
            "yp:deviceModel": self.name, "yp:deviceCount": self.number,
            "yp:devicesPerNode": next(iter(self.per_node)) if len(self.per_node) == 1 else None,
            "yp:devicesOfNodes": None if len(self.per_node) == 1 else lines_of(
                f"{devices} on {nodes} nodes" for devices, nodes in sorted(self.per_node.items())),
            **{name: _agreed(self.said[key], self.number) for key, name in _SAID.items() if key in self.said},
        }


def _agreed(values: Counter[str], number: int) -> str:
    (value, times), *others = sorted(values.items())
    if not others and times == number:
        return value
    return lines_of(f"{n} x {value}" for value, n in sorted(values.items()))


def device_kinds(nodes: list[Node]) -> list[Kind]:
    """By class and name. A device that several daemons of one boot named counts once."""
    found: dict[tuple[str, str], list[dict[str, Device]]] = {}
    for node in nodes:
        here: dict[tuple[str, str], dict[str, Device]] = {}
        for schema in {id(s.schema): s.schema for s in node.samples}.values():
            last = None
            for metric in schema.metrics:
                device = metric.device
                if device is not None and device is not last and device.cls not in _NO_HARDWARE:
                    here.setdefault((device.cls, device.name), {})[device.id] = device
                last = device
        for kind, devices in here.items():
            found.setdefault(kind, []).append(devices)
    out = []
    for (cls, name), sets in sorted(found.items()):
        said: dict[str, Counter[str]] = {}
        for devices in sets:
            for device in devices.values():
                for key in _SAID.keys() & device.attributes.keys():
                    if str(device.attributes[key]):
                        said.setdefault(key, Counter())[str(device.attributes[key])] += 1
        per_node = dict(Counter(len(devices) for devices in sets))
        out.append(Kind(cls, name, sum(map(len, sets)), per_node, said))
    return out


def node_attributes(nodes: list[Node]) -> dict[str, Any]:
    """The attributes of the one entity that stands for all nodes."""
    def distinct(key: str) -> str:
        counts = Counter(str(n.facts[key]) for n in nodes if n.facts.get(key) not in (None, ""))
        if len(counts) == 1:
            return next(iter(counts))
        return lines_of(f"{count} x {value}" for value, count in sorted(counts.items()))

    def total(key: str) -> int | None:
        values = [n.facts[key] for n in nodes if isinstance(n.facts.get(key), int)]
        return sum(values) if values else None

    hosts = sorted({n.host for n in nodes})
    return {
        "yp:nodeCount": len(hosts),
        "yp:nodeList": host_list(hosts),
        "yp:cpuModel": distinct("cpu_model"),
        "yp:logicalCpus": total("logical_cpus"),
        "yp:memoryBytes": total("memory_bytes"),
        "yp:kernel": distinct("kernel"),
        "yp:machine": distinct("machine"),
        "yp:devices": lines_of(f"{d.cls}: {d.number} x {d.name}" if d.name else f"{d.cls}: {d.number}"
                               for d in device_kinds(nodes)),
    }
