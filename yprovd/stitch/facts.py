"""The record condensed to what one document can hold, whatever the node count: machines, monitoring, files. Pure."""

from __future__ import annotations

import math
import re
import uuid
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from yprovd.stitch.absences import absences_of
from yprovd.stitch.document import json_text
from yprovd.stitch.record import Record, Samples

if TYPE_CHECKING:
    from yprovd.stitch.report import EnergyReport

#: Lines of a text that lists something; the rest is counted in its last line.
MOST_LINES = 30
#: What the energy is that of, by its scope (`yprovd.stitch.energy`).
_SCOPES = {"node": "whole nodes", "platform": "the processors' platform and the GPUs",
           "module": "modules of processor, memory and GPU", "partial": "a part of the nodes"}
_NUMBERED = re.compile(r"(.*?)(\d+)(\D*)", re.DOTALL)


def part(mapping: Any, key: str) -> Mapping[str, Any]:
    """`mapping[key]`, or nothing at all when it is no mapping (a damaged spool, another program's)."""
    value = mapping.get(key) if isinstance(mapping, Mapping) else None
    return value if isinstance(value, Mapping) else {}


def run_id_of(record: Record) -> str:
    """The run's id; for a spool that lost it, one made from what the spool holds, the same every time."""
    known = part(record.run, "config").get("run_id")
    if isinstance(known, str) and known:
        return known
    sources = [f"{n.host} {n.boot_id}" for n in record.nodes] + [f"{p.source:x}" for p in record.processes]
    told = f"yprov {record.first_ns} {' '.join(sources)}".encode("utf-8", "backslashreplace").decode()
    return str(uuid.uuid5(uuid.NAMESPACE_URL, told))


def command_of(record: Record) -> tuple[str, ...]:
    command = part(record.run, "config").get("command")
    return tuple(str(c) for c in command) if isinstance(command, (list, tuple)) else ()


def parameters_of(record: Record, role: str = "input") -> dict[str, list[Any]]:
    """The different values of each parameter of a role ("input", "output"), in time: the last one stands."""
    out: dict[str, dict[str, Any]] = {}
    for p in record.params:
        if p.role != role:
            continue
        values = out.setdefault(p.name, {})
        key = f"{type(p.value).__name__} {json_text(p.value)}"
        values.pop(key, None)  # logged again: it is the last one now
        values[key] = p.value
    return {name: list(values.values()) for name, values in sorted(out.items())}


def whole(value: float | None) -> int | None:
    """Bytes as an integer; None for what is absent."""
    return None if value is None or not math.isfinite(value) else round(value)


def lines_of(lines: Iterable[str], most: int = MOST_LINES) -> str:
    """Lines as one text, of which `most` are shown."""
    listed = list(lines)
    more = len(listed) - most
    return "\n".join(listed[:most] + ([f"... and {more} more"] if more > 0 else []))


def host_list(hosts: Iterable[str]) -> str:
    """Host names as Slurm writes them: `gpu[001-004,007],login1`."""
    plain: list[str] = []
    groups: dict[tuple[str, str, int], list[int]] = {}
    for host in sorted(set(hosts)):
        m = _NUMBERED.fullmatch(host)
        if m is None:
            plain.append(host)
        else:
            head, digits, tail = m.groups()
            groups.setdefault((head, tail, len(digits)), []).append(int(digits))
    out = []
    for (head, tail, width), numbers in groups.items():
        runs: list[tuple[int, int]] = []
        for n in sorted(numbers):
            if runs and runs[-1][1] == n - 1:
                runs[-1] = (runs[-1][0], n)
            else:
                runs.append((n, n))
        texts = [f"{a:0{width}}" if a == b else f"{a:0{width}}-{b:0{width}}" for a, b in runs]
        inner = texts[0] if len(numbers) == 1 else f"[{','.join(texts)}]"
        out.append(f"{head}{inner}{tail}")
    return ",".join(sorted(plain + out))


