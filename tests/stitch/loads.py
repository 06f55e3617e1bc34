"""Nodes whose power is a known function of time, for the tests of the energy rule."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tests.stitch.builders import NodeSpool, RunSpool, counter, gauge, time_of
from yprovd.model import Device, Metric
from yprovd.stitch.attribution import attribute
from yprovd.stitch.report import EnergyReport, MeterRow

#: Seconds that a run lasts.
LOAD_S = 60.0


def meter(cls: str, id: str, sees: str, *, summed: bool = True, **more: Any) -> Device:
    return Device(cls, id, "", {"meter": sees, "summed": summed, **more})


def metrics_of(device: Device, *, energy: float = 1e-3, power: bool = True, stamped: bool = True) -> list[Metric]:
    """`energy`: resolution of the counter, 0 for a device that has none."""
    out: list[Metric] = []
    for name, unit, kind in (("hw.energy", "J", counter), ("hw.power", "W", gauge)):
        if (name == "hw.energy" and energy) or (name == "hw.power" and power):
            out += [kind(name, unit, energy if unit == "J" else 1.0, device),
                    *([time_of(name, device)] if stamped else [])]
    return out


def sampled(
    node: NodeSpool, times: Sequence[float], row: Callable[[float], Sequence[float]], late: float = 0.003
) -> None:
    """A sample at each time; it is read a little after its tick."""
    for t in times:
        node.sample(t + late, row(t + late))


def ticks(hertz: float = 1.0) -> list[float]:
    """From the begin of the load to its end, and a tick more."""
    return (np.arange(0, LOAD_S * hertz + 2) / hertz).tolist()


def report(run: RunSpool, end: float = LOAD_S) -> EnergyReport:
    run.finish(end)
    return attribute(run.record()).energy


def row(energy: EnergyReport, device: str) -> MeterRow:
    return next(r for r in energy.rows if r.device == device)


def levels(
    run: RunSpool, watts: dict[str, tuple[Device, float]], host: str = "n1", absences: Sequence[tuple[str, str]] = (),
) -> NodeSpool:
    """A node on which each device draws a constant power, seen by a counter."""
    devices = [d for d, _w in watts.values()]
    node = run.node(host, [counter("hw.energy", "J", 1e-3, d) for d in devices], absences=absences)
    sampled(node, ticks(), lambda t: [w * t for _d, w in watts.values()], late=0.0)
    return node
