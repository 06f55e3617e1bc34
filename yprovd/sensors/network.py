"""The node's network interfaces, as far as the kernel's IP stack sees them: RDMA goes past these counters.
Source: /proc/net/dev, eight numbers received, eight sent."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence

from yprovd.errors import SensorUnavailable
from yprovd.model import Device, Metric, Scalar
from yprovd.sensors import Surroundings
from yprovd.sensors.files import KeptFile, Rising, read_word

#: Not wires: their bytes never leave the node, or leave it through an interface that is counted.
_SKIP = ("lo", "veth", "docker", "br-", "virbr", "cni", "ifb", "dummy")

_METRICS = (
    ("system.network.io.receive", "By", "Bytes received"),
    ("system.network.io.transmit", "By", "Bytes sent"),
    ("system.network.errors", "{error}", "Errors while receiving and sending"),
)


class NetworkSensor:
    """One device (`nic`, interface name) per interface that is there at the start. One that vanishes is
    NaN."""

    name = "network"

    def __init__(self, where: Surroundings) -> None:
        self._file = KeptFile(os.path.join(where.root, "proc/net/dev"), 16384)
        try:
            names = [name for name, _ in _rows(self._file.read_all())]
        except OSError as e:
            raise SensorUnavailable(f"{self._file.path} cannot be read: {e}") from e
        sys = os.path.join(where.root, "sys/class/net")
        names = [name for name in names if _is_wire(sys, name.decode("utf-8", "backslashreplace"))]
        if not names:
            self.close()
            raise SensorUnavailable(f"no network interface but local ones in {self._file.path}")
        self._at = {name: i * len(_METRICS) for i, name in enumerate(names)}
        self._counters = [Rising() for _ in names for _ in _METRICS]
        devices = [_device(sys, name.decode("utf-8", "backslashreplace")) for name in names]
        self.metrics = tuple(
            Metric(name, unit, "counter", text, 1.0, device)
            for device in devices for name, unit, text in _METRICS
        )

    def read(self) -> Sequence[float]:
        values = [math.nan] * len(self._counters)
        for name, numbers in _rows(self._file.read_all()):
            at = self._at.get(name)
            if at is not None:
                f = numbers.split()
                for i, raw in enumerate((int(f[0]), int(f[8]), int(f[2]) + int(f[10])), at):
                    values[i] = float(self._counters[i](raw))
        return values

    def close(self) -> None:
        self._file.close()


def _rows(data: bytes) -> list[tuple[bytes, bytes]]:
    """Interface and its numbers. There need not be a space between the colon and the first number."""
    lines = (line.partition(b":") for line in data.splitlines()[2:])
    return [(name.strip(), numbers) for name, _, numbers in lines]


def _is_wire(sys: str, name: str) -> bool:
    """A bond or a bridge repeats the bytes of its members."""
    if name == "lo" or name.startswith(_SKIP[1:]):
        return False
    return not any(os.path.isdir(os.path.join(sys, name, kind)) for kind in ("bonding", "bridge"))


def _device(sys: str, name: str) -> Device:
    speed = read_word(os.path.join(sys, name, "speed"))  # -1 or an error where there is no link
    attributes: dict[str, Scalar] = {"speed_mbit": int(speed)} if speed.isdigit() and int(speed) else {}
    return Device("nic", name, attributes=attributes)