def energy_attributes(report: EnergyReport) -> dict[str, Any]:
    """The attributes of the entity that stands for the energy of the run. What each meter counted is in the store."""
    there, gpus = report.energy_j is not None, report.gpu_energy_j is not None
    return {
        "yp:energyJ": report.energy_j, "yp:unit": "J" if there else None, "yp:energyMethod": report.method,
        "yp:energyScope": report.scope, "yp:energyReason": report.reason, "yp:coverage": report.coverage,
        "yp:notCovered": lines_of(report.not_covered), "yp:shared": report.shared or None,
        "yp:gpuEnergyJ": report.gpu_energy_j, "yp:gpuEnergyMethod": report.gpu_method if gpus else None,
        "yp:gpuEnergyScope": report.gpu_scope, "yp:gpuCoverage": report.gpu_coverage,
        "yp:gpuNotCovered": host_list(report.gpus_not_covered),
        "yp:meterCount": len(report.meters), "yp:meters": lines_of(report.meters),
        "yp:energyNotes": lines_of(report.notes), "yp:energyText": _energy_text(report),
    }


def _energy_text(report: EnergyReport) -> str:
    """The figures in a sentence, with all that is to be known of them."""
    if report.energy_j is None:
        return f"no energy was measured: {report.reason}" if report.reason else "no energy was measured"
    parts = [f"{report.energy_j:.1f} J, {report.method}, of {_SCOPES.get(report.scope, 'the nodes')}"]
    if report.gpu_energy_j is not None:
        what = "the GPUs and the processors beside them" if report.gpu_scope == "module" else "the GPUs"
        but = f" (without those of {host_list(report.gpus_not_covered)})" if report.gpus_not_covered else ""
        parts.append(f"{report.gpu_energy_j:.1f} J of it, {report.gpu_method}, are {what}{but}")
    if report.not_covered:
        parts.append("without " + ", ".join(report.not_covered))
    if report.coverage is not None and report.coverage < 0.995:
        parts.append(f"the meters cover {100 * report.coverage:.0f} % of the time")
    if report.shared:
        parts.append("other jobs may have used a part of it")
    return "; ".join(parts)


@dataclass(frozen=True)
class Watch:
    """What the daemons did. `begin_ns`, `end_ns`: first and last sample, 0 without any. `sensors`: names, sorted.
    `absences`: `sensor: reason (on 2 of 3 nodes)`. `failures`, `late`: reads of all sensors on all nodes."""

    begin_ns: int = 0
    end_ns: int = 0
    interval_ns: int = 0
    samples: int = 0
    sensors: tuple[str, ...] = ()
    absences: tuple[str, ...] = ()
    missed_ticks: int = 0
    failures: int = 0
    late: int = 0
    notes: tuple[str, ...] = ()


def watch_of(record: Record) -> Watch:
    blocks = [s for n in record.nodes for s in n.samples]
    with_rows = [s for s in blocks if len(s.wall_ns)]
    sensors = {m.device.id for s in blocks for m in s.schema.metrics if m.device and m.device.cls == "sensor"}
    absent: Counter[tuple[str, str]] = Counter()
    for node in record.nodes:
        absent.update({(a.sensor, a.reason) for a in absences_of(node)})
    total = len(record.nodes)
    return Watch(
        begin_ns=min((int(s.wall_ns.min()) for s in with_rows), default=0),
        end_ns=max((int(s.wall_ns.max()) for s in with_rows), default=0),
        interval_ns=min((s.schema.interval_ns for s in blocks), default=0),
        samples=sum(len(s.wall_ns) for s in blocks),
        sensors=tuple(sorted(sensors)),
        absences=tuple(f"{sensor}: {reason}" + (f" (on {n} of {total} nodes)" if total > 1 else "")
                       for (sensor, reason), n in sorted(absent.items())),
        missed_ticks=_counted(with_rows, "yprov.sampler.missed_ticks"),
        failures=_counted(with_rows, "yprov.sensor.failures"),
        late=_counted(with_rows, "yprov.sensor.late"),
        notes=tuple(text for note in record.notes if (text := str(note.get("text") or ""))),
    )


def _counted(blocks: list[Samples], name: str) -> int:
    """The sum of one of the sampler's counters, which start at 0 with every daemon."""
    out = 0.0
    for block in blocks:
        columns = [column for column, metric in enumerate(block.schema.metrics) if metric.name == name]
        values = block.values[:, columns]
        if np.isfinite(values).all():
            steps = np.diff(values, axis=0, prepend=0.0)
            out += float(np.where(steps >= 0, steps, values).sum())
            continue
        for column in values.T:
            there = column[np.isfinite(column)]
            steps = np.diff(there, prepend=0.0)
            out += float(np.where(steps >= 0, steps, there).sum())
    return round(out)
