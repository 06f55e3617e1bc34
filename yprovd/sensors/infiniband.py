"""Ports of InfiniBand and RoCE adapters: bytes past the kernel's IP stack, which /proc/net/dev does not see.

Source: /sys/class/infiniband/<adapter>/ports/<port>/ (kernel ABI documentation, sysfs-class-infiniband):
counters/port_{xmit,rcv}_data count words of 4 bytes. Adapters without 64-bit counters have 32 bits there that stop at
the top, and on old kernels 64 in counters_ext. Adapters that count bytes themselves do it in
hw_counters/{tx,rx}_bytes (EFA, Broadcom). hw_counters also has the retransmissions of RDMA connections.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

from yprovd.errors import SensorUnavailable
from yprovd.model import Device, Metric, Scalar
from yprovd.sensors import Surroundings
from yprovd.sensors.files import KeptFile, Rising, read_word

#: Where bytes are counted, best first: sent, received, bytes of one count.
_SOURCES = (
    ("counters_ext/port_xmit_data_64", "counters_ext/port_rcv_data_64", 4),
    ("counters/port_xmit_data", "counters/port_rcv_data", 4),
    ("hw_counters/tx_bytes", "hw_counters/rx_bytes", 1),
)

#: A 32-bit counter that has reached its end, and stays there.
_SATURATED = 0xFFFFFFFF

#: What went wrong on the wire, and for connections: summed up.
_ERRORS = (
    "counters/symbol_error", "counters/link_error_recovery", "counters/link_downed", "counters/port_rcv_errors",
    "hw_counters/packet_seq_err", "hw_counters/local_ack_timeout_err", "hw_counters/implied_nak_seq_err",
    "hw_counters/out_of_sequence",
)

#: A file of errors is a question to the adapter's firmware, some 50 us each: they are asked every ten seconds (s).
_ERRORS_PERIOD_S = 9.5


class _Port(NamedTuple):
    transmit: KeptFile
    receive: KeptFile
    size: int
    errors: list[KeptFile]
    counters: tuple[Rising, Rising, Rising]


class InfinibandSensor:
    """One device (`ib`, `<adapter>:<port>`) per port that is active at the start. One that vanishes is NaN."""

    name = "infiniband"

    def __init__(self, where: Surroundings, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        base = os.path.join(where.root, "sys/class/infiniband")
        self._ports: list[_Port] = []
        metrics: list[Metric] = []
        idle: list[str] = []
        refused: list[OSError] = []
        for adapter, number in _ports(base):
            directory = os.path.join(base, adapter, "ports", number)
            if (state := read_word(os.path.join(directory, "state"))) and "ACTIVE" not in state:
                idle.append(f"{adapter}:{number}")
                continue
            port = _open(directory, refused)
            if port is None:
                continue
            self._ports.append(port)
            metrics += _metrics(Device("ib", f"{adapter}:{number}", attributes=_attributes(directory)), port)
        if not metrics:
            if refused:
                raise SensorUnavailable(f"{refused[0].filename} cannot be read: {refused[0].strerror}")
            raise SensorUnavailable(f"no port is active: {', '.join(idle)}" if idle else
                                    f"no InfiniBand or RoCE adapter with counters in {base}")
        self.metrics = tuple(metrics)
        self._errors = [math.nan] * len(self._ports)
        self._errors_due = -math.inf

    def read(self) -> Sequence[float]:
        now = self._clock()
        if now >= self._errors_due:
            self._errors = [_errors(p) for p in self._ports]
            self._errors_due = now + _ERRORS_PERIOD_S
        values: list[float] = []
        for p, errors in zip(self._ports, self._errors, strict=True):
            values += (_bytes(p.transmit, p.size, p.counters[0]), _bytes(p.receive, p.size, p.counters[1]))
            if p.errors:
                values.append(errors)
        return values

    def close(self) -> None:
        for p in self._ports:
            for file in (p.transmit, p.receive, *p.errors):
                file.close()


def _bytes(file: KeptFile, size: int, counter: Rising) -> float:
    try:
        raw = int(file.read())
    except (OSError, ValueError):
        return math.nan
    return math.nan if raw == _SATURATED else float(counter(raw) * size)


def _errors(port: _Port) -> float:
    try:
        return float(port.counters[2](sum(int(f.read()) for f in port.errors)))
    except (OSError, ValueError):
        return math.nan


def _ports(base: str) -> list[tuple[str, str]]:
    out: list[tuple[str, str]] = []
    for adapter in _listed(base):
        out += ((adapter, n) for n in _listed(os.path.join(base, adapter, "ports")) if n.isdigit())
    return out


def _listed(directory: str) -> list[str]:
    try:
        return sorted(os.listdir(directory))
    except OSError:
        return []


def _open(directory: str, refused: list[OSError]) -> _Port | None:
    for sent, received, size in _SOURCES:
        both = [KeptFile(os.path.join(directory, name), 32) for name in (sent, received)]
        if all(_is_readable(f, refused) for f in both):
            errors = [f for name in _ERRORS if _is_readable(f := KeptFile(os.path.join(directory, name), 32), [])]
            return _Port(both[0], both[1], size, errors, (Rising(), Rising(), Rising()))
        for f in both:
            f.close()
    return None


def _is_readable(file: KeptFile, refused: list[OSError]) -> bool:
    try:
        int(file.read())
        return True
    except OSError as e:
        if not isinstance(e, FileNotFoundError):
            refused.append(e)
    except ValueError:
        pass
    file.close()
    return False


def _metrics(device: Device, port: _Port) -> list[Metric]:
    metrics = [
        Metric("hw.network.transmit", "By", "counter", "Bytes sent", 1.0, device),
        Metric("hw.network.receive", "By", "counter", "Bytes received", 1.0, device),
    ]
    if port.errors:
        text = "Errors of the link and of its connections; each 10 s"
        metrics.append(Metric("hw.errors", "{error}", "counter", text, 1.0, device))
    return metrics


def _attributes(directory: str) -> dict[str, Scalar]:
    attributes: dict[str, Scalar] = {}
    if layer := read_word(os.path.join(directory, "link_layer")):
        attributes["link_layer"] = layer
    rate = read_word(os.path.join(directory, "rate"))  # "200 Gb/sec (4X HDR)", "2.5 Gb/sec (1X SDR)"
    number, _, rest = rate.partition(" ")
    if rest.startswith("Gb/sec") and number.replace(".", "", 1).isdigit():
        attributes |= {"speed_mbit": int(float(number) * 1000), "rate": rate}
    return attributes
