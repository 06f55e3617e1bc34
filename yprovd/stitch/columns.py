"""The values of each meter of a node, gathered from all that was recorded of it. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from yprovd.model import Device
from yprovd.stitch.record import F64, I64, Node, Samples
from yprovd.stitch.traces import Traced

S = 1_000_000_000
#: No value is newer than its sample by more than this (ns): a stamp that says so is none.
NEWER = 2 * S


@dataclass
class Columns:
    """Where the values of one meter are: `parts` holds, of each schema, the column of each metric by its name."""

    device: Device
    parts: list[tuple[Samples, dict[str, int]]] = field(default_factory=list)
    traced: Traced | None = None
    resolution: float = 0.0


def sees(device: Device) -> str:
    """What the energy meter `device` sees (attribute `meter`), "" when it is none. Programs before this attribute knew
    RAPL only, and marked what adds up."""
    said = device.attributes.get("meter")
    if said is not None or device.cls != "rapl" or device.attributes.get("summed") is not True:
        return str(said or "")
    return "platform" if device.id == "psys" else "memory" if device.id.startswith("dram") else "cpu"


def columns_of(node: Node) -> list[Columns]:
    """The meters of a node, in the order in which they were announced."""
    found: dict[tuple[str, str], Columns] = {}
    for samples in node.samples:
        resets = {m.name: j for j, m in enumerate(samples.schema.metrics) if m.name.endswith(".resets")}
        parts: dict[tuple[str, str], dict[str, int]] = {}
        for j, m in enumerate(samples.schema.metrics):
            if m.device is None or not m.name.startswith(("hw.energy", "hw.power")) or not sees(m.device):
                continue
            key = m.device.cls, m.device.id
            if key not in parts:
                parts[key] = {"resets": resets[name]} if (name := f"yprov.{m.device.cls}.resets") in resets else {}
                found.setdefault(key, Columns(m.device)).parts.append((samples, parts[key]))
            parts[key][m.name] = j
            if m.name == "hw.energy":
                found[key].resolution = m.resolution
    for curve in node.traces:
        device = curve.metric.device
        if device is not None and curve.metric.name == "hw.power" and (device.cls, device.id) in found:
            found[device.cls, device.id].traced = curve
    return list(found.values())


def values_of(parts: list[tuple[Samples, dict[str, int]]], name: str) -> tuple[I64, F64, F64, bool]:
    """(times, values, marks of resets, whether the times are the device's own) of the valid values, by time; of several
    with one time the first."""
    found: list[tuple[I64, I64, F64, F64]] = []
    stamped = False
    for samples, at in parts:
        if name not in at:
            continue
        times, values = samples.mono_ns, samples.values[:, at[name]]
        if (stamp := at.get(f"{name}.time")) is not None:
            own = samples.values[:, stamp]
            there = np.isfinite(own)
            if there.any():
                stamped = True
                times = np.rint(np.where(there, own, 0.0) * S).astype(np.int64)
                values = np.where(there & (times <= samples.mono_ns + NEWER), values, np.nan)
        marks = samples.values[:, at["resets"]] if "resets" in at else np.zeros(len(values))
        found.append((samples.mono_ns, times, values, marks))
    if not found:
        none = np.zeros(0, dtype=np.int64)
        return none, np.zeros(0), np.zeros(0), False
    mono, times, values, marks = found[0] if len(found) == 1 else (np.concatenate(c) for c in zip(*found, strict=True))
    if len(found) > 1:
        order = np.argsort(mono, kind="stable")
        times, values, marks = times[order], values[order], marks[order]
    keep = np.isfinite(values)
    if not keep.all():
        times, values, marks = times[keep], values[keep], marks[keep]
    if not np.all(times[1:] > times[:-1]):
        newer = np.ones(len(times), dtype=bool)
        newer[1:] = times[1:] > np.maximum.accumulate(times)[:-1]
        times, values, marks = times[newer], values[newer], marks[newer]
    return times, values, marks, stamped
