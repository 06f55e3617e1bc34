"""What a run cost, as the `resourceUsage` of its crate (https://w3id.org/ro/terms/workflow-run).

Each figure is a PropertyValue: `propertyID` is the attribute of the same name in prov.json, so one IRI means one thing
in both; `unitCode` a unit of QUDT (http://qudt.org/vocab/unit/), `unitText` its symbol. An absent figure is not there.
"""

from __future__ import annotations

import math
from typing import Any

from yprovd.stitch.attribution import Account
from yprovd.stitch.carbon import footprint_of
from yprovd.stitch.entities import Entities
from yprovd.stitch.facts import part, whole
from yprovd.stitch.record import Record
from yprovd.stitch.report import EnergyReport

_YP, _QUDT = "https://w3id.org/yprov/ns#", "http://qudt.org/vocab/unit/"


def add_usage(entities: Entities, record: Record, account: Account, energy: EnergyReport) -> list[dict[str, str]]:
    """`account`: that of the run."""
    footprint = footprint_of(energy, part(part(record.run, "config"), "settings"))
    memory = "RSS of a process, by getrusage" if account.memory_peak_method else "greatest sum of RSS of the job"
    scope = f", scope {energy.scope}" if energy.scope else ""
    cpu_s, peak, how = account.cpu_s, account.memory_peak_bytes, ""
    rusage = part(record.end or {}, "rusage")
    if cpu_s is None and rusage.get("user_s") is not None:  # over before a sample could see it: the kernel's account
        cpu_s, how = float(rusage["user_s"]) + float(rusage.get("system_s") or 0.0), ", by getrusage"
    rows: list[tuple[str, Any, str, str, str]] = [
        ("durationSeconds", account.duration_s if account.end_ns else None, "SEC", "s", "duration of the run"),
        ("energyJ", energy.energy_j, "J", "J", f"energy of the run, {energy.method}{scope}"),
        ("gpuEnergyJ", energy.gpu_energy_j, "J", "J", f"energy of its GPUs, {energy.gpu_method}"),
        ("co2eGrams", footprint.grams if footprint else None, "GM", "g", footprint.text if footprint else ""),
        ("gpuHours", account.gpu_hours, "HR", "h", "GPU hours: devices times the time that they were the job's"),
        ("cpuSeconds", cpu_s, "SEC", "s", f"processor time of the job{how}"),
        ("peakMemoryBytes", whole(peak), "BYTE", "By", memory),
        ("gpuPeakMemoryBytes", whole(account.gpu_memory_peak_bytes), "BYTE", "By", "greatest sum of GPU memory"),
    ]
    return [
        entities.add(f"#usage-{name}", "PropertyValue", name=text, propertyID=_YP + name, value=value,
                     unitCode=_QUDT + unit, unitText=symbol)
        for name, value, unit, symbol, text in rows if value is not None and math.isfinite(value)
    ]
