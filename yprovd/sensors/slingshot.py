"""Slingshot NICs (HPE Cassini, driver `cxi`): bytes on the wire, RDMA included, which no IP interface counts. What
the NIC's Ethernet interface (attribute `interface`, class `nic`) counts passes here too: the two do not add up.

Source: /sys/class/cxi/cxi*/device/telemetry/*, `count@seconds.nanoseconds`: the stamp is the wall clock at this very
read, so that it tells nothing that the sample does not. `hni_sts_{tx,rx}_ok_octets` counts bytes. Where a driver has
none, the packets of each size (`hni_tx_ok_<least>[_to_<most>]`) give a lower bound, each taken as the least size of
its bucket: attribute `method` is `counted` or `lower_bound`. The directory also holds files that reset the counters
when they are written: this sensor opens what it names, and only to read.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Sequence

from yprovd.errors import SensorUnavailable
from yprovd.model import Device, Metric, Scalar
from yprovd.sensors import Surroundings
from yprovd.sensors.files import KeptFile, Rising, read_word

_BUCKET = re.compile(r"hni_(tx|rx)_ok_(\d+)(?:_to_(?:\d+|max))?")
_OCTETS = "hni_sts_{}_ok_octets"
_DIRECTIONS = (("tx", "hw.network.transmit", "Bytes sent"), ("rx", "hw.network.receive", "Bytes received"))

#: Code words that the link could not correct: packets that were lost and sent again.
_ERRORS = "hni_pcs_uncorrected_cw"

_Weighted = list[tuple[KeptFile, int]]


class SlingshotSensor:
    """One device (`cxi`, kernel name) per NIC that can be read at the start. One that vanishes is NaN.

    A count that falls was reset, or went round: it goes on from 0.
    """

    name = "slingshot"

    def __init__(self, where: Surroundings) -> None:
        base = os.path.join(where.root, "sys/class/cxi")
        self._counters: list[tuple[_Weighted, Rising]] = []
        metrics: list[Metric] = []
        refused: list[OSError] = []
        for nic in _nics(base):
            directory = os.path.join(base, nic, "device")
            found = _open(os.path.join(directory, "telemetry"), refused)
            if found is None:
                continue
            method, bytes_of = found
            device = Device("cxi", nic, attributes=_attributes(directory, method))
            for (_, metric, text), files in zip(_DIRECTIONS, bytes_of, strict=True):
                self._counters.append((files, Rising()))
                metrics.append(Metric(metric, "By", "counter", text, 1.0, device))
            errors = _readable([(KeptFile(os.path.join(directory, "telemetry", _ERRORS), 64), 1)], [])
            if errors:
                self._counters.append((errors, Rising()))
                metrics.append(Metric("hw.errors", "{error}", "counter", "Code words not corrected", 1.0, device))
        if not metrics:
            if refused:
                raise SensorUnavailable(f"{refused[0].filename} cannot be read: {refused[0].strerror}",
                                        hint="the driver lets every user read its telemetry: ask the administrators")
            raise SensorUnavailable(f"no Slingshot NIC with telemetry in {base}")
        self.metrics = tuple(metrics)

    def read(self) -> Sequence[float]:
        return [_total(files, counter) for files, counter in self._counters]

    def close(self) -> None:
        for files, _ in self._counters:
            for file, _ in files:
                file.close()


def _total(files: _Weighted, counter: Rising) -> float:
    try:
        return float(counter(sum(weight * _count(file) for file, weight in files)))
    except (OSError, ValueError):
        return math.nan


def _count(file: KeptFile) -> int:
    return int(file.read().partition(b"@")[0])


def _nics(base: str) -> list[str]:
    try:
        return sorted((n for n in os.listdir(base) if re.fullmatch(r"cxi\d+", n)), key=lambda n: int(n[3:]))
    except OSError:
        return []


def _open(telemetry: str, refused: list[OSError]) -> tuple[str, list[_Weighted]] | None:
    """(method, the files of each direction with the bytes that one count stands for). None: neither way can be
    read."""
    counted = [_readable([(KeptFile(os.path.join(telemetry, _OCTETS.format(d)), 64), 1)], refused)
               for d, *_ in _DIRECTIONS]
    if all(counted):
        return "counted", counted
    for files in counted:
        for file, _ in files:
            file.close()
    try:
        names = [m for n in sorted(os.listdir(telemetry)) if (m := _BUCKET.fullmatch(n))]
    except OSError as e:
        refused.append(e)
        return None
    buckets = [_readable([(KeptFile(os.path.join(telemetry, m[0]), 64), int(m[2])) for m in names if m[1] == d],
                         refused) for d, *_ in _DIRECTIONS]
    if not all(buckets):
        for files in buckets:
            for file, _ in files:
                file.close()
        return None
    return "lower_bound", buckets


def _readable(files: _Weighted, refused: list[OSError]) -> _Weighted:
    out: _Weighted = []
    for file, weight in files:
        try:
            _count(file)
            out.append((file, weight))
        except OSError as e:
            file.close()
            if not isinstance(e, FileNotFoundError):
                refused.append(e)
        except ValueError:
            file.close()
    return out


def _attributes(directory: str, method: str) -> dict[str, Scalar]:
    attributes: dict[str, Scalar] = {"method": method}
    speed = read_word(os.path.join(directory, "properties/speed"))
    if speed.isdigit() and int(speed):  # 0 where there is no link
        attributes["speed_mbit"] = int(speed)
    net = os.path.join(directory, "net")
    if os.path.isdir(net):
        attributes["interface"] = ",".join(sorted(os.listdir(net)))
    return attributes
